"""The configuration of a run that is resumed: what its directory recorded, and what `-c` changes."""

import argparse
from pathlib import Path

from fedllm_app.commands.options import app_defaults
from fedllm_app.commands.overrides import read_overrides, resolve_paths
from fedllm_app.config.app_files import app_directory
from fedllm_app.config.sections import FlatConfig
from fedllm_app.paths import expanded
from fedllm_app.runs.directory import NotResumable, check_resumable, is_run, read_run_config


def resumed_config(parsed: argparse.Namespace, local: bool) -> dict[str, bool | int | float | str]:
    """The flat configuration with which `fedllm run --resume` goes on. See `going_on` for the errors."""
    defaults = app_defaults(app_directory(parsed.app))
    return going_on(defaults, read_overrides(parsed.run_config or [], defaults), parsed.resume, local)


def going_on(defaults: FlatConfig, given: FlatConfig, resume: str, local: bool) -> dict[str, bool | int | float | str]:
    """The flat configuration with which the run of a directory goes on, `given` over what it recorded.

    Over a connection the run directory may be on the server's machine alone; then `given` has to be what it was at
    first, and the server compares.

    Raises
    ------
    NotResumable
        There is no run in the directory, or it has finished.
    ConfigError
        A value differs that must not.
    """
    directory = Path(resume)
    if local:
        directory = expanded(directory).resolve()
    elif not directory.is_absolute():
        raise NotResumable(f"--resume {resume}: over a connection it must be an absolute path of the server")
    recorded = read_run_config(directory) if is_run(directory) else {}
    flat = resolve_paths(defaults | recorded | given, Path.cwd(), local)
    flat |= {"run.resume": str(directory), "run.directory": str(directory)}
    if recorded or local:
        check_resumable(directory, flat)
    return flat
