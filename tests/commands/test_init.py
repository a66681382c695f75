"""`fedllm init`: the project that it writes is an app that runs."""

import sys
import tomllib

import pytest
from flwr.common.config import validate_config
from in_process import run_in_process
from places import ROOT

from fedllm_app.commands.init import project_name
from fedllm_app.commands.main import main
from fedllm_app.commands.options import app_defaults
from fedllm_app.config.parse import default_run_config


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project, and what its modules leave in this process taken away again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "my project"
    sys.modules.pop("my_strategy", None)


def test_a_project_has_every_key_and_a_strategy_of_its_own(project):
    assert main(["init", str(project)]) == 0
    assert default_run_config(project) == default_run_config(ROOT) | {"strategy.name": "my_strategy.Mine"}
    written = tomllib.loads((project / "pyproject.toml").read_text())
    assert validate_config(written, check_module=False) == (True, [], [])
    assert written["project"]["name"] == "my-project"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert written["project"]["dependencies"] == [f"fedllm-app=={version}"]
    expected = {"pyproject.toml", "my_strategy.py", "notebook.ipynb", "README.md", "conf"}
    assert {path.name for path in project.iterdir()} == expected
    assert (project / "notebook.ipynb").read_bytes() == (ROOT / "examples" / "notebook.ipynb").read_bytes()


def test_a_new_project_runs(project, run_config, tmp_path):
    """With η = 1 its strategy is FedAvg: the same final adapter up to rounding; with η = 0 nothing moves."""
    import numpy as np
    from safetensors.numpy import load

    main(["init", str(project)])
    assert app_defaults(project)["strategy.name"] == "my_strategy.Mine"
    small = run_config | {"clients.number": 2, "evaluate.every": 0}
    mine = small | {"strategy.name": "my_strategy.Mine"}
    averaged = load(run_in_process(small, tmp_path / "fedavg"))
    full = load(run_in_process(mine, tmp_path / "full"))
    still = load(run_in_process(mine | {"strategy.arguments": "eta=0.0"}, tmp_path / "still"))
    assert averaged.keys() == full.keys()
    for name in averaged:
        np.testing.assert_allclose(full[name], averaged[name], rtol=0, atol=1e-6)
    assert all(not value.any() for name, value in still.items() if "lora_B" in name)
    assert any(value.any() for name, value in full.items() if "lora_B" in name)


def test_what_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert "is not empty" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert main(["init", str(tmp_path / "notes.txt")]) == 2
    assert "is a file" in " ".join(capsys.readouterr().out.split())


def test_an_empty_directory_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "."]) == 0
    assert (tmp_path / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    ("directory", "name"),
    [("ward 7", "ward-7"), ("7-wards", "my-app"), ("Überlingen", "berlingen"), ("…", "my-app"), ("a" * 40, "a" * 32)],
)
def test_the_name_is_one_that_flower_allows(tmp_path, directory, name):
    assert project_name(tmp_path / directory) == name
