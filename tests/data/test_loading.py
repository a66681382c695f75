"""From data keys to one client's rows: the built-in corpus, and a file split evenly."""

from pathlib import Path

import pytest

from fedllm_app.data import corpus
from fedllm_app.data.loading import DataSelection, client_data
from fedllm_app.data.sources import Columns

GSM8K = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "gsm8k" / "train.jsonl"


def selection(**overrides) -> DataSelection:
    values = {
        "name": "builtin", "columns": Columns(), "clients": 4, "seed": 1, "examples_per_client": 10, "held_out": 3,
        "max_bad_share": 0.0, "task": "sft",
    }  # fmt: skip
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
    pair = next(iter(client_data(selection(task="dpo"), 1).train))
    assert pair.chosen != pair.rejected
    assert client_data(selection(task="dpo"), 1).fingerprint != client_data(selection(), 1).fingerprint


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
