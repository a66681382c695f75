"""What a local client holds of its data, and what it leaves on disk."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
from transformers import AutoTokenizer

from fedllm_app.client.build import local_client
from fedllm_app.client.policy import SiteRefuses
from fedllm_app.data import shards as shards_module
from fedllm_app.messages import ADAPTER
from fedllm_app.models.files import UnusableModel
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.training import head
from fedllm_app.training import resident as resident_module


@pytest.fixture
def topics(tmp_path) -> str:
    rows = [{"prompt": str(n), "completion": "x" * n, "topic": "ab"[n % 2]} for n in range(1, 41)]
    (tmp_path / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "topics.jsonl")


def forget():
    """As a process that starts anew."""
    PROCESS_CACHE.clear()


def test_a_second_run_reads_caches_only(make_client, topics, monkeypatch):
    """Nothing is read, divided or tokenized again for the same configuration; another one is not mixed up with it."""
    given = {"data__name": topics, "data__partition": "dirichlet", "data__partition_column": "topic"}
    first = [make_client(**given).shards(client).train for client in range(4)]
    forget()
    monkeypatch.setattr("fedllm_app.data.origins.read_files", lambda *_files: pytest.fail("the file was read again"))
    monkeypatch.setattr("fedllm_app.data.client_rows.partition", lambda *_arguments, **_o: pytest.fail("divided again"))
    monkeypatch.setattr("fedllm_app.data.row_shards.tokenize", lambda *_arguments: pytest.fail("tokenized again"))
    again = make_client(run_id=2, **given)
    for client, shard in enumerate(first):
        np.testing.assert_array_equal(again.shards(client).train.tokens, shard.tokens)
    forget()
    with pytest.raises(pytest.fail.Exception, match="divided again"):
        make_client(**given, data__alpha=5.0).shards(0)


def test_only_the_clients_asked_for_are_tokenized(make_client, topics, monkeypatch, app_home):
    """Two of four clients: a training and a held-out shard each, mapped from disk."""
    client = make_client(data__name=topics)
    for number in (1, 3):
        assert client.shards(number).train.tokens.base is not None
    assert len(list((app_home / "shards").iterdir())) == 4


def test_what_a_client_says_it_holds(make_client, topics):
    """10 of 40 rows, 2 held out by the share of a fifth; tokens are those of the training rows."""
    client = make_client(data__name=topics, data__held_out_examples=0, data__held_out_share=0.2)
    holding, manifest = client.describe(2)
    assert (holding.examples, holding.held_out, holding.bad, holding.dropped) == (8, 2, 0, 0)
    assert manifest == client.model.manifest.hash
    assert holding.tokens == client.shards(2).train.lengths.sum()


def test_tokens_of_a_pair_are_those_of_both_answers(make_client):
    client = make_client(train__task="dpo")
    shard = client.shards(0).train
    assert client.describe(0)[0].tokens == len(shard.chosen.tokens) + len(shard.rejected.tokens)


def test_a_site_with_its_own_file_is_not_pooled(run_config, topics):
    client = local_client(1, tuple(sorted(run_config.items())), 4, (("data-path", topics),))
    with pytest.raises(SiteRefuses, match="centralized.*data-path"):
        client.pooled_shards()


def test_the_pool_is_all_shards_in_order(make_client, topics):
    client = make_client(data__name=topics, data__samples=20)
    pooled = client.pooled_shards()
    parts = [client.shards(number) for number in range(4)]
    assert len(pooled.train) + len(pooled.held_out) == 20
    np.testing.assert_array_equal(pooled.train.tokens, np.concatenate([part.train.tokens for part in parts]))
    assert isinstance(pooled.train, shards_module.Shard)


@pytest.fixture
def padded_with_end(tiny_model, tmp_path) -> str:
    """The tiny model with a tokenizer that has no padding token, as GPT-2's and Llama's, so the end token pads."""
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["pad_token"]
    file.write_text(json.dumps(settings))
    return str(tmp_path / "model")


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_the_end_token_is_learnt_where_it_is_the_padding_too(
    task, make_client, assign, padded_with_end, topics, tmp_path, monkeypatch
):
    """What reaches the head in training and in evaluation: every row is an example of the client, padded, in TRL's
    batches with the end token; labelled are its completion and the end token that closes it, and nothing else.
    """
    if task == "dpo":
        pairs = [{"prompt": str(n), "chosen": "x" * n, "rejected": "y" * (n % 7 + 1)} for n in range(1, 41)]
        (tmp_path / "topics.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    client = make_client(
        model__name=padded_with_end,
        data__name=topics,
        data__template="tokenizer",
        train__task=task,
        train__batch_size=5,
    )
    tokenizer = client.model.tokenizer
    end = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == end
    assert client.model.model is not None  # loaded now: its head is tried on a row of its own
    seen, score = [], head.completion_log_probs

    def record(base, labels, **inputs):
        seen.extend(zip(inputs["input_ids"].tolist(), labels.tolist(), strict=True))
        return score(base, labels, **inputs)

    monkeypatch.setattr(head, "completion_log_probs", record)
    held = client.shards(0)
    parts = (held.train, held.held_out)
    shards = [side for part in parts for side in ((part.chosen, part.rejected) if task == "dpo" else (part,))]
    starts = {tuple(ids): start for shard in shards for ids, start in map(shard.example, range(len(shard)))}
    adapter = {ADAPTER: client.model.adapter.read()}
    client.train(assign(client), adapter, lambda *_: None)
    trained = len(seen)
    client.evaluate(assign(client), adapter)
    assert trained >= 10 and len(seen) > trained
    padding = set()
    for ids, labels in seen:
        length = next(n for n in range(len(ids), 0, -1) if tuple(ids[:n]) in starts)
        start = starts[tuple(ids[:length])]
        assert ids[start:length].count(end) == 1 and ids[length - 1] == end
        assert labels == [-100] * start + ids[start:length] + [-100] * (len(ids) - length)
        padding.update(ids[length:])
    assert end in padding


def test_a_released_model_is_gone(make_client, assign):
    """Garbage collection passes over what is there while a model is used, and not any more once it is released."""
    client = make_client()
    start = np.full(client.model.manifest.size, 0.01, np.float32)
    client.train(assign(client), {ADAPTER: start}, lambda *_: None)
    model = weakref.ref(client.model.model)
    assert gc.get_freeze_count() > 0
    resident_module.release()
    assert model() is None
    assert gc.get_freeze_count() == 0


def test_a_token_beyond_the_embedding_is_found_in_the_rows(make_client, tiny_model, tmp_path):
    """Some models are published with an added token that their embedding has no row for. The row that holds it is named
    before the first round; without it in the data, such a model is trained like any other.
    """
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([f"<new{n}>" for n in range(42)])  # ids 259 to 300, of 300 rows
    tokenizer.save_pretrained(copy)
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(40)]
    for name, last in (("plain", "answer"), ("beyond", "<new41>")):
        text = "".join(json.dumps(row) + "\n" for row in [*rows[:-1], rows[-1] | {"completion": last}])
        (tmp_path / f"{name}.jsonl").write_text(text)
    options = {"model__name": str(copy), "data__template": "tokenizer", "clients": 1}
    make_client(data__name=str(tmp_path / "plain.jsonl"), **options).describe(0)
    with pytest.raises(UnusableModel, match=r"hold the token '<new41>', whose id 300 is beyond the 300 rows"):
        make_client(data__name=str(tmp_path / "beyond.jsonl"), **options).describe(0)
