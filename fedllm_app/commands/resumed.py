"""The configuration of a run that is resumed: what its directory recorded, and what `-c` changes."""

import argparse
from pathlib import Path

from fedllm_app.commands.options import run_config
from fedllm_app.commands.overrides import read_overrides, resolve_paths
from fedllm_app.config.parse import default_run_config
from fedllm_app.runs.directory import NotResumable, check_resumable, is_run, read_run_config


def resumed_config(parsed: argparse.Namespace, local: bool) -> dict[str, bool | int | float | str]:
    """The flat configuration with which `fedllm run --resume` goes on.

    Over a connection the run directory may be on the server's machine alone; then `--run-config` has to give what it
    gave at first, and the server compares.

    Raises
    ------
    NotResumable
        There is no run in the directory, or it has finished.
    ConfigError
        A value differs that must not.
    """
    directory = Path(parsed.resume)
    if local:
        directory = directory.expanduser().resolve()
    elif not directory.is_absolute():
        raise NotResumable(f"--resume {parsed.resume}: over a connection it must be an absolute path of the server")
    going_on = {"run.resume": str(directory), "run.directory": str(directory)}
    if not is_run(directory) and not local:
        return run_config(parsed, local) | going_on
    recorded = read_run_config(directory) if is_run(directory) else {}
    defaults = default_run_config(Path(parsed.app).resolve())
    given = read_overrides(parsed.run_config or [], defaults)
    flat = resolve_paths(defaults | recorded | given, Path.cwd(), local) | going_on
    check_resumable(directory, flat)
    return flat
