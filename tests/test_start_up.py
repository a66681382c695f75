"""What must be up at once does not wait for libraries that it may never use: each takes seconds to import."""

import subprocess
import sys

import pytest

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
importlib.import_module(sys.argv[1])
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
