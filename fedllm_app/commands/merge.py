"""`fedllm merge`: base and adapter as one model, in a directory that transformers and inference servers load."""

import argparse
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedllm_app.commands.published import (
    absolute,
    add_options,
    card_base,
    check_room,
    checked_output,
    copy_licences,
    files_and_bytes,
    written_whole,
)
from fedllm_app.errors import UserError

if TYPE_CHECKING:
    from fedllm_app.adapters.merging import Merged
    from fedllm_app.data.chat_template import ChatTemplate
    from fedllm_app.evaluation.conversation import Chat, Source
    from fedllm_app.models.base import ModelLocation

_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Types of weights, and their bytes."""

_LARGEST_FILE = "5GB"
_QUESTION = [("user", "Which word is the longest: flute, zinc, wardrobe?")]
_OF_THE_BASE = ("preprocessor_config.json", "processor_config.json")  # of models that read images, too


class NotMerged(UserError):
    """An adapter cannot be merged into this base, or not on this machine."""


def add_parser(subparsers) -> None:
    """Add `fedllm merge`."""
    parser = subparsers.add_parser("merge", help="base and adapter as one model, for transformers and vLLM")
    add_options(parser)
    parser.add_argument(
        "--dtype", choices=tuple(_DTYPES), help="of the weights (default: model.dtype of the run; auto: the base's own)"
    )
    parser.add_argument("--model", help="instead of the recorded base: a built-in name, a directory or a Hub id")
    parser.add_argument("--template", help="instead of the recorded one: a name or a .jinja file")
    parser.add_argument("--system-prompt", metavar="TEXT", help="instead of the recorded one; '' = the template's own")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base model")
    parser.set_defaults(command=_merge)


def _merge(parsed: argparse.Namespace, console: Console) -> int:
    from fedllm_app.adapters.merging import merge
    from fedllm_app.data.chat_template import chat_template
    from fedllm_app.data.encoding import encode_prompts
    from fedllm_app.models.licence import licence_of
    from fedllm_app.models.quiet import quiet_transformers
    from fedllm_app.runs.card import model_card
    from fedllm_app.runs.card_facts import gather_facts, saved_evaluations

    out = checked_output(parsed.out)
    source = _source(parsed)
    evaluations = saved_evaluations(source.adapter, parsed.evaluation)
    chat = _opened(source, parsed.dtype)
    system_prompt = source.prompt.system_prompt or None
    written = chat_template(chat.template, chat.tokenizer, system_prompt)
    (prompt,) = encode_prompts([_QUESTION], chat.template, chat.tokenizer, system_prompt)
    licence = licence_of(chat.location)
    check_room(out, _size(chat.location, chat.source.model.dtype))
    with console.status("loading and merging"), _memory_errors():
        merged = merge(chat.model, prompt)
    base, dtype = card_base(source.model.name, licence), chat.source.model.dtype
    facts = gather_facts(source.adapter, out.name, base, source.prompt, _use(out.name), dtype, evaluations)
    with console.status("writing"), written_whole(out) as directory, quiet_transformers():
        _save(merged.model, chat, written, prompt, directory)
        copy_licences(licence, directory)
        (directory / "README.md").write_text(model_card(facts), encoding="utf-8")
    files, size = files_and_bytes(out)
    lines = [
        f"{out}: {merged.model.num_parameters():,} parameters in {dtype}, {files} files, {size / 1e6:,.1f} MB",
        *_agreement(merged, dtype),
    ]
    if source.model.quantization != "none":
        lines.append(
            f"warning: the adapter was trained over weights in {source.model.quantization} and is merged into the same "
            f"weights in {dtype}: compare both with fedllm evaluate"
        )
    if not licence.name:
        lines.append("warning: the licence of the base is not known here; look it up before you publish the model")
    lines.append(f"serve it: {shlex.join(['vllm', 'serve', str(out)])}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _agreement(merged: "Merged", dtype: str) -> Iterator[str]:
    """How far the merged model agrees with base and adapter, in words."""
    exact = "" if dtype == "float32" else "; --dtype float32 rounds less"
    says = "agrees with base and adapter within" if merged.is_rounding else "differs by more than"
    yield (
        f"the merged model {says} what rounding to {dtype} can cause: logits differ by up to {merged.difference:.2g}, "
        f"the largest is {merged.largest:.3g}, and the adapter changes them by up to {merged.effect:.2g}; the "
        f"likeliest token is the same at {merged.same} of {merged.places} places of a question{exact}"
    )
    if not merged.is_rounding:
        yield "warning: compare both with fedllm evaluate before you use the merged model"
    elif 0 < merged.effect <= merged.difference:
        yield f"warning: rounding to {dtype} changes the model as much as the adapter does; use --dtype float32"


def _source(parsed: argparse.Namespace) -> "Source":
    """The adapter and its base. What cannot be merged is refused before anything else is looked at."""
    from fedllm_app.adapters.merging import check_mergeable
    from fedllm_app.adapters.start import read_settings
    from fedllm_app.evaluation.conversation import find_adapter, find_source

    run = absolute(parsed.run)
    adapter = find_adapter(run, parsed.client)
    check_mergeable(read_settings(adapter), adapter)
    return find_source(
        run, parsed.client, parsed.model, parsed.template, parsed.system_prompt, parsed.trust_remote_code
    )


def _opened(source: "Source", dtype: str | None) -> "Chat":
    """Adapter and base as they are merged: the base in full precision, and in the type that is written."""
    from fedllm_app.evaluation.conversation import Chat
    from fedllm_app.models.base import load_model_config, stored_dtype
    from fedllm_app.models.check import stored_quantization

    location = Chat(source).location
    if stored_quantization(load_model_config(location)):
        raise NotMerged(
            f"the base {source.model.name} is stored quantized, and a sum of its rounded weights and the adapter would "
            "be rounded again: name the same model in 16 or 32 bits with --model"
        )
    recorded = source.model.dtype if source.model.dtype != "auto" else stored_dtype(location)
    chosen = dtype or recorded
    if chosen not in _DTYPES:
        raise NotMerged(f"the base {source.model.name} is stored in {chosen}: choose another type with --dtype")
    values = replace(source.model, dtype=chosen, quantization="none", double_quantization=False)
    return Chat(replace(source, model=values))


def _size(location: "ModelLocation", dtype: str) -> int:
    """Bytes of the weights; 0 where only loading them tells."""
    from fedllm_app.models.files import weight_shapes

    shapes = weight_shapes(location.directory) if location.directory is not None else None
    return sum(math.prod(shape) for shape in (shapes or {}).values()) * _DTYPES[dtype]


@contextmanager
def _memory_errors() -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NotMerged(
            "the GPU has no memory for the base model: set CUDA_VISIBLE_DEVICES='' to merge it in main memory"
        ) from error


def _save(model, chat: "Chat", template: "ChatTemplate", prompt: list[int], directory: Path) -> None:
    """Weights, configuration, tokenizer, chat template and generation settings."""
    import shutil

    from transformers import AutoTokenizer, GenerationConfig

    from fedllm_app.data.chat_template import prompt_ids
    from fedllm_app.evaluation.generation import stop_tokens
    from fedllm_app.models.base import load_model_config
    from fedllm_app.models.location import file_of

    tokenizer, stored = chat.tokenizer, load_model_config(chat.location)
    # Training switches these off.
    model.config.use_cache = getattr(stored, "use_cache", True)
    text, own = stored.get_text_config(), model.config.get_text_config()
    if getattr(text, "output_router_logits", None) is not None:
        own.output_router_logits = text.output_router_logits
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(stop_tokens(tokenizer, chat.template)),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(directory, max_shard_size=_LARGEST_FILE)
    if template.source != chat.template.source or chat.template.name != "tokenizer":
        tokenizer.chat_template = template.source  # else its own stay, of which it may have several
    tokenizer.save_pretrained(directory)
    for name in _OF_THE_BASE:
        if file := file_of(chat.location, name):
            shutil.copyfile(file, directory / name)
    again = AutoTokenizer.from_pretrained(directory, trust_remote_code=chat.source.model.trust_remote_code)
    if prompt_ids(again, replace(template, source=again.get_chat_template()), _QUESTION) != prompt:
        raise NotMerged(f"{type(tokenizer).__name__} does not give the prompts of training any more once it is saved")


def _use(name: str) -> list[str]:
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        'messages = [{"role": "user", "content": "…"}]',
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")',
        "output = model.generate(**inputs, max_new_tokens=256)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```",
        "",
        f"or `{shlex.join(['vllm', 'serve', name])}`. The base's own sampling settings are not taken over: "
        "transformers decodes greedily by default, as `fedllm chat` does, and vLLM if `temperature` is set to 0. In "
        "training, text of a message that spells a control token was text; "
        "`apply_chat_template(…, sanitize_control_tokens=True)` keeps it so.",
    ]
