"""The typed configuration: everything that is wrong is said at once."""

import tomllib
from typing import get_args

import pydantic
import pytest
from places import ROOT

from fedllm_app.config.parse import default_run_config, flatten, parse_run_config, toml_text
from fedllm_app.config.sections import Config, ConfigError, DataConfig
from fedllm_app.data.partition import METHODS
from fedllm_app.strategies.registry import STRATEGIES

DEFAULTS = default_run_config(ROOT)


def problems(**overrides):
    """The problems of the defaults with overrides, written section__key with _ for -."""
    changed = {key.replace("__", ".").replace("_", "-"): value for key, value in overrides.items()}
    with pytest.raises(ConfigError) as caught:
        parse_run_config(DEFAULTS | changed)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


def test_defaults_parse_and_arrive_in_their_sections():
    config = parse_run_config(DEFAULTS)
    assert config.run.seed == DEFAULTS["run.seed"]
    assert config.train.min_learning_rate == DEFAULTS["train.min-learning-rate"]
    assert config.lora.targets == "all-linear"
    assert config.strategy.name == "fedavg"
    assert config.strategy.hyper == {}


def test_overrides_of_the_tests_parse(run_config):
    assert parse_run_config(run_config).train.rounds == 2


def test_pyproject_has_every_key_and_no_other():
    """A key that pyproject.toml lacks cannot be overridden with `flwr run`."""
    keys = {
        f"{section}.{name.replace('_', '-')}"
        for section, field in Config.model_fields.items()
        for name in field.annotation.model_fields
        if name != "hyper"
    }
    plain = {key for key in DEFAULTS if not (key.startswith("strategy.") and key.count(".") == 2)}
    assert plain == keys


def test_pyproject_has_every_hyperparameter_with_the_default_of_its_strategy():
    stands = {key: value for key, value in DEFAULTS.items() if key.startswith("strategy.") and key.count(".") == 2}
    table = {
        f"strategy.{name}.{parameter.name}": parameter.default
        for name, spec in STRATEGIES.items()
        for parameter in spec.hyperparameters
    }
    assert stands == table
    assert {key: type(value) for key, value in stands.items()} == {key: type(value) for key, value in table.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_gets_its_own_hyperparameters(name):
    config = parse_run_config(DEFAULTS | {"strategy.name": name, "clients.number": 8})
    assert set(config.strategy.hyper) == {parameter.name for parameter in STRATEGIES[name].hyperparameters}


def test_a_hyperparameter_reaches_its_strategy_only():
    changed = DEFAULTS | {"strategy.fedprox.mu": 0.5}
    assert parse_run_config(changed | {"strategy.name": "fedprox"}).strategy.hyper == {"mu": 0.5}
    assert parse_run_config(changed).strategy.hyper == {}


def test_all_problems_at_once_each_with_key_value_and_what_is_accepted():
    told = problems(
        train__rounds=0,
        lora__dropout=1.0,
        model__dtype="float16",
        train__task="rl",
        strategy__name="fedavgn",
        strategy__fedprox__mu=-1.0,
    )
    assert len(told) == 6
    for key, value, accepted in [
        ("train.rounds", "0", "at least 1"),
        ("lora.dropout", "1.0", "less than 1"),
        ("model.dtype", "'float16'", "'bfloat16'"),
        ("train.task", "'rl'", "'sft'"),
        ("strategy.name", "'fedavgn'", "did you mean 'fedavg'"),
        ("strategy.fedprox", "-1.0", "'mu' of 'fedprox' must be a number >= 0"),
    ]:
        (line,) = [line for line in told if line.startswith(key)]
        assert value in line
        assert accepted in line


def test_count_of_problems_is_told():
    with pytest.raises(ConfigError, match="has 1 problem:"):
        parse_run_config(DEFAULTS | {"train.rounds": 0})
    with pytest.raises(ConfigError, match="has 2 problems:"):
        parse_run_config(DEFAULTS | {"train.rounds": 0, "lora.r": 0})


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.learning-rat", "train.learning-rate"),
        ("run.sed", "run.seed"),
        ("clients.per_round", "clients.per-round"),
        ("trian.rounds", "train.rounds"),
        ("rounds", "train.rounds"),
        ("stragety.fedprox.mu", "strategy.fedprox.mu"),
        ("data.answer-column", "data.completion-column"),
        ("data.response-column", "data.completion-column"),
        ("data.question-column", "data.prompt-column"),
    ],
)
def test_unknown_key_names_the_nearest(key, nearest):
    with pytest.raises(ConfigError) as caught:
        parse_run_config(DEFAULTS | {key: 1})
    assert caught.value.problems == [f"{key}: unknown key; did you mean {nearest}?"]


def test_unknown_key_like_no_other_lists_the_known():
    (line,) = problems(zzzz__qqqq=1)
    assert line.startswith("zzzz.qqqq: unknown key; known keys: run.seed, ")


def test_every_key_of_an_unknown_section_is_told():
    told = problems(trian__rounds=3, trian__local_steps=2)
    assert told == [f"trian.{key}: unknown key; did you mean train.{key}?" for key in ("rounds", "local-steps")]


def test_missing_key():
    without = {key: value for key, value in DEFAULTS.items() if key != "train.rounds"}
    with pytest.raises(ConfigError) as caught:
        parse_run_config(without)
    assert caught.value.problems == ["train.rounds: missing; pyproject.toml sets a default for every key"]


