"""What a site allows to runs, whatever the server asks: read from the site's own files, never from a message.

A site names its policy in its node configuration, `policy='/absolute/policy.toml'`. Without one, a run may use what the
node configuration names and what comes with the app. `admission` holds a run against the policy. The nodes of a
simulation have no policy: there, whoever starts the run owns the data.
"""

import csv
import difflib
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from fedllm_app.config.accepted import accepted
from fedllm_app.data.client_rows import DataSelection
from fedllm_app.errors import UserError
from fedllm_app.models.packaged import PACKAGED_MODELS

HUB_ID = re.compile(r"(?!\.)[\w.-]+(?<!\.)/(?!\.)[\w.-]+(?<!\.)")
"""`owner/name`; neither part begins or ends with a dot, so none is a step in a path."""

FLOWERS_OWN = {"partition-id", "num-partitions"}
"""The keys of a node configuration that Flower sets: all that a node of a simulation has."""


class SiteRefuses(UserError):
    """The site refuses what the run asks for."""

    shareable = True


class PolicyError(UserError):
    """The site's policy cannot be used; the message names the file, the key and what is accepted."""

    public = "the site's policy cannot be read, so no run may use anything here"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-"))


Names = tuple[StrictStr, ...]
Limit = Annotated[StrictInt, Field(ge=1)]


class ModelRules(_Table):
    """Base models that a run may name: directories with all below them, Hub ids, names of packaged models."""

    allowed: Names = tuple(PACKAGED_MODELS)
    downloads: StrictBool = False
    trust_remote_code: StrictBool = False


class DataRules(_Table):
    """Data that a run may name beside the node's own data-path: files, folders with all below them, sets by name."""

    allowed: Names = ()


class TemplateRules(_Table):
    """Files of chat templates that a run may name, or folders of them; formats by name are always allowed."""

    allowed: Names = ()


class EvaluationRules(_Table):
    """Suites that a run may ask at this site: names, or Python files, which are executed."""

    suites: Names = ("builtin",)


class CodeRules(_Table):
    """Class paths that a run may name for what runs at this site: a class, or all of a package with `.*` at its end."""

    class_paths: Names = ()


class LimitRules(_Table):
    """The most that a run may ask for of a key of its configuration; None sets no limit."""

    rounds: Limit | None = None
    local_steps: Limit | None = None
    batch_size: Limit | None = None
    gradient_accumulation: Limit | None = None
    max_length: Limit | None = None


class Policy(_Table):
    """What a site allows. The defaults are those of a site without a policy file.

    Attributes
    ----------
    file : str
        Where the policy stands; "" for a site that has no policy file.
    data_path : str
        The node's own data, which it trains on whatever the run names; "" where it names none.
    """

    file: str = ""
    data_path: str = ""
    models: ModelRules = ModelRules()
    data: DataRules = DataRules()
    templates: TemplateRules = TemplateRules()
    evaluation: EvaluationRules = EvaluationRules()
    code: CodeRules = CodeRules()
    limits: LimitRules = LimitRules()


_TABLES = tuple(name for name in Policy.model_fields if name not in ("file", "data_path"))
_PATHS = {"models": "allowed", "data": "allowed", "templates": "allowed", "evaluation": "suites"}


def is_simulated(node_config: Mapping[str, object]) -> bool:
    """Whether a node is a virtual one of a simulation: Flower numbers its partition, and it says nothing else."""
    return "partition-id" in node_config and node_config.keys() <= FLOWERS_OWN


def site_policy(node_config: Mapping[str, object]) -> Policy | None:
    """The policy of a node, read anew; None for a node of a simulation.

    Raises
    ------
    PolicyError
        The file is not there or says something that is not understood. Then nothing may run: a policy is never
        guessed.
    """
    if is_simulated(node_config):
        return None
    file = node_config.get("policy", "")
    if not isinstance(file, str) or (file and not Path(file).is_absolute()):
        raise PolicyError(f"node-config policy = {file!r}: must be the absolute path of a TOML file")
    policy = read_policy(Path(file)) if file else Policy()
    more = _models_of(node_config.get("models", ""))
    models = policy.models.model_copy(update={"allowed": (*policy.models.allowed, *more)})
    return policy.model_copy(update={"models": models, "data_path": str(node_config.get("data-path", ""))})


def _models_of(text: object) -> tuple[str, ...]:
    """The models that a node configuration names, separated by commas; one with a comma stands in double quotes."""
    if not isinstance(text, str):
        raise PolicyError(f"node-config models = {text!r}: must be text in single quotes")
    if not text.strip():
        return ()
    names = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True)))
    if problems := [problem for name in names if (problem := _entry_problem("models", name))]:
        raise PolicyError("node-config models: " + "; ".join(problems))
    return names


