"""Two answers to one question, shown side by side while they are generated."""

import re
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedllm_app.data.templates import Turn

Answer = Callable[[Sequence[Turn], Callable[[str], None]], str]
"""Answers a conversation and hands on the pieces as they come."""

_NARROW = 60  # columns; below that the answers stand one below the other
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show_side_by_side(
    console: Console, names: Sequence[str], answers: Sequence[Answer], conversations: Sequence[Sequence[Turn]]
) -> list[str]:
    """Ask one after the other, and show what comes: in columns on a terminal that is wide enough, else one by one.

    Returns
    -------
    list[str]
        The answers, in the order of `names`.
    """
    if not console.is_terminal or console.width < _NARROW:
        return _one_by_one(console, names, answers, conversations)
    texts = [""] * len(names)
    # A screen that is full shows the beginning; the whole of both is printed at last.
    with Live(_table(names, texts), console=console, transient=True, auto_refresh=False) as live:
        for number, (answer, turns) in enumerate(zip(answers, conversations, strict=True)):

            def show(piece: str, number: int = number) -> None:
                texts[number] += piece
                live.update(_table(names, texts), refresh=True)

            texts[number] = answer(turns, show)
    console.print(_table(names, texts))
    return texts


def _one_by_one(
    console: Console, names: Sequence[str], answers: Sequence[Answer], conversations: Sequence[Sequence[Turn]]
) -> list[str]:
    def show(piece: str) -> None:
        console.file.write(piece)  # as it is: rich would change tabs and :names:
        console.file.flush()

    said = []
    for number, (name, answer, turns) in enumerate(zip(names, answers, conversations, strict=True)):
        show(("\n" if number else "") + f"{name}:\n")
        said.append(answer(turns, show))
        show("\n")
    return said


def _table(names: Sequence[str], texts: Sequence[str]) -> Table:
    table = Table(expand=True, show_lines=False)
    for name in names:
        table.add_column(name, ratio=1, overflow="fold")
    # What a model says is not markup, and must not move the cursor.
    table.add_row(*(Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)) for text in texts))
    return table
