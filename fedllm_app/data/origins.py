"""Find the rows of a set by its name: a file, a folder, a saved dataset, a named set, a set of the Hub."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import DataError
from fedllm_app.data.examples import Document
from fedllm_app.data.named_sets import NAMED_SETS
from fedllm_app.data.readers.arrow import read_tables, validated
from fedllm_app.data.readers.base import BATCH, Located, Notes, TextFormat, UnreadableFile
from fedllm_app.data.readers.files import DOCUMENT_ENDINGS, ENDINGS, format_of, is_document, read_files
from fedllm_app.data.readers.folders import documents_of, files_of
from fedllm_app.paths import did_you_mean, expanded

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_HASHED_WHOLE = 64 << 20
_PIECES, _PIECE = 64, 1 << 16


class DataNotFound(DataError):
    """There is no data under the name given."""

    public = "there is no such file, folder, split or set"


@dataclass(frozen=True)
class Origin:
    """Where rows come from.

    Attributes
    ----------
    name : str
        For messages.
    stamp : Any
        A JSON value that changes with the rows.
    rows : Callable[[Notes], Located]
        Reads them, and notes how.
    left_out : tuple[str, ...]
        Files beside them that may hold rows, too.
    """

    name: str
    stamp: Any
    rows: Callable[[Notes], Located]
    left_out: tuple[str, ...] = ()


def locate(name: str, rows: str, split: str, text_format: TextFormat) -> Origin:
    """Find a set of rows. Parameters and errors are those of `sources.open_source`."""
    if Path(name).is_absolute():
        try:
            return _local(Path(name), split, text_format, rows == Document.kind)
        except OSError as error:
            raise UnreadableFile(f"{error.filename or name} cannot be read: {error.strerror or error}") from error
    if name in NAMED_SETS:
        named = NAMED_SETS[name]
        if named.rows != rows:
            fitting = ", ".join(key for key, value in NAMED_SETS.items() if value.rows == rows)
            raise DataNotFound(
                f"the set '{name}' has {named.rows} rows, and the task needs {rows} rows; named sets of that kind: "
                f"{fitting or 'none'}"
            )
        return _hub(named.hub_id, named.configs, split or named.split)
    check_absolute(name)
    if _HUB_ID.fullmatch(name):
        return _hub(name, (), split or "train")
    near = difflib.get_close_matches(name, list(NAMED_SETS), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise DataNotFound(
        f"unknown data '{name}'.{hint} Give an absolute path, a Hub id owner/name, or one of: {', '.join(NAMED_SETS)}"
    )


def check_absolute(name: str) -> None:
    """Refuse what can only be a relative path. DataNotFound."""
    if Path(name).is_absolute() or name in NAMED_SETS:
        return
    if name.startswith((".", "~")) or format_of(Path(name)) or is_document(Path(name)) or name.count("/") > 1:
        raise DataNotFound(
            f"'{name}' is a relative path; give an absolute one, because the processes of a run work in other"
            f" directories{did_you_mean(expanded(name))}"
        )


def stamps(paths: Iterable[Path]) -> list[tuple[str, int, str]]:
    """What tells the files from themselves with other contents: path, size, and a hash.

    Up to 64 MiB the whole contents are hashed (a thirtieth of a second, once a process). Of a larger file 64 pieces
    are, evenly spread, first and last included, with its inode and the times of its last changes: that of the inode
    cannot be set back, as the other can.
    """
    return [(str(path), path.stat().st_size, _contents_hash(path)) for path in paths]


def _contents_hash(path: Path) -> str:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size <= _HASHED_WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str((status.st_ino, status.st_mtime_ns, status.st_ctime_ns)).encode())
        for number in range(_PIECES):
            file.seek((status.st_size - _PIECE) * number // (_PIECES - 1))
            digest.update(file.read(_PIECE))
        return digest.hexdigest()


def _local(path: Path, split: str, text_format: TextFormat, documents: bool) -> Origin:
    if not path.exists():
        raise DataNotFound(f"there is no file or folder {path}{did_you_mean(path)}")
    if path.is_file():
        if is_document(path) and not documents:
            raise UnreadableFile.of(path, "is one text and no table of rows; train.task = 'text' trains on such files")
        if not format_of(path) and not is_document(path):
            more = f"; documents: {DOCUMENT_ENDINGS}" if documents else ""
            raise UnreadableFile.of(path, f"has no ending that says how to read it; readable are {ENDINGS}{more}")
        if split:
            raise DataNotFound(f"{path} is one file, so '{split}' cannot be chosen from it; leave data.split empty")
        return Origin(str(path), stamps([path]), lambda notes: read_files([path], text_format, notes))
    left_out: list[str] = []
    if (path / "dataset_dict.json").is_file():
        splits = _saved_splits(path / "dataset_dict.json")
        chosen = split or "train"
        if chosen not in splits:
            raise DataNotFound(f"{path} has no split '{chosen}'; give data.split one of {', '.join(splits)}")
        left_out = [f"split {name}" for name in splits if name != chosen]
        path, split = path / chosen, ""
    if (path / "state.json").is_file():
        if split:
            raise DataNotFound(f"{path} holds one split, so '{split}' cannot be chosen; leave data.split empty")
        stamp = stamps([path / "state.json", *sorted(path.glob("*.arrow"))])
        return Origin(str(path), stamp, lambda notes: _saved(path), tuple(left_out))
    files = documents_of(path, split) if documents else files_of(path, split)
    left_out += files.left_out
    return Origin(
        str(path), stamps(files.read), lambda notes: read_files(files.read, text_format, notes), tuple(left_out)
    )


def _saved_splits(file: Path) -> list[str]:
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(f"{file} is damaged: {type(error).__name__}; save the dataset again") from error
    return [str(name) for name in splits]


def _saved(path: Path) -> Located:
    """Rows of a directory written by `datasets.save_to_disk`."""
    import datasets
    import pyarrow as pa

    try:
        saved = datasets.load_from_disk(str(path))
        yield from read_tables(validated(saved.with_format("arrow").iter(BATCH)), path.name)
    except UnreadableFile:
        raise
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UnreadableFile(f"{path} cannot be read as a saved dataset: {error}") from error


def _hub(hub_id: str, configs: tuple[str, ...], split: str) -> Origin:
    """Load a set from the Hub, or from the copy that an earlier load left in the Hub cache."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        parts = [datasets.load_dataset(hub_id, config, split=split) for config in configs or (None,)]
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        # Unreachable; no such config or split; needs its own code; damaged.
        raise DataNotFound(
            f"the set '{hub_id}' (split '{split}') cannot be loaded from the Hub: {error}. To use a local copy, put its"
            ' files into a folder and give data.name = "/absolute/path/of/the/folder"'
        ) from error
    files = [Path(file["filename"]) for part in parts for file in part.cache_files]
    tables = (part.with_format("arrow").iter(BATCH) for part in parts)
    name = f"{hub_id} {split}"
    stamp = [hub_id, configs, split, *stamps(files)]
    return Origin(name, stamp, lambda notes: read_tables(chain.from_iterable(tables), name))
