"""Saved evaluations of runs: read again, found, and their answers."""

import pytest
from evil_runs import EVIL, write_evaluation
from run_material import write_run

from fedllm_app.evaluation.saved import ReportError, load_report
from fedllm_app.report.evaluations import evaluations_of
from fedllm_app.report.gather import gather


def test_a_report_is_read_as_it_was_written(evaluation):
    """An infinite perplexity, which JSON writes as text, is a number again."""
    report = load_report(evaluation)
    assert [(figure.metric, figure.value, figure.high) for figure in report.figures] == [
        ("exact match", 0.2, pytest.approx(0.4)),
        ("exact match", 0.6, pytest.approx(0.8)),
        ("perplexity", float("inf"), None),
    ]
    assert (report.paired[0].difference, report.paired[0].p, report.notes) == (0.4, 0.03, (f"a note {EVIL}",))


def test_a_table_marks_the_best_and_what_differs(evaluation, evil_runs):
    (table,) = gather(evil_runs, [evaluation.parent]).evaluations
    (task, metric, cells), _ = table.rows
    assert (task, metric) == (EVIL, "exact match")
    assert cells == (("20.0 [10.0, 40.0]", False), ("60.0 [50.0, 80.0]*", True))


def test_answers_on_which_the_models_differ_come_first(evaluation, evil_runs):
    """The second model is right in question 4 alone, the first in none."""
    (table,) = evaluations_of(evil_runs, [evaluation])
    assert [sample.gold for sample in table.samples] == ["= 4", "= 0", "= 1"]
    assert [answer.right for answer in table.samples[0].answers] == [False, True]


def test_evaluations_of_these_runs_are_found_below_the_home(app_home, tmp_path):
    """That of another run, one that cannot be read, and one of two suites, which is a level deeper."""
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other")
    places = app_home / "evaluations"
    write_evaluation(places / "of-run" / "finance", {"base": "the base model alone", "run": str(run / "adapter")})
    write_evaluation(places / "of-other", {"base": "the base model alone", "other": str(other / "adapter")})
    (places / "broken").mkdir()
    (places / "broken" / "report.json").write_text("{")
    assert [table.path.name for table in gather([run]).evaluations] == ["finance"]


def test_a_directory_that_holds_no_evaluation(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(ReportError, match="holds no report of fedllm evaluate"):
        gather([run], [tmp_path / "nowhere"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text('{"suite": 1}')
    with pytest.raises(ReportError, match="cannot be read as a report"):
        gather([run], [tmp_path / "broken"])
