"""The app from Python: in a script, a notebook or under a debugger.

from fedllm_app import run
result = run({"strategy.name": "scaffold", "train.rounds": 3}, engine="in-process")
result.journal(), result.adapter, result.evaluate("builtin"), result.figure()
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from fedllm_app.commands.new_directory import first_free, new_directory, remove_empty
from fedllm_app.commands.options import app_defaults
from fedllm_app.commands.overrides import read_overrides, resolve_paths
from fedllm_app.commands.placement import client_cpus
from fedllm_app.commands.resumed import going_on
from fedllm_app.commands.run import prepare, run_to_end, watch_of
from fedllm_app.config.app_files import app_directory
from fedllm_app.config.parse import parse_run_config
from fedllm_app.errors import UserError
from fedllm_app.models.quiet import load_progress_bars
from fedllm_app.runs.directory import read_result
from fedllm_app.runs.journal import read_journal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Engine = Literal["simulation", "in-process"]
_ENGINES = ("simulation", "in-process")

load_progress_bars()  # before any library does


class RunError(UserError):
    """A run that failed; the message says why, and where its files are."""


@dataclass(frozen=True)
class Run:
    """A run that has finished.

    Attributes
    ----------
    directory : Path
        With all of its files.
    """

    directory: Path

    @property
    def adapter(self) -> Path:
        """The final adapter, a PEFT directory."""
        return self.directory / "adapter"

    @property
    def result(self) -> dict:
        """Totals: seconds, bytes, memory, refused replies, who took part."""
        return read_result(self.directory)

    def journal(self, event: str = "") -> "DataFrame":
        """The journal, one row an event; of one kind of event with its own columns only, such as "round"."""
        from fedllm_app.runs.journal import journal_frame

        return journal_frame(self.directory, event)

    def evaluate(self, *suites: str, base: bool = True, out: Path | str | None = None, **options: object) -> Path:
        """What `fedllm evaluate` does: ask base and adapter, and show a table.

        Parameters
        ----------
        suites : str
            As for `--suite`: names, paths, "file:PATH".
        base : bool
            Also ask the base model.
        out : Path | str | None
            A new directory for tables and answers; None: `evaluation` in the run directory, or `evaluation-2`, ….
        options : object
            The other options of the command by name, such as `limit=20` or `data_dir="/data/sets"`.

        Returns
        -------
        Path
            The directory with `report.json`, tables and answers.

        Raises
        ------
        UserError
            As the command: of a suite that there is not, of a library that is missing, and so on.
        """
        from fedllm_app.commands.main import command_parser

        place = Path(out) if out else first_free(self.directory / "evaluation")
        words = ["evaluate", str(self.directory), *(["--base"] if base else []), "--out", str(place)]
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [] if value in (False, None) else [flag, str(value)]
        try:
            parsed = command_parser("evaluate").parse_args([*words, "--suite", *suites])
            parsed.command(parsed, Console())
        except SystemExit as wrong:  # what argparse does with an option that there is not
            raise RunError(f"evaluate: wrong options {options}; fedllm evaluate --help lists them") from wrong
        finally:
            if not out:
                remove_empty(place)
        return place

    def figure(self) -> "Figure":
        """Losses and held-out metrics over the rounds, as matplotlib's figure; a notebook shows it."""
        from fedllm_app.runs.figures import draw_run

        figure = draw_run(self.directory)
        figure._repr_png_ = lambda: _png(figure)  # a notebook asks for it; pyplot, which would add it, is not used
        return figure


def run(
    config: Mapping[str, bool | int | float | str] | None = None,
    *,
    engine: Engine = "simulation",
    files: Sequence[Path | str] = (),
    resume: Path | str | None = None,
    app: Path | str | None = None,
    federation_config: str | None = None,
    console: Console | None = None,
) -> Run:
    """Run the app to its end, and show its progress.

    Parameters
    ----------
    config : Mapping[str, bool | int | float | str] | None
        Keys of docs/configuration.md, which `fedllm init` also writes into a pyproject.toml, over the defaults and
        `files`. Relative paths are those of the working directory.
        Without `run.directory` the run gets a new one below `runs/`.
    engine : Engine
        "simulation": Flower, with Ray, as `fedllm run` does. "in-process": server and clients in this process, one
        after the other, with the same result.
    files : Sequence[Path | str]
        TOML and YAML files and names of presets, as `-c` takes them.
    resume : Path | str | None
        A run directory to go on with; `config` may change what `fedllm run --resume` may.
    app : Path | str | None
        The directory of the app; None: the working directory if it is one, else the installed app.
    federation_config : str | None
        Of a simulation, as for `flwr run`: "num-supernodes=4 client-resources-num-gpus=0.5".

    Raises
    ------
    UserError
        Wrong configuration or data, before anything is trained; `RunError` if the run failed.
    """
    if engine not in _ENGINES:
        raise RunError(f"engine = {engine!r}: must be one of {', '.join(map(repr, _ENGINES))}")
    where, console = app_directory(app or "."), console or Console()
    flat = _flat(where, config or {}, files, resume)
    fresh = not (flat["run.directory"] or flat["run.resume"])
    with new_directory(str(flat["strategy.name"])) if fresh else nullcontext(flat["run.directory"]) as directory:
        flat["run.directory"] = str(directory)
        path = Path(flat["run.resume"] or directory)
        if engine == "in-process":
            _run_here(flat, console)
        elif not run_to_end(where, flat, console, federation_config=federation_config):
            raise RunError(f"the run failed; {_reason(path)}its files: {path}")
    return Run(path)


def _run_here(flat: dict, console: Console) -> None:
    from fedllm_app.in_process import quiet, run_in_process

    config = parse_run_config(flat)
    if not config.run.threads:  # what a simulation gives a client
        flat = flat | {"run.threads": client_cpus(config)}
    prepare(config, local=True, console=console)
    with watch_of(config, console) as watch, quiet():
        run_in_process(flat, watch.event)


def _flat(app: Path, config: Mapping, files: Sequence[Path | str], resume: Path | str | None) -> dict:
    """The flat configuration, checked: defaults, then files, then keys."""
    defaults = app_defaults(app)
    given = read_overrides([str(file) for file in files], defaults) | dict(config)
    if resume is not None:
        flat = going_on(defaults, given, str(resume), local=True)
    else:
        flat = resolve_paths(defaults | given, Path.cwd(), local=True)
    parse_run_config(flat)  # refuses what is wrong before a directory is made
    return flat


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _reason(directory: Path) -> str:
    """What the journal of a failed run says last; "" if it says nothing."""
    try:
        reasons = [event["reason"] for event in read_journal(directory, everything=True) if event["event"] == "failed"]
    except OSError:
        return ""
    return f"{reasons[-1]}; " if reasons else ""
