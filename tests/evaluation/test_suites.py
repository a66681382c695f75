"""The table of suites, the built-in one, and those of users' files."""

import json
import re

import pytest
from places import ROOT

from fedllm_app.data import corpus
from fedllm_app.errors import UserError
from fedllm_app.evaluation.set_rows import open_all
from fedllm_app.evaluation.suite import Answer, Choose, Generate, Means, ScoreAnswer, Suite
from fedllm_app.evaluation.suites import BUILT_IN, SUITES, BadSuite, UnknownSuite, load_suite, suite_table

EXAMPLE = ROOT / "examples" / "own_suite.py"

TASKS = """
from fedllm_app.evaluation.suite import *
from fedllm_app.evaluation.suite import TestSet as Set
ONE, TWO = Set("one", "", "", 1, "ours"), Set("one", "", "", 2, "ours")
SHARE = (Metric("accuracy", "share", "correct"),)
def task(name, test=ONE, metrics=SHARE, shots=None):
    return EvaluationTask(name, test, lambda rows, shots: [], Generate(1), each(None), metrics, "no rule", shots=shots)
"""


@pytest.fixture
def suite_file(tmp_path):
    """The path of a suite's file with a line behind `TASKS`."""

    def write(line: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(f"{TASKS}\n{line}\n")
        return str(path)

    return write


def test_a_suite_of_a_users_file(suite_file):
    suite = load_suite(suite_file('SUITE = Suite("mine", "what I ask", (task("one"),))'))
    assert isinstance(suite, Suite)
    assert (suite.name, [task.name for task in suite.tasks]) == ("mine", ["one"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "defines no SUITE; examples/own_suite.py shows how"),
        ("SUITE = [task('one')]", "SUITE is no fedllm_app.evaluation.suite.Suite, but list"),
        ("1 / 0", "mine.py fails: ZeroDivisionError: division by zero"),
        ("def", "mine.py fails: SyntaxError"),
        ('SUITE = Suite("m", "s", ())', "it has no task"),
        ('SUITE = Suite("m", "s", (task("one"), task("one")))', "two tasks are called 'one'"),
        ('SUITE = Suite("m", "s", (task("one", metrics=()),))', "task 'one' has no metric"),
        ('SUITE = Suite("m", "s", (task("one", metrics=SHARE * 2),))', "task 'one' has two metrics 'accuracy'"),
        ('SUITE = Suite("m", "s", (task("one"), task("two", TWO)))', "two different test sets are called 'one'"),
        ('SUITE = Suite("m", "s", (task("one", shots=TWO),))', "two different test sets are called 'one'"),
        (
            'SUITE = Suite("m", "s", (task("one"),), (Average("mean", (("one", "accuracy"), ("one", "F1"))),))',
            "average 'mean' is of what no task has: one F1",
        ),
        ('SUITE = Suite("m", "s", (task("one"),), (Average("mean", ()),))', "average 'mean' is of what no task has"),
    ],
)
def test_a_file_that_is_no_suite_says_why(line, message, suite_file):
    with pytest.raises(BadSuite, match=re.escape(message)):
        load_suite(suite_file(line))


def test_all_contradictions_are_named_at_once(suite_file):
    line = 'SUITE = Suite("m", "s", (task("one"), task("one")), (Average("mean", (("two", "accuracy"),)),))'
    with pytest.raises(BadSuite, match="two tasks .*\n.*average 'mean'"):
        load_suite(suite_file(line))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("finanse", "there is no suite 'finanse'. Did you mean 'finance'?"),
        ("Flowertune_Finance", "Did you mean 'flowertune-finance'?"),
        ("FINANCE", "Did you mean 'finance'?"),
        ("built-in", "Did you mean 'builtin'?"),
        ("qqq", "there is no suite 'qqq'. Give general, finance, "),
        ("no/such.py", "there is no file no/such.py to read a suite from"),
        (str(ROOT / "pyproject.toml"), "Did you mean 'file:"),
    ],
)
def test_an_unknown_suite_is_told_from_a_near_one(name, message):
    with pytest.raises(UnknownSuite, match=re.escape(message)):
        load_suite(name)


