"""The notebook of `examples/` runs from its first cell to its last."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"

pytestmark = pytest.mark.slow


def test_every_cell_runs(tiny_model, tmp_path, monkeypatch):
    """With the tiny model, in a kernel of its own."""
    monkeypatch.setenv("NOTEBOOK_MODEL", str(tiny_model))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = {cell.source.split("(")[0]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    [run] = (tmp_path / "runs").iterdir()
    assert (run / "result.json").is_file()
    shown = [
        "".join(out.get("data", {}).get("text/plain", "")) for cell in notebook.cells for out in cell.get("outputs", [])
    ]
    assert sum("what the clients hold" in text for text in shown) == 1
    warned = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "IProgress" not in warned
    assert "image/png" in outputs["result.figure"][-1]["data"]
    assert "train_loss" in outputs["result.journal"][-1]["data"]["text/plain"]
    assert "adapter_model.safetensors" in outputs["sorted"][-1]["data"]["text/plain"]
    assert json.loads((run / "evaluation" / "report.json").read_text())


def test_it_is_kept_without_outputs():
    cells = json.loads(Path(NOTEBOOK).read_text())["cells"]
    assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code"].count([]) == sum(
        cell["cell_type"] == "code" for cell in cells
    )


def test_it_names_no_file_that_only_a_checkout_has():
    """It comes with the package, whose user has no docs/."""
    assert "docs/" not in Path(NOTEBOOK).read_text()
