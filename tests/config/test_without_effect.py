"""Options that would do nothing are refused."""

import pytest
from places import ROOT

from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.config.without_effect import without_effect

DEFAULTS = default_run_config(ROOT)
PREFERENCES = {"train.task": "dpo"}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (PREFERENCES | {"dpo.loss-type": "robust"}, "dpo.label-smoothing = 0.0: dpo.loss-type = 'robust' is 'sigmoid'"),
        (
            PREFERENCES | {"dpo.loss-type": "exo_pair"},
            "dpo.label-smoothing = 0.0: dpo.loss-type = 'exo_pair' is not defined",
        ),
        (
            PREFERENCES | {"dpo.label-smoothing": 0.1},
            "dpo.label-smoothing = 0.1: dpo.loss-type = 'sigmoid' does not read it",
        ),
        (
            PREFERENCES | {"dpo.loss-type": "aot", "train.batch-size": 1},
            "dpo.loss-type = 'aot' compares the pairs of a batch",
        ),
        (PREFERENCES | {"lora.dropout": 0.1}, "lora.dropout = 0.1"),
        ({"adapter.method": "ia3", "lora.dropout": 0.1}, "lora.dropout = 0.1: must be 0.0 with adapter.method = 'ia3'"),
        ({"adapter.method": "ia3", "lora.dora": True}, "lora.dora = true: must be false"),
        ({"adapter.method": "prompt-tuning", "lora.rslora": True}, "lora.rslora = true: must be false"),
        ({"adapter.method": "ia3", "lora.aggregation": "ffa"}, "lora.aggregation = 'ffa': must be 'factors'"),
        ({"lora.rslora": True, "lora.r": 1}, "lora.rslora = true: with lora.r = 1"),
        ({"model.double-quantization": True}, "model.double-quantization = true"),
        ({"model.attention": "flash_attention_2", "model.dtype": "float32"}, "multiplies in 16 bits"),
        ({"model.attention": "flash_attention_3", "model.dtype": "float32"}, "multiplies in 16 bits"),
        ({"train.min-learning-rate": 0.0}, "train.min-learning-rate = 0.0: the last round trains at this rate"),
    ],
)
def test_an_option_that_does_nothing_is_refused(overrides, named):
    with pytest.raises(ConfigError) as caught:
        parse_run_config(DEFAULTS | overrides)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        PREFERENCES | {"dpo.loss-type": "robust", "dpo.label-smoothing": 0.1},
        PREFERENCES | {"dpo.loss-type": "exo_pair", "dpo.label-smoothing": 1e-3},
        PREFERENCES | {"dpo.loss-type": "aot", "dpo.label-smoothing": 0.2},
        PREFERENCES | {"dpo.loss-type": "aot_unpaired"},
        {"train.min-learning-rate": 0.0, "train.rounds": 1},
        {"train.task": "sft", "lora.dropout": 0.1},
        {"dpo.loss-type": "robust"},  # of a task that is not trained
    ],
)
def test_an_option_that_does_something_is_taken(overrides):
    assert without_effect(parse_run_config(DEFAULTS | overrides)) == []


@pytest.mark.parametrize("smoothing", [0.5, -0.1])
def test_half_of_the_labels_is_the_end(smoothing):
    with pytest.raises(ConfigError, match=r"dpo\.label-smoothing"):
        parse_run_config(DEFAULTS | PREFERENCES | {"dpo.loss-type": "robust", "dpo.label-smoothing": smoothing})
