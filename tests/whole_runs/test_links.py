"""On real Flower processes: a link that breaks in the middle of a reply, and a slow one."""

import json

import pytest
from flower_sites import CONNECTION, Sites
from in_process import run_in_process
from places import ROOT
from slow_link import Link

from fedllm_app.commands.run import run_to_end
from fedllm_app.runs.directory import read_result

pytestmark = pytest.mark.slow


def steps(sites: Sites, name: str) -> int:
    """How many optimizer steps the clients of a site have reported."""
    files = (sites.folder / name / "progress").glob("*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sum(1 for line in lines if line["loss"] is not None)


def test_replies_come_through_once(run_config, flower_home, tiny_model, tmp_path, console):
    """An adapter of 2 MB. Berlin's connection is reset twice after 300 kB of what it sends; Cairo sends 400 kB a
    second. Each trains once in each of two rounds, and the adapter is that of a simulation."""
    directory = tmp_path / "run"
    flat = run_config | {
        "run.directory": str(directory),
        "clients.number": 3,
        "clients.minimum": 1.0,
        "data.template": "none",
        "evaluate.every": 0,
        "lora.r": 512,
        "train.local-steps": 3,
    }
    with Sites(tmp_path, flower_home, {"athens": 20}, tiny_model) as sites:
        breaking = Link(sites.port, breaks_after=300_000, breaks=2)
        slow = Link(sites.port, bytes_per_second=400_000)
        with breaking, slow:
            for name, link in (("berlin", breaking), ("cairo", slow)):
                sites.write_rows(name, 20)
                sites.node(name, link.port)
            outcome = run_to_end(ROOT, flat, console, connection=CONNECTION)
            assert outcome, console.export_text()
        assert {name: steps(sites, name) for name in ("athens", "berlin", "cairo")} == {
            "athens": 6,
            "berlin": 6,
            "cairo": 6,
        }
    assert breaking.broken == 2
    assert min(breaking.sent, slow.sent) > 2 * 2_000_000  # two adapters
    assert read_result(directory)["refused_replies"] == 0
    sets = ",".join(str(tmp_path / f"{name}.jsonl") for name in ("athens", "berlin", "cairo"))
    simulated = flat | {"data.name": sets, "data.partition": "by-domain"}
    whole = run_in_process(simulated, tmp_path / "simulated")
    assert (directory / "adapter" / "adapter_model.safetensors").read_bytes() == whole
