"""An operator who shares no disk with the server: sees a run, comes back to it, fetches it, stops another."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from flower_sites import CONNECTION, Sites
from places import ROOT

from fedllm_app.commands.main import main
from fedllm_app.commands.run import run_to_end
from fedllm_app.runs.journal import read_journal

pytestmark = pytest.mark.slow


def test_a_run_whose_directory_is_elsewhere(run_config, flower_home, tmp_path, tiny_model, console, capsys):
    flat = run_config | {
        "clients.number": 1,
        "data.template": "none",
        "train.local-steps": 1,
        "run.directory": "",  # the server's choice, below its own home
    }
    with Sites(tmp_path, flower_home, {"oslo": 20}, tiny_model):
        outcome = run_to_end(ROOT, flat, console, connection=CONNECTION)
        said = console.export_text()
        assert outcome and outcome.result["rounds"] == 2, said
        for part in (
            "what the clients hold",
            "oslo",
            "round 2/2: training loss",
            "held-out after round 2",
            "run finished",
        ):
            assert part in said, said
        run_id = re.search(r"run (\d+): 2 rounds", said)[1]
        directory = tmp_path / "server" / "runs" / run_id
        assert str(directory) == outcome.directory

        assert main(["watch", run_id, CONNECTION]) == 0
        assert capsys.readouterr().out.count("round 2/2: training loss") == 1

        out = tmp_path / "fetched"
        assert main(["fetch", run_id, CONNECTION, "--out", str(out), "--app", str(ROOT)]) == 0
        for file in ("adapter/adapter_model.safetensors", "adapter/prompt.json", "result.json", "journal.jsonl"):
            assert (out / file).read_bytes() == (directory / file).read_bytes()

        interrupt_and_stop(flat | {"train.rounds": 500}, tmp_path, capsys)


def interrupt_and_stop(flat: dict, tmp_path, capsys) -> None:
    """Ctrl-C ends the command and not the run; `fedllm stop` ends the run, and its journal says so."""
    config = tmp_path / "run.toml"
    config.write_text("".join(f'"{key}" = {json.dumps(value)}\n' for key, value in flat.items() if value != ""))
    command = [sys.executable, "-m", "fedllm_app.commands.main", "run", str(ROOT), CONNECTION, "-c", str(config)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("round 1/500"):
                process.send_signal(signal.SIGINT)
        assert process.wait() == 130, "".join(lines)
    said = " ".join("".join(lines).split())
    run_id = re.search(r"fedllm stop (\d+) sites", said)[1]
    directory = tmp_path / "server" / "runs" / run_id
    assert not [event for event in read_journal(directory) if event["event"] == "failed"]
    assert main(["stop", run_id, CONNECTION]) == 0
    assert "has stopped" in capsys.readouterr().out
    deadline = time.monotonic() + 90
    while not [event for event in read_journal(directory) if event["event"] == "failed"]:
        assert time.monotonic() < deadline, read_journal(directory)[-1]
        time.sleep(0.5)
