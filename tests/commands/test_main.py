"""The `fedllm` command, without starting Flower."""

import os
import signal
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from places import ROOT
from rich.console import Console

from fedllm_app.commands import attach, follow, runs
from fedllm_app.commands import run as cli
from fedllm_app.commands.flower import LaunchError
from fedllm_app.commands.follow import Outcome
from fedllm_app.commands.main import main
from fedllm_app.commands.placement import Machine
from fedllm_app.commands.run import default_federation, run_to_end
from fedllm_app.config.parse import default_run_config, parse_run_config


@pytest.fixture
def starts_nothing(tmp_path, monkeypatch) -> Path:
    """An empty working directory in which no process of Flower may be started."""

    def started(*_arguments, **_options):
        pytest.fail("a process of Flower was started")

    for name in ("LocalSuperLink", "submit_run"):
        monkeypatch.setattr(cli, name, started)
    monkeypatch.setattr(cli, "is_local", lambda connection: True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("number", "per_round", "cores", "expected"),
    [
        (4, 0, 2, (4, 1)),
        (4, 0, 16, (4, 4)),
        (20, 2, 16, (20, 8)),
        (0, 0, 8, (2, 4)),
        (3, 0, 8, (3, 2)),
        (8, 0, 1, (8, 1)),
    ],
)
def test_default_federation(number, per_round, cores, expected):
    """A node a client; cores shared by as many as train at a time: 16 cores and 2 of 20 clients give 8 each."""
    config = parse_run_config(default_run_config(ROOT) | {"clients.number": number, "clients.per-round": per_round})
    nodes, cpus = expected
    assert (
        default_federation(config, {}, None, [Machine(cores)])
        == f"num-supernodes={nodes} client-resources-num-cpus={cpus}"
    )


@pytest.mark.parametrize("command", ["run", "demo"])
def test_a_bad_configuration_ends_with_2_and_starts_nothing(starts_nothing, capsys, command):
    assert main([command, str(ROOT), "-c", "train.rounds=0", "-c", 'model.dtype="float8"']) == 2
    said = capsys.readouterr().out
    assert "2 problems" in said
    assert "train.rounds = 0" in said
    assert "model.dtype = 'float8'" in said
    assert list(starts_nothing.iterdir()) == []


def test_what_a_class_path_does_not_take_starts_nothing(starts_nothing, tiny_model, capsys):
    """Refused before Flower starts, as is a class that is not installed."""
    given = "strategy.name='flwr.serverapp.strategy.FedAdam' strategy.arguments='eta=0.01,beta1=0.5'"
    assert main(["run", str(ROOT), "-c", given]) == 2
    said = capsys.readouterr().out.replace("\n", " ")
    assert "takes no argument beta1; it takes " in said
    assert "beta_1" in said
    assert list(starts_nothing.iterdir()) == []
    with pytest.raises(pytest.fail.Exception, match="was started"):
        main(["run", str(ROOT), "-c", given.replace("beta1", "beta_1"), f"model.name={tiny_model}"])
    missing = "strategy.name='only_on_the_server.Mine' strategy.arguments='a=1'"
    assert main(["run", str(ROOT), "-c", missing]) == 2
    assert "only_on_the_server" in capsys.readouterr().out


@pytest.mark.parametrize(("strategy", "cpus"), [("fedavg", 2), ("local", 2), ("centralized", 8)])
def test_a_client_that_trains_alone_has_all_cores(strategy, cpus):
    """Of four clients on 8 cores; `centralized` trains one on the rows of all."""
    config = parse_run_config(default_run_config(ROOT) | {"clients.number": 4, "strategy.name": strategy})
    told = default_federation(config, {}, None, [Machine(8)])
    assert told == f"num-supernodes=4 client-resources-num-cpus={cpus}"


