"""How many questions a model has answered: a bar where the terminal can be redrawn, else a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY = 30.0
"""Seconds between two lines, at least."""

Done = Callable[[int], None]
"""Is told how many more prompts are done."""


def nothing(_count: int) -> None:
    """Where nobody looks."""


@dataclass(frozen=True)
class AnswerProgress:
    """Shows what is done of a set. Without a console it shows nothing."""

    console: Console | None = None

    @contextmanager
    def of(self, label: str, questions: int, prompts: int) -> Iterator[Done]:
        """Show one set: `questions` as a reader counts them, which take so many `prompts` in all."""
        if self.console is None or not prompts:
            yield nothing
        elif self.console.is_terminal:
            with _bar(self.console, label, questions, prompts) as done:
                yield done
        else:
            yield _lines(self.console, label, questions, prompts)


@contextmanager
def _bar(console: Console, label: str, questions: int, prompts: int) -> Iterator[Done]:
    # The label is of the user's own words, such as "[run]", and no markup.
    name = TextColumn("  {task.description}", markup=False)
    columns = (name, BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(label, total=questions)
        count = _counter(questions, prompts)
        yield lambda more: bar.update(task, completed=count(more))


def _lines(console: Console, label: str, questions: int, prompts: int) -> Done:
    count, last = _counter(questions, prompts), time.monotonic()

    def done(more: int) -> None:
        nonlocal last
        answered = count(more)
        if time.monotonic() - last >= LINE_EVERY and answered < questions:
            last = time.monotonic()
            console.print(f"  {label}: {answered} of {questions} questions", markup=False, highlight=False)

    return done


def _counter(questions: int, prompts: int) -> Callable[[int], int]:
    """From prompts that are done to questions: a question of two prompts is done after both."""
    so_far = 0

    def count(more: int) -> int:
        nonlocal so_far
        so_far += more
        return min(questions, so_far * questions // prompts)

    return count
