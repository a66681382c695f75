"""The questions of a set, and those of them that are asked."""

from collections.abc import Mapping, Sequence

from fedllm_app.data.order import sample
from fedllm_app.errors import UserError
from fedllm_app.evaluation.suite import EvaluationTask, Question, TestRow


class NothingToAsk(UserError):
    """A set has no question, or no template is known to ask it in."""


def questions_of(task: EvaluationTask, rows: Mapping[str, Sequence[TestRow]]) -> list[Question]:
    """All questions of a set; `rows` by the name of the test set. NothingToAsk if there are none."""
    shots = rows.get(task.shots.name, []) if task.shots else []
    questions = task.questions(list(rows[task.test.name]), list(shots))
    if not questions:
        raise NothingToAsk(f"the set {task.name} has no question in the rows of {task.test.name}")
    return questions


def drawn(questions: Sequence[Question], limit: int, seed: int) -> list[Question]:
    """`limit` of the questions, in their order, chosen by the seed; 0: all of them."""
    return [questions[place] for place in sample(len(questions), limit or len(questions), seed)]
