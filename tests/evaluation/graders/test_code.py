"""From texts of answers to grades of code, and the unbiased pass@k."""

import pytest

from fedllm_app.evaluation.graders import code
from fedllm_app.evaluation.graders.code import NOT_RUN, code_block, code_grader, cut, pass_at_k
from fedllm_app.evaluation.graders.sandbox import Outcome, SandboxError
from fedllm_app.evaluation.suite import Answer, Grade, Means, Question

grader = code_grader(lambda question, text: (text, question.gold))
QUESTION = Question("?", gold="tests")


@pytest.fixture
def outcomes(monkeypatch):
    """The program's text is its outcome; nothing runs."""
    monkeypatch.setattr(code, "sandbox_problem", lambda: "")
    monkeypatch.setattr(code, "run_program", lambda text, *_: Outcome(text, "ValueError" if text == "failed" else ""))


def test_without_leave_nothing_runs(monkeypatch):
    monkeypatch.setattr(code, "run_program", None)
    monkeypatch.setattr(code, "sandbox_problem", None)
    assert grader([QUESTION], [Answer(("passed",))], Means()) == [Grade(missing=NOT_RUN)]


def test_without_a_sandbox_nothing_runs(monkeypatch):
    monkeypatch.setattr(code, "run_program", None)
    monkeypatch.setattr(code, "sandbox_problem", lambda: "no sandbox here")
    with pytest.raises(SandboxError, match="no sandbox here"):
        grader([QUESTION], [Answer(("passed",))], Means(run_code=True))


def test_every_answer_gets_its_own_grade(outcomes):
    answers = [Answer((text,)) for text in ("passed", "failed", "timed out", "syntax error")]
    grades = grader([QUESTION] * 4, answers, Means(run_code=True))
    assert [(g.values["passed"], g.values["timed out"], g.values["syntax error"]) for g in grades] == [
        (1.0, 0.0, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0),
    ]
    assert [grade.labels["outcome"] for grade in grades] == [
        "passed",
        "failed: ValueError",
        "timed out",
        "syntax error",
    ]
    assert all("pass@10" not in grade.values for grade in grades)


def test_several_samples_give_pass_at_k(outcomes):
    """Of ten samples three passed: pass@1 = 3/10; ten drawn of ten hold a passed one for certain. Two timed out."""
    texts = ("passed",) * 3 + ("failed",) * 5 + ("timed out",) * 2
    (grade,) = grader([QUESTION], [Answer(texts)], Means(run_code=True))
    assert grade.values == pytest.approx(
        {"passed": 0.3, "pass@1": 0.3, "pass@10": 1.0, "timed out": 2.0, "syntax error": 0.0}
    )


def test_an_answer_without_text_is_missing(outcomes):
    assert grader([QUESTION], [Answer()], Means(run_code=True)) == [Grade(missing="no answer")]


def test_pass_at_k_by_hand():
    """C(n-c, k) / C(n, k): n=5, c=2, k=2: C(3,2)/C(5,2) = 3/10. n=4, c=1, k=3: C(3,3)/C(4,3) = 1/4."""
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(4, 1, 3) == pytest.approx(0.75)
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(1, 0, 1) == 0.0
    assert pass_at_k(5, 4, 2) == 1.0  # any two of five hold a passed one
    assert pass_at_k(200, 0, 100) == 0.0


def test_pass_at_k_of_many_samples():
    """C(1999, 1000) / C(2000, 1000) = 1000 / 2000, both far beyond the largest float."""
    assert pass_at_k(2000, 1, 1000) == pytest.approx(0.5)


@pytest.mark.parametrize("counts", [(1, 2, 1), (1, -1, 1), (1, 1, 2), (1, 1, 0)])
def test_pass_at_k_needs_enough_samples(counts):
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(*counts)


def test_the_first_code_block():
    assert code_block("So:\n```python\nx = 1\n```\nor\n```\nx = 2\n```") == "x = 1\n"
    assert code_block("```\nx = 1") == "x = 1"
    assert code_block("1. So:\n   ```py\n   if x:\n       y\n   ```") == "if x:\n    y\n"
    assert code_block("no ``` block") is None


def test_a_text_is_cut_at_the_first_stop():
    assert cut("a\ndef b\nclass c", ("\nclass", "\ndef")) == "a"
    assert cut("a", ("\nclass",)) == "a"
