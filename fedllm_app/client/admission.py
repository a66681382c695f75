"""A run's configuration held against the policy of the site, before anything is imported, opened or loaded.

What comes out is the configuration that the site works with. Every path in it has been resolved once, and it is that
path which is opened later. What only the server needs is not in it: where the run is kept, which adapter it starts
from, and the strategy's class.
"""

import csv
import io
import os
from collections.abc import Mapping

from fedllm_app.class_paths import class_paths, is_class_path
from fedllm_app.client.policy import LimitRules, Names, Policy, SiteRefuses
from fedllm_app.data.named_sets import BUILT_IN
from fedllm_app.data.templates import TEMPLATES
from fedllm_app.evaluation.suite import DATA_FILE

Value = bool | int | float | str

_SHOWN = 120  # characters of a refused value
_AT_THE_SERVER = {"run.directory": "", "adapter.start": ""}


def admitted(run_config: Mapping[str, Value], policy: Policy | None) -> dict[str, Value]:
    """The configuration of a run as this site follows it; without a policy, in a simulation, as it stands.

    Raises
    ------
    SiteRefuses
        The policy does not allow what the run asks for. Every refused key is named, with the line that would allow it.
        Whether a refused file exists does not change the message.
    """
    if policy is None:
        return dict(run_config)
    admission = _Admission(run_config, policy)
    if admission.refused:
        raise _refusal(admission.refused, policy)
    return admission.flat


def refused_keys(run_config: Mapping[str, Value], policy: Policy | None) -> list[str]:
    """A sentence for each key of a run that the site refuses, none if it may run here."""
    return [] if policy is None else _Admission(run_config, policy).refused


def _refusal(refused: list[str], policy: Policy) -> SiteRefuses:
    keys = "1 key" if len(refused) == 1 else f"{len(refused)} keys"
    lines = "\n".join(f"  - {line}" for line in refused)
    said = f"the site's policy does not allow {keys} of the run:\n{lines}"
    where = policy.file or "none yet; a file that node-config policy='/absolute/policy.toml' names"
    return SiteRefuses(f"{said}\nThe policy file of this site: {where}", public=said)


class _Admission:
    """Goes through the keys of a run: replaces values in `flat`, and collects what is refused."""

    def __init__(self, run_config: Mapping[str, Value], policy: Policy) -> None:
        self.flat, self.policy, self.refused = dict(run_config) | _AT_THE_SERVER, policy, []
        self._strategy()
        self._limits()
        self._model()
        self._code()
        self._data()
        self._suite()

    def _text(self, key: str) -> str:
        """A value of text; "" for what is missing or no text, which the configuration's own checks refuse."""
        value = self.flat.get(key)
        return value if isinstance(value, str) else ""

    def _refuse(self, key: str, value: object, line: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}… ({len(shown)} characters)"
        self.refused.append(f"{key} = {shown}: to allow it, {line}")

    def _strategy(self) -> None:
        """A strategy's class is the server's: here its name would be imported for checks that the server has made."""
        if is_class_path(self._text("strategy.name")):
            self.flat |= {"strategy.name": "fedavg", "strategy.arguments": ""}

    def _limits(self) -> None:
        for name in LimitRules.model_fields:
            key, most = name.replace("_", "-"), getattr(self.policy.limits, name)
            value = self.flat.get(f"train.{key}")
            if most is not None and isinstance(value, int) and value > most:
                self._refuse(f"train.{key}", value, f"raise {key} = {most} in [limits]")

    def _model(self) -> None:
        name, rules = self._text("model.name"), self.policy.models
        self._named("model.name", name, rules.allowed, "allowed in [models]", " (or to models in node-config)")
        if self.flat.get("model.trust-remote-code") is True and not rules.trust_remote_code:
            self._refuse("model.trust-remote-code", True, "set trust-remote-code = true in [models]")

    def _code(self) -> None:
        task = self._text("train.task")
        named = {key: class_paths(self._text(key)) for key in ("train.corrections", "update.steps")}
        named["train.task"] = (task,) if is_class_path(task) else ()
        for key, paths in named.items():
            for path in paths:
                if not _is_listed(path, self.policy.code.class_paths):
                    self._refuse(key, path, "add it to class-paths in [code]")

    def _data(self) -> None:
        rules = self.policy.data.allowed
        template = self._text("data.template")
        if template not in TEMPLATES:
            self._named("data.template", template, self.policy.templates.allowed, "allowed in [templates]")
        self._named("data.test", self._text("data.test"), rules, "allowed in [data]")
        whole = self._text("data.name")
        if self.policy.data_path or whole == BUILT_IN:  # the node's own data replaces what the run names
            return
        names = [whole] if _allowed(whole, rules) or not whole.isprintable() else _separated(whole)
        for name in names:
            more = ", or name the site's own data with data-path in node-config"
            self._named("data.name", name, rules, "allowed in [data]", more)
        self.flat["data.name"] = _joined([_allowed(name, rules) or name for name in names])

    def _suite(self) -> None:
        suite = self._text("evaluate.suite")
        if not suite or self._text("evaluate.suite-at") != "clients":
            return
        rules = self.policy.data.allowed
        self._named("evaluate.suite-data", self._text("evaluate.suite-data"), rules, "allowed in [data]")
        if suite.startswith(DATA_FILE):
            found = _allowed(suite.removeprefix(DATA_FILE), tuple(filter(os.path.isabs, rules)))
            self._replace("evaluate.suite", suite, found and DATA_FILE + found, "add its path to allowed in [data]")
        else:
            self._named("evaluate.suite", suite, self.policy.evaluation.suites, "suites in [evaluation]")

    def _named(self, key: str, value: str, entries: Names, line: str, more: str = "") -> None:
        """Put what an allowed value resolves to, or refuse it; "" names nothing."""
        if value:
            self._replace(key, value, _allowed(value, entries), f"add it to {line}{more}")

    def _replace(self, key: str, value: str, found: str, line: str) -> None:
        if found:
            self.flat[key] = found
        else:
            self._refuse(key, value, line)


def _allowed(value: str, entries: Names) -> str:
    """What an allowed name or path is: the name itself, or the path without links; "" for what no entry allows.

    An entry that is a path allows what it leads to and all below that, as the disk has it, so neither `..` nor a link
    leads elsewhere. A name is compared as it stands: nothing in it is expanded.
    """
    if not os.path.isabs(value):
        return value if value in entries else ""
    path = _real(value)
    roots = [root for entry in entries if os.path.isabs(entry) and (root := _real(entry))]
    return path if any(path == root or path.startswith(root + os.sep) for root in roots) else ""


def _real(path: str) -> str:
    """The path without links; "" for what cannot be one."""
    if not path.isprintable():
        return ""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return ""


def _is_listed(path: str, entries: Names) -> bool:
    """Whether a class path is one of the entries or in a package that one of them names with `.*`."""
    return any(path == entry or (entry.endswith(".*") and path.startswith(entry[:-1])) for entry in entries)


def _separated(names: str) -> list[str]:
    """The names of several sets, as `data.named_sets.set_names` separates them, without a look at the disk."""
    try:
        return [name.strip() for name in next(csv.reader([names], skipinitialspace=True))] or [""]
    except csv.Error:
        return [names]


def _joined(names: list[str]) -> str:
    """The same as one value again."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()
