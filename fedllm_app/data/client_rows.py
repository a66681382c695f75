"""From the configuration's data keys to one client's examples: the built-in corpus, or a share of a source."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedllm_app.data.corpus_rows import CorpusShare
from fedllm_app.data.examples import Row
from fedllm_app.data.named_sets import BUILT_IN, set_names
from fedllm_app.data.partition import PartitionError, choose_rows, partition, split_held_out
from fedllm_app.data.readers.base import FOUND, TextFormat
from fedllm_app.data.schemas import Columns
from fedllm_app.data.sources import Source, open_source
from fedllm_app.paths import atomic_path, home
from fedllm_app.process_cache import PROCESS_CACHE

# Part of every cached division: raise it when the way rows are chosen or divided changes.
_DIVISION = 1

_HELD_OUT_LEAST, _HELD_OUT_MOST = 8, 256  # rows of a client, where a share is held out


@dataclass(frozen=True)
class DataSelection:
    """Which rows the clients of a run hold.

    Attributes
    ----------
    seed : int
        Of the choice of rows, their division and what is held out: `data.seed`.
    held_out, held_out_share : int, float
        Rows of a client to hold out, at most half of them; with 0, this share of them, within bounds.
    minimum_rows : int
        Training rows that a client must have.
    partition : str
        A method of `data.partition`, or `by-domain`: then `name` holds a set for every client.
    whole : bool
        The rows are the own data of one site, named `site`, of which nobody else has a share.
    test : str
        A set on which every client evaluates beside its held-out rows; "" for none.
    """

    name: str
    columns: Columns
    clients: int
    seed: int
    examples_per_client: int
    held_out: int
    max_bad_share: float
    rows: str
    split: str = ""
    partition: str = "iid"
    partition_column: str = ""
    alpha: float = 0.5
    samples: int = 0
    held_out_share: float = 0.0
    minimum_rows: int = 1
    test: str = ""
    site: str = ""
    whole: bool = False
    text_format: TextFormat = FOUND


@dataclass(frozen=True)
class ClientData:
    """One client's rows: what it is called, where they come from, and a fingerprint that names them exactly.

    `bad` counts the unusable rows of the set that the client's rows are from, which other clients may have shares of,
    and `set_rows` all rows of that set. `public_notes` are what of `notes` may leave a site.
    """

    label: str
    schema: str
    fingerprint: str
    train: "Rows"
    held_out: "Rows"
    bad: int = 0
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    set_rows: int = 0
    public_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Rows that are read only when they are asked for; `numbers` are their places in the set, None for its order."""

    count: int
    read: Callable[[], Iterator[Row]]
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        return iter(self.read())

    def number(self, place: int) -> int:
        """The number, from 1, of the row at `place` among the usable rows of the set."""
        return 1 + (place if self.numbers is None else int(self.numbers[place]))


@dataclass(frozen=True)
class Share:
    """A client's part of a source: row numbers, int64, ascending."""

    label: str
    source: Source
    train: np.ndarray
    held_out: np.ndarray
    label_column: str = ""
    fewer: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Sentences on how the source was read, and where it has fewer rows than were asked for."""
        return [*self.source.notes(self.label_column), *self.fewer]

    @property
    def duplicates(self) -> int:
        """How many held-out rows equal another row of the source: as few as its rows allow."""
        return int(np.isin(self.held_out, self.source.repeated).sum())


def client_data(selection: DataSelection, client: int) -> ClientData:
    """The rows of client number `client` of the run, without reading them yet."""
    if selection.name == BUILT_IN:
        return _corpus_data(selection, client)
    share = client_share(selection, client)
    # The row numbers are all that the method, its column, alpha, the samples and the seed come to.
    rows = share.train.tobytes() + b"/" + share.held_out.tobytes()
    return ClientData(
        label=share.label,
        schema=share.source.schema,
        fingerprint=hashlib.sha256(share.source.fingerprint.encode() + rows).hexdigest(),
        train=Rows(len(share.train), functools.partial(share.source.examples, share.train), share.train),
        held_out=Rows(len(share.held_out), functools.partial(share.source.examples, share.held_out), share.held_out),
        bad=share.source.bad.count,
        duplicates=share.duplicates,
        notes=tuple(share.notes),
        set_rows=share.source.bad.total,
        public_notes=tuple(share.source.public_notes()),
    )


def client_share(selection: DataSelection, client: int) -> Share:
    """The part of client number `client` in the set that it has rows of; not for the built-in corpus."""
    source = open_set(selection, client)
    mine = _rows(selection, source, client)
    train, held_out = split_held_out(
        mine, held_out_count(selection, len(mine)) / len(mine), selection.seed, source.repeated
    )
    _check_rows(selection, client, len(train))
    label_column = "" if selection.whole else selection.partition_column
    fewer = _fewer_than_asked(selection, len(source), len(mine))
    return Share(_label(selection, source, client, mine), source, train, held_out, label_column, fewer)


def check_rows(selection: DataSelection) -> None:
    """Open and divide the sets of a run on this machine; the clients then read what this keeps.

    Where `clients` is 0, because it is not known yet how many there will be, the set is not divided.

    Raises
    ------
    DataError, PartitionError
        What a client would raise: where several divide one set, the one with the fewest rows.
    """
    if selection.test:
        open_test_set(selection)
    if selection.name == BUILT_IN:
        return
    if selection.partition == "by-domain":
        for client in range(selection.clients):
            client_share(selection, client)
        return
    source = open_set(selection, 0)
    if not selection.clients:
        return
    owners = _owners(source, selection)
    rows = np.bincount(owners[owners >= 0], minlength=selection.clients)
    client_share(selection, int(rows.argmin()))


def _fewer_than_asked(selection: DataSelection, set_rows: int, mine: int) -> tuple[str, ...]:
    notes = []
    if selection.samples > set_rows:
        notes.append(f"data.samples = {selection.samples}: the set has {set_rows} rows, and all are used")
    if selection.held_out > mine // 2:
        notes.append(f"data.held-out-examples = {selection.held_out}: more than half of the rows, half are held out")
    return tuple(notes)


def _check_rows(selection: DataSelection, client: int, rows: int) -> None:
    if rows < selection.minimum_rows:
        told = (
            f"client {client} would train on {rows} rows, fewer than data.minimum-rows = {selection.minimum_rows}: use "
            "fewer clients, a larger data.alpha, another data.partition, or hold out less"
        )
        raise PartitionError(told, public=told)


def common_test_rows(selection: DataSelection) -> ClientData | None:
    """The rows of the common test set, as held-out rows; None if the configuration names none."""
    if not selection.test:
        return None
    source = open_test_set(selection)
    fingerprint = hashlib.sha256(b"test/" + source.fingerprint.encode()).hexdigest()
    rows = Rows(len(source), functools.partial(source.examples, np.arange(len(source))))
    return ClientData(Path(selection.test).stem, source.schema, fingerprint, Rows(0, lambda: iter(())), rows)


def open_test_set(selection: DataSelection) -> Source:
    """The common test set, converted like any other."""
    return _cached_set(replace(selection, split=""), selection.test)


def open_set(selection: DataSelection, client: int) -> Source:
    """The set that a client has rows of, converted on the first call of any process."""
    return _cached_set(selection, _set_name(selection, client))


def _cached_set(selection: DataSelection, name: str) -> Source:
    key = (home(), name, selection.rows, selection.columns, selection.split, selection.max_bad_share)
    return PROCESS_CACHE.get("source", (*key, selection.text_format), lambda: _open(selection, name), keep=3)


def _open(selection: DataSelection, name: str) -> Source:
    return open_source(
        name,
        rows=selection.rows,
        columns=selection.columns,
        split=selection.split,
        max_bad_share=selection.max_bad_share,
        text_format=selection.text_format,
        cache_dir=home() / "sources",
    )


def _set_name(selection: DataSelection, client: int) -> str:
    """The name of the set that a client has rows of; that of a site's own is a path as it stands."""
    if selection.whole:
        return selection.name
    return set_names(selection.name)[client if selection.partition == "by-domain" else 0]


