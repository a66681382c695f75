"""The cells of a comparison: every strategy with every combination of settings, under every seed; and their names."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError, FlatConfig
from fedllm_app.config.unread import unread_settings
from fedllm_app.errors import UserError
from fedllm_app.paths import lock_file, make_directory, write_text
from fedllm_app.runs.overview import GRID_FILE, GRID_RUNS

Value = bool | int | float | str
Settings = Mapping[str, Sequence[Value]]

_LOCK_FILE = ".lock"
_OF_A_CELL = ("run.directory", "run.resume")
_SAME_FOR_ALL = ("model.", "data.template", "data.system-prompt", "data.special-tokens-in-text")
_BY_OPTIONS = {"strategy.name": "--strategies", "run.seed": "--seeds", "run.directory": "--out", "run.resume": "--out"}
_LONGEST = 80  # characters of a directory's name


class BadGrid(UserError):
    """The cells that are asked for contradict each other; the message says which and why."""


class ChangedGrid(UserError):
    """The directory holds another comparison, or is in use; the message says what differs."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes
    ----------
    line : str
        The line of the table that it belongs to, with the cells of the other seeds: "fedprox, mu = 0.1".
    directory : Path
        Its run directory.
    flat : FlatConfig
        Its whole configuration.
    """

    line: str
    seed: int
    directory: Path
    flat: FlatConfig

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.line}, seed {self.seed}"


def make_grid(
    base: FlatConfig, strategies: Sequence[str], seeds: Sequence[int], settings: Settings, out: Path
) -> list[Cell]:
    """All cells, seed by seed, so that what is finished first can be compared.

    Parameters
    ----------
    base : FlatConfig
        The configuration of all cells.
    settings : Settings
        The values of keys that vary. A key that only some strategies read varies with these alone.
    out : Path
        The directory of the comparison.

    Raises
    ------
    BadGrid
        Something is named twice, or a key varies that must be the same for all.
    ConfigError
        The configuration of a cell is wrong.
    """
    _check_axes(strategies, seeds, settings)
    problems: dict[str, None] = {}
    lines: dict[str, FlatConfig] = {}
    read: set[str] = set()
    for strategy in strategies:
        flat = _of_strategy(base, strategy)
        try:
            own = _read_by(flat, settings)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
            continue
        read |= own.keys()
        for values in itertools.product(*own.values()):
            chosen = dict(zip(own, values, strict=True))
            lines[_line(strategy, chosen)] = flat | chosen
            problems |= dict.fromkeys(_problems(flat | chosen))
    if problems:
        raise ConfigError(list(problems))
    if unread := [key for key in settings if key not in read]:
        raise BadGrid(
            f"--set {unread[0]}: none of the strategies {', '.join(strategies)} reads it in this configuration; leave "
            "it out, or add the strategy that does to --strategies"
        )
    return [
        Cell(line, seed, out / GRID_RUNS / _folder(line, seed), flat | {"run.seed": seed})
        for seed in seeds
        for line, flat in lines.items()
    ]


def _check_axes(strategies: Sequence[str], seeds: Sequence[int], settings: Settings) -> None:
    for option, values in (
        ("--strategies", strategies),
        ("--seeds", seeds),
        *((f"--set {key}", values) for key, values in settings.items()),
    ):
        repeated = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
        if repeated:
            raise BadGrid(f"{option}: {repeated[0]} is there twice; name each value once")
    for key in settings:
        if key in _BY_OPTIONS:
            raise BadGrid(f"--set {key}: this varies with {_BY_OPTIONS[key]}; use that option")
        if key.startswith(_SAME_FOR_ALL):
            raise BadGrid(
                f"--set {key}: all cells are asked over one base model in one template, so {key} must be the same for "
                "all; make a comparison for each"
            )


def _of_strategy(base: FlatConfig, strategy: str) -> FlatConfig:
    """The configuration with another strategy; arguments of a class path are those of the class that they were for."""
    same = strategy == base["strategy.name"]
    return base | {"strategy.name": strategy} | ({} if same else {"strategy.arguments": ""})


def _read_by(flat: FlatConfig, settings: Settings) -> Settings:
    """The settings that a configuration reads. ConfigError if it is wrong."""
    config = parse_run_config(flat)
    return {key: values for key, values in settings.items() if not unread_settings([key], config)}


def _problems(flat: FlatConfig) -> list[str]:
    try:
        parse_run_config(flat)
    except ConfigError as error:
        return error.problems
    return []


def _line(strategy: str, chosen: Mapping[str, Value]) -> str:
    own = f"strategy.{strategy}."
    parts = [f"{key.removeprefix(own)} = {value}" for key, value in chosen.items()]
    return ", ".join([strategy, *parts])


def _folder(line: str, seed: int) -> str:
    """A file name of a line and seed: two different ones never have the same."""
    plain = line.replace(" = ", "=").replace(", ", "-")
    name = re.sub(r"[^\w.=-]", "_", plain).lstrip(".")
    if name != plain or len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(line.encode()).hexdigest()[:8]}"
    return f"{name}-seed-{seed}"


@contextmanager
def held(out: Path, base: FlatConfig):
    """Hold the directory of a comparison, which is made if it is not there.

    Raises
    ------
    ChangedGrid
        It holds something else, or a comparison of another configuration, or another process works on it.
    """
    file = out / GRID_FILE
    shared = {key: value for key, value in base.items() if key not in (*_OF_A_CELL, *_BY_OPTIONS)}
    if out.exists() and not out.is_dir():
        raise ChangedGrid(f"--out {out} is no directory; name a new one")
    if out.is_dir() and any(entry.name != _LOCK_FILE for entry in out.iterdir()) and not file.is_file():
        raise ChangedGrid(f"--out {out} is not empty and holds no comparison ({GRID_FILE}); name a new directory")
    try:
        make_directory(out)
        lock = lock_file(out / _LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ChangedGrid(f"--out {out} is in use by a comparison that has not ended; name a new directory") from error
    except OSError as error:
        raise ChangedGrid(f"--out {out} cannot be written: {error.strerror}; name a directory that can") from error
    try:
        if file.is_file():
            _check_same(out, json.loads(file.read_text(encoding="utf-8"))["configuration"], shared)
        else:
            write_text(file, json.dumps({"configuration": shared}, indent=2, sort_keys=True) + "\n")
        yield
    finally:
        lock.release()


def _check_same(out: Path, before: FlatConfig, now: FlatConfig) -> None:
    """A key that only one of both has is of another version of the app, and no difference."""
    different = [
        f"  - {key} = {now[key]!r}: the comparison there has {before[key]!r}"
        for key in sorted({*before, *now})
        if before.get(key, now.get(key)) != now.get(key, before.get(key))
    ]
    if different:
        raise ChangedGrid(
            "\n".join([f"--out {out} holds a comparison of another configuration:", *different])
            + "\ngive the same configuration, or another --out; strategies, seeds and --set may be others"
        )
