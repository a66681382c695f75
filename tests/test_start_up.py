"""What must be up at once does not wait for libraries that it may never use: each takes seconds to import."""

import subprocess
import sys

import pytest

from fedllm_app.commands.main import SUBCOMMANDS, command_parser

HEAVY = (
    "transformers",
    "trl",
    "peft",
    "scipy",
    "sklearn",
    "lm_eval",
    "pandas",
    "datasets",
    "plotly",
    "jinja2",
    "matplotlib",
)

IMPORT = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
getattr(module, "command_parser", lambda: None)()  # with all subcommands
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("fedllm_app.commands.main", ("torch", *HEAVY)),
        ("fedllm_app.server_app", ("torch", *HEAVY)),
        ("fedllm_app.client_app", ("torch", *HEAVY)),
        ("fedllm_app.client.build", HEAVY),
    ],
)
def test_heavy_libraries_are_imported_when_they_are_needed(module, unwanted):
    """The command line, both apps, and what a client answers with before it trains (that has torch)."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, module, *unwanted], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


def test_a_subcommand_does_not_wait_for_the_others():
    """Those that speak with Flower's server import all of it."""
    code = (
        "import sys; from fedllm_app.commands.main import command_parser as make\n"
        "make('runs'); make('--version')\n"
        "print('flwr.superlink' in sys.modules, 'fedllm_app.commands.site' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


def test_every_subcommand_is_found_by_its_name():
    """A parser with one subcommand takes what the parser with all of them takes."""
    assert SUBCOMMANDS[0] == "run"
    everything = command_parser().format_help()
    for name in SUBCOMMANDS:
        assert f"    {name} " in everything
        assert f"    {name} " in command_parser(name).format_help()
