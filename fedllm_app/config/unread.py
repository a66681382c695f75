"""Settings that a run does not read: the user gave them, and another setting decides that nobody asks for them."""

from collections.abc import Iterable

from fedllm_app.class_paths import is_class_path
from fedllm_app.config.sections import PROMPT_METHODS, Config
from fedllm_app.data.named_sets import BUILT_IN
from fedllm_app.data.partition import LABELLED

_OWN_SECTION = ("dpo", "kto", "text")  # tasks that have a section of their own
_OF_SUITES = ("suite-data", "suite-limit", "suite-at")


def unread_settings(given: Iterable[str], config: Config) -> list[str]:
    """A sentence for each key that was given and that this run does not read.

    Parameters
    ----------
    given : Iterable[str]
        Keys that the user set, such as "strategy.fedprox.mu". Defaults that are not read are nobody's mistake.
    """
    found = ((key, _reader(key, config)) for key in given)
    return [f"{key} is not read: it belongs to {reader}" for key, reader in found if reader]


def _reader(key: str, config: Config) -> str:
    """The setting under which a key would be read; "" if it is read."""
    section, _, name = key.partition(".")
    if section == "strategy" and "." in name:
        strategy = name.partition(".")[0]
        return "" if strategy == config.strategy.name else f"strategy.name = {strategy!r}"
    if section in _OWN_SECTION:
        known = config.train.task == section or is_class_path(config.train.task)  # which may read any section
        return "" if known else f"train.task = {section!r}"
    if section == "lora":
        return "" if config.adapter.method == "lora" else "adapter.method = 'lora'"
    return _OF_SECTION[section](name, config) if section in _OF_SECTION else ""


def _of_adapter(name: str, config: Config) -> str:
    method = config.adapter.method
    if name == "virtual-tokens" and method not in PROMPT_METHODS:
        return f"adapter.method = {', '.join(map(repr, PROMPT_METHODS))}"
    return "adapter.method = 'p-tuning'" if name == "encoder-hidden-size" and method != "p-tuning" else ""


def _of_data(name: str, config: Config) -> str:
    data = config.data
    if name == "partition-column" and data.partition_column and data.partition not in LABELLED:
        return f"data.partition = {', '.join(map(repr, sorted(LABELLED)))}"
    if name == "alpha" and data.partition != "dirichlet":
        return "data.partition = 'dirichlet'"
    if name == "examples-per-client" and data.name != BUILT_IN:
        return f"data.name = {BUILT_IN!r}; the number of rows of other data is data.samples"
    return "data.held-out-examples = 0" if name == "held-out-share" and data.held_out_examples else ""


def _of_evaluate(name: str, config: Config) -> str:
    evaluate = config.evaluate
    if name in _OF_SUITES and not evaluate.suite:
        return "evaluate.suite, which names none"
    return "evaluate.every above 0" if name == "examples" and not evaluate.every else ""


_OF_SECTION = {"adapter": _of_adapter, "data": _of_data, "evaluate": _of_evaluate}
