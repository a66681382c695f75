"""From the configuration's data keys to one client's examples: the built-in corpus, or a share of a source."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedllm_app.data import corpus
from fedllm_app.data.examples import Example, PreferencePair
from fedllm_app.data.partition import partition, split_held_out
from fedllm_app.data.sources import Columns, Source, open_source
from fedllm_app.paths import home

BUILT_IN = "builtin"


@dataclass(frozen=True)
class DataSelection:
    """Which rows the clients of a run hold. Counts in examples; a `held_out` of 0 keeps nothing back."""

    name: str
    columns: Columns
    clients: int
    seed: int
    examples_per_client: int
    held_out: int
    max_bad_share: float
    task: str
    split: str = ""


@dataclass(frozen=True)
class ClientData:
    """One client's rows: what it is called, where they come from, and a fingerprint that names them exactly."""

    label: str
    schema: str
    fingerprint: str
    train: "Rows"
    held_out: "Rows"


@dataclass(frozen=True)
class Rows:
    """Rows that are read only when they are asked for."""

    count: int
    read: Callable[[], Iterator[Example] | Iterator[PreferencePair]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Example] | Iterator[PreferencePair]:
        return iter(self.read())


def client_data(selection: DataSelection, client: int) -> ClientData:
    """The rows of client number `client` of the run, without reading them yet."""
    if selection.name == BUILT_IN:
        return _corpus_data(selection, client)
    source = _source(selection.name, selection.task, selection.columns, selection.split, selection.max_bad_share)
    mine = _shares(source, selection.clients, selection.seed)[client]
    held_out_share = min(selection.held_out / len(mine), 0.5)
    train, held_out = split_held_out(mine, held_out_share, selection.seed)
    fingerprint = hashlib.sha256(source.fingerprint.encode() + mine.tobytes() + bytes([0])).hexdigest()
    return ClientData(
        label=Path(selection.name).stem,
        schema=source.schema,
        fingerprint=f"{fingerprint}/{len(held_out)}/{selection.seed}",
        train=Rows(len(train), functools.partial(source.examples, train)),
        held_out=Rows(len(held_out), functools.partial(source.examples, held_out)),
    )


@functools.lru_cache(maxsize=2)
def _source(name: str, task: str, columns: Columns, split: str, max_bad_share: float) -> Source:
    return open_source(
        name, task=task, columns=columns, split=split, max_bad_share=max_bad_share, cache_dir=home() / "sources"
    )


@functools.lru_cache(maxsize=2)
def _shares(source: Source, clients: int, seed: int) -> list[np.ndarray]:
    return partition(len(source), clients, method="iid", seed=seed)


def _corpus_data(selection: DataSelection, client: int) -> ClientData:
    """One domain a client; clients that share a domain (5th and later) get rows of their own."""
    domain = corpus.DOMAINS[client % len(corpus.DOMAINS)]
    turn = client // len(corpus.DOMAINS)

    def rows(part: str, count: int) -> Rows:
        def read() -> Iterator[Example] | Iterator[PreferencePair]:
            for question in corpus.questions(domain, part, count * (turn + 1), selection.seed)[count * turn :]:
                prompt = (("user", question.instruction),)
                if selection.task == "dpo":
                    yield PreferencePair(prompt, question.answer, question.rejected)
                else:
                    yield Example(prompt, question.answer)

        return Rows(count, read)

    return ClientData(
        label=domain,
        schema=BUILT_IN,
        fingerprint="/".join(
            str(part)
            for part in (
                _corpus_version(), selection.task, client, selection.seed,
                selection.examples_per_client, selection.held_out,
            )
        ),
        train=rows("train", selection.examples_per_client),
        held_out=rows("held-out", selection.held_out),
    )


@functools.cache
def _corpus_version() -> str:
    return hashlib.sha256(Path(corpus.__file__).read_bytes()).hexdigest()[:16]
