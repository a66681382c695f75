"""What a task does not go with is refused before the run, with the reason."""

import pytest
from places import ROOT

from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.config.values import data_selection, tokenization


def problems(**overrides) -> list[str]:
    """What is wrong with the defaults under overrides."""
    try:
        parse_run_config(default_run_config(ROOT) | overrides)
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize("task", ["sft", "dpo", "kto", "text"])
def test_the_defaults_go_with_every_task(task):
    assert problems(**{"train.task": task}) == []


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            {"train.task": "kto", "data.name": "hh-rlhf"},
            "data.name = 'hh-rlhf' has pair rows, and train.task = 'kto' needs rated rows; named sets that have them: "
            "none",
        ),
        (
            {"train.task": "dpo", "data.name": "alpaca"},
            "data.name = 'alpaca' has example rows, and train.task = 'dpo' needs pair rows; named sets that have them: "
            "ultrafeedback, hh-rlhf",
        ),
        (
            {"train.task": "text", "data.prompt-column": "q"},
            "data.prompt-column = 'q': must be \"\" with train.task = 'text', which reads data.text-column",
        ),
        (
            {"train.task": "kto", "data.text-column": "body"},
            "data.text-column = 'body': must be \"\" with train.task = 'kto', which reads data.prompt-column, "
            "data.input-column, data.completion-column, data.label-column",
        ),
        ({"train.task": "text", "data.system-prompt": "Be brief."}, "fedllm chat --system-prompt"),
        ({"train.task": "kto", "train.batch-size": 1}, "train.batch-size = 1: must be at least 2"),
        ({"train.task": "kto", "lora.dropout": 0.1}, "lora.dropout = 0.1: must be 0.0 with train.task = 'kto'"),
        ({"train.task": "dpo", "lora.dropout": 0.1}, "lora.dropout = 0.1: must be 0.0 with train.task = 'dpo'"),
    ],
)
def test_what_does_not_go_with_the_task(overrides, told):
    found = problems(**overrides)
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.task": "kto", "train.batch-size": 1, "kto.loss-type": "apo_zero_unpaired"},
        {"train.task": "kto", "data.label-column": "vote", "data.completion-column": "a"},
        {"train.task": "text", "data.text-column": "body", "data.template": "none"},
        {"train.task": "text", "lora.dropout": 0.1},
        {"train.task": "text", "train.batch-size": 1, "dpo.beta": 0.5, "kto.beta": 0.5},
        {"train.task": "my_package.TASK", "data.text-column": "body", "data.prompt-column": "q"},
    ],
)
def test_what_goes_with_the_task(overrides):
    assert problems(**overrides) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kto.beta", 0.0),
        ("kto.loss-type", "bco"),
        ("kto.desirable-weight", 0.0),
        ("kto.undesirable-weight", -1.0),
        ("text.packing", "yes"),
    ],
)
def test_wrong_values(key, value):
    found = problems(**{key: value})
    assert len(found) == 1
    assert found[0].startswith(f"{key} = ")


def test_columns_and_packing_arrive():
    """`data.label-column` is the thumb, `data.partition-column` the label that rows are divided by."""
    flat = {"data.label-column": "vote", "data.partition-column": "topic", "train.task": "kto", "text.packing": False}
    config = parse_run_config(default_run_config(ROOT) | flat)
    selection = data_selection(config, 4, "rated")
    assert (selection.columns.label, selection.partition_column) == ("vote", "topic")
    assert tokenization(config).packing is False
