"""Settings that were given and that the run does not read are named."""

import pytest
from places import ROOT

from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.config.unread import unread_settings

DEFAULTS = default_run_config(ROOT)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"strategy.fedprox.mu": 0.1}, "strategy.fedprox.mu is not read: it belongs to strategy.name = 'fedprox'"),
        ({"dpo.beta": 0.2}, "dpo.beta is not read: it belongs to train.task = 'dpo'"),
        ({"train.task": "dpo", "text.packing": False}, "text.packing is not read: it belongs to train.task = 'text'"),
        ({"adapter.method": "ia3", "lora.r": 16}, "lora.r is not read: it belongs to adapter.method = 'lora'"),
        ({"adapter.virtual-tokens": 4}, "adapter.virtual-tokens is not read: it belongs to adapter.method = 'prefix-"),
        (
            {"adapter.method": "prefix-tuning", "adapter.encoder-hidden-size": 64},
            "adapter.encoder-hidden-size is not read: it belongs to adapter.method = 'p-tuning'",
        ),
        (
            {"data.name": "/d.csv", "data.partition-column": "city"},
            "data.partition-column is not read: it belongs to data.partition = 'dirichlet', 'natural-id', 'shard'",
        ),
        ({"data.alpha": 0.1}, "data.alpha is not read: it belongs to data.partition = 'dirichlet'"),
        (
            {"data.name": "/d.csv", "data.examples-per-client": 9},
            "data.examples-per-client is not read: it belongs to data.name = 'builtin'; the number of rows of other "
            "data is data.samples",
        ),
        (
            {"data.held-out-examples": 9, "data.held-out-share": 0.5},
            "data.held-out-share is not read: it belongs to data.held-out-examples = 0",
        ),
        ({"evaluate.suite-limit": 3}, "evaluate.suite-limit is not read: it belongs to evaluate.suite, which names"),
        ({"evaluate.every": 0, "evaluate.examples": 3}, "evaluate.examples is not read: it belongs to evaluate.every"),
    ],
)
def test_a_key_that_nothing_reads_is_named(given, told):
    [line] = unread_settings(given, parse_run_config(DEFAULTS | given))
    assert line.startswith(told)


@pytest.mark.parametrize(
    "given",
    [
        {"strategy.name": "fedprox", "strategy.fedprox.mu": 0.1},
        {"train.task": "dpo", "dpo.beta": 0.2},
        {"lora.r": 16},
        {"adapter.method": "p-tuning", "adapter.virtual-tokens": 4, "adapter.encoder-hidden-size": 64},
        {
            "data.name": "/d.csv",
            "data.partition": "dirichlet",
            "data.partition-column": "city",
            "data.alpha": 0.1,
            "data.samples": 9,
        },
        {"data.examples-per-client": 9, "data.held-out-share": 0.2, "evaluate.examples": 5},
    ],
)
def test_keys_that_are_read_are_not(given):
    assert unread_settings(given, parse_run_config(DEFAULTS | given)) == []
