"""Values that are valid alone and impossible together: clients, data, strategies, models and adapters."""

import pytest
from config_problems import DEFAULTS, problems

from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"clients__number": 4, "clients__per_round": 5}, "clients.per-round = 5: must be between 0 (all) and"),
        ({"train__min_learning_rate": 4e-3}, "at most train.learning-rate = 0.003"),
        ({"data__held_out_examples": 0, "data__held_out_share": 0.0}, "needs data.held-out-examples"),
        ({"data__alpha": 0.0}, "data.alpha = 0.0: must be more than 0"),
        ({"data__held_out_share": 1.0}, "data.held-out-share = 1.0: must be less than 1"),
        (
            {"data__partition": "dirichet", "data__name": "alpaca"},
            "data.partition = 'dirichet': must be 'iid', 'dir",
        ),
        ({"data__name": "alpaca", "data__partition": "shard"}, "data.partition = 'shard' divides by a label"),
        ({"data__name": "alpaca", "data__partition": "natural-id"}, "data.partition-column must be the name"),
        ({"data__name": "alpaca,/b.csv"}, "holds 2 names and data.partition = 'iid' divides one set"),
        ({"data__name": "a/b, /c, /d", "data__partition": "by-domain"}, "clients.number = 4: data.partition = 'by-d"),
        (
            {"data__name": "a/b,", "data__partition": "by-domain", "clients__number": 2},
            "data.name = 'a/b,': data.partition = 'by-domain' needs",
        ),
        (
            {"data__name": "builtin,a/b", "data__partition": "by-domain", "clients__number": 2},
            "'builtin,a/b': data.partition = 'by-domain' needs",
        ),
        ({"data__partition": "linear"}, "data.partition = 'linear': must be 'iid' with data.name = 'builtin'"),
        ({"data__samples": 5}, "data.samples = 5: must be 0 with data.name = 'builtin'"),
        ({"data__learn_turns": "first"}, "data.learn-turns = 'first': must be 'last' or 'all'"),
        (
            {"data__learn_turns": "all", "train__task": "dpo"},
            "data.learn-turns = 'all': must be 'last' with train.task = 'dpo'",
        ),
        ({"data__delimiter": ";;"}, "data.delimiter = ';;': must be one character"),
        ({"data__encoding": "utf-99"}, "data.encoding = 'utf-99': must be an encoding"),
        ({"lora__target_modules": " , "}, "lora.target-modules = ' , '"),
        ({"strategy__name": "krum"}, "'krum' needs at least 5 clients a round, the configuration has 4"),
        ({"strategy__name": "krum", "clients__number": 9, "clients__per_round": 4}, "'krum' needs at least 5 clients"),
        ({"strategy__name": "bulyan", "clients__number": 6}, "'bulyan' needs at least 7 clients"),
        ({"strategy__name": "multikrum", "clients__number": 5, "strategy__multikrum__keep": 4}, "at least 7 clients"),
    ],
)
def test_contradictions(overrides, told):
    """Krum needs 2 f + 3 = 5 clients for f = 1, Bulyan 4 f + 3 = 7, Multi-Krum keeping m = 4 m + f + 2 = 7."""
    (line,) = problems(**overrides)
    assert told in line


def test_contradictions_are_told_together():
    assert (
        len(
            problems(
                clients__per_round=5, train__min_learning_rate=1.0, data__held_out_examples=0, data__held_out_share=0.0
            )
        )
        == 3
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {"clients.number": 0, "clients.per-round": 5},
        {"train.min-learning-rate": 2e-3},
        {"evaluate.every": 0, "data.held-out-examples": 0},
        {"data.held-out-share": 0.1, "data.held-out-examples": 0},
        {"data.name": "alpaca", "data.partition": "iid", "data.partition-column": "topic", "data.samples": 5},
        {"data.name": "a/b,/c.csv,alpaca,/d", "data.partition": "by-domain"},
        {"data.name": '"/c, d.csv",a/b,alpaca,/d', "data.partition": "by-domain"},
        {"data.name": '"/c, d.csv"', "data.delimiter": "tab", "data.encoding": "cp1252"},
        {"strategy.name": "krum", "clients.number": 5},
        {"strategy.name": "krum", "clients.number": 0},
    ],
)
def test_what_only_looks_like_a_contradiction_is_accepted(overrides):
    parsed = parse_run_config(DEFAULTS | overrides).model_dump(by_alias=True)
    for key, value in overrides.items():
        section, name = key.split(".")
        assert parsed[section][name] == value


def test_by_domain_counts_its_sets():
    """Three sets are three clients, whoever parses; the rest of the configuration is held against that number."""
    three = {"data.name": "a/b, alpaca ,/c", "data.partition": "by-domain", "clients.number": 0}
    assert parse_run_config(DEFAULTS | three).clients.number == 3
    with pytest.raises(ConfigError, match="clients.per-round = 4: must be between 0 .all. and clients.number = 3"):
        parse_run_config(DEFAULTS | three | {"clients.per-round": 4})
    assert parse_run_config(DEFAULTS | {"clients.number": 0}).clients.number == 0


@pytest.mark.parametrize(
    ("overrides", "key", "told"),
    [
        ({"lora__target_modules": "q_proj,lm_head"}, "lora.target-modules", "below the language-model head"),
        ({"lora__rslora": True, "adapter__method": "ia3"}, "lora.rslora", "false with adapter.method = 'ia3'"),
        ({"lora__dora": True, "adapter__method": "p-tuning"}, "lora.dora", "false with adapter.method = 'p-tuning'"),
        ({"model__double_quantization": True}, "model.double-quantization", "model.quantization = 'none'"),
        (
            {"model__double_quantization": True, "model__quantization": "int8"},
            "model.double-quantization",
            "model.quantization = 'int8'",
        ),
        (
            {"model__device_map": "auto", "adapter__method": "prefix-tuning"},
            "model.device-map",
            "'prefix-tuning'",
        ),
        (
            {"train__gradient_checkpointing": True, "adapter__method": "prefix-tuning"},
            "train.gradient-checkpointing",
            "'prefix-tuning'",
        ),
        (
            {"adapter__method": "prompt-tuning", "adapter__virtual_tokens": 128},
            "adapter.virtual-tokens = 128",
            "less than train.max-length = 128",
        ),
        ({"adapter__method": "adalora"}, "adapter.method = 'adalora'", "'prompt-tuning'"),
        ({"model__quantization": "int4"}, "model.quantization = 'int4'", "'nf4'"),
    ],
)
def test_impossible_models_and_adapters(overrides, key, told):
    (line,) = problems(**overrides)
    assert line.startswith(key)
    assert told in line


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.quantization": "nf4", "model.double-quantization": True, "lora.dora": True, "lora.rslora": True},
        {"train.gradient-checkpointing": True, "adapter.method": "p-tuning", "lora.target-modules": "lm_head"},
        {"adapter.virtual-tokens": 500},  # read by the prompt methods only
        {"adapter.method": "prefix-tuning", "adapter.virtual-tokens": 127, "model.quantization": "int8"},
    ],
)
def test_possible_models_and_adapters(overrides):
    config = parse_run_config(DEFAULTS | overrides)
    assert config.adapter.method == overrides.get("adapter.method", "lora")
