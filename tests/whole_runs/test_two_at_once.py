"""Two runs at once on one machine, started in the same directory; one is killed, and the other does not notice."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from places import ROOT

from fedllm_app.runs.directory import read_result
from fedllm_app.runs.journal import read_journal

pytestmark = pytest.mark.slow


def events(directory: Path, name: str) -> list[dict]:
    if not (directory / "journal.jsonl").is_file():
        return []
    return [event for event in read_journal(directory) if event["event"] == name]


def test_one_is_killed_and_the_other_finishes(run_config, tmp_path, flower_home):
    flat = run_config | {"clients.number": 2, "evaluate.every": 0, "data.template": "none"}
    config = tmp_path / "run.toml"
    config.write_text("".join(f'"{key}" = {json.dumps(value)}\n' for key, value in flat.items() if value != ""))
    runs = []
    for rounds in (500, 2):
        command = [sys.executable, "-m", "fedllm_app.commands.main", "run", str(ROOT), "-c", str(config)]
        with open(tmp_path / f"{rounds}.out", "wb") as out:
            runs.append(subprocess.Popen([*command, f"train.rounds={rounds}"], cwd=tmp_path, stdout=out, stderr=out))
    long, short = runs
    try:
        deadline = time.monotonic() + 240
        while not (killed := [d for d in tmp_path.glob("runs/*") if rounds_of(d) == 500 and events(d, "round")]):
            assert time.monotonic() < deadline and long.poll() is None, (tmp_path / "500.out").read_text()
            time.sleep(0.1)
        started = psutil.Process(long.pid).children(recursive=True)
        assert len(started) > 3  # the SuperLink, the ServerApp and the simulation with Ray's processes
        long.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(started, timeout=60)
        assert not alive
        assert short.wait(timeout=240) == 0, (tmp_path / "2.out").read_text()
    finally:
        for process in runs:
            process.kill()
            process.wait()
    (finished,) = [directory for directory in tmp_path.glob("runs/*") if directory != killed[0]]
    assert read_result(finished)["rounds"] == 2
    assert "interrupted" in events(killed[0], "failed")[-1]["reason"]
    assert read_result(killed[0]) is None


def rounds_of(directory: Path) -> int:
    return next((event["rounds"] for event in events(directory, "started")), 0)
