"""How far a model is with its questions: a bar on a terminal, a line at most every 30 seconds elsewhere."""

import io

import pytest
from rich.console import Console

from fedllm_app.evaluation import progress
from fedllm_app.evaluation.answers import prompts_of
from fedllm_app.evaluation.progress import AnswerProgress, nothing
from fedllm_app.evaluation.suite import Choose, Converse, Generate, Question, ScoreAnswer


def shown(console: Console, steps, monkeypatch, questions=10, prompts=20) -> list[str]:
    """What stands there when so many prompts are done at such times (seconds)."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with AnswerProgress(console).of("[run]: math", questions, prompts) as done:
        for when, more in steps:
            clock[0] = when
            done(more)
    return console.file.getvalue().splitlines()


def test_a_log_has_a_line_at_most_every_30_seconds(monkeypatch):
    """Two prompts a question: 7 prompts are 3 questions. The end has a line of its own, which others write."""
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    steps = [(5.0, 3), (31.0, 4), (32.0, 2), (60.0, 1), (61.5, 2), (95.0, 8)]
    assert shown(console, steps, monkeypatch) == [
        "  [run]: math: 3 of 10 questions",
        "  [run]: math: 6 of 10 questions",
    ]


def test_a_terminal_has_a_bar_with_both_numbers():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with AnswerProgress(console).of("[run]: math", 10, 20) as done:
        for _ in range(7):
            done(1)
    text = console.file.getvalue()
    assert "[run]: math" in text
    assert "3/10" in text


def test_without_a_console_nothing_is_shown():
    with AnswerProgress().of("x", 10, 20) as done:
        assert done(3) is None
    assert done is nothing


@pytest.mark.parametrize(
    ("ask", "prompts"),
    [(Generate(4), 2), (Generate(4, samples=3), 6), (ScoreAnswer(), 4), (Choose(), 2), (Converse(4), 3)],
)
def test_prompts_of_two_questions(ask, prompts):
    """Scoring an answer also generates one; one of the two has a follow-up."""
    assert prompts_of([Question("a", follow_up="and then?"), Question("b")], ask) == prompts
