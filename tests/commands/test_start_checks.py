"""What is refused before Flower starts."""

import pytest
from places import ROOT

from fedllm_app.class_paths import ClassPathError
from fedllm_app.commands.main import main
from fedllm_app.commands.start_checks import check_start
from fedllm_app.config.parse import parse_run_config
from fedllm_app.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ({"model.name": "/no/model"}, "/no/model/config.json does not exist"),
        ({"data.name": "/no/rows.csv"}, "data.name = '/no/rows.csv': there is no such file or folder"),
        ({"adapter.start": "/no/run"}, "adapter.start = '/no/run' holds no adapter_model.safetensors"),
        ({"data.template": "/no/own.jinja"}, "/no/own.jinja cannot be read"),
        ({"strategy.name": "no_package.Own"}, "The strategy no_package.Own cannot be imported"),
        ({"train.task": "no_package.OWN"}, "The task no_package.OWN cannot be imported"),
        ({"update.steps": "no_package.Own"}, "The update step no_package.Own cannot be imported"),
        ({"train.corrections": "no_package.Own"}, "The correction no_package.Own cannot be imported"),
    ],
)
def test_a_run_that_cannot_begin_is_refused(overrides, remedy, run_config):
    with pytest.raises(UserError) as caught:
        check_start(parse_run_config(run_config | overrides), local=True)
    assert remedy in str(caught.value)


def test_what_is_there_passes(run_config):
    check_start(parse_run_config(run_config), local=True)


def test_over_a_connection_files_and_packages_may_be_elsewhere(run_config):
    """Code that can be imported here is checked all the same."""
    elsewhere = {"model.name": "/no/model", "data.name": "/no/rows.csv", "strategy.name": "no_package.Own"}
    check_start(parse_run_config(run_config | elsewhere), local=False)
    with pytest.raises(ClassPathError, match="no subclass"):
        check_start(parse_run_config(run_config | {"strategy.name": "flwr.app.Message"}), local=False)


def test_code_that_fails_while_it_is_imported_is_one_sentence(tmp_path, monkeypatch, capsys):
    """A module of the user's that raises ends `fedllm run` with status 2 and no traceback."""
    (tmp_path / "broken_strategy.py").write_text("raise RuntimeError('half an edit')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(ROOT), "-c", "strategy.name=broken_strategy.Own"]) == 2
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "RuntimeError: half an edit" in shown
    assert "Traceback" not in shown