def read_policy(file: Path) -> Policy:
    """The policy of a TOML file. What it does not name has its default; see `default_policy_text`.

    Raises
    ------
    PolicyError
        As `site_policy`.
    """
    try:
        if file.stat().st_mode & stat.S_IWOTH:
            raise PolicyError(f"the site's policy {file} can be written by everybody here: chmod o-w {file}")
        parsed = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"the site's policy {file} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"the site's policy {file} is no TOML: {error}") from error
    problems = [_unknown(key, _TABLES) for key in parsed if key not in _TABLES]
    try:
        policy = Policy.model_validate({key: value for key, value in parsed.items() if key in _TABLES})
    except ValidationError as error:
        problems += [_explained(entry) for entry in error.errors()]
    else:
        for table, key in _PATHS.items():
            entries = getattr(getattr(policy, table), key)
            problems += [f"{table}.{key}: {said}" for entry in entries if (said := _entry_problem(table, entry))]
    if problems:
        raise PolicyError(f"the site's policy {file} has problems:\n" + "\n".join(f"  - {line}" for line in problems))
    return policy.model_copy(update={"file": str(file)})


def _explained(entry: Mapping[str, Any]) -> str:
    """A sentence on one of pydantic's errors: the key, and what it must be."""
    place = [str(part) for part in entry["loc"]]
    key = ".".join(part for part in place if not part.isdigit())
    if entry["type"] == "extra_forbidden":
        rules = Policy.model_fields[place[0]].annotation
        return _unknown(key, [f"{place[0]}.{name.replace('_', '-')}" for name in rules.model_fields])
    return f"{key} = {entry['input']!r}: must be {accepted(entry)}"


def _unknown(key: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: unknown key; " + (f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}")


def _entry_problem(table: str, entry: str) -> str:
    """What is wrong with a name in a list of allowed ones; "" for nothing."""
    if os.path.isabs(entry):
        everything = os.path.realpath(entry) == os.path.sep
        return f"{entry!r} would allow every file of the site; name a directory below it" if everything else ""
    if entry.startswith(("~", ".", "$", "file:")) or not entry.strip() or entry.count("/") > 1:
        return f"{entry!r} must be an absolute path"
    if table == "models" and entry not in PACKAGED_MODELS and not HUB_ID.fullmatch(entry):
        return f"{entry!r} must be an absolute path, a Hub id owner/name, or one of {', '.join(PACKAGED_MODELS)}"
    if table == "templates":
        return f"{entry!r} must be an absolute path"
    return ""


def default_policy_text(models: tuple[str, ...] = (), data: tuple[str, ...] = ()) -> str:
    """A policy file with every key and what it means, for `fedllm site init`.

    Parameters
    ----------
    models : tuple[str, ...]
        Base models that it allows beside the packaged ones: directories or Hub ids.
    data : tuple[str, ...]
        Data that it allows beside the node's data-path.
    """
    lines = [
        "# What runs may use at this site. No message of the server changes it; the file is read for every message.",
        "# A directory allows all below it. Names that are not listed are refused, and the server is told which key.",
        "",
        "[models]",
        "# Base models: absolute directories, Hub ids, packaged models.",
        f"allowed = {_listed((*PACKAGED_MODELS, *models))}",
        "# Whether what is named here may be fetched from the Hub; otherwise only its cache on this machine is read.",
        "downloads = false",
        "# Whether a run may execute the Python code that comes with a model.",
        "trust-remote-code = false",
        "",
        "[data]",
        "# Data that a run may name beside this node's data-path: files, folders, named sets, Hub ids.",
        f"allowed = {_listed(data)}",
        "",
        "[templates]",
        "# .jinja files that data.template may name, or folders of them.",
        "allowed = []",
        "",
        "[evaluation]",
        '# Suites that evaluate.suite may name with evaluate.suite-at = "clients". A Python file is executed, and the',
        "# suite code runs programs that the model writes.",
        'suites = ["builtin"]',
        "",
        "[code]",
        '# Class paths of train.task, train.corrections and update.steps: "package.module.Class", or "package.*".',
        "class-paths = []",
        "",
        "[limits]",
        "# The most that a run may ask for. Remove the # to set a limit.",
        "# rounds = 1000",
        "# local-steps = 1000",
        "# batch-size = 64",
        "# gradient-accumulation = 64",
        "# max-length = 4096",
    ]
    return "\n".join(lines) + "\n"


def _listed(names: tuple[str, ...]) -> str:
    """Names as an array of TOML, whose basic strings know JSON's escapes."""
    return f"[{', '.join(json.dumps(name, ensure_ascii=False) for name in dict.fromkeys(names))}]"


def check_pooling(selection: DataSelection) -> None:
    """Refuse to train on the rows of all as if one client owned them, at a site that has rows of its own."""
    if selection.whole:
        raise SiteRefuses(
            "strategy.name = 'centralized' trains one client on everybody's rows, and this site has rows of its own "
            "(node-config data-path), which no other has: choose another strategy"
        )
