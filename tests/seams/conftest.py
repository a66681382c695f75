"""What the tests of all seams share: the examples importable by their class paths, a small run, its figures."""

import ast
from pathlib import Path

import pytest
from in_process import run_in_process
from places import ROOT
from safetensors.numpy import load_file

from fedllm_app.runs.directory import read_journal, read_result

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch) -> None:
    """As with PYTHONPATH=examples."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def small(run_config) -> dict:
    """Three clients, two rounds of two steps, a checkpoint after each."""
    return run_config | {
        "clients.number": 3,
        "data.examples-per-client": 6,
        "data.held-out-examples": 2,
        "train.max-length": 400,
        "run.checkpoint-every": 1,
        "evaluate.every": 2,
    }


class Run:
    """A finished run: its journal, its result, its final tensors."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.journal, self.result = directory, read_journal(directory), read_result(directory)
        self.tensors = load_file(directory / "adapter" / "adapter_model.safetensors")

    def events(self, name: str) -> list[dict]:
        return [event for event in self.journal if event["event"] == name]


@pytest.fixture
def run(small, tmp_path):
    """Run the small configuration with overrides, and return what came out; nothing was refused."""

    def whole(label: str, **overrides) -> Run:
        flat = small | {key.replace("__", ".").replace("_", "-"): value for key, value in overrides.items()}
        run_in_process(flat, tmp_path / label)
        found = Run(tmp_path / label)
        assert found.result["refused_replies"] == 0
        return found

    return whole


def code_lines(name: str) -> int:
    """Lines of an example that hold code: no blank lines, comments or docstrings."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    told: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            told |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(number not in told and bool(line.split("#")[0].strip()) for number, line in lines)


@pytest.fixture
def lines_of_code():
    """`code_lines`."""
    return code_lines
