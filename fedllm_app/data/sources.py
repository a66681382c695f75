"""Open a set of rows by name and keep it, converted, in memory-mapped Arrow files that all processes share.

The first open reads every row, converts it (`schemas`), and writes the result below `cache_dir`; later opens map
that file and read nothing else. Whatever is wrong with a row is counted and located, never silently skipped.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from fedllm_app.data.examples import ROW_KINDS, Document, Row
from fedllm_app.data.readers import (
    BATCH,
    Located,
    UnreadableFile,
    files_of,
    is_data_file,
    read_files,
    read_tables,
    validated,
)
from fedllm_app.data.schemas import BadRow, Columns, DataError, recognise
from fedllm_app.data.text_files import read_text_files, text_files

CODE_VERSION = 2
"""Part of every cache key: raise it whenever the conversion of rows changes."""

BUILT_IN = "builtin"
"""The name of the corpus that comes with the app; it is no set of rows that is opened here."""

LABEL_LENGTH = 64
"""A column is kept for partitioning if its values are shorter than this on average, in characters."""

_LABEL = "label:"
_FIRST = 10
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class DataNotFound(DataError):
    """There is no data under the name given."""


class EmptySource(DataError):
    """The data holds no usable row."""


class TooManyBadRows(DataError):
    """More rows are unusable than the configuration allows."""


class UnknownLabel(DataError):
    """The column to partition by was not kept."""


@dataclass(frozen=True)
class NamedSet:
    """A public set on the Hub. `configs` are read one after the other; `schema` is what its columns are."""

    hub_id: str
    rows: str
    schema: str
    licence: str
    configs: tuple[str, ...] = ()
    split: str = "train"

    @property
    def url(self) -> str:
        """The dataset card, where source, terms and known defects are described."""
        return f"https://huggingface.co/datasets/{self.hub_id}"


_MATH = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

NAMED_SETS = {
    "alpaca": NamedSet("tatsu-lab/alpaca", "example", "instruction", "CC BY-NC 4.0"),
    "alpaca-gpt4": NamedSet("vicgalle/alpaca-gpt4", "example", "instruction", "CC BY-NC 4.0"),
    "fingpt-sentiment": NamedSet("FinGPT/fingpt-sentiment-train", "example", "instruction", "none on the card"),
    "medical-flashcards": NamedSet(
        "medalpaca/medical_meadow_medical_flashcards", "example", "instruction", "CC (no variant)"
    ),
    "code-alpaca": NamedSet(
        "lucasmccabe-lmi/CodeAlpaca-20k", "example", "instruction", "CC BY 4.0 (the original's card)"
    ),
    "math-instruct": NamedSet("TIGER-Lab/MathInstruct", "example", "instruction", "MIT"),
    "wizardlm": NamedSet("WizardLMTeam/WizardLM_evol_instruct_70k", "example", "instruction", "MIT"),
    "gsm8k": NamedSet("openai/gsm8k", "example", "question-answer", "MIT", ("main",)),
    "math": NamedSet("EleutherAI/hendrycks_math", "example", "problem-solution", "MIT", _MATH),
    "ultrafeedback": NamedSet(
        "HuggingFaceH4/ultrafeedback_binarized", "pair", "preference", "MIT", split="train_prefs"
    ),
    "hh-rlhf": NamedSet("Anthropic/hh-rlhf", "pair", "hh-rlhf", "MIT"),
}
"""Public sets by the name that `data.name` accepts. To add one, add one line."""


def set_names(names: str) -> list[str]:
    """The names of several sets, which stand in `data.name` separated by commas."""
    return [name.strip() for name in names.split(",")]


@dataclass(frozen=True)
class BadRows:
    """What could not be used: how many of `total` rows, and the first ones as (location, reason)."""

    count: int
    total: int
    first: tuple[tuple[str, str], ...]


class Source:
    """Converted rows, memory-mapped.

    Attributes
    ----------
    schema : str
        Name of the schema that was recognised.
    bad : BadRows
        The rows that were left out.
    label_columns : tuple[str, ...]
        Columns kept under their original names, for `labels`.
    fingerprint : str
        Changes with the files, the kind of rows, the columns, the split and the version of the conversion.
    """

    def __init__(self, directory: Path) -> None:
        import pyarrow as pa

        meta = json.loads((directory / "meta.json").read_text())
        self.schema: str = meta["schema"]
        self.bad = BadRows(meta["bad"], meta["total"], tuple((where, why) for where, why in meta["first"]))
        self.label_columns = tuple(meta["labels"])
        self.fingerprint = directory.name
        self._kind = ROW_KINDS[meta["rows"]]
        reader = pa.ipc.open_file(pa.memory_map(str(directory / "rows.arrow")))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def examples(self, indices: Iterable[int]) -> Iterator[Row]:
        """Yield the rows at the indices (0 to len - 1), in that order."""
        # All batches but the last have BATCH rows, so the place of a row needs no search.
        for number, rows in groupby(indices, lambda index: index // BATCH):
            batch = self._batches[number].take([int(index % BATCH) for index in rows])
            columns = (batch[name].to_pylist() for name in self._kind.cell_names)
            for cells in zip(*columns, strict=True):
                yield self._kind.from_cells(*cells)

    def labels(self, column: str) -> list[str]:
        """Return one column as text, one value a row; missing values are empty.

        Raises
        ------
        UnknownLabel
            The column was not kept: it does not exist, is not text or integer, or is long free text.
        """
        if column not in self.label_columns:
            kept = ", ".join(self.label_columns) or "none"
            raise UnknownLabel(
                f"the data has no column '{column}' to partition by; its text and integer columns of less than"
                f" {LABEL_LENGTH} characters on average are: {kept}"
            )
        return list(chain.from_iterable(batch[_LABEL + column].to_pylist() for batch in self._batches))


@dataclass(frozen=True)
class _Origin:
    """Where rows come from: a name for messages, a JSON value that changes with them, and how to read them."""

    name: str
    stamp: Any
    rows: Callable[[], Located]


def open_source(
    name: str,
    *,
    rows: str,
    cache_dir: Path,
    columns: Columns = Columns(),
    split: str = "",
    max_bad_share: float = 0.0,
) -> Source:
    """Open a set of rows.

    Parameters
    ----------
    name : str
        An absolute path (a data file, a folder of them, a directory written by `datasets.save_to_disk`; for documents
        also a text file or a folder of them), a name of `NAMED_SETS`, or a Hub id `owner/name`.
    rows : str
        The kind of rows to make, a name of `ROW_KINDS`.
    cache_dir : Path
        Where converted rows are kept; may be shared by any number of processes.
    columns : Columns
        Columns to read where they are not to be recognised.
    split : str
        The split to read; empty for that of the named set, or the training split.
    max_bad_share : float
        Accepted share of unusable rows, 0 to 1.

    Raises
    ------
    DataNotFound, UnreadableFile, UnknownColumn, UnknownSchema, TooManyBadRows, EmptySource
        See there; all are `DataError`.
    """
    origin = _locate(name, rows, split)
    key = json.dumps([CODE_VERSION, rows, asdict(columns), split, origin.stamp])
    directory = cache_dir / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not directory.exists():
        try:
            _build(origin, rows, columns, directory)
        except (EmptySource, UnreadableFile):
            raise  # names the file already
        except DataError as error:
            raise type(error)(f"{origin.name}: {error}") from None
    source = Source(directory)
    bad = source.bad
    if bad.count > max_bad_share * bad.total:
        first = "\n".join(f"  {where}: {why}" for where, why in bad.first)
        raise TooManyBadRows(
            f"{origin.name}: {bad.count} of {bad.total} rows ({bad.count / bad.total:.2%}) cannot be used, more than"
            f" the accepted share of {max_bad_share:.2%}. Repair them or accept more. The first ones:\n{first}"
        )
    if not len(source):
        raise EmptySource(f"{origin.name} holds no usable row")
    return source


def _locate(name: str, rows: str, split: str) -> _Origin:
    if Path(name).is_absolute():
        if rows == Document.kind and (documents := text_files(Path(name), split)):
            return _Origin(name, _stamp(documents), lambda: read_text_files(documents))
        return _local(Path(name), split)
    if name in NAMED_SETS:
        named = NAMED_SETS[name]
        if named.rows != rows:
            fitting = ", ".join(key for key, value in NAMED_SETS.items() if value.rows == rows)
            raise DataNotFound(
                f"the set '{name}' has {named.rows} rows, and the task needs {rows} rows; named sets that have them: "
                f"{fitting or 'none'}"
            )
        return _hub(named.hub_id, named.configs, split or named.split)
    if name.startswith((".", "~")) or is_data_file(Path(name)) or name.count("/") > 1:
        raise DataNotFound(
            f"'{name}' is a relative path; give an absolute one, because the processes of a run work in other"
            " directories"
        )
    if _HUB_ID.fullmatch(name):
        return _hub(name, (), split or "train")
    near = difflib.get_close_matches(name, list(NAMED_SETS), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise DataNotFound(
        f"unknown data '{name}'.{hint} Give an absolute path, a Hub id owner/name, or one of: {', '.join(NAMED_SETS)}"
    )


def _stamp(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _local(path: Path, split: str) -> _Origin:
    if not path.exists():
        raise DataNotFound(f"there is no file or folder {path}")
    if path.is_file():
        if not is_data_file(path):
            raise UnreadableFile(f"{path} has no ending that says how to read it, such as .jsonl, .csv or .parquet")
        if split:
            raise DataNotFound(f"{path} is one file, so '{split}' cannot be chosen from it; leave data.split empty")
        return _Origin(str(path), _stamp([path]), lambda: read_files([path]))
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        if (split or "train") not in splits:
            raise DataNotFound(f"{path} has no split '{split or 'train'}'; give data.split one of {', '.join(splits)}")
        path, split = path / (split or "train"), ""
    if (path / "state.json").is_file():
        if split:
            raise DataNotFound(f"{path} holds one split, so '{split}' cannot be chosen; leave data.split empty")
        return _Origin(str(path), _stamp([path / "state.json", *sorted(path.glob("*.arrow"))]), lambda: _saved(path))
    files = files_of(path, split)
    return _Origin(str(path), _stamp(files), lambda: read_files(files))


def _saved(path: Path) -> Located:
    """Rows of a directory written by `datasets.save_to_disk`."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
        yield from read_tables(validated(saved.with_format("arrow").iter(BATCH)), path.name)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among them
        raise UnreadableFile(f"{path} cannot be read as a saved dataset: {error}") from error


