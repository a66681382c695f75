"""A model that is shown worked examples before each question."""

import pytest

from fedllm_app.data import corpus
from fedllm_app.evaluation.evaluate import Asked, with_worked
from fedllm_app.evaluation.prompts import PlainPrompts
from fedllm_app.evaluation.sampling import NothingToAsk, questions_of
from fedllm_app.evaluation.suite import Question
from fedllm_app.evaluation.suites.builtin import QUESTIONS, SUITE
from fedllm_app.evaluation.suites.finance import SUITE as FINANCE


def asked(task, questions):
    return Asked(task, 0, questions, PlainPrompts(None))


def test_examples_stand_before_the_question_as_earlier_turns():
    """Two examples are four turns, before the turns that the question has of its own."""
    task = SUITE.tasks[1]
    questions = [Question("q", gold="a", turns=(("user", "r"), ("assistant", "b"))), Question("s", gold="c")]
    first, second = with_worked(asked(task, questions), 2).questions
    (one, right), (two, other) = task.worked(2)
    shown = (("user", one), ("assistant", right), ("user", two), ("assistant", other))
    assert first.turns == (*shown, ("user", "r"), ("assistant", "b"))
    assert (second.turns, second.text, second.gold) == (shown, "s", "c")


@pytest.mark.parametrize("task", SUITE.tasks, ids=lambda task: task.name)
def test_no_example_is_a_question_of_the_suite(task):
    """They come from the part that is trained on, right answers in the domain's own form; a run may train on them."""
    questions = questions_of(task, {task.test.name: task.test.rows()})
    assert len(questions) == QUESTIONS
    trained = {question.instruction: question.answer for question in corpus.questions(task.name, "train", 3, 0)}
    assert dict(task.worked(3)) == trained
    assert not {question.text for question in questions} & set(trained)


def test_a_set_without_examples_says_so():
    with pytest.raises(NothingToAsk, match="has no worked examples"):
        with_worked(asked(FINANCE.tasks[0], [Question("q")]), 3)
