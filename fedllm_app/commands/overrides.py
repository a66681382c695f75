"""What `--run-config` gives: TOML and YAML files, presets, and key=value pairs; later ones win."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from fedllm_app.config.app_files import presets
from fedllm_app.config.parse import flatten
from fedllm_app.config.sections import ConfigError, FlatConfig
from fedllm_app.data.named_sets import NAMED_SETS, set_names
from fedllm_app.evaluation.suite import DATA_FILE
from fedllm_app.paths import did_you_mean, expanded

Value = bool | int | float | str

_KEY = r"[A-Za-z][\w-]*(?:\.[\w-]+)+"
_PAIR = re.compile(rf"({_KEY})=(\"(?:[^\"\\]|\\.)*\"|'[^']*'|\S*)(?=\s|$)")
_NEXT_KEY = re.compile(rf"\s{_KEY}=")
_QUOTED = re.compile(
    rf"(?<!\S)(?P<key>{_KEY})=(?:\"(?:[^\"\\]|\\.)*\"(?=\s|$)|'[^']*'(?=\s|$)|(?P<open>[\"'])(?!(?P=open){{2}}))"
)  # a value in quotes, or one whose second quote is missing; TOML's text in three quotes is neither
_FILES = (".toml", ".yaml", ".yml")
_PATHS = ("adapter.start", "evaluate.suite-data")


def read_overrides(given: Sequence[str], defaults: FlatConfig) -> dict[str, Value]:
    """Merge the values of `--run-config`.

    Parameters
    ----------
    given : Sequence[str]
        Each a .toml, .yaml or .yml file, the name of a packaged preset, or "key=value key=value". Text needs quotes
        only if it contains blanks and other pairs follow it.
    defaults : FlatConfig
        The configuration that is overridden: where a default is text, the value is text as it stands.

    Raises
    ------
    ConfigError
        A file that is missing or broken, or text that is no pair, with what to write instead.
    """
    merged: dict[str, Value] = {}
    for text in given:
        if (preset := _preset(text)) is not None:
            merged |= _read_file(str(preset))
        else:
            merged |= _read_file(text) if text.endswith(_FILES) and "=" not in text else _read_pairs(text, defaults)
    return merged


def _preset(text: str) -> Path | None:
    """The packaged preset that is meant: `cpu`, and where there is no such file `cpu.toml` and `conf/cpu.toml`, too."""
    if text.endswith(_FILES) and Path(text).exists():
        return None
    return presets().get(text.removeprefix("conf/").removesuffix(".toml"))


def _read_file(text: str) -> dict[str, Value]:
    path = expanded(text)
    if not path.is_file():
        raise ConfigError(
            [
                f"--run-config {text}: there is no such file; give the path of a TOML or YAML file, or a preset: "
                f"{', '.join(presets())}{did_you_mean(path)}"
            ]
        )
    try:
        content = path.read_text(encoding="utf-8")
        nested = tomllib.loads(content) if path.suffix == ".toml" else yaml.safe_load(content)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"--run-config {text}: cannot be read as {path.suffix[1:].upper()}: {error}"]) from error
    if not isinstance(nested, Mapping):
        raise ConfigError([f"--run-config {text}: must hold keys and values, such as train: {{rounds: 3}}"])
    return flatten(nested)


def _read_pairs(text: str, defaults: FlatConfig) -> dict[str, Value]:
    first = re.match(rf"\s*({_KEY})=", text)
    if first is None:
        raise ConfigError([f"--run-config {text}: {_hint(text)}"])
    _refuse_open_quotes(text)
    if not _NEXT_KEY.search(text, first.end()) and text[first.end() : first.end() + 1] not in ("'", '"'):
        pairs = [(first[1], text[first.end() :].strip())]  # one pair: blanks belong to its value
    else:
        pairs, end = [], 0
        for pair in _PAIR.finditer(text):
            if text[end : pair.start()].strip():
                break
            pairs.append((pair[1], pair[2]))
            end = pair.end()
        if text[end:].strip():
            raise ConfigError(
                [
                    f"--run-config {text}: cannot read {text[end:].strip()!r}; put text with blanks in quotes: "
                    "key='two words'"
                ]
            )
    comma = [value for _, value in pairs if value.endswith(",") and _NEXT_KEY.search(text)]
    if comma:
        raise ConfigError([f"--run-config {text}: separate pairs by blanks, without the comma in {comma[0]!r}"])
    empty = [key for key, value in pairs if not value]
    if empty:
        raise ConfigError([f"--run-config {text}: {empty[0]} has no value; write {empty[0]}='' for an empty text"])
    return {key: _value(value, defaults.get(key)) for key, value in pairs}


def _refuse_open_quotes(text: str) -> None:
    """Name the value that begins with a quote and has none at its end."""
    for found in _QUOTED.finditer(text):
        quote, key = found["open"], found["key"]
        if quote:
            raise ConfigError(
                [
                    f"--run-config {text}: the value of {key} begins with {quote} and lacks the {quote} at its end: "
                    f"{text[found.start('open') :]}; write {key}={quote}…{quote}, and around text that has a {quote} "
                    f"in it the other kind of quote"
                ]
            )


def _value(text: str, default: object) -> Value:
    """A TOML value, or text as it stands."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if isinstance(value, str):
        return value
    return text if isinstance(default, str) or not isinstance(value, Value) else value


