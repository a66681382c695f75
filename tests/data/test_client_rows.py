"""From data keys to one client's rows: the built-in corpus, and a file split evenly."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from places import SHARED_DATA

from fedllm_app.data import corpus
from fedllm_app.data.client_rows import DataSelection, client_data, client_share, common_test_rows, held_out_count
from fedllm_app.data.partition import PartitionError, partition
from fedllm_app.data.readers.base import TextFormat
from fedllm_app.data.schemas import Columns
from fedllm_app.data.sources import UnknownLabel

GSM8K = SHARED_DATA / "gsm8k" / "train.jsonl"


def selection(**overrides) -> DataSelection:
    values = {
        "name": "builtin",
        "columns": Columns(),
        "clients": 4,
        "seed": 1,
        "examples_per_client": 10,
        "held_out": 3,
        "max_bad_share": 0.0,
        "rows": "example",
    }
    return DataSelection(**values | overrides)


def test_each_client_owns_one_domain():
    """Four clients, four domains; questions and answers are the corpus's, train and held-out share none."""
    for client, domain in enumerate(corpus.DOMAINS):
        data = client_data(selection(), client)
        assert data.label == domain
        train, held_out = list(data.train), list(data.held_out)
        assert (len(train), len(held_out)) == (10, 3)
        assert [row.prompt[-1][1] for row in train] == [q.instruction for q in corpus.questions(domain, "train", 10, 1)]
        assert not {row.prompt for row in train} & {row.prompt for row in held_out}


def test_a_fifth_client_has_the_first_ones_domain_and_rows_of_its_own():
    first, fifth = (client_data(selection(clients=5), client) for client in (0, 4))
    assert first.label == fifth.label
    assert not {row.prompt for row in first.train} & {row.prompt for row in fifth.train}
    assert first.fingerprint != fifth.fingerprint


def test_preference_pairs_of_the_corpus():
    pair = next(iter(client_data(selection(rows="pair"), 1).train))
    assert pair.chosen != pair.rejected
    assert client_data(selection(rows="pair"), 1).fingerprint != client_data(selection(), 1).fingerprint


@pytest.mark.skipif(not GSM8K.is_file(), reason="the shared GSM8K file is not beside the project")
def test_gsm8k_is_split_evenly():
    """7,473 questions over 4 clients: 1,869 for one and 1,868 for the others, 3 of each held out, none twice."""
    clients = [client_data(selection(name=str(GSM8K)), client) for client in range(4)]
    assert sorted(len(data.train) + len(data.held_out) for data in clients) == [1868, 1868, 1868, 1869]
    assert {len(data.held_out) for data in clients} == {3}
    assert {data.schema for data in clients} == {"question-answer"}
    prompts = [row.prompt for data in clients for part in (data.train, data.held_out) for row in part]
    assert len(prompts) == 7473
    assert len(set(prompts)) > 7400  # the file itself repeats a few


def test_a_file_with_fewer_rows_than_clients_is_refused(tmp_path):
    file = tmp_path / "two.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    with pytest.raises(ValueError, match="client"):
        client_data(selection(name=str(file)), 0)


@pytest.fixture
def topics(tmp_path) -> Path:
    """120 rows, four topics of 30 each."""
    return write(tmp_path / "topics.jsonl", 120)


