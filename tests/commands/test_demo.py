"""The demo's figures by hand."""

import json
import subprocess
import sys

import pytest

from fedllm_app.commands.demo import client_memory_mb
from fedllm_app.comparison.by_set import BySet, sample
from fedllm_app.comparison.grid import Cell
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.suite import Answer, Grade, Question
from fedllm_app.evaluation.suites.builtin import EXACT


def results(**hits):
    """Two questions a domain; each model has so many of them right, from the first on."""
    made = []
    for place, task in enumerate(EXACT.tasks):
        questions = [Question(f"{task.name} {number}", gold="x") for number in range(2)]
        grades = {name: [Grade({"exact match": float(n < own[place])}) for n in range(2)] for name, own in hits.items()}
        answers = {name: [Answer((f"{name} {n} of {task.name}",)) for n in range(2)] for name in hits}
        made.append(TaskResult(task, questions, answers, grades, "none", (), {}, 0))
    return made


def test_mean_and_average_rank():
    """Two questions a domain. Accuracies: a = (1, .5, 0, .5), b = (.5, .5, 0, 1), c = (0, 0, 0, 0).

    Means .5, .5, 0. Ranks by domain, ties sharing their mean: a 1, 1.5, 2, 2; b 2, 1.5, 2, 1; c 3, 3, 2, 3.
    """
    found = BySet.of(results(a=(2, 1, 0, 1), b=(1, 1, 0, 2), c=(0, 0, 0, 0)), "exact match")
    assert [found.mean(model) for model in "abc"] == [0.5, 0.5, 0.0]
    assert [found.rank(model) for model in "abc"] == pytest.approx([6.5 / 4, 6.5 / 4, 11 / 4])


def test_the_sample_is_what_the_best_model_alone_has_right():
    """Of two questions a domain, a has the first of general, and both of math; b has one of each: a alone the second of
    math. Where b knows more, the first that a has right, and not one that nobody has.
    """
    of = results(a=(1, 2, 0, 0), b=(1, 1, 0, 0))
    found = sample(of, "a", ["b"], "exact match")
    assert (found.question, found.answers) == ("math 1", {"b": "b 1 of math", "a": "a 1 of math"})
    assert sample(results(a=(0, 1, 0, 0), b=(0, 2, 2, 2)), "a", ["b"], "exact match").question == "math 0"


WITHOUT = """
import sys
for name in ("lm_eval", "scipy", "sklearn", "rouge_score", "openai"):
    sys.modules[name] = None  # an import of it fails
from fedllm_app.comparison import asking
from fedllm_app.evaluation.suite import Answer, Means, Question
from fedllm_app.evaluation.suites.builtin import EXACT
for task in EXACT.tasks:
    answers = [Answer((text,)) for text in ("-> a", "b")]
    grades = task.grade([Question("q", gold="-> a")] * 2, answers, Means())
    assert [grade.values["exact match"] for grade in grades] == [1.0, 0.0]
"""


def test_the_demo_needs_no_library_of_the_extra_for_evaluation():
    """In a process where none of them can be imported, its questions are graded."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_memory_of_a_client_is_that_of_the_larger_run(tmp_path):
    """The last line of the demo says the figure itself: the tables that have it are far above."""
    cells = [Cell(name, 1, tmp_path / name, {}) for name in ("together", "alone")]
    for cell, megabytes in zip(cells, (1700.0, 1905.5), strict=True):
        cell.directory.mkdir()
        (cell.directory / "result.json").write_text(json.dumps({"peak_client_memory_mb": megabytes}))
    assert client_memory_mb(*cells) == 1905.5
