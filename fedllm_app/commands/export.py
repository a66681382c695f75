"""`fedllm export`: the adapter as a PEFT directory with a card, for a hub or an inference server."""

import argparse
import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedllm_app.commands.published import (
    absolute,
    add_options,
    card_base,
    checked_output,
    copy_licences,
    files_and_bytes,
    written_whole,
)
from fedllm_app.models.licence import Licence
from fedllm_app.models.packaged import PACKAGED_MODELS, ModelNotFound

if TYPE_CHECKING:
    from fedllm_app.runs.directory import PromptRecord

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's --max-lora-rank."""

_TEMPLATE_FILE = "chat_template.jinja"
_COPIED = ("adapter_model.safetensors", "encoder.safetensors", "manifest.json")


def add_parser(subparsers) -> None:
    """Add `fedllm export`."""
    parser = subparsers.add_parser("export", help="the adapter with a card, for a hub or vLLM's --lora-modules")
    add_options(parser)
    parser.add_argument("--model", help="the base as its users find it: a Hub id, or a directory")
    parser.set_defaults(command=_export)


def _export(parsed: argparse.Namespace, console: Console) -> int:
    from fedllm_app.adapters.start import read_settings
    from fedllm_app.evaluation.conversation import base_values, find_adapter
    from fedllm_app.runs.card import model_card
    from fedllm_app.runs.card_facts import gather_facts, saved_evaluations
    from fedllm_app.runs.directory import read_run_config, recorded_template, run_of

    out = checked_output(parsed.out)
    adapter = find_adapter(absolute(parsed.run), parsed.client)
    settings, prompt = read_settings(adapter), recorded_template(adapter)
    evaluations = saved_evaluations(adapter, parsed.evaluation)
    name = base_values(adapter, settings, parsed.model).name
    if parsed.model:
        _check_reference(name)
    reference, remark = _reference(name)
    run = run_of(adapter)
    recorded = read_run_config(run)["model.name"] if run else settings.get("base_model_name_or_path")
    template, licence, missing = _of_the_base(recorded or name, prompt)
    base = card_base(name, licence)
    use = _use(out.name, base.hub_id, settings, bool(template))
    facts = gather_facts(adapter, out.name, base, prompt, use, evaluations=evaluations)
    with written_whole(out) as directory:
        for file in _COPIED:
            if (adapter / file).is_file():
                shutil.copyfile(adapter / file, directory / file)
        _write_json(directory / "adapter_config.json", _published(settings, reference))
        if prompt is not None:
            _write_json(directory / "prompt.json", asdict(replace(prompt, template=Path(prompt.template).name)))
        if template:
            (directory / _TEMPLATE_FILE).write_text(template, encoding="utf-8")
        copy_licences(licence, directory)
        (directory / "README.md").write_text(model_card(facts), encoding="utf-8")
    files, size = files_and_bytes(out)
    lines = [
        f"{out}: {files} files, {size / 1e6:,.1f} MB",
        f"base_model_name_or_path: {reference} ({remark})",
        *missing,
    ]
    if not licence.name:
        lines.append("warning: the licence of the base is not known here; look it up before you publish the adapter")
    lines.append(_served(out, reference, settings, bool(template)))
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _reference(name: str) -> tuple[str, str]:
    """What adapter_config.json names as the base, and a remark on it."""
    if name in PACKAGED_MODELS:
        model = PACKAGED_MODELS[name]
        return model.hub_id, f"a Hub id; the run trained over its rounded copy in the package {model.distribution}"
    if Path(name).is_absolute():
        return name, "a directory of this machine, as in the run; before you publish, name a Hub id with --model"
    return name, "a Hub id"


def _check_reference(name: str) -> None:
    path = Path(name)
    if path.is_dir() if path.is_absolute() else not name.startswith((".", "~")) and name.count("/") < 2:
        return
    raise ModelNotFound(f"--model {name}: is no directory of this machine and no Hub id (owner/name)")


def _of_the_base(name: str, prompt: "PromptRecord | None") -> tuple[str, Licence, list[str]]:
    """The chat template of the prompts ("" without one), the base's licence, and a sentence on what is missing."""
    from fedllm_app.data.chat_template import chat_template
    from fedllm_app.data.templates import TemplateError, get_template
    from fedllm_app.models.base import load_tokenizer, locate_model, stop_ids
    from fedllm_app.models.licence import licence_of

    try:
        location = locate_model(name)
        tokenizer, licence = load_tokenizer(location), licence_of(location)
    except ModelNotFound as error:
        return "", Licence(), [f"warning: without the base, no {_TEMPLATE_FILE} and no licence: {error}"]
    if prompt is None:
        return "", licence, [f"warning: no {_TEMPLATE_FILE}: the adapter does not say how its prompts were written"]
    try:
        bound = get_template(
            prompt.template,
            tokenizer,
            prompt.text,
            special_tokens_in_text=prompt.special_tokens_in_text,
            stops=stop_ids(location),
        )
        return chat_template(bound, tokenizer, prompt.system_prompt or None).source, licence, []
    except TemplateError as error:
        return "", licence, [f"warning: no {_TEMPLATE_FILE}: {error}"]


def _published(settings: Mapping, reference: str) -> dict:
    """The settings with another base, and without another path of this machine."""
    changed = {"base_model_name_or_path": reference}
    if settings.get("tokenizer_name_or_path"):
        changed["tokenizer_name_or_path"] = reference
    return {**settings, **changed}


def _write_json(file: Path, content: Mapping) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _served(directory: Path | str, base: str, settings: Mapping, template: bool) -> str:
    """How vLLM serves it, or why not."""
    rank = max([settings.get("r") or 0, *(settings.get("rank_pattern") or {}).values()])
    if settings.get("peft_type") != "LORA" or settings.get("use_dora") or rank > _VLLM_RANKS[-1]:
        prompts = settings.get("num_virtual_tokens")
        other = "load it with PEFT" if prompts else "load it with PEFT, or merge it with `fedllm merge`"
        return f"vLLM takes only adapters of LoRA without DoRA, up to rank {_VLLM_RANKS[-1]}: {other}"
    largest = next(limit for limit in _VLLM_RANKS if limit >= rank)
    words = ["vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(largest)]
    words += ["--lora-modules", f"{Path(directory).name}={directory}"]
    return shlex.join(words + (["--chat-template", str(Path(directory) / _TEMPLATE_FILE)] if template else []))


def _use(name: str, hub_id: str, settings: Mapping, template: bool) -> list[str]:
    base = hub_id or "BASE"
    lines = [] if hub_id else ["`BASE` stands for the directory or Hub id of the base model.", ""]
    lines += [
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")',
    ]
    if template:
        lines.append(f'tokenizer.chat_template = open("{name}/{_TEMPLATE_FILE}", encoding="utf-8").read()')
    served = _served(name, base, settings, template)
    return [*lines, "```", "", f"With vLLM: `{served}`" if served.startswith("vllm") else f"{served}."]
