"""What the command line says of itself, and what its words mean."""

import argparse
import os
import shlex
import subprocess
from importlib.metadata import version

import pytest
from places import ROOT

from fedllm_app.commands.examples import EXAMPLES
from fedllm_app.commands.main import command_parser, main
from fedllm_app.commands.run import app_and_connection
from fedllm_app.config.app_files import app_version
from fedllm_app.errors import UserError


def commands(parser: argparse.ArgumentParser, words: str = "") -> dict[str, argparse.ArgumentParser]:
    """The parser of each command and action, by the words after `fedllm`."""
    found = {words: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                found |= commands(below, f"{words} {name}".strip())
    return found


def test_every_command_shows_examples_in_its_help():
    """And no example is one of a command that is gone."""
    parsers = commands(command_parser())
    assert parsers.keys() == EXAMPLES.keys()
    for words, parser in parsers.items():
        for example in EXAMPLES[words]:
            assert f"\n  {example}" in parser.format_help(), words


@pytest.mark.parametrize(("words", "example"), [(words, line) for words, lines in EXAMPLES.items() for line in lines])
def test_every_example_is_one_of_its_command_and_is_understood(words, example):
    assert example.startswith(f"fedllm {words}".strip())
    arguments = shlex.split(example)[1:]
    if "--help" not in arguments:
        assert callable(command_parser().parse_args(arguments).command)


def test_the_version_names_what_the_app_runs_on(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    said = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert said[0] == f"fedllm {app_version()}"
    assert {f"flwr {version('flwr')}", f"torch {version('torch')}"} <= set(said)


@pytest.mark.parametrize(("terminal", "given", "expected"), [(False, None, "1"), (True, None, None), (False, "", "")])
def test_progress_bars_of_libraries_are_for_terminals(terminal, given, expected, monkeypatch, tmp_path):
    """What the user has set stays: an empty value shows them everywhere."""
    monkeypatch.setenv("TQDM_DISABLE", given or "")
    if given is None:
        monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    main(["runs", str(tmp_path)])
    assert os.environ.get("TQDM_DISABLE") == expected


def test_a_closed_standard_error_is_no_terminal(monkeypatch, tmp_path):
    """Python has no object for it then."""
    monkeypatch.setattr("sys.stderr", None)
    assert main(["runs", str(tmp_path)]) == 0


@pytest.fixture
def here(tmp_path, monkeypatch, flower_home):
    """A working directory, and a connection `sites` of Flower's configuration beside its own."""
    (flower_home / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n[superlink.local]\n[superlink.sites]\naddress = "example.org:8000"\n'
    )
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ((".", None), (".", None)),
        ((".", "sites"), (".", "sites")),
        (("sites", None), (".", "sites")),
        ((str(ROOT), None), (str(ROOT), None)),
        ((str(ROOT), "sites"), (str(ROOT), "sites")),
        (("nowhere", "sites"), ("nowhere", "sites")),  # which the app's own error says
    ],
)
def test_one_word_may_be_a_connection(here, given, meant):
    assert app_and_connection(*given) == meant


def test_a_directory_of_the_name_of_a_connection(here):
    """An app is the app, as `flwr run` takes it; anything else could be meant or not."""
    (here / "sites").mkdir()
    with pytest.raises(UserError, match=r"`fedllm run \. sites`"):
        app_and_connection("sites", None)
    (here / "sites" / "pyproject.toml").write_text("[tool.flwr.app]\n")
    assert app_and_connection("sites", None) == ("sites", None)


def test_a_word_that_is_neither_names_the_connections(here):
    with pytest.raises(UserError, match=r"^site: there is no such directory, and no such connection.*: local, sites\."):
        app_and_connection("site", None)


def test_a_configuration_of_flower_that_is_broken_is_named(here, flower_home):
    (flower_home / "config.toml").write_text("[superlink")
    with pytest.raises(UserError, match=r"config\.toml cannot be read"):
        app_and_connection("sites", None)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("compare", "evaluate", "--run-config", "--federation-config"):
        assert word in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