def test_unknown_hyperparameters():
    assert problems(strategy__fedavg__mu=1.0) == ["strategy.fedavg: 'fedavg' has no hyper-parameter 'mu'; it has none."]
    (line,) = problems(strategy__fedfoo__mu=1.0)
    assert line.startswith("strategy.fedfoo: unknown strategy; known: fedavg, ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.rounds", True),
        ("train.rounds", 2.0),
        ("train.rounds", "2"),
        ("train.learning-rate", True),
        ("train.learning-rate", "1e-3"),
        ("model.name", 5),
        ("model.name", ""),
        ("model.trust-remote-code", 1),
        ("strategy.name", 5),
    ],
)
def test_wrong_types_are_refused(key, value):
    with pytest.raises(ConfigError) as caught:
        parse_run_config(DEFAULTS | {key: value})
    (line,) = caught.value.problems
    assert line.startswith(f"{key} = {value!r}: must be ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["train.learning-rate", "run.round-timeout", "train.weight-decay"])
def test_numbers_must_be_finite(key, value):
    with pytest.raises(ConfigError) as caught:
        parse_run_config(DEFAULTS | {key: value})
    assert [line.split(" ")[0] for line in caught.value.problems] == [key]


def test_a_whole_number_serves_as_a_float():
    """Flower's `key=value` pairs and TOML write 1 where 1.0 is meant."""
    assert parse_run_config(DEFAULTS | {"train.learning-rate": 1, "strategy.fedprox.mu": 1}).train.learning_rate == 1.0


@pytest.mark.parametrize("value", [True, "much"])
def test_a_wrong_hyperparameter_of_the_chosen_strategy_is_one_problem(value):
    (line,) = problems(strategy__name="fedprox", strategy__fedprox__mu=value)
    assert repr(value) in line


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


def test_every_partition_method_can_be_configured():
    accepted = set(get_args(DataConfig.model_fields["partition"].annotation))
    assert accepted == {*METHODS, "by-domain"}


CLASS_PATH = "flwr.serverapp.strategy.FedAdam"


def test_arguments_of_a_class_path():
    """Every type keeps; commas, spaces and equals signs in text are text."""
    text = "eta=0.01, name='x, y = z',flag=true,  keep=2"
    config = parse_run_config(DEFAULTS | {"strategy.name": CLASS_PATH, "strategy.arguments": text})
    assert config.strategy.hyper == {"eta": 0.01, "name": "x, y = z", "flag": True, "keep": 2}
    assert config.strategy.hyper["flag"] is True
    assert parse_run_config(DEFAULTS | {"strategy.name": CLASS_PATH, "strategy.arguments": " "}).strategy.hyper == {}


@pytest.mark.parametrize(
    "text",
    [
        "eta",
        "eta=",
        "eta=x",
        "eta=1 beta=2",
        "eta=1, eta=2",
        "eta=1}\nbeta={",
        "eta=1}\nbeta={}",
        "eta=[1]",
        "a.b=1",
        "eta=inf",
        "eta=1979-05-27",
    ],
)
def test_arguments_that_cannot_be_read(text):
    (line,) = problems(strategy__name=CLASS_PATH, strategy__arguments=text)
    assert line.startswith(f"strategy.arguments = {text!r}: ")
    assert "write name=value, separated by commas" in line


def test_arguments_are_for_class_paths():
    """A name of the table has a key for each hyper-parameter, or none at all."""
    (line,) = problems(strategy__name="fedavgm", strategy__arguments="beta=0.5")
    assert line.endswith("strategy.<name>.<hyper>: strategy.fedavgm.beta, strategy.fedavgm.eta-s")
    (line,) = problems(strategy__name="fedavg", strategy__arguments="beta=0.5")
    assert line.endswith("strategy.<name>.<hyper>: none")
    (line,) = problems(strategy__name=CLASS_PATH, strategy__arguments=5)
    assert line.startswith("strategy.arguments = 5: must be text")


def test_a_strategy_by_class_path_is_left_to_the_run():
    assert parse_run_config(DEFAULTS | {"strategy.name": "nowhere.at.All"}).strategy.name == "nowhere.at.All"


@pytest.mark.parametrize(
    ("text", "targets"),
    [("all-linear", "all-linear"), ("q_proj", ("q_proj",)), (" q_proj , v_proj,", ("q_proj", "v_proj"))],
)
def test_target_modules(text, targets):
    assert parse_run_config(DEFAULTS | {"lora.target-modules": text}).lora.targets == targets


def test_configuration_is_frozen():
    with pytest.raises(pydantic.ValidationError):
        parse_run_config(DEFAULTS).train.rounds = 5


def test_flatten():
    assert flatten({"a": 1, "b": {"c": "x", "d": {"e": 2.5}}}) == {"a": 1, "b.c": "x", "b.d.e": 2.5}


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


@pytest.mark.parametrize(
    "value", ["", 'a "b" \\ c', "two\nlines\r\n\tx", "\x00\x1f\x7f", "é €", True, 3, 1e-05, float("inf")]
)
def test_values_come_back_from_toml(value):
    assert tomllib.loads(toml_text({"a.b": value})) == {"a.b": value}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.rounds", "three", "train.rounds = 'three': must be a whole number, such as 3"),
        ("train.rounds", 2.5, "train.rounds = 2.5: must be a whole number, such as 3"),
        ("train.rounds", 0, "train.rounds = 0: must be at least 1"),
        ("train.learning-rate", "fast", "train.learning-rate = 'fast': must be a number, such as 0.5"),
        ("lora.dora", "yes", "lora.dora = 'yes': must be true or false"),
        ("data.name", 5, "data.name = 5: must be text"),
        ("data.held-out-share", 1.0, "data.held-out-share = 1.0: must be less than 1"),
    ],
)
def test_what_a_key_accepts_is_told_in_plain_words(key, value, words):
    """The key, what it was given, and what it takes; none of pydantic's own words."""
    with pytest.raises(ConfigError) as caught:
        parse_run_config(default_run_config(ROOT) | {key: value})
    assert words in str(caught.value)
    assert "valid" not in str(caught.value)
