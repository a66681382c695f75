"""`fedllm evaluate` from the command line to the report, with the tiny model; a suite that is asked during a run."""

import io
import json

import pytest
from in_process import run_in_process
from rich.console import Console

from fedllm_app.commands.main import main
from fedllm_app.commands.start_checks import check_start
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.evaluation import contestants, extra
from fedllm_app.evaluation.during import suite_watch
from fedllm_app.evaluation.session import list_suites
from fedllm_app.runs.directory import read_journal

OWN_SUITE = """
from fedllm_app.evaluation.suite import *

def right(question, answer):
    return Grade({"correct": float(answer.texts[0].startswith(question.gold))})

def questions(rows, shots):
    return [Question(row["q"], plain="Q: " + row["q"] + " A:", gold=row["a"], choices=("yes", "no")) for row in rows]

def chosen(question, answer):
    return Grade({"correct": float(max(zip(answer.log_likelihoods, question.choices))[1] == question.gold)})

def made():
    return [{"q": f"Is {n} even?", "a": ("yes", "no")[n % 2]} for n in range(6)]

ROWS = TestSet("letters", "", "test", 6, "CC0", rows=made)
ACCURACY = (Metric("accuracy", "share", "correct"),)
SUITE = Suite("own", "letters", (
    EvaluationTask("generated", ROWS, questions, Generate(6), each(right), ACCURACY, "the first letters"),
    EvaluationTask("chosen", ROWS, questions, Choose(), each(chosen), ACCURACY, "the likeliest", template="plain"),
), (Average("mean", (("generated", "accuracy"), ("chosen", "accuracy"))),))
"""


@pytest.fixture
def own_suite(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN_SUITE)
    return str(path)


@pytest.fixture
def runs(run_config, tmp_path):
    """Two whole runs: together, and each client alone."""
    flat = run_config | {"train.rounds": 1, "data.template": "none", "evaluate.every": 0}
    run_in_process(flat, tmp_path / "together")
    run_in_process(flat | {"strategy.name": "local"}, tmp_path / "alone")
    return tmp_path / "together", tmp_path / "alone"