@pytest.mark.parametrize(("columns", "width"), [(None, 160), ("90", 90)])
def test_a_pipe_has_room_for_a_path(monkeypatch, columns, width):
    """The tests' output is no terminal. COLUMNS is the user's word."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    widths = []
    monkeypatch.setattr(runs, "_runs", lambda parsed, console: widths.append(console.width) or 0)
    assert main(["runs"]) == 0
    assert widths == [width]


def test_a_missing_configuration_file_ends_with_2(starts_nothing, capsys):
    assert main(["run", str(ROOT), "-c", "nowhere.toml"]) == 2
    assert "nowhere.toml: there is no such file" in capsys.readouterr().out


def test_a_directory_with_another_run_ends_with_2(starts_nothing, tiny_model, capsys):
    (starts_nothing / "journal.jsonl").write_text('{"event": "started"}\n{"event": "ready"}\n')
    assert main(["run", str(ROOT), "-c", f'run.directory="{starts_nothing}" model.name="{tiny_model}"']) == 2
    assert "holds another run" in capsys.readouterr().out.replace("\n", " ")


def test_a_broken_configuration_file_ends_with_2(starts_nothing):
    (starts_nothing / "broken.toml").write_text("[train")
    assert main(["run", str(ROOT), "-c", "broken.toml"]) == 2


def test_a_key_without_a_value_ends_with_2(starts_nothing):
    assert main(["run", str(ROOT), "-c", "train.rounds"]) == 2


def test_text_needs_no_quotes(starts_nothing, tiny_model):
    """The shell takes the quotes of strategy.name="fedprox" away."""
    with pytest.raises(pytest.fail.Exception, match="was started"):
        main(["run", str(ROOT), "-c", "strategy.name=fedprox", "train.rounds=3", f"model.name={tiny_model}"])


def test_an_app_that_is_not_there_ends_with_2(starts_nothing):
    assert main(["run", str(starts_nothing / "nothing")]) == 2


def test_what_flower_is_given(tmp_path, tiny_model, monkeypatch):
    """Flower reads back the whole flat configuration, every type and quote as it was, and the clients' federation."""
    flat = default_run_config(ROOT) | {
        "model.name": str(tiny_model),
        "run.directory": str(tmp_path / "run"),
        "data.system-prompt": 'Say "hi" \\ and\nbe kind – 你好',
        "train.min-learning-rate": 1e-6,
    }
    given = {}

    def submit(app, connection, options, environment):
        given["app"] = app
        given["config"] = tomllib.loads(Path(options[options.index("--run-config") + 1]).read_text(encoding="utf-8"))
        given["federation"] = options[options.index("--federation-config") + 1]
        raise LaunchError("enough")

    monkeypatch.setattr(cli, "submit_run", submit)
    monkeypatch.setattr(cli, "is_local", lambda connection: True)
    monkeypatch.setattr(cli, "LocalSuperLink", lambda *_: nullcontext(SimpleNamespace(environment={})))
    with pytest.raises(LaunchError, match="enough"):
        run_to_end(ROOT, flat, Console(quiet=True))
    assert given["app"] == ROOT
    assert given["config"] == flat
    assert given["federation"].startswith("num-supernodes=4 ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_a_command_ends_it_in_order_and_once(starts_nothing, monkeypatch, capsys, number):
    """The clean-up is not interrupted by a second signal; afterwards signals mean what they did before."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    cleaned = []

    def run(*_):
        try:
            os.kill(os.getpid(), number)
            pytest.fail("it went on")
        finally:
            os.kill(os.getpid(), number)
            cleaned.append(True)

    monkeypatch.setattr(cli, "run_to_end", run)
    assert main(["run", str(ROOT)]) == 130
    assert cleaned == [True]
    assert "stopped" in capsys.readouterr().out
    assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_what_is_ignored_stays_ignored(starts_nothing, monkeypatch):
    """`nohup fedllm run` outlives its terminal."""
    monkeypatch.setattr(cli, "run_to_end", lambda *_: Outcome(os.kill(os.getpid(), signal.SIGHUP) is None))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["run", str(ROOT)]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


class NoLog:
    """A log that cannot be read."""

    complete = False

    def lines(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A SuperLink on another machine; what Flower says of its run, look by look, is the fixture's list."""
    said: list = []

    def status(*_):
        answer = said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cli, "is_local", lambda connection: False)
    monkeypatch.setattr(cli, "submit_run", lambda *_: 7)
    monkeypatch.setattr(attach, "run_status", status)
    monkeypatch.setattr(attach, "LogStream", lambda *_: NoLog())
    for name in ("_ASK_FLOWER_EVERY", "_LOOK_EVERY", "_LAST_WORDS"):
        monkeypatch.setattr(follow, name, 0.0)
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path))
    return said


def over_there(console) -> bool:
    flat = default_run_config(ROOT) | {"run.directory": "/runs/of/another/machine"}
    return run_to_end(ROOT, flat, console, connection="sites")


def test_a_run_on_another_machine_ends_as_flower_says(elsewhere, console):
    """Its files cannot be seen from here. A SuperLink that does not answer once is asked again."""
    elsewhere += [("running", ""), LaunchError("not reached"), ("running", ""), ("finished:completed", "N/A")]
    assert over_there(console)
    said = console.export_text()
    assert "flwr log 7 sites" in said
    assert "the run finished; its files, on the SuperLink's machine: /runs/of/another/machine" in said


def test_a_run_that_failed_on_another_machine(elsewhere, console):
    elsewhere += [("finished:failed", "ServerApp failed: no GPU")]
    assert not over_there(console)
    said = console.export_text()
    assert "finished:failed: ServerApp failed: no GPU" in said
    assert "the run failed; its files, on the SuperLink's machine" in said
    assert "the end of" not in said


def test_a_superlink_that_never_answers(elsewhere, console):
    elsewhere += [LaunchError("not reached")] * 100
    with pytest.raises(LaunchError, match="not reached"):
        over_there(console)
