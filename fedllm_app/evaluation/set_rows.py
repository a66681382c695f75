"""Opens the rows of test sets: files below `--data-dir` first (`set_files` says where), then the Hub.

All sets of a suite are opened before a model is loaded, and all that are missing are named at once. A set is asked
whole or not at all: a row that cannot be read is an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import BadRow, DataError, listed
from fedllm_app.data.readers.base import Located, Notes, UnreadableFile
from fedllm_app.data.readers.files import ENDINGS, format_of, read_files
from fedllm_app.errors import UserError
from fedllm_app.evaluation.hub_rows import HubReader, NotOnHub
from fedllm_app.evaluation.set_files import SetFile, found_files, other_splits, plain_name
from fedllm_app.evaluation.suite import EvaluationTask, TestSet

Rows = list[dict[str, Any]]

_FEW = 3  # files that are named


class MissingSets(UserError):
    """Test sets that cannot be opened, all of them, and where to put what is missing."""

    public = "test sets of the suite are not here, or cannot be opened"


class SetNotFound(DataError):
    """A test set is neither below `--data-dir` nor to be had from the Hub."""


@dataclass(frozen=True)
class OpenSets:
    """The rows of a suite.

    Attributes
    ----------
    rows : dict[str, list[dict]]
        By the name of the test set; also those of `EvaluationTask.shots`, if they are there.
    notes : dict[str, str]
        By the name of the task: what differs from the published set.
    sources : dict[str, str]
        By the name of the set: where its rows came from, and how files were read.
    """

    rows: dict[str, Rows] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


def open_all(tasks: Sequence[EvaluationTask], data_dir: Path | None) -> OpenSets:
    """Open the sets of all tasks; each once, even if several tasks ask it.

    Raises
    ------
    MissingSets
        Sets are missing or damaged: all of them, at once. Worked examples (`shots`) that are missing are a note.
    """
    check_folder(data_dir)
    opened, hub = OpenSets(), HubReader()
    said: dict[str, str] = {}
    problems: dict[str, DataError] = {}
    needed = [(task.test, True) for task in tasks]
    for test, is_needed in needed + [(task.shots, False) for task in tasks if task.shots]:
        if test.name in said or test.name in problems:
            continue
        try:
            opened.rows[test.name], opened.sources[test.name], said[test.name] = _open(test, data_dir, hub)
        except DataError as error:
            if isinstance(error, SetNotFound) and not is_needed:
                said[test.name] = f"asked without '{test.name}', which was not found"
            else:
                problems[test.name] = error
    if problems:
        raise MissingSets(_all_problems(list(problems.values()), data_dir))
    for task in tasks:
        names = dict.fromkeys([task.test.name] + ([task.shots.name] if task.shots else []))
        if sentences := [said[name] for name in names if said[name]]:
            opened.notes[task.name] = "; ".join(sentences)
    return opened


def _all_problems(problems: list[DataError], data_dir: Path | None) -> str:
    lines = [f"{len(problems)} test set{'s'[: len(problems) > 1]} cannot be opened:"]
    lines += [f"  {error}" for error in problems]
    if any(isinstance(error, SetNotFound) for error in problems):
        where = data_dir or "a folder, and name it with --data-dir"
        lines.append(f"Put what is missing where it is looked for, in {where}. Readable: {ENDINGS}.")
    return "\n".join(lines)


def open_rows(test: TestSet, data_dir: Path | None) -> Rows:
    """The rows of a set, each with its `subset`: that of the row if it has one, else the file's or the Hub's.

    Raises
    ------
    SetNotFound
        It is in none of the places.
    DataError
        A file or a row of it cannot be read; the message names it.
    """
    check_folder(data_dir)
    return _open(test, data_dir, HubReader())[0]


def check_folder(data_dir: Path | None) -> None:
    """UserError if `--data-dir` is given and is no folder."""
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder")


def _open(test: TestSet, data_dir: Path | None, hub: HubReader) -> tuple[Rows, str, str]:
    """Rows, where they came from, and what is to be said of them."""
    if test.rows is not None:
        rows = test.rows()
        return rows, "made by the app", _difference(test, rows)
    files = found_files(test, data_dir) if data_dir else []
    if files:
        notes: Notes = {}
        rows = [row for file in files for row in _rows_of(test, file, notes)]
        if not rows:
            raise DataError(f"{test.name}: no row in {', '.join(str(file.path) for file in files[:_FEW])}")
        first = ", ".join(str(file.path.relative_to(data_dir)) for file in files[:_FEW])
        more = f" and {len(files) - _FEW} more" if len(files) > _FEW else ""
        source = "; ".join([first + more, *notes])
        return rows, source, _difference(test, rows, files)
    try:
        rows = hub.rows(test)
    except NotOnHub as error:
        raise SetNotFound(_not_found(test, data_dir, str(error))) from error
    return rows, f"{test.hub_id} ({test.split}) of the Hub", _difference(test, rows)


def _difference(test: TestSet, rows: Rows, files: Sequence[SetFile] = ()) -> str:
    """What rows and local files lack of the published set; "" for nothing."""
    sentences = []
    if len(rows) < test.size:
        sentences.append(f"{len(rows):,} of the {test.size:,} published rows")
    there = {plain_name(file.subset) for file in files}
    absent = [config for config in test.configs if plain_name(config) not in there]
    if absent and len(absent) < len(test.configs):
        sentences.append(f"without {listed(absent)}")
    return f"{test.name}: {', '.join(sentences)}" if sentences else ""


def _not_found(test: TestSet, data_dir: Path | None, hub: str) -> str:
    """Where a set was looked for, why it is not there, and where to get it."""
    looked = ", ".join([*test.files, f"{test.name}/", f"{test.name}.<ending>"])
    sentences = [f"not in {data_dir} ({looked})" if data_dir else f"without --data-dir (looked for there: {looked})"]
    sentences += [reason] if data_dir and (reason := other_splits(test, data_dir)) else []
    sentences.append(hub)
    if test.hub_id:
        configs = f", configurations {listed(test.configs, 4)}" if test.configs else ""
        sentences.append(f"get it from https://huggingface.co/datasets/{test.hub_id}{configs}, split {test.split}")
    if test.url:
        sentences.append(f"get it from {test.url}")
    return f"{test.name}: {'; '.join(sentences)}"


def find_files(test: TestSet, data_dir: Path) -> list[Path]:
    """The files of a set in `data_dir`, in the order they are read; none if it is not there.

    Raises
    ------
    DataError
        Several splits or formats fit, and nothing says which one is meant.
    """
    return [file.path for file in found_files(test, data_dir)]


def _rows_of(test: TestSet, file: SetFile, notes: Notes) -> Rows:
    if test.read is None:
        rows = [_sound(test, where, row) for where, row in _located(file.path, notes)]
    else:
        try:
            rows = test.read(file.path)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            # The reader of a format of its own; a user's may be one.
            raise DataError(
                f"{test.name}: {file.path} is not in the format of this set ({type(error).__name__}: {error})"
            ) from error
    return [row if row.get("subset") not in (None, "") else {**row, "subset": file.subset} for row in rows]


def _located(path: Path, notes: Notes) -> Located:
    if not format_of(path):
        raise UnreadableFile(f"{path} has no ending that says how to read it; readable are {ENDINGS}")
    return read_files([path], notes=notes)


def _sound(test: TestSet, where: str, row: dict[str, Any] | BadRow) -> dict[str, Any]:
    if isinstance(row, BadRow):
        raise DataError(f"{test.name}: {where}: {row}. A test set is asked whole: repair the row, or take the set anew")
    return row