def _hub(hub_id: str, configs: tuple[str, ...], split: str) -> _Origin:
    """Load a set from the Hub, or from the copy that an earlier load left in the Hub cache."""
    import datasets

    try:
        parts = [datasets.load_dataset(hub_id, config, split=split) for config in configs or (None,)]
    except (OSError, ValueError, RuntimeError) as error:  # unreachable; no such config or split; needs its own code
        raise DataNotFound(
            f"the set '{hub_id}' (split '{split}') cannot be loaded from the Hub: {error}. To use a local copy, put its"
            ' files into a folder and give data.name = "/absolute/path/of/the/folder"'
        ) from error
    files = [Path(file["filename"]) for part in parts for file in part.cache_files]
    tables = (part.with_format("arrow").iter(BATCH) for part in parts)
    name = f"{hub_id} {split}"
    stamp = [hub_id, configs, split, *_stamp(files)]
    return _Origin(name, stamp, lambda: read_tables(chain.from_iterable(tables), name))


def _build(origin: _Origin, rows: str, columns: Columns, directory: Path) -> None:
    """Write the converted rows; processes that do so at the same time end with one complete directory."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=directory.parent))
    try:
        meta = _convert(origin, rows, columns, building / "rows.arrow")
        (building / "meta.json").write_text(json.dumps(meta))
        try:
            os.replace(building, directory)
        except OSError:
            if not directory.exists():  # otherwise another process was faster, with the same rows
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _convert(origin: _Origin, kind: str, columns: Columns, path: Path) -> dict[str, Any]:
    """Convert all rows into one Arrow file; return what `Source` needs to know about it."""
    import pyarrow as pa

    rows = origin.rows()
    head = list(islice(rows, BATCH))
    readable = [row for _, row in head if not isinstance(row, BadRow)]
    if not readable:
        first = "; ".join(f"{where}: {row}" for where, row in head[:3])
        raise EmptySource(f"{origin.name} holds no readable row{': ' + first if first else ''}")
    binding = recognise(dict.fromkeys(key for row in readable for key in row), kind, columns)
    labels = _label_columns(readable)
    names = [*ROW_KINDS[kind].cell_names, *(_LABEL + label for label in labels)]
    schema = pa.schema([(name, pa.large_string()) for name in names])  # 1,024 documents may exceed 2 GB
    meta: dict[str, Any] = {"rows": kind, "schema": binding.schema.name, "labels": labels, "bad": 0, "total": 0}
    meta["first"] = []
    buffer: list[tuple[str, ...]] = []
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for where, row in chain(head, rows):
            meta["total"] += 1
            try:
                if isinstance(row, BadRow):
                    raise row
                buffer.append((*binding.convert(row).cells(), *(_label(row.get(label)) for label in labels)))
            except BadRow as error:
                meta["bad"] += 1
                meta["first"] += [(where, str(error))] if len(meta["first"]) < _FIRST else []
            if len(buffer) == BATCH:
                writer.write_batch(_batch(buffer, schema))
                buffer.clear()
        if buffer:
            writer.write_batch(_batch(buffer, schema))
    return meta


def _batch(buffer: list[tuple[str, ...]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.record_batch([pa.array(cells, pa.large_string()) for cells in zip(*buffer, strict=True)], schema=schema)


def _label_columns(rows: list[dict[str, Any]]) -> list[str]:
    """Choose the columns to keep as labels, from the first rows: short text and integers."""
    kept = []
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values and all(isinstance(value, str | int) for value in values):
            if sum(len(str(value)) for value in values) < LABEL_LENGTH * len(values):
                kept.append(name)
    return kept


def _label(value: Any) -> str:
    # A label that is not Unicode must not spoil a row whose texts are fine.
    return str(value).encode(errors="replace").decode() if isinstance(value, str | int) else ""
