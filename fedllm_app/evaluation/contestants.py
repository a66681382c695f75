"""What is evaluated side by side: the base and adapters on it, over one loaded base model."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.methods import check_dora
from fedllm_app.data.templates import Template, TemplateError, get_template
from fedllm_app.evaluation.asking import Asker
from fedllm_app.evaluation.conversation import Source, find_source, with_adapter
from fedllm_app.evaluation.reading import SharedReader
from fedllm_app.models.base import (
    ModelLocation,
    ModelValues,
    context_length,
    load_model,
    load_tokenizer,
    locate_model,
    stop_ids,
)
from fedllm_app.models.quantization import prepare_bitsandbytes
from fedllm_app.paths import expanded
from fedllm_app.runs.directory import PromptRecord, client_adapters, run_of
from fedllm_app.training.head import choose_head, install_head
from fedllm_app.training.probe import probe_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = "base"


@dataclass(frozen=True)
class Contestant:
    """A model of the table: a name, and the adapter it is, None for the base.

    `shown` is how many worked examples of each set (`EvaluationTask.worked`) stand before its questions.
    """

    name: str
    source: Source | None
    shown: int = 0


def find_contestants(
    directories: Sequence[Path],
    clients: bool = False,
    base: bool = False,
    model: str | None = None,
    template: str | None = None,
    trust_remote_code: bool = False,
    quantization: str | None = None,
) -> list[Contestant]:
    """The models that runs, checkpoints and PEFT directories name, the base first if it is asked for.

    Parameters
    ----------
    clients : bool
        Of runs with strategy.name = 'local': every client's adapter, named "client-K". Such a run has no other, so it
        stands for all its clients anyway. An error if none of the directories is of such a run.
    model, template, trust_remote_code, quantization
        As in `find_source`.

    Raises
    ------
    AdapterError
        There is no adapter, two adapters are on different bases, or nothing is to be evaluated.
    """
    found: list[Contestant] = [Contestant(BASE, None)] if base else []
    for directory in directories:
        directory = expanded(directory).resolve()
        alone = client_adapters(directory)
        for client in alone or (None,):
            source = find_source(directory, client, model, template, None, trust_remote_code, quantization)
            found.append(Contestant(_name(directory, client), source))
    if clients and not any(map(client_adapters, (expanded(path).resolve() for path in directories))):
        raise AdapterError(
            "--clients: none of these directories has adapters of single clients; strategy.name = 'local' trains those:"
            " add the directory of such a run"
        )
    if not found:
        raise AdapterError("nothing to evaluate: name a run directory or an adapter, or --base with --model")
    sources = [contestant for contestant in found if contestant.source]
    for other in sources[1:]:
        if _weights(other.source.model) != _weights(sources[0].source.model):
            raise AdapterError(
                f"{sources[0].source.adapter} and {other.source.adapter} are adapters of different base models or "
                f"quantizations ({_shown(sources[0].source.model)}; {_shown(other.source.model)}): evaluate them one "
                "after the other"
            )
    return _with_own_names(found)


def _weights(values: ModelValues) -> tuple:
    return values.name, values.dtype, values.quantization, values.double_quantization


def _shown(values: ModelValues) -> str:
    return f"{values.name}, {values.dtype}, quantization {values.quantization}"


def _name(directory: Path, client: int | None) -> str:
    parts = [part for part in directory.parts if part not in ("/", "adapter", "checkpoints", "adapters")]
    name = "/".join(parts[-2:]) if re.fullmatch(r"round-\d+", parts[-1]) else parts[-1]
    return name if client is None else f"client-{client}"


def _with_own_names(found: list[Contestant]) -> list[Contestant]:
    """Names that occur twice get the directory before, and then a number."""
    names = [contestant.name for contestant in found]
    named: list[Contestant] = []
    for contestant in found:
        name = contestant.name
        if names.count(name) > 1 and contestant.source:
            run = run_of(contestant.source.adapter)
            name = f"{(run or contestant.source.adapter).parent.name}/{(run.name + '/') if run else ''}{name}"
        number, own = 1, name
        while own in {other.name for other in named}:
            number += 1
            own = f"{name} ({number})"
        named.append(replace(contestant, name=own))
    return named


@dataclass
class Stage:
    """The loaded base on which one contestant after the other stands; nothing is loaded twice."""

    values: ModelValues
    batch_rows: int = 0

    @cached_property
    def location(self) -> ModelLocation:
        """Where the base is."""
        return locate_model(self.values.name, self.values.trust_remote_code)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base's tokenizer."""
        return load_tokenizer(self.location)

    @cached_property
    def context(self) -> int | None:
        """Positions that the base reads."""
        return context_length(self.location)

    @cached_property
    def base(self) -> "PreTrainedModel":
        """The base model, its head installed (`head.install_head`)."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        prepare_bitsandbytes(self.values.quantization)
        base = load_model(self.values)
        self._head = choose_head(base, probe_base(base, self.location))
        install_head(base, self._head)
        return base.eval()

    @cached_property
    def unshared(self) -> str:
        """Why common beginnings are not read once; "" if they are."""
        base = self.base
        return SharedReader(base).agrees() if self._head == "completion" else "its head is no plain product"

    def template(self, prompt: PromptRecord) -> Template:
        """A recorded template, bound to the tokenizer. TemplateError as in `get_template`."""
        return get_template(
            prompt.template,
            self.tokenizer,
            prompt.text,
            special_tokens_in_text=prompt.special_tokens_in_text,
            stops=stop_ids(self.location),
        )

    @contextmanager
    def asker(self, contestant: Contestant) -> Iterator[Asker]:
        """Ask a contestant; afterwards the base is as it was.

        Raises
        ------
        AdapterError
            The adapter does not fit the base.
        """
        base, source = self.base, contestant.source
        shared = SharedReader(base) if not self.unshared else None
        if source is None:
            yield Asker(base, self.tokenizer, shared, self.context, self.batch_rows)
            return
        check_dora(source.dora, self.values.quantization)
        model = with_adapter(base, source).eval()
        context = self.context and self.context - source.virtual_tokens
        try:
            # Virtual tokens come before every row, so rows are then read whole, through PEFT.
            yield Asker(model, self.tokenizer, None if source.virtual_tokens else shared, context, self.batch_rows)
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # PEFT on configurations that it keeps
                if not source.virtual_tokens:
                    model.unload()


def prompt_of(
    contestants: Sequence[Contestant], template: str | None, system_prompt: str | None
) -> PromptRecord | None:
    """How a template's questions are written for all contestants: as given, else as the first adapter's run recorded.

    None if nothing is recorded or given. TemplateError if the adapters' records differ: one table asks all models the
    same.
    """
    if template:
        name = str(expanded(template).resolve()) if template.endswith(".jinja") else template
        return PromptRecord.of(name, system_prompt or "")
    records = {contestant.name: contestant.source.prompt for contestant in contestants if contestant.source}
    first = next(iter(records), None)
    if first is None:
        return None
    for name, record in records.items():
        if record != records[first]:
            raise TemplateError(
                f"{first} was trained with the template {records[first].template!r} and {name} with "
                f"{record.template!r} (or another system prompt): name one for all with --template"
            )
    return records[first] if system_prompt is None else replace(records[first], system_prompt=system_prompt)