def _hint(text: str) -> str:
    if Path(text).is_dir():
        return "is a directory; the app's directory comes before --run-config"
    if ":" in text:
        return "must be key=value, with '=' instead of ':'"
    if re.match(rf"\s*{_KEY}\s+=", text):
        return "must have no blanks around '=': train.rounds=3"
    if "=" in text:
        return f"{text.partition('=')[0].strip()!r} is no key; keys have a section and a name: train.rounds=3"
    near = difflib.get_close_matches(text, presets(), n=1)
    beside = did_you_mean(expanded(text)) if Path(text).suffix else ""
    if beside:
        return f"there is no such file{beside} It must be a .toml, .yaml or .yml file, key=value pairs or a preset"
    return (
        "must be a .toml, .yaml or .yml file, key=value pairs: train.rounds=3 strategy.name=fedprox, or a preset: "
        + (f"did you mean {near[0]}?" if near else ", ".join(presets()))
    )


def resolve_paths(flat: Mapping[str, Value], here: Path, local: bool) -> dict[str, Value]:
    """The configuration with paths that are relative to the directory `here` made absolute.

    The processes of a run work in other directories. With `local` false, the run directory is on another machine and
    stays as it is.
    """
    resolved = dict(flat)
    for key in ("run.directory", *_PATHS) if local else _PATHS:
        if resolved.get(key):
            resolved[key] = _absolute(str(resolved[key]), here)
    suite = str(resolved.get("evaluate.suite", ""))
    if suite.startswith(DATA_FILE):
        resolved["evaluate.suite"] = DATA_FILE + _absolute(suite.removeprefix(DATA_FILE), here)
    elif suite.endswith(".py"):
        resolved["evaluate.suite"] = _absolute(suite, here)
    template = str(resolved.get("data.template", ""))
    if template.endswith(".jinja"):
        resolved["data.template"] = _absolute(template, here)
    model = str(resolved.get("model.name", ""))
    if (here / model).joinpath("config.json").is_file():
        resolved["model.name"] = _absolute(model, here)
    names = str(resolved.get("data.name", ""))
    if any(name and name not in NAMED_SETS and (here / name).exists() for name in set_names(names)):
        resolved["data.name"] = ",".join(
            _absolute(name, here) if name not in NAMED_SETS and (here / name).exists() else name
            for name in set_names(names)
        )
    return resolved


def _absolute(text: str, here: Path) -> str:
    return str((here / expanded(text)).resolve())
