"""What a local client holds of its data, and what it leaves on disk."""

import json

import numpy as np
import pytest

from fedllm_app.client_app import build_local_client
from fedllm_app.data import shards as shards_module
from fedllm_app.training import local_client


@pytest.fixture
def topics(tmp_path) -> str:
    rows = [{"prompt": str(n), "completion": "x" * n, "topic": "ab"[n % 2]} for n in range(1, 41)]
    (tmp_path / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "topics.jsonl")


def forget():
    """As a process that starts anew."""
    from fedllm_app.data import loading

    build_local_client.cache_clear()
    for cache in (loading._source, loading._owners, loading.row_labels):
        cache.cache_clear()


def test_a_second_run_reads_caches_only(make_client, topics, monkeypatch):
    """Nothing is read, divided or tokenized again for the same configuration; another one is not mixed up with it."""
    given = {"data__name": topics, "data__partition": "dirichlet", "data__partition_column": "topic"}
    first = [make_client(**given).shards(client).train for client in range(4)]
    forget()
    monkeypatch.setattr("fedllm_app.data.sources.read_files", lambda *_files: pytest.fail("the file was read again"))
    monkeypatch.setattr("fedllm_app.data.loading.partition", lambda *_arguments, **_o: pytest.fail("divided again"))
    monkeypatch.setattr(local_client, "tokenize", lambda *_arguments: pytest.fail("tokenized again"))
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
    client = make_client(data__name=topics, data__held_out_share=0.2)
    said = client.describe(2)
    assert (said["examples"], said["held-out"], said["bad"], said["dropped"]) == (8, 2, 0, 0)
    assert said["tokens"] == client.shards(2).train.lengths.sum()


def test_tokens_of_a_pair_are_those_of_both_answers(make_client):
    client = make_client(train__task="dpo")
    shard = client.shards(0).train
    assert client.describe(0)["tokens"] == len(shard.chosen.tokens) + len(shard.rejected.tokens)


def test_a_site_with_its_own_file_is_not_pooled(run_config, topics):
    client = build_local_client(1, tuple(sorted(run_config.items())), 4, (("data-path", topics),))
    with pytest.raises(local_client.SiteDataNotPooled, match="centralized.*data-path"):
        client.pooled_shards()


def test_the_pool_is_all_shards_in_order(make_client, topics):
    client = make_client(data__name=topics, data__samples=20)
    pooled = client.pooled_shards()
    parts = [client.shards(number) for number in range(4)]
    assert len(pooled.train) + len(pooled.held_out) == 20
    np.testing.assert_array_equal(pooled.train.tokens, np.concatenate([part.train.tokens for part in parts]))
    assert isinstance(pooled.train, shards_module.Shard)
