"""The worker with the real ClientApp and a tiny model: whether it works there or here, the same bytes."""

import logging
import os

import pytest
from flwr.app import Context, RecordDict
from in_process import InProcessGrid
from places import ROOT

from fedllm_app import server_app
from fedllm_app.client.progress import Tail, progress_file
from fedllm_app.client.worker import WorkerSupervisor
from fedllm_app.config.parse import parse_run_config
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.runs.directory import PromptRecord, RunDirectory

pytestmark = pytest.mark.slow


@pytest.fixture
def run(run_config, tmp_path):
    """Runs two sites with files of their own, whose messages go through the ClientApp at once; gives the directory."""
    files = {name: tmp_path / f"{name}.jsonl" for name in ("oslo", "rome")}
    for name, file in files.items():
        file.write_text("".join(f'{{"question": "{name} {n}", "answer": "{n}"}}\n' for n in range(12)))

    def start(name: str, change=lambda grid: None):
        directory = tmp_path / name
        flat = run_config | {"clients.number": 2, "run.directory": str(directory), "strategy.name": "scaffold"}
        grid = InProcessGrid(flat, 0)
        for node, (site, file) in enumerate(files.items()):
            config = {"site": site, "data-path": str(file), "models": flat["model.name"]}
            grid.contexts[node] = Context(5, node, config, RecordDict(), flat)
        change(grid)
        made = RunDirectory(directory, PromptRecord.of(flat["data.template"], flat["data.system-prompt"]))
        made.create(flat)
        server_app.run_experiment(grid, parse_run_config(flat), made, run_id=5)
        return directory

    yield start
    PROCESS_CACHE.clear()


def final_bytes(directory) -> bytes:
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_through_the_worker_ends_with_the_same_bytes(run, monkeypatch, caplog, app_home):
    """Both sites share one process here, so that what one leaves in it would change the other. It works under the
    policy of the site, writes the progress file, and its log lines arrive."""
    here = final_bytes(run("here"))
    progress_file(5).unlink()
    PROCESS_CACHE.clear()
    with WorkerSupervisor(environment=os.environ | {"PYTHONPATH": str(ROOT)}) as worker:
        monkeypatch.setenv("FEDLLM_WORKER", str(worker.socket))
        with caplog.at_level(logging.INFO, "flwr"):
            directory = run("there")
        process = worker.process
        assert final_bytes(directory) == here
        assert not PROCESS_CACHE.holds("resident model"), "the work was done here"
        assert any(line.startswith("round 2 client 1 step 2/2 loss") for line in caplog.messages)
        assert {(line["round"], line["client"]) for line in Tail(progress_file(5)).new()} == {
            (server_round, client) for server_round in (1, 2) for client in (0, 1)
        }
        with pytest.raises(Exception, match="cannot take part"):
            run("refused", lambda grid: grid.contexts[1].node_config.pop("models"))
        assert worker.process == process
