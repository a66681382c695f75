"""From Flower's flat mapping to the typed configuration, or one error that lists every problem."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedllm_app.class_paths import ClassPathError, is_class_path
from fedllm_app.config.accepted import accepted
from fedllm_app.config.app_files import PACKAGE, app_directory, pyproject, read_toml
from fedllm_app.config.contradictions import contradictions
from fedllm_app.config.sections import Config, ConfigError, FlatConfig, kebab
from fedllm_app.data.named_sets import set_names
from fedllm_app.strategies.class_path import Argument, parse_arguments
from fedllm_app.strategies.registry import (
    STRATEGIES,
    UnknownStrategyError,
    hyperparameter_problems,
    strategy_spec,
)
from fedllm_app.tasks import TASKS, UnknownTask, task_spec

_NAMED = 3  # missing keys that an error names


def parse_run_config(flat: FlatConfig) -> Config:
    """Build the configuration from Flower's flat mapping, or raise `ConfigError` with every problem in it."""
    sections, hyper = _nest(flat)
    problems: list[str] = []
    known = _known_keys()
    strategy = sections.setdefault("strategy", {})
    problems += _strategy_problems(strategy.get("name"), hyper)
    problems += _task_problems(sections.get("train", {}).get("task"))
    strategy["hyper"] = hyper.get(str(strategy.get("name")), {})
    arguments, wrong = _class_path_arguments(strategy.get("name"), strategy.get("arguments"))
    strategy["hyper"] |= arguments
    problems += wrong
    try:
        config = Config.model_validate(sections)
    except ValidationError as error:
        # The registry has checked the hyper-parameters, and says what each accepts.
        for entry in error.errors():
            if entry["loc"][:2] != ("strategy", "hyper"):
                problems += _explain(entry, known)
        raise ConfigError(problems) from None
    config = _with_a_client_a_set(config)
    problems = problems or contradictions(config)
    if problems:
        raise ConfigError(problems)
    return config


def default_run_config(app: Path) -> dict[str, bool | int | float | str]:
    """The flat defaults that stand in the pyproject.toml of an app; the packaged ones where this directory is no app.

    Raises
    ------
    NoApp
        Another directory is no app.
    ConfigError
        Its defaults lack a key.
    """
    directory = app_directory(app)
    defaults = _defaults_of(directory)
    missing = sorted(_defaults_of(PACKAGE).keys() - defaults.keys()) if directory != PACKAGE else []
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ConfigError(
            [
                f"{pyproject(directory)} has no default for {', '.join(missing[:_NAMED])}{more}; every key needs one "
                "below [tool.flwr.app.config]. `fedllm init DIR` writes an app with all of them"
            ]
        )
    return defaults


def _defaults_of(app: Path) -> dict[str, bool | int | float | str]:
    return flatten(read_toml(pyproject(app))["tool"]["flwr"]["app"].get("config", {}))


def toml_value(value: object) -> str:
    """A value of a configuration as TOML; text with line ends and control characters, too."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def toml_text(flat: Mapping[str, object]) -> str:
    """A flat configuration as a TOML file, in its order."""
    return "".join(f'"{key}" = {toml_value(value)}\n' for key, value in flat.items())


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Flatten nested tables to dotted keys, as Flower does with the tables of a TOML file."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _nest(flat: FlatConfig) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Split dotted keys into sections, and the hyper-parameters `strategy.<name>.<hyper>` from them."""
    sections: dict[str, dict[str, Any]] = {}
    hyper: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        section, _, rest = key.partition(".")
        if section == "strategy" and "." in rest:
            strategy, _, name = rest.partition(".")
            hyper.setdefault(strategy, {})[name] = value
        else:
            sections.setdefault(section, {})[rest] = value
    return sections, hyper


def _strategy_problems(name: object, hyper: Mapping[str, Mapping[str, Any]]) -> list[str]:
    problems = []
    if isinstance(name, str) and not is_class_path(name):  # a class path is imported when the run begins
        try:
            strategy_spec(name)
        except UnknownStrategyError as error:
            problems.append(f"strategy.name = {name!r}: {error}")
    for strategy, values in hyper.items():
        if strategy not in STRATEGIES:
            problems.append(f"strategy.{strategy}: unknown strategy; known: {', '.join(STRATEGIES)}")
        else:
            problems += [f"strategy.{strategy}: {problem}" for problem in hyperparameter_problems(strategy, values)]
    return problems


def _task_problems(name: object) -> list[str]:
    if not isinstance(name, str) or is_class_path(name):  # a class path is imported where the task is needed
        return []
    try:
        task_spec(name)
    except UnknownTask as error:
        near = difflib.get_close_matches(name, TASKS, n=1)
        return [f"train.task = {name!r}: {error}" + (f"; did you mean {near[0]}?" if near else "")]
    return []


def _class_path_arguments(name: object, text: object) -> tuple[dict[str, Argument], list[str]]:
    """What `strategy.arguments` gives a class path, and what is wrong with it; a name of the table takes none."""
    if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
        return {}, []
    if not is_class_path(name):
        own = strategy_spec(name).hyperparameters if name in STRATEGIES else ()
        keys = ", ".join(f"strategy.{name}.{parameter.name}" for parameter in own)
        return {}, [
            f'strategy.arguments = {text!r}: must be "" with strategy.name = {name!r}, because only a class path '
            "takes arguments; hyper-parameters of a name have keys of their own, strategy.<name>.<hyper>: "
            f"{keys or 'none'}"
        ]
    try:
        return parse_arguments(text), []
    except ClassPathError as error:
        return {}, [
            f"strategy.arguments = {text!r}: {error}; write name=value, separated by commas, text in quotes: "
            "eta=0.01, name='x', flag=true"
        ]


def _known_keys() -> list[str]:
    keys = []
    for section, field in Config.model_fields.items():
        keys += [f"{section}.{kebab(name)}" for name in field.annotation.model_fields if name != "hyper"]
    for strategy, spec in STRATEGIES.items():
        keys += [f"strategy.{strategy}.{parameter.name}" for parameter in spec.hyperparameters]
    return keys


def _explain(entry: Mapping[str, Any], known: list[str]) -> list[str]:
    """A sentence for each key of one pydantic error: the key, the value received, what it must be."""
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        section = len(entry["loc"]) == 1
        keys = [f"{key}.{name}" for name in entry["input"]] if section else [key]
        return [_unknown(key.rstrip("."), known) for key in keys]
    if entry["type"] == "missing":
        return [f"{key}: missing; pyproject.toml sets a default for every key"]
    return [f"{key} = {entry['input']!r}: must be {accepted(entry)}"]


_OTHER_NAMES = {
    **dict.fromkeys(("question", "instruction", "query", "problem"), "data.prompt-column"),
    **dict.fromkeys(("answer", "response", "output", "target", "solution"), "data.completion-column"),
}
"""The key for a column, by what somebody who has not looked it up is likely to call it in data.…-column."""


def _unknown(key: str, known: list[str]) -> str:
    guessed = _OTHER_NAMES.get(key.removeprefix("data.").removesuffix("-column")) if key.startswith("data.") else None
    near = [guessed] if guessed else difflib.get_close_matches(key, known, n=1)
    return f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}")


def _with_a_client_a_set(config: Config) -> Config:
    """With `by-domain`, `clients.number = 0` means as many clients as there are sets, for every process that parses."""
    if config.data.partition != "by-domain" or config.clients.number:
        return config
    number = len(set_names(config.data.name))
    return config.model_copy(update={"clients": config.clients.model_copy(update={"number": number})})
