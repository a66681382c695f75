"""The command that repeats a run gives its configuration again."""

import subprocess
import tomllib

import pytest
from places import ROOT

from fedllm_app.commands.overrides import read_overrides
from fedllm_app.config.parse import default_run_config
from fedllm_app.report.command import full_configuration, run_command

ODD = 'it\'s a "name" with blanks, \\ $HOME and `ls` ü'


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"train.rounds": 3, "train.learning-rate": 1e-5, "lora.dora": True},
        {"data.system-prompt": ODD, "data.name": "/data/my file.csv", "data.prompt-column": "3"},
    ],
)
def test_the_command_line_gives_the_configuration(changed):
    """As a shell reads it and then `-c`, over the app's defaults; where the run was is left out."""
    defaults = default_run_config(ROOT)
    config = defaults | changed | {"run.directory": "/runs/one", "run.resume": ""}
    shell = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {run_command(config, ROOT)}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    words = shell.stdout.split("\0")[:-1]
    assert words[:3] == ["fedllm", "run", "."]
    given = words[4:]
    assert len(given) == len(changed)
    assert defaults | read_overrides(given, defaults) == defaults | changed


def test_without_an_app_the_installed_ones_defaults_count(tmp_path):
    """Also where the directory is another project's."""
    config = default_run_config(ROOT) | {"train.rounds": 3}
    for app in (None, tmp_path):
        assert run_command(config, app) == "fedllm run . -c \\\n    train.rounds=3"
    (tmp_path / "pyproject.toml").write_text("[project]")
    assert run_command(config, tmp_path).endswith(" train.rounds=3")


def test_the_whole_configuration_is_a_file_for_the_command(tmp_path):
    config = default_run_config(ROOT) | {"data.system-prompt": ODD}
    read = tomllib.loads(full_configuration(config))
    assert read == {key: value for key, value in config.items() if key in read}
    assert len(config) - len(read) == 4  # where the run is


def test_the_command_names_the_federation_of_the_run():
    """Quoted for a shell, and left out where the run had none."""
    config = default_run_config(ROOT) | {"train.rounds": 3}
    given = "num-supernodes=4 client-resources-num-cpus=1"
    assert run_command(config, ROOT, given) == f"fedllm run . --federation-config '{given}' -c \\\n    train.rounds=3"
    assert "--federation-config" not in run_command(config, ROOT)
