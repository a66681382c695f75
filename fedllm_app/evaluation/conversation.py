"""The model that a run has trained, its prompts written as they were in training: found, loaded, asked.

What prompts are written with is recorded beside every adapter (`PromptRecord`); the base model and how its weights are
kept stand in the run's configuration. Everything is found and checked before weights are loaded.
"""

import json
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.methods import check_dora, peft_asks_by_an_old_name
from fedllm_app.adapters.peft_directory import weights_file
from fedllm_app.data.encoding import encode_prompts
from fedllm_app.data.templates import Template, TemplateError, Turn, get_template
from fedllm_app.evaluation.generation import ContextTooLong, generate
from fedllm_app.models.base import (
    ModelLocation,
    ModelValues,
    context_length,
    load_model,
    load_tokenizer,
    locate_model,
    stop_ids,
)
from fedllm_app.models.packaged import ModelNotFound
from fedllm_app.models.quantization import prepare_bitsandbytes
from fedllm_app.paths import did_you_mean, expanded
from fedllm_app.runs.directory import (
    PromptRecord,
    adapter_directory,
    client_adapters,
    read_run_config,
    recorded_template,
    run_of,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Source:
    """What answers: an adapter, its base model, and how its prompts are written.

    `virtual_tokens` are those that the adapter puts before every prompt.
    """

    adapter: Path
    model: ModelValues
    prompt: PromptRecord
    virtual_tokens: int
    dora: bool = False


def find_source(
    directory: Path,
    client: int | None = None,
    model: str | None = None,
    template: str | None = None,
    system_prompt: str | None = None,
    trust_remote_code: bool = False,
    quantization: str | None = None,
) -> Source:
    """Find the adapter that `directory` names, and what is recorded of its base and prompts.

    Parameters
    ----------
    directory : Path
        A run directory, one of its checkpoints, or any PEFT directory.
    client : int | None
        Of a run with strategy.name = 'local': the client whose adapter it is.
    model, template, system_prompt, quantization : str | None
        Instead of what is recorded.
    trust_remote_code : bool
        Never taken from a file.

    Raises
    ------
    AdapterError
        There is no adapter, or no such client.
    ModelNotFound
        No base model is recorded or given.
    TemplateError
        No template is recorded or given.
    """
    adapter = find_adapter(expanded(directory).resolve(), client)
    settings = _read_settings(adapter / "adapter_config.json")
    base = replace(base_values(adapter, settings, model), trust_remote_code=trust_remote_code)
    return Source(
        adapter,
        replace(base, quantization=quantization) if quantization else base,
        _prompt(adapter, template, system_prompt),
        settings.get("num_virtual_tokens") or 0,
        bool(settings.get("use_dora")),
    )


def find_adapter(path: Path, client: int | None) -> Path:
    """The PEFT directory that an absolute path names. `AdapterError` as in `find_source`."""
    if not path.exists():
        raise AdapterError(
            f"there is no directory {path}: name a run's directory, a checkpoint of one, or a PEFT directory"
            f"{did_you_mean(path)}"
        )
    if client is not None:
        alone = client_adapters(path)
        if client not in alone:
            raise AdapterError(f"--client {client}: {path} holds no adapter of it; {_those(alone)}")
        return alone[client]
    adapter = adapter_directory(path)
    if not (adapter / "adapter_config.json").is_file():
        raise AdapterError(
            f"{adapter} holds no adapter (adapter_config.json): it must be a finished run's directory, a checkpoint "
            "of one, or a PEFT directory"
        )
    weights_file(adapter)
    run = run_of(adapter)
    if run and read_run_config(run)["strategy.name"] == "local" and adapter.parent.name != "adapters":
        raise AdapterError(
            f"{adapter} is what the clients started from, because strategy.name = 'local' trains no common model: "
            f"add --client K to {run}; {_those(client_adapters(run))}"
        )
    return adapter


def _those(alone: Mapping[int, Path]) -> str:
    return f"clients that have one: {', '.join(map(str, alone)) or 'none'}"


def _read_settings(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{file} cannot be read: {error}") from error


def base_values(adapter: Path, settings: dict, given: str | None) -> ModelValues:
    """The base as the run kept it, and as PEFT names it (in `settings`) for an adapter of elsewhere; or `given`."""
    run = run_of(adapter)
    config = read_run_config(run) if run else None
    name = given or (config["model.name"] if config else settings.get("base_model_name_or_path"))
    if not name:
        raise ModelNotFound(f"{adapter} names no base model: name it with --model")
    if given and os.path.isdir(expanded(given)):
        name = str(expanded(given).resolve())
    if config is None:
        return ModelValues(name, "auto")
    missing = [
        key for key in ("dtype", "attention", "quantization", "double-quantization") if f"model.{key}" not in config
    ]
    if missing:
        raise AdapterError(f"{run} is a run of another version of the app: its config.json has no model.{missing[0]}")
    return ModelValues(
        name,
        config["model.dtype"],
        # All implementations compute the same. Flash attention is a matter of the machine that trained, and what "auto"
        # took there one of its rows' length.
        config["model.attention"] if config["model.attention"] in ("eager", "sdpa") else "auto",
        quantization=config["model.quantization"],
        double_quantization=config["model.double-quantization"],
        device_map=config.get("model.device-map", "none"),  # runs of before this key had one GPU a client
    )


def _prompt(adapter: Path, template: str | None, system_prompt: str | None) -> PromptRecord:
    recorded = recorded_template(adapter)
    if template:
        name = str(expanded(template).resolve()) if template.endswith(".jinja") else template
        prompt = replace(recorded or PromptRecord(name, "", None), template=name, text=None)
    elif recorded is None:
        raise TemplateError(f"{adapter} does not say how its prompts were written: name its template with --template")
    else:
        prompt = recorded
    return prompt if system_prompt is None else replace(prompt, system_prompt=system_prompt)


@dataclass
class Chat:
    """Answers conversations, with the adapter or as the `base` alone; `max_new_tokens`, `temperature` as in `generate`.

    Everything is loaded when it is first needed, and the weights last.
    """

    source: Source
    base: bool = False
    max_new_tokens: int = 256
    temperature: float = 0.0

    @cached_property
    def location(self) -> ModelLocation:
        """Where the base model is. `ModelNotFound` says how to name another, here and below."""
        with self._or_another_base():
            return locate_model(self.source.model.name, self.source.model.trust_remote_code)

    @cached_property
    def context(self) -> int | None:
        """See `context_length`."""
        with self._or_another_base():
            return context_length(self.location)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base model's tokenizer."""
        with self._or_another_base():
            return load_tokenizer(self.location)

    @cached_property
    def template(self) -> Template:
        """The template, bound to the tokenizer. `TemplateError` if it is not there or does not suit."""
        prompt = self.source.prompt
        try:
            return get_template(
                prompt.template,
                self.tokenizer,
                prompt.text,
                special_tokens_in_text=prompt.special_tokens_in_text,
                stops=stop_ids(self.location),
            )
        except TemplateError as error:
            raise TemplateError(f"{error}; --template names another") from error

    @cached_property
    def model(self) -> "torch.nn.Module":
        """The base model with the adapter, or alone. `AdapterError` if they do not fit."""
        from transformers.utils import logging

        logging.disable_progress_bar()  # of the weights being loaded
        prepare_bitsandbytes(self.source.model.quantization)
        if not self.base:
            check_dora(self.source.dora, self.source.model.quantization)
        model = load_model(self.source.model)
        return model if self.base else with_adapter(model, self.source)

    def answer(
        self, turns: Sequence[Turn], show: Callable[[str], None] | None = None, without_adapter: bool = False
    ) -> str:
        """The answer to a conversation that ends with a user turn; `show` is given its pieces as they are generated.

        `without_adapter`: that of the base, whose weights are loaded once for both.

        Raises
        ------
        ContextTooLong
            The conversation and an answer are longer than what the model reads.
        TemplateError
            The template refuses the conversation.
        """
        # As `data.system-prompt`: "" leaves the template's own.
        system_prompt = self.source.prompt.system_prompt or None
        ids = encode_prompts([turns], self.template, self.tokenizer, system_prompt)
        alone = self.base or without_adapter
        read = len(ids[0]) + (0 if alone else self.source.virtual_tokens)
        if self.context and read + self.max_new_tokens > self.context:
            raise ContextTooLong(
                f"the conversation takes {read} tokens and an answer up to {self.max_new_tokens}, and the model reads "
                f"{self.context} at most: ask less, begin anew, or lower --max-new-tokens"
            )
        with self._as_base() if alone else nullcontext(), warnings.catch_warnings():
            # PEFT on methods with virtual tokens: in a row without padding, positions are what they are without it.
            warnings.filterwarnings("ignore", "Position ids are not supported", UserWarning)
            return generate(
                self.model, self.tokenizer, self.template, ids, self.max_new_tokens, self.temperature, show
            )[0]

    def _as_base(self) -> AbstractContextManager:
        return nullcontext() if self.base else self.model.disable_adapter()

    @contextmanager
    def _or_another_base(self) -> Iterator[None]:
        try:
            yield
        except ModelNotFound as error:
            raise ModelNotFound(f"{error}; --model names another base") from error


def with_adapter(model: "torch.nn.Module", source: Source) -> "torch.nn.Module":
    """Put the adapter of `source` into its base. `AdapterError` if it does not fit."""
    import torch
    from peft import PeftModel

    with peft_asks_by_an_old_name():
        # An adapter that covers a part of the model only is one of another model, and PEFT no more than warns.
        warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
        try:
            return PeftModel.from_pretrained(model, source.adapter)
        except torch.OutOfMemoryError:  # a RuntimeError, and not about the adapter
            raise
        except (RuntimeError, ValueError, UserWarning) as error:
            reason = textwrap.shorten(str(error).splitlines()[-1], 300)
            raise AdapterError(f"{source.adapter} does not fit the model {source.model.name}: {reason}") from error
