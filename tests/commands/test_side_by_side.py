"""Answers side by side: in columns on a wide terminal, one below the other elsewhere."""

import io

import pytest
from rich.console import Console

from fedllm_app.commands.side_by_side import show_side_by_side

HI = [("user", "Hi")]


def speaker(*pieces):
    """Answers with these pieces."""

    def answer(_turns, show):
        for piece in pieces:
            show(piece)
        return "".join(pieces)

    return answer


def shown(width: int, terminal: bool, *answers) -> tuple[str, list[str]]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=24, force_terminal=terminal, color_system=None)
    said = show_side_by_side(console, ("base", "own"), answers, [HI, HI])
    return file.getvalue(), said


@pytest.mark.parametrize(("width", "terminal"), [(80, False), (59, True)])
def test_one_below_the_other(width, terminal):
    """In a file, and on a narrow terminal; text is neither wrapped nor read as markup."""
    text, said = shown(width, terminal, speaker("[red]", "a\tb" * 40), speaker("c"))
    assert text == f"base:\n[red]{'a	b' * 40}\n\nown:\nc\n"
    assert said == [f"[red]{'a	b' * 40}", "c"]


def test_columns_on_a_terminal():
    """The last table has both answers whole, on the same lines, also where they are longer than the screen."""
    text, said = shown(80, True, speaker("one", " two"), speaker("[red]three ", "x " * 1200 + "end"))
    last = text[text.rindex("┏") :].splitlines()
    assert last[1].split() == ["┃", "base", "┃", "own", "┃"]
    assert last[3].split()[:6] == ["│", "one", "two", "│", "[red]three", "x"]
    assert "end" in last[-2]
    assert {len(line) for line in last} == {80}
    assert said == ["one two", "[red]three " + "x " * 1200 + "end"]


def test_an_answer_does_not_move_the_cursor():
    text, said = shown(80, True, speaker("a\x1b[2Jb"), speaker("c\x07"))
    assert "\x1b[2J" not in text and "\x07" not in text
    assert "a\N{REPLACEMENT CHARACTER}[2Jb" in text
    assert said == ["a\x1b[2Jb", "c\x07"]


def test_what_is_generated_is_seen_before_it_is_whole():
    """A screen is drawn at least when the second model begins."""
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    before = []

    def second(_turns, show):
        show("x")
        before.append(file.getvalue())
        return "x"

    show_side_by_side(console, ("base", "own"), (speaker("first answer"), second), [HI, HI])
    assert "first answer" in before[0]
