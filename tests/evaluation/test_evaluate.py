"""From a suite and models to answers and grades: what belongs to which set, what is said of it, whose time it was."""

import json
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
from in_process import run_in_process
from lm_eval import tasks

from fedllm_app.evaluation import evaluate
from fedllm_app.evaluation.contestants import Contestant, Stage, find_contestants
from fedllm_app.evaluation.evaluate import Evaluation, Settings
from fedllm_app.evaluation.harness import harness_tasks
from fedllm_app.evaluation.own_file import file_suite
from fedllm_app.evaluation.set_rows import open_all
from fedllm_app.evaluation.suite import EvaluationTask, Generate, Grade, Question, Suite, TestSet, each
from fedllm_app.models.base import ModelValues


@pytest.fixture
def stage(tiny_model):
    return Stage(ModelValues(str(tiny_model), "float32"))


@pytest.fixture
def contestants(run_config, tmp_path):
    """The base, and an adapter that a run has trained."""
    run_in_process(
        run_config | {"train.rounds": 1, "data.template": "none", "evaluate.every": 0}, tmp_path / "together"
    )
    return find_contestants([tmp_path / "together"], base=True)


@pytest.fixture
def pair_files(tmp_path):
    """Two files of pairs with the same name and as many rows, whose answers differ."""
    for folder, good, bad in (("one", "yes", "no"), ("two", "a much longer answer", "none")):
        rows = [{"prompt": f"Question {n}?", "chosen": f"{good} {n}", "rejected": f"{bad} {n}"} for n in range(3)]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [file_suite(str(tmp_path / folder / "pairs.jsonl")) for folder in ("one", "two")]


@pytest.fixture
def ticks(monkeypatch):
    """A clock that goes on by a second each time somebody looks: what is timed takes one second."""
    seconds = count()
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def asked(evaluation, suite):
    """The one result of a suite of one set."""
    (result,) = evaluation.run(evaluation.prepare(suite, open_all(suite.tasks, None).rows))
    return result


def test_pairs_of_two_files_with_one_name_are_held_against_their_own_base(stage, contestants, pair_files):
    """In one call or each in a call of its own: the same answers, the same rewards."""
    together = Evaluation(stage, contestants, Settings())
    for suite in pair_files:
        result, alone = asked(together, suite), asked(Evaluation(stage, contestants, Settings()), suite)
        assert (result.answers, result.grades) == (alone.answers, alone.grades)
        assert {grade.values["reward margin"] for grade in result.grades["base"]} == {0.0}
        assert 0.0 not in {grade.values["reward margin"] for grade in result.grades["together"]}


def test_progress_counts_all_prompts_of_every_model(stage, contestants, pair_files):
    """Three pairs: of the base, which the rewards are held against, once, and of the adapter."""
    seen = []

    class Counting:
        @contextmanager
        def of(self, label, questions, prompts):
            told = []
            yield told.append
            seen.append((label, questions, prompts, sum(told)))

    result = asked(Evaluation(stage, contestants, Settings(), progress=Counting()), pair_files[0])
    assert seen == [(f"{name}: {result.task.name}", 3, 3, 3) for name in ("base", "together")]


def test_models_share_the_time_of_the_base_that_rewards_are_held_against(stage, contestants, pair_files, ticks):
    """One second for the base, of which each of two models has half, and one for the adapter."""
    assert asked(Evaluation(stage, contestants, Settings()), pair_files[0]).seconds == {"base": 0.5, "together": 1.5}


def halves(rows, _shots):
    return [Question(row["q"], plain=row["q"], gold="") for row in rows[::2]]


@pytest.mark.parametrize(("ask", "notes"), [(halves, ("3 of its 6 rows are questions",)), (lambda rows, _: [], None)])
@pytest.mark.parametrize("limit", [0, 2])
def test_rows_that_a_set_does_not_ask_are_counted(stage, ask, notes, limit):
    """Whether or not questions are drawn from those that are left. All of them left out is an error."""
    test = TestSet("rows", "", "test", 6, "CC0", rows=lambda: [{"q": f"Is {n} even?"} for n in range(6)])
    task = EvaluationTask("half", test, ask, Generate(1), each(lambda *_: Grade()), (), "", template="plain")
    suite = Suite("own", "", (task,))
    evaluation = Evaluation(stage, [Contestant("base", None)], Settings(limit))
    if notes is None:
        with pytest.raises(evaluate.NothingToAsk, match="the set half has no question"):
            evaluation.prepare(suite, open_all(suite.tasks, None).rows)
        return
    (prepared,) = evaluation.prepare(suite, open_all(suite.tasks, None).rows)
    assert (prepared.notes, len(prepared.questions)) == (notes, limit or 3)


@pytest.fixture
def two_tasks(tmp_path, monkeypatch):
    """Two tasks of the harness on the same rows: three with choices, and three that are answered, read in two ways."""
    rows = [{"q": f"Is {number} even?", "answer": number % 2} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/rows.jsonl\ntest_split: test\n"
    (tmp_path / "chosen.yaml").write_text(
        f'task: own_chosen\n{data}output_type: multiple_choice\ndoc_to_text: "{{{{q}}}}\\nA:"\n'
        'doc_to_choice: ["yes", "no"]\ndoc_to_target: answer\nmetric_list:\n  - metric: acc\n'
    )
    (tmp_path / "written.yaml").write_text(
        f'task: own_written\n{data}output_type: generate_until\ndoc_to_text: "{{{{q}}}}\\nA:"\n'
        "doc_to_target: answer\ngeneration_kwargs:\n  max_gen_toks: 6\n  until: []\n"
        "metric_list:\n  - metric: exact_match\nfilter_list:\n"
        "  - name: whole\n    filter:\n      - function: take_first\n"
        "  - name: digits\n    filter:\n      - function: regex\n        regex_pattern: '([0-9])'\n"
        "      - function: take_first\n"
    )
    # It would read its thousands of own tasks for seconds.
    monkeypatch.setattr(tasks, "TaskManager", partial(tasks.TaskManager, include_defaults=False))
    return harness_tasks("own_chosen,own_written", tmp_path)


def test_answers_to_tasks_of_the_harness_are_kept(stage, two_tasks, ticks):
    """Choices as log-likelihoods, texts as they are before a filter, once for all filters; one pass takes one second,
    of which each task has its share."""
    results = Evaluation(stage, [Contestant("base", None)], Settings()).run_harness(*two_tasks)
    chosen, written = sorted(results, key=lambda result: result.task.name)
    assert (len(chosen.questions), len(written.questions)) == (3, 3)
    assert chosen.questions[1].choices == (" yes", " no")
    assert [len(answer.log_likelihoods) for answer in chosen.answers["base"]] == [2, 2, 2]
    assert written.questions[1].plain == "Is 1 even?\nA:"
    assert [len(answer.texts) for answer in written.answers["base"]] == [1, 1, 1]
    assert all(answer.texts[0] for answer in written.answers["base"])
    assert [metric.name for metric in written.task.metrics] == ["exact_match,whole", "exact_match,digits"]
    assert {result.seconds["base"] for result in results} == {3 / 9, 6 / 9}
