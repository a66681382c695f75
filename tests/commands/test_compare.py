"""`fedllm compare` from the command line to its files, with the tiny model; runs take place in this process."""

import csv
import json

import pytest
from in_process import resume_in_process, run_in_process
from places import ROOT

from fedllm_app.commands import compare
from fedllm_app.commands.main import main
from fedllm_app.errors import UserError
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.journal import read_journal


@pytest.fixture
def configuration(run_config, tmp_path):
    """A file: two clients, one round of one step, questions short enough for the tiny model."""
    flat = run_config | {
        "clients.number": 2,
        "train.rounds": 2,
        "train.local-steps": 1,
        "data.examples-per-client": 4,
        "data.held-out-examples": 2,
        "evaluate.examples": 2,
        "data.template": "none",
    }
    file = tmp_path / "base.toml"
    file.write_text("".join(f'"{key}" = {json.dumps(value)}\n' for key, value in flat.items()))
    return str(file)


@pytest.fixture
def runs(monkeypatch):
    """What is run, in order; a strategy named in `runs.broken` fails."""

    class Runs(list):
        broken: set[str] = set()
        where: list[tuple[str | None, str | None]]
        told: list[set[str]]

    made = Runs()
    made.where, made.told = [], []

    def run(_app, flat, _console, federation_config=None, cluster=None, told=None):
        made.told.append(told)
        made.where.append((federation_config, cluster and cluster.address))
        made.append((flat["strategy.name"], flat["run.seed"], bool(flat["run.resume"])))
        directory = RunDirectory(compare.Path(flat["run.directory"]))
        if flat["strategy.name"] in made.broken:
            raise UserError("there is no room for it")
        resume_in_process(flat, directory.path) if flat["run.resume"] else run_in_process(flat, directory.path)
        return True

    monkeypatch.setattr(compare, "run_to_end", run)
    return made


@pytest.fixture
def run_it(configuration, tmp_path):
    def run(*more):
        arguments = ["compare", configuration, "--app", str(ROOT), "--limit", "2", "--threads", "1"]
        return main([*arguments, "--out", str(tmp_path / "out"), *more])

    return run