def test_base_federated_and_clients_side_by_side(runs, own_suite, tmp_path, capsys):
    """Six models over one loaded base: a table of three formats, every answer, figures of both sets and their mean."""
    together, alone = map(str, runs)
    arguments = [
        "evaluate",
        together,
        alone,
        "--base",
        "--clients",
        "--suite",
        own_suite,
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "loaded once" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    clients = [f"client-{number}" for number in range(4)]
    assert list(report["models"]) == ["base", "together", *clients]
    assert {(figure["task"], figure["metric"]) for figure in report["figures"]} == {
        ("generated", "accuracy"),
        ("chosen", "accuracy"),
        ("average", "mean"),
    }
    assert all(
        figure["n"] in (6, 12) and figure["low"] <= figure["value"] <= figure["high"] for figure in report["figures"]
    )
    assert len(report["paired"]) == 3 * 15
    assert report["templates"] == {"generated": "none", "chosen": "plain"}
    lines = (tmp_path / "out" / "examples" / "generated.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert set(json.loads(lines[0])["models"]) == set(report["models"])


def test_saved_answers_can_be_looked_at(runs, own_suite, tmp_path, capsys):
    assert main(["evaluate", str(runs[0]), "--suite", own_suite, "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), "--show", "all", "--limit", "2"]) == 0
    assert "generated: 6 all, 2 shown" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "out"), "--show", "all", "--only", "chosen"]) == 0
    printed = capsys.readouterr().out
    assert "chosen: 6 all, 6 shown" in printed
    assert "generated" not in printed
    assert main(["evaluate", str(tmp_path / "out"), "--show", "all", "--only", "chosn"]) == 2
    assert "has no set chosn; there are chosen, generated" in " ".join(capsys.readouterr().out.split())


def test_some_sets_of_a_suite(runs, own_suite, tmp_path, capsys):
    """The average of both sets is not there; a set that no suite has is named."""
    arguments = ["evaluate", str(runs[0]), "--suite", own_suite, "--only"]
    assert main([*arguments, "chosen", "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {figure["task"] for figure in report["figures"]} == {"chosen"}
    assert main([*arguments, "chosen", "choson"]) == 2
    assert "no suite has a set choson; there are chosen, generated" in " ".join(capsys.readouterr().out.split())


def test_what_is_not_installed_is_named_before_anything_is_looked_for(own_suite, monkeypatch, capsys):
    """Of the sets that are asked: MATH is graded by a library of the extra, GSM8K is not."""
    without(monkeypatch, "lm_eval")
    assert main(["evaluate", "/no/such/run", "--suite", "math", own_suite]) == 2
    told = "fedllm evaluate needs what is not installed: lm_eval (for math); pip install 'fedllm-app[eval]'"
    assert told in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", "/no/such/run", "--suite", "lm-eval:arc_easy"]) == 2
    assert "lm_eval (for lm-eval:arc_easy)" in " ".join(capsys.readouterr().out.split())
    for asked in (["math", "--only", "gsm8k"], ["builtin"], [own_suite], ["finance"], ["file:/no/such/rows.csv"]):
        assert main(["evaluate", "/no/such/run", "--suite", *asked]) == 2
        assert "not installed" not in capsys.readouterr().out
    assert main(["evaluate", "--list"]) == 0  # needs nothing of it


@pytest.mark.parametrize("width", [60, 80, 139, 140, 200])
def test_the_list_is_readable_at_any_width(width):
    """No line is wider, and no word of a rule is broken."""
    console = Console(width=width, file=io.StringIO())
    list_suites(console)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert ("rule: " in shown) == (width < 140)
    assert "normalised" in shown and "gsm8k" in shown and "averages: " in shown


def without(monkeypatch, library: str) -> None:
    """As if it were not installed."""
    found = extra.importlib.util.find_spec
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None if name == library else found(name))


def test_a_suite_during_a_run_needs_it_as_well(run_config, monkeypatch):
    """Told by `fedllm run`, and by a server or a client that is elsewhere; a run without a suite does not need it."""
    without(monkeypatch, "lm_eval")
    check_start(parse_run_config(run_config), local=True)
    for at in ("server", "clients"):
        config = parse_run_config(run_config | {"evaluate.every": 1, "evaluate.suite": "math", "evaluate.suite-at": at})
        with pytest.raises(extra.MissingExtra, match="evaluate.suite = 'math' needs .*: lm_eval .for math.; pip"):
            check_start(config, local=True)
        with pytest.raises(extra.MissingExtra):
            suite_watch(config, at)


def test_reports_of_files_with_one_name_stand_side_by_side(runs, tmp_path):
    """The same suite twice is asked once."""
    paths = [tmp_path / folder / "rows.jsonl" for folder in ("one", "two")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(json.dumps({"question": f"{number}?", "answer": "yes"}) + "\n")
    suites = [f"file:{path}" for path in (*paths, paths[0])]
    assert main(["evaluate", str(runs[0]), "--suite", *suites, "--out", str(tmp_path / "out")]) == 0
    reports = sorted((tmp_path / "out").glob("*/report.json"))
    assert [report.parent.name for report in reports] == ["rows.jsonl", "rows.jsonl-2"]
    assert [json.loads(report.read_text())["suite"] for report in reports] == suites[:2]


def test_other_samples_by_seed(runs, own_suite, tmp_path):
    """Three samples of two of the six questions."""
    arguments = ["evaluate", str(runs[0]), "--suite", own_suite, "--limit", "2", "--seeds", "3"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {(figure["seed"], figure["n"]) for figure in report["figures"]} == {(None, 6), (None, 12)}
    assert len(list((tmp_path / "out" / "examples").glob("*.jsonl"))) == 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name at least one suite"),
        (["--suite", "finanse"], "Did you mean 'finance'"),
        (["--suite", "finance"], "test sets cannot be opened"),
        (["--suite", "builtin", "--seeds", "2"], "need a --limit"),
        (["--suite", "builtin", "--template", "vicunna"], "unknown template 'vicunna'"),
        (["--suite", "builtin", "--clients"], "none of these directories has adapters of single clients"),
        (["--suite", "lm-eval:no_such_task"], "no task no_such_task"),
    ],
)
def test_what_is_wrong_is_told_before_weights_are_loaded(runs, arguments, told, capsys, monkeypatch):
    monkeypatch.setattr(contestants, "load_model", lambda *_: pytest.fail("weights were loaded"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["evaluate", str(runs[0]), *arguments]) == 2
    assert told in " ".join(capsys.readouterr().out.split())


def test_a_base_alone_needs_a_template_by_name(tiny_model, own_suite, tmp_path, capsys):
    """No run says how questions are written."""
    arguments = ["evaluate", "--model", str(tiny_model), "--suite", own_suite, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "none is known" in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "--template", "alpaca"]) == 0


def test_nothing_is_evaluated_without_a_model(capsys):
    assert main(["evaluate", "--suite", "builtin"]) == 2
    assert "nothing to evaluate" in capsys.readouterr().out


def suite_events(directory):
    return [event for event in read_journal(directory) if event["event"] == "suite"]


def test_the_server_asks_a_suite_during_a_run(run_config, own_suite, tmp_path):
    """Before round 1 and after it; the last figures are those of the final adapter, evaluated afterwards."""
    flat = run_config | {"train.rounds": 1, "data.template": "none", "evaluate.every": 1, "evaluate.suite": own_suite}
    run_in_process(flat | {"evaluate.suite-limit": 0}, tmp_path / "run")
    before, after = suite_events(tmp_path / "run")
    assert (before["round"], after["round"], after["questions"]) == (0, 1, {"generated": 6, "chosen": 6})
    assert main(["evaluate", str(tmp_path / "run"), "--suite", own_suite, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    figures = {f"{f['task']}/{f['metric']}": f["value"] for f in report["figures"] if f["task"] != "average"}
    assert after["figures"] == figures


def test_clients_ask_a_suite_during_a_run(run_config, own_suite, tmp_path):
    """Every client asks the same common adapter the same questions, so the average is what each of them has."""
    flat = run_config | {"train.rounds": 1, "data.template": "none", "evaluate.every": 1, "evaluate.suite": own_suite}
    run_in_process(flat | {"evaluate.suite-at": "clients"}, tmp_path / "run")
    events = read_journal(tmp_path / "run")
    evaluations = [event for event in events if event["event"] == "evaluation"]
    own = [event for event in events if event["event"] == "client-evaluation" and event["round"] == 1]
    key = "suite_generated/accuracy"
    assert {event[key] for event in own} == {evaluations[-1][key]}
    assert not suite_events(tmp_path / "run")


def test_a_suite_changes_nothing_of_the_training(run_config, own_suite, tmp_path):
    flat = run_config | {"train.rounds": 1, "data.template": "none", "evaluate.every": 1}
    plain = run_in_process(flat, tmp_path / "plain")
    assert run_in_process(flat | {"evaluate.suite": own_suite}, tmp_path / "asked") == plain


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"evaluate.suite": "finance", "evaluate.every": 0}, "never be asked"),
        ({"evaluate.suite": "own/suite.py"}, "absolute path"),
        ({"evaluate.suite": "suite.py"}, "absolute path"),
        ({"evaluate.suite": "file:rows.jsonl"}, "absolute path"),
        ({"evaluate.suite": "finance", "evaluate.suite-data": "sets"}, "evaluate.suite-data"),
        ({"evaluate.suite": "finance", "strategy.name": "local"}, "the server has no adapter to ask"),
    ],
)
def test_a_suite_that_cannot_be_asked_is_refused(run_config, overrides, told):
    with pytest.raises(ConfigError, match=told):
        parse_run_config(run_config | {"evaluate.every": 1} | overrides)
