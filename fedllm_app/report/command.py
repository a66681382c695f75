"""How to do a run again: its command line, and its whole configuration as TOML."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from fedllm_app.config.app_files import PACKAGE
from fedllm_app.config.parse import default_run_config, toml_text, toml_value

PLACES = ("run.directory", "run.resume", "run.fetch", "run.fetch-checkpoints")
"""Keys that make no difference to what is computed."""


def run_command(config: Mapping[str, object], app: Path | None = None, federation: str = "") -> str:
    """The `fedllm run` that repeats a run: every value that is not a default of the app, quoted for a shell.

    The defaults are those of the app's pyproject.toml, or of the installed app where there is none. `federation` is the
    `--federation-config` that the run was given.
    """
    defaults = _defaults(app)
    changed = {key: value for key, value in config.items() if key not in PLACES and defaults.get(key) != value}
    pairs = [shlex.quote(f"{key}={toml_value(value)}") for key, value in sorted(changed.items())]
    start = "fedllm run ." + (f" --federation-config {shlex.quote(federation)}" if federation else "")
    lines = [start + (" -c" if pairs else ""), *(f"    {pair}" for pair in pairs)]
    return " \\\n".join(lines)


def full_configuration(config: Mapping[str, object]) -> str:
    """Every value of a run, as a file that `-c` takes."""
    return toml_text({key: value for key, value in sorted(config.items()) if key not in PLACES})


def _defaults(app: Path | None) -> dict[str, bool | int | float | str]:
    if app is not None and (app / "pyproject.toml").is_file():
        try:
            return default_run_config(app)
        except (KeyError, ValueError):  # another project's, or one that is being edited
            pass
    return default_run_config(PACKAGE)