def test_a_data_file_is_a_suite(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n')
    (task,) = load_suite(f"file:{path}").tasks
    assert task.name == "own"


def test_the_built_in_suite_asks_held_out_questions_of_every_domain():
    """200 of each, none of which any run trains on: the corpus divides its cases once."""
    suite = load_suite(BUILT_IN)
    assert [task.name for task in suite.tasks] == list(corpus.DOMAINS)
    opened = open_all(suite.tasks, None)
    for task in suite.tasks:
        questions = task.questions(opened.rows[task.test.name], [])
        assert (len(questions), task.test.size, task.template, task.ask) == (200, 200, "run", ScoreAnswer())
        held_out = corpus.questions(task.name, "held-out", 200, 0)
        assert [(question.text, question.gold) for question in questions] == [
            (question.instruction, question.answer) for question in held_out
        ]
    assert not opened.notes


def test_the_list_holds_what_a_user_chooses_by():
    (entry,) = suite_table((BUILT_IN,))
    first = entry.sets[0]
    assert (entry.name, len(entry.sets), entry.averages[:2]) == ("builtin", 4, ("loss", "exact match"))
    assert (first.task, first.size, first.licence, first.source) == ("general", 200, "Apache-2.0", "built in")
    assert first.metrics == ("loss", "perplexity", "exact match", "token F1", "ROUGE-L")
    assert "as in training" in first.rule


def test_the_example_is_short():
    """Lines that are not blank."""
    assert len([line for line in EXAMPLE.read_text().splitlines() if line.strip()]) < 60


def test_the_example_asks_and_grades(tmp_path):
    """Likelihood a token: -3 / 1 against -4 / 2, so the second option. Dates: the first one; none is counted."""
    (tmp_path / "house-choices.jsonl").write_text(
        json.dumps({"question": "Tea?", "options": ["no", "yes, please"], "answer": "yes, please"})
    )
    (tmp_path / "house-dates").mkdir()
    (tmp_path / "house-dates" / "test.jsonl").write_text('{"text": "the ides of March 2026", "date": "2026-03-15"}\n')
    suite = load_suite(str(EXAMPLE))
    opened = open_all(suite.tasks, tmp_path)
    assert opened.notes["choices"] == "house-choices: 1 of the 40 published rows"
    choices, dates = (task.questions(opened.rows[task.test.name], []) for task in suite.tasks)
    assert [type(task.ask) for task in suite.tasks] == [Choose, Generate]
    chosen = suite.tasks[0].grade(choices, [Answer(log_likelihoods=(-3.0, -4.0), tokens=(1, 2))], Means())
    assert [grade.values for grade in chosen] == [{"correct": 1.0}]
    texts = ["It is 2026-03-15.", "2026-03-14 or 2026-03-15", "March"]
    graded = suite.tasks[1].grade(dates * 3, [Answer((text,)) for text in texts], Means())
    assert [(grade.values["correct"], grade.values["none"]) for grade in graded] == [(1, 0), (0, 0), (0, 1)]
    (tmp_path / "house-choices.jsonl").write_text(json.dumps({"question": "?", "options": ["a"], "answer": "b"}))
    with pytest.raises(UserError, match='house-choices, row 1: column "answer"'):
        suite.tasks[0].questions(open_all(suite.tasks, tmp_path).rows["house-choices"], [])


@pytest.mark.parametrize("name", [*SUITES, BUILT_IN])
def test_every_suite_is_whole(name):
    """Its contradictions are `load_suite`'s to find; each set says its size, licence, rule and where it comes from."""
    suite = load_suite(name)
    assert suite.name == name
    assert suite.summary
    for task in suite.tasks:
        assert task.rule, task.name
        assert task.test.licence, task.name
        assert task.test.size > 0, task.name
        assert task.test.hub_id or task.test.url or task.test.rows, task.name


def test_there_are_at_least_45_figures():
    """Names of (set, metric) and averages; a set that several suites ask counts once."""
    figures = set()
    for name in (*SUITES, BUILT_IN):
        suite = load_suite(name)
        figures |= {(task.test.name, metric.name) for task in suite.tasks for metric in task.metrics}
        figures |= {(suite.name, average.name) for average in suite.averages}
    assert len(figures) >= 45