def _rows(selection: DataSelection, source: Source, client: int) -> np.ndarray:
    if selection.whole or selection.partition == "by-domain":
        return choose_rows(len(source), selection.samples, selection.seed)
    return np.flatnonzero(_owners(source, selection) == client)


def _owners(source: Source, selection: DataSelection) -> np.ndarray:
    """The client of every row, -1 for a row that is not used; from disk if some process divided like this before."""
    clients, seed, samples = selection.clients, selection.seed, selection.samples
    method, column, alpha = selection.partition, selection.partition_column, selection.alpha
    key = json.dumps([_DIVISION, source.fingerprint, clients, seed, samples, method, column, alpha])
    path = home() / "partitions" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if not path.is_file():
        used = choose_rows(len(source), samples, seed)
        labels = row_labels(source, column)[used] if column else None
        owners = np.full(len(source), -1, np.int32)
        for client, part in enumerate(
            partition(len(used), clients, method=method, seed=seed, labels=labels, alpha=alpha)
        ):
            owners[used[part]] = client
        with atomic_path(path) as temporary:
            np.save(temporary, owners, allow_pickle=False)
    return PROCESS_CACHE.get("owners", path, lambda: np.load(path, mmap_mode="r", allow_pickle=False), keep=2)


def row_labels(source: Source, column: str) -> np.ndarray:
    """The label of every row of a source, as text."""
    key = (source.fingerprint, column)
    return PROCESS_CACHE.get("row labels", key, lambda: np.asarray(source.labels(column)), keep=2)


def held_out_count(selection: DataSelection, size: int) -> int:
    """How many of a client's rows are held out: the number that is asked for, else the share, within bounds.

    By the share, at least 8 rows or a fifth of them, whichever is less (one of two), and at most 256.
    """
    if selection.held_out:
        return min(selection.held_out, size // 2)
    if not selection.held_out_share or size < 2:
        return 0
    least = min(_HELD_OUT_LEAST, max(1, size // 5))
    return min(max(round(selection.held_out_share * size), least), max(_HELD_OUT_MOST, least))


def _label(selection: DataSelection, source: Source, client: int, mine: np.ndarray) -> str:
    if selection.site:
        return selection.site
    if selection.partition == "natural-id" and not selection.whole:
        return str(row_labels(source, selection.partition_column)[mine[0]])
    return Path(_set_name(selection, client)).stem


def _corpus_data(selection: DataSelection, client: int) -> ClientData:
    held_out = selection.held_out or held_out_count(selection, selection.examples_per_client)
    share = CorpusShare(client, selection.rows, selection.seed, selection.examples_per_client, held_out)
    return ClientData(
        label=share.domain,
        schema=BUILT_IN,
        fingerprint=share.fingerprint,
        train=Rows(share.examples, functools.partial(share.read, "train")),
        held_out=Rows(held_out, functools.partial(share.read, "held-out")),
        set_rows=share.examples + held_out,
    )