def rows_of(folder):
    with open(folder / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_run_evaluated_and_written(run_it, runs, tmp_path, capsys):
    """2 strategies under 2 seeds. Of 2 rounds of 1 step of 2 rows: fedavg's one model has seen 2 clients' 4 steps and 8
    rows, each of local's two models half of that, the pooled one as much as the federation.
    """
    assert run_it("--strategies", "fedavg,local,centralized", "--seeds", "2") == 0
    seeds = (42, 43)
    assert runs == [(name, seed, False) for seed in seeds for name in ("fedavg", "local", "centralized")]
    out = tmp_path / "out"
    rows = rows_of(out)
    seen = {(row["line"], row["steps"], row["examples"]) for row in rows if row["steps"] and not row["seed"]}
    assert seen == {("fedavg", "4.0", "8.0"), ("local", "2.0", "4.0"), ("centralized", "4.0", "8.0")}
    assert {row["line"] for row in rows} == {"base", "base, 3 examples shown", "fedavg", "local", "centralized"}
    assert {row["seed"] for row in rows if row["line"] == "local"} == {"", "42", "43"}
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| fedavg | 2 |" in (out / "comparison.md").read_text()
    table = json.loads((out / "comparison.json").read_text())
    assert table["headline"] == [["average", "exact match"]]
    assert table["lines"][3]["models"]["42"] == ["local, seed 42, client 0", "local, seed 42, client 1"]
    printed = capsys.readouterr().out
    # Of 2 + 2 + 4 + 2 models the last has nothing left; these are asked within seconds.
    assert printed.count("s, less than a minute left") == 9
    assert "data.seed is 42 in all cells" in " ".join(printed.split())
    assert "as many steps and examples as all clients of a federation take together" in " ".join(printed.split())
    assert main(["evaluate", str(out), "--show", "all", "--only", "general", "--limit", "1"]) == 0
    assert "centralized, seed 43" in capsys.readouterr().out


def test_where_the_runs_take_place(run_it, runs, monkeypatch):
    """All of them on the same cluster, with the same shares."""
    monkeypatch.setattr(runs, "broken", {"fedavg", "local"})
    run_it("--strategies", "fedavg,local", "--ray", "10.0.0.1:6379", "--federation-config", "num-supernodes=2")
    assert runs.told[0] is runs.told[1] is not None  # what the first has said, the second need not say
    assert runs.where == 2 * [("num-supernodes=2", "10.0.0.1:6379")]


def test_called_again_nothing_is_run_or_asked_twice(run_it, runs, tmp_path, monkeypatch, capsys):
    """What is finished is skipped, answers are read from the disk, and another strategy is added to them."""
    assert run_it("--strategies", "fedavg") == 0
    before = (tmp_path / "out" / "comparison.csv").read_text()
    runs.clear()
    asked = []
    from fedllm_app.evaluation.evaluate import Evaluation

    run = Evaluation.run
    monkeypatch.setattr(Evaluation, "run", lambda self, sets: asked.append(self.contestants[0].name) or run(self, sets))
    assert run_it("--strategies", "fedavg") == 0
    assert (runs, asked) == ([], [])
    assert (tmp_path / "out" / "comparison.csv").read_text() == before
    printed = capsys.readouterr().out
    assert "finished before" in printed and "fedavg, seed 42: 8 answers, of before" in printed
    assert run_it("--strategies", "fedavg,fedadagrad") == 0
    assert (runs, asked) == ([("fedadagrad", 42, False)], ["fedadagrad, seed 42"])


def test_a_changed_configuration_is_refused_with_the_difference(run_it, runs, capsys):
    assert run_it() == 0
    runs.clear()
    assert run_it("-c", "train.rounds=3") == 2
    assert "train.rounds = 3: the comparison there has 2" in capsys.readouterr().out
    assert runs == []


def test_a_failed_cell_stops_nothing_and_is_shown(run_it, runs, tmp_path, capsys):
    """The reason stands in the table's notes; when it is mended, that cell alone is run."""
    runs.broken = {"scaffold"}
    assert run_it("--strategies", "scaffold,fedavg", "--seeds", "2") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "scaffold, seed 43 failed: there is no room for it" in printed
    assert "2 of 4 runs failed" in printed
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "| scaffold | 0 of 2 |" in markdown
    assert "minus fedavg" in markdown  # the first line that has a model
    runs.clear()
    runs.broken = set()
    assert run_it("--strategies", "scaffold,fedavg", "--seeds", "2") == 0
    assert runs == [("scaffold", 42, False), ("scaffold", 43, False)]
    assert "minus scaffold" in (tmp_path / "out" / "comparison.md").read_text()


def test_where_all_fail_there_is_no_table(run_it, runs, tmp_path, capsys):
    runs.broken = {"fedavg"}
    assert run_it() == 1
    assert "nothing to compare" in capsys.readouterr().out
    assert not (tmp_path / "out" / "comparison.md").exists()


def test_a_broken_run_goes_on(run_it, runs, tmp_path):
    """It had its first round, and is resumed: the journal says so, and no round is there twice."""
    assert run_it() == 0
    (directory,) = (tmp_path / "out" / "runs").iterdir()
    (directory / "result.json").unlink()
    runs.clear()
    assert run_it() == 0
    assert runs == [("fedavg", 42, True)]
    assert "resumed" in [event["event"] for event in read_journal(directory)]


def test_without_a_suite_the_held_out_metrics_of_the_runs_are_compared(run_it, runs, tmp_path):
    """The mean over clients after round 2; of the base before round 1. No question is asked, so nothing is paired."""
    assert run_it("--suite", "none", "--strategies", "fedavg,local", "--seeds", "2") == 0
    out = tmp_path / "out"
    rows = {(row["line"], row["seed"], row["metric"]): row for row in rows_of(out)}
    journal = read_journal(out / "runs" / "local-seed-43")
    evaluations = {event["round"]: event["eval_loss"] for event in journal if event["event"] == "evaluation"}
    assert float(rows["local", "43", "loss"]["value"]) == evaluations[2]
    assert float(rows["base", "", "loss"]["value"]) == pytest.approx(evaluations[0])
    mean = sum(float(rows["local", seed, "loss"]["value"]) for seed in ("42", "43")) / 2
    assert float(rows["local", "", "loss"]["value"]) == pytest.approx(mean)
    difference = mean - float(rows["fedavg", "", "loss"]["value"])
    assert float(rows["local", "", "loss"]["difference"]) == pytest.approx(difference)
    assert rows["local", "", "loss"]["p"] == ""
    assert json.loads((out / "comparison.json").read_text())["headline"][0] == ["held-out rows", "loss"]
    assert not (out / "answers").exists()
    assert run_it("--suite", "none", "-c", "evaluate.every=0") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seeds", "none"], "--seeds none: must be a number of seeds"),
        (["--seeds", "0"], "--seeds 0: must be from 1"),
        (["--set", "train.local-steps"], "must be a key and its values"),
        (["--set", "train.local-steps=5,,7"], "has a value without text"),
        (["--set", "train.local-step=5,7"], "did you mean train.local-steps"),
        (["--set", "train.rounds=1", "--set", "train.rounds=2"], "is there twice"),
        (["--suite", "bulitin"], "Did you mean 'builtin'?"),
        (["--suite", "lm-eval:arc_easy"], "ask tasks of lm-evaluation-harness afterwards"),
        (["--suite", "file:/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--strategies", "fedavg,fedprxo"], "did you mean 'fedprox'"),
        (["--shown", "-1"], "--shown -1"),
        (["-c", "run.directory=/tmp/x"], "makes a directory for each run"),
    ],
)
def test_wrong_options_are_told_before_anything_is_made(arguments, told, run_it, runs, tmp_path, capsys):
    assert run_it(*arguments) == 2
    assert told in " ".join(capsys.readouterr().out.split())
    assert runs == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", [42]), ("3", [42, 43, 44]), ("1,5,9", [1, 5, 9]), ("7,", [7]), (" 2 , 3 ", [2, 3])]
)
def test_seeds(text, seeds):
    assert compare.read_seeds(text, 42) == seeds


def test_values_of_settings(run_config):
    """Numbers, text, and text with commas in quotes."""
    given = ["train.local-steps=5,10", "data.name='a,b',alpaca", "strategy.fedprox.mu=0.1"]
    assert compare.read_settings(given, run_config) == {
        "train.local-steps": [5, 10],
        "data.name": ["a,b", "alpaca"],
        "strategy.fedprox.mu": [0.1],
    }
