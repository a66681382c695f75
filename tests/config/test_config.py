"""The typed configuration: everything that is wrong is said at once."""

import tomllib
from typing import get_args

import pydantic
import pytest
from config_problems import DEFAULTS, problems
from places import ROOT

from fedllm_app.config.parse import default_run_config, flatten, parse_run_config, toml_text
from fedllm_app.config.sections import Config, ConfigError, DataConfig
from fedllm_app.data.partition import METHODS
from fedllm_app.strategies.registry import STRATEGIES


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
