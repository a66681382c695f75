"""Where an app is, and which one is meant."""

import pytest
from places import ROOT

from fedllm_app.config.app_files import PACKAGE, NoApp, app_directory, presets
from fedllm_app.config.parse import default_run_config
from fedllm_app.config.sections import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_working_directory_without_an_app_means_the_package(here):
    """Also where it is another project's, whose pyproject.toml says nothing of Flower."""
    assert app_directory(".") == PACKAGE
    (here / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.ruff]\nline-length = 99\n')
    assert app_directory(".") == PACKAGE
    assert default_run_config(here) == default_run_config(ROOT)


def test_an_app_of_the_working_directory_is_used(here):
    (here / "pyproject.toml").write_text("[tool.flwr.app]\n")
    assert app_directory(".") == here
    assert app_directory(ROOT) == ROOT


@pytest.mark.parametrize(
    ("name", "wrong"), [("nowhere", "there is no such directory"), ("empty", "holds no app"), ("f.toml", "is a file")]
)
def test_another_directory_must_be_an_app(here, name, wrong):
    (here / "empty").mkdir()
    (here / "f.toml").write_text("")
    with pytest.raises(NoApp, match=rf"^{name}: {wrong}.*fedllm init DIR"):
        app_directory(name)


def test_an_app_without_all_keys_is_told_which(here):
    """An app of another kind, or one that was made for an older version."""
    (here / "pyproject.toml").write_text("[tool.flwr.app.config.train]\nrounds = 3\n")
    with pytest.raises(ConfigError, match=r"has no default for adapter\..* and \d+ more"):
        default_run_config(here)


def test_a_broken_file_is_named(here):
    (here / "pyproject.toml").write_text("[tool")
    with pytest.raises(ConfigError, match=r"pyproject.toml cannot be read as TOML"):
        app_directory(".")


def test_presets_are_those_of_the_project():
    assert presets() == {path.stem: path for path in (ROOT / "conf").glob("*.toml")}
    assert "fedit-finance" in presets()