def write(path: Path, count: int) -> Path:
    rows = ({"prompt": f"{path.stem} {n}", "completion": "x", "topic": "abcd"[n // 30 % 4]} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def held(**overrides) -> list[list[int]]:
    """The row numbers of every client, held-out ones included."""
    asked = selection(**overrides)
    shares = [client_share(asked, client) for client in range(asked.clients)]
    return [sorted([*share.train.tolist(), *share.held_out.tolist()]) for share in shares]


@pytest.mark.parametrize("method", ["dirichlet", "shard", "natural-id", "linear", "square", "exponential"])
def test_the_configured_method_divides_the_rows(topics, method):
    """The division is that of `partition` with the column's labels, the seed and alpha."""
    labels = ["abcd"[n // 30] for n in range(120)]
    expected = partition(120, 4, method=method, seed=1, labels=labels, alpha=0.3)
    found = held(name=str(topics), partition=method, partition_column="topic", alpha=0.3)
    assert found == [part.tolist() for part in expected]


def test_natural_clients_are_called_by_their_label(topics):
    asked = selection(name=str(topics), partition="natural-id", partition_column="topic")
    assert [client_data(asked, client).label for client in range(4)] == ["a", "b", "c", "d"]
    assert client_data(selection(name=str(topics)), 0).label == "topics"


def test_a_column_that_is_not_there_is_named(topics):
    for wrong in ("tpoic", "Topic", "TOPIC"):
        with pytest.raises(UnknownLabel, match=f"no column '{wrong}' to partition by; did you mean 'topic'?"):
            held(name=str(topics), partition="shard", partition_column=wrong)
    with pytest.raises(UnknownLabel) as caught:
        held(name=str(topics), partition="shard", partition_column="department")
    assert "did you mean" not in str(caught.value)


def test_another_process_gets_the_same_division(topics, tmp_path):
    """Whatever it hashes strings with, and from a home of its own, so that it divides by itself."""
    asked = {"name": str(topics), "partition": "dirichlet", "partition_column": "topic", "samples": 90}
    code = f"import test_client_rows; print(test_client_rows.held(**{asked!r}))"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "PYTHONHASHSEED": "77",
        "FEDLLM_HOME": str(tmp_path / "other"),
    }
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == held(**asked)


def test_samples_are_chosen_by_the_seed_and_shared_by_the_clients(topics):
    """50 of 120 rows over 4 clients: 13, 13, 12, 12; more than there are: all."""
    some = held(name=str(topics), samples=50)
    assert [len(rows) for rows in some] == [13, 13, 12, 12]
    assert len({row for rows in some for row in rows}) == 50
    other = held(name=str(topics), samples=50, seed=2)
    assert {row for rows in some for row in rows} != {row for rows in other for row in rows}
    assert sum(map(len, held(name=str(topics), samples=500))) == 120


def test_labels_follow_the_sampled_rows(topics):
    """Were the labels those of the first 60 rows, clients c and d would be empty."""
    shares = held(name=str(topics), partition="natural-id", partition_column="topic", samples=60)
    assert sum(map(len, shares)) == 60
    for label, rows in zip("abcd", shares, strict=True):
        assert {"abcd"[row // 30] for row in rows} == {label}


def test_by_domain_gives_each_client_a_set(tmp_path):
    """Sets of 5, 9 and 20 rows; at most 8 samples of each leave 5, 8 and 8."""
    names = ", ".join(str(write(tmp_path / f"{name}.jsonl", count)) for name, count in [("x", 5), ("y", 9), ("z", 20)])
    asked = selection(name=names, partition="by-domain", clients=3, held_out=2)
    data = [client_data(asked, client) for client in range(3)]
    assert [one.label for one in data] == ["x", "y", "z"]
    assert [(len(one.train), len(one.held_out)) for one in data] == [(3, 2), (7, 2), (18, 2)]
    for one in data:
        assert {row.prompt[-1][1].split()[0] for row in one.train} == {one.label}
    assert [len(rows) for rows in held(name=names, partition="by-domain", clients=3, samples=8)] == [5, 8, 8]


@pytest.mark.parametrize(("share", "kept"), [(0.2, 6), (0.5, 15), (0.001, 6), (0.3, 9)])
def test_a_share_is_held_out(topics, share, kept):
    """Of 30 rows a client: the share, and at least a fifth, 6, which is less than 8."""
    for client in range(4):
        data = client_data(selection(name=str(topics), held_out=0, held_out_share=share), client)
        assert (len(data.train), len(data.held_out)) == (30 - kept, kept)


@pytest.mark.parametrize(
    ("rows", "count", "share", "kept"),
    [
        (1000, 0, 0.1, 100),
        (50, 0, 0.1, 8),
        (5000, 0, 0.1, 256),
        (2, 0, 0.1, 1),
        (1, 0, 0.1, 0),
        (1000, 0, 0.0, 0),
        (100, 48, 0.1, 48),
        (60, 48, 0.1, 30),
    ],
)
def test_how_many_rows_are_held_out(rows, count, share, kept):
    """A tenth, but at least 8 (or a fifth of few rows) and at most 256; a given number, but at most half."""
    assert held_out_count(selection(held_out=count, held_out_share=share), rows) == kept


def test_held_out_share_of_the_corpus():
    """A fifth of 10 training questions."""
    assert len(client_data(selection(held_out=0, held_out_share=0.2), 0).held_out) == 2


def test_a_client_with_fewer_rows_than_asked_for_is_refused(topics):
    """30 rows a client, of which 4 are held out, leave 26."""
    client_data(selection(name=str(topics), held_out=4, minimum_rows=26), 0)
    with pytest.raises(PartitionError, match=r"client 0 would train on 26 rows, fewer than data\.minimum-rows = 27"):
        client_data(selection(name=str(topics), held_out=4, minimum_rows=27), 0)


def test_the_common_test_set_is_read_whole(topics, tmp_path):
    """By the same columns; nothing of it is trained on. Without a name there is none."""
    (tmp_path / "test.jsonl").write_text('{"prompt": "p", "completion": "c"}\n{"prompt": "q", "completion": "d"}\n')
    data = common_test_rows(selection(name=str(topics), test=str(tmp_path / "test.jsonl")))
    assert (data.label, len(data.train)) == ("test", 0)
    assert [row.completion for row in data.held_out] == ["c", "d"]
    assert common_test_rows(selection(name=str(topics))) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"partition": "linear"},
        {"partition": "dirichlet", "partition_column": "topic"},
        {"partition": "dirichlet", "partition_column": "topic", "alpha": 0.2},
        {"partition": "dirichlet", "partition_column": "kind", "alpha": 0.2},
        {"samples": 80},
        {"samples": 81},
        {"held_out": 4},
        {"held_out": 0, "held_out_share": 0.3},
        {"seed": 2},
        {"clients": 5},
    ],
)
def test_the_fingerprint_changes_with_whatever_changes_the_rows(tmp_path, changed):
    rows = ({"prompt": str(n), "completion": "x", "topic": "ab"[n % 2], "kind": "ab"[n // 60]} for n in range(120))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, other = (
        client_data(selection(name=str(tmp_path / "rows.jsonl"), **overrides), 1).fingerprint
        for overrides in ({}, changed)
    )
    assert plain != other
    if "partition_column" in changed:
        dirichlet = {"partition": "dirichlet", "partition_column": "topic", "alpha": 0.5}
        default = client_data(selection(name=str(tmp_path / "rows.jsonl"), **dirichlet), 1).fingerprint
        assert (default == other) == (changed["partition_column"] == "topic" and "alpha" not in changed)


def test_bad_rows_of_the_set_are_told(topics):
    with open(topics, "a") as file:
        file.write('{"prompt": "p", "completion": ""}\n')
    assert client_data(selection(name=str(topics), max_bad_share=0.1), 2).bad == 1


def test_equal_rows_are_not_on_both_sides_of_a_split(tmp_path):
    """Of 40 rows, 20 are alike in pairs: none of them is held out, whoever has them."""
    rows = [{"prompt": str(n // 2 if n < 20 else n), "completion": "x"} for n in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [selection(name=str(path), clients=2, held_out=5, seed=seed) for seed in range(4)]
    data = [client_data(one, client) for one in asked for client in (0, 1)]
    assert {one.duplicates for one in data} == {0}
    assert {len(one.held_out) for one in data} == {5}
    for one in data:
        assert all(int(row.prompt[0][1]) >= 20 for row in one.held_out)


def test_duplicates_that_cannot_be_kept_apart_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\n' * 8 + '{"prompt": "q", "completion": "c"}\n')
    data = client_data(selection(name=str(path), clients=1, held_out=3), 0)
    assert (len(data.held_out), data.duplicates) == (3, 2)
    assert ("q", "c") in {(row.prompt[0][1], row.completion) for row in data.held_out}


def test_notes_leave_out_the_column_that_divides(topics):
    asked = selection(name=str(topics), partition="natural-id", partition_column="topic")
    assert client_data(asked, 0).notes == ("columns read: prompt as prompt, completion as completion",)
    assert "columns not read: topic" in client_data(selection(name=str(topics)), 0).notes


def test_a_comma_in_a_path(tmp_path):
    """A file that is there is one name; among others it stands in quotes; a site's own path is never cut."""
    path, other = write(tmp_path / "a, b.jsonl", 8), write(tmp_path / "c.jsonl", 4)
    assert client_data(selection(name=str(path), clients=2), 1).label == "a, b"
    assert client_data(selection(name=f'"{path}"', clients=2), 1).label == "a, b"
    names = f'{other},"{path}"'
    data = [client_data(selection(name=names, partition="by-domain", clients=2, held_out=1), n) for n in (0, 1)]
    assert [(one.label, len(one.train)) for one in data] == [("c", 3), ("a, b", 7)]
    site = selection(name=str(path), partition="by-domain", clients=2, held_out=1, whole=True, site="berlin")
    assert (client_data(site, 1).label, len(client_data(site, 1).train)) == ("berlin", 7)


def test_a_text_format_reaches_the_reader(tmp_path):
    (tmp_path / "rows.csv").write_bytes("prompt:completion\nпривет:мир\nq:a\n".encode("cp1251"))
    asked = selection(name=str(tmp_path / "rows.csv"), clients=1, held_out=0, text_format=TextFormat(":", "cp1251"))
    assert [row.completion for row in client_data(asked, 0).train] == ["мир", "a"]


def test_dividing_fifty_clients_holds_each_row_once(tmp_path):
    rows = held(name=str(write(tmp_path / "many.jsonl", 1003)), clients=50, samples=777)
    assert Counter(map(len, rows)) == {16: 27, 15: 23}  # 777 = 27 · 16 + 23 · 15
    assert len(np.unique(np.concatenate(rows))) == 777


def test_rows_can_be_divided_by_the_label_that_is_learnt(tmp_path):
    """A column may be the thumb and the label of the partition at once: a client a thumb, False before True."""
    file = tmp_path / "votes.jsonl"
    rows = [{"prompt": f"p{number}", "completion": "c", "vote": number % 3 == 0} for number in range(9)]
    file.write_text("\n".join(map(json.dumps, rows)))
    natural = {"partition": "natural-id", "partition_column": "vote", "columns": Columns(label="vote"), "clients": 2}
    down, up = (
        client_data(selection(name=str(file), rows="rated", held_out=0, **natural), client) for client in (0, 1)
    )
    assert (down.label, up.label) == ("False", "True")
    assert [row.desirable for row in up.train] == [True] * 3
    assert [row.desirable for row in down.train] == [False] * 6


def test_asking_for_more_rows_than_there_are_is_told(topics):
    """120 rows, 30 a client: 500 samples are 120, and 20 held-out rows are more than half of 30."""
    notes = client_data(selection(name=str(topics), samples=500, held_out=20), 0).notes
    assert "data.samples = 500: the set has 120 rows, and all are used" in notes
    assert "data.held-out-examples = 20: more than half of the rows, half are held out" in notes
    enough = client_data(selection(name=str(topics), samples=120, held_out=15), 0)
    assert not [note for note in enough.notes if note.startswith("data.")]
