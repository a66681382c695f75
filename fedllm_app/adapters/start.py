"""An adapter to start from, trained here or elsewhere: its settings and tensors held against the run's.

A PEFT directory is more than its tensors. The same tensors under another scale, on other modules or another base are
another model, so everything that changes what they compute must agree before training begins.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath

import numpy as np

from fedllm_app.adapters.layout import PROMPT, AdapterError, Layout
from fedllm_app.adapters.peft_directory import SETTINGS_FILE, load_peft_directory, read_tensors, weights_file
from fedllm_app.adapters.targets import pattern
from fedllm_app.models.files import some

METHOD_OF = {
    "LORA": "lora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix-tuning",
    "P_TUNING": "p-tuning",
    "PROMPT_TUNING": "prompt-tuning",
}
"""PEFT's types and the values of `adapter.method`."""

_NEUTRAL = (None, False, "none", "", {}, [])

# They say how an adapter was made or is stored, not what it computes.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "init_ia3_weights",
    "init_weights",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
}
# Compared below, or with the tensors.
_COMPARED = {
    "base_model_name_or_path",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "target_modules",
    "use_rslora",
}
_MARKS = (".lora_", ".ia3_")  # what PEFT puts between a module's name and its adapter's

_BASE_UNTOUCHED = (True, False, None, "gaussian", "orthogonal", "eva")  # values of init_lora_weights


def load_start(directory: Path, layout: Layout) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the adapter that a run starts from.

    Returns
    -------
    tuple[np.ndarray, tuple[str, ...]]
        The packed vector, shape (layout.size,), and what differs without harm, a sentence each.

    Raises
    ------
    AdapterError
        One message with everything that differs from the run's adapter, and what to set.
    """
    file = weights_file(directory, f"adapter.start = {str(directory)!r}")
    settings = read_settings(directory)
    problems, notes = settings_differences(settings, layout.settings.values)
    if PROMPT not in layout.manifest.names and settings["peft_type"] == layout.settings.values["peft_type"]:
        problems += _tensor_differences(read_tensors(file), layout, alike=not problems)
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise AdapterError(f"adapter.start: {directory} is not the adapter that this run trains:{lines}")
    vector = load_peft_directory(directory, layout.manifest)
    if not np.isfinite(vector).all():
        raise AdapterError(f"adapter.start: {file} holds values that are not finite: its training has failed")
    return vector, tuple(f"adapter.start: {note}" for note in notes)


def read_settings(directory: Path) -> dict:
    """The settings of a PEFT directory. AdapterError if they are missing or no such settings."""
    file = directory / SETTINGS_FILE
    if not file.is_file():
        raise AdapterError(f"{file} does not exist: give a run directory's adapter or another PEFT directory")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict) or "peft_type" not in settings:
        raise AdapterError(
            f"{file} does not name a peft_type: give a run directory's adapter or another PEFT directory"
        )
    return settings


def settings_differences(settings: Mapping, own: Mapping) -> tuple[list[str], list[str]]:
    """What differs between the settings of an adapter and the run's own: what forbids it, and what only is to be
    told."""
    problems, notes = _base_differences(settings.get("base_model_name_or_path"), own["base_model_name_or_path"])
    if settings["peft_type"] != own["peft_type"]:
        found = METHOD_OF.get(settings["peft_type"])
        remedy = f"set adapter.method = {found!r}" if found else "this app does not train that method"
        problems.append(
            f"method: it is {settings['peft_type']}, adapter.method = {METHOD_OF[own['peft_type']]!r}: {remedy}"
        )
        return problems, notes
    if settings["peft_type"] == "LORA":
        problems += _lora_differences(settings, own)
        dropout, own_dropout = settings.get("lora_dropout") or 0.0, own.get("lora_dropout") or 0.0
        if dropout != own_dropout:
            notes.append(f"it was trained with lora_dropout = {dropout}, lora.dropout = {own_dropout} here")
    without_effect = _WITHOUT_EFFECT | (
        {"num_attention_heads", "num_layers"} if "PREFIX" not in own["peft_type"] else set()
    )
    for name in sorted(settings.keys() - without_effect - _COMPARED):
        value, own_value = settings[name], own.get(name)
        if value == own_value or (value in _NEUTRAL and own_value in _NEUTRAL):
            continue
        if (
            isinstance(value, list)
            and isinstance(own_value, list)
            and sorted(map(str, value)) == sorted(map(str, own_value))
        ):
            continue
        key = _KEYS.get(name)
        remedy = f": set {key} = {_toml(value)}" if key else ", and no key sets it: it cannot be gone on from here"
        problems.append(f"{name} = {_toml(value)} there, {_toml(own_value)} here{remedy}")
    return problems, notes


_KEYS = {
    "encoder_hidden_size": "adapter.encoder-hidden-size",
    "num_virtual_tokens": "adapter.virtual-tokens",
    "use_dora": "lora.dora",
}


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _base_differences(base: str | None, own: str) -> tuple[list[str], list[str]]:
    """Names of base models: a Hub id and a directory may be the same model, and then end alike."""
    if not base:
        return [], [f"it does not say on which base it was trained; it is taken for {own}"]
    if base == own:
        return [], []
    if PurePath(base).name.lower() == PurePath(own).name.lower():
        return [], [f"its base is recorded as {base}, which is taken for model.name = {own}"]
    return [
        f"base model: it was trained on {base}, model.name = {own!r}: name its base; if both are the same weights, "
        "correct "
        f"base_model_name_or_path in its {SETTINGS_FILE}"
    ], []


def _lora_differences(settings: Mapping, own: Mapping) -> list[str]:
    problems = []
    rank, own_rank = settings.get("r", 8), own["r"]
    if rank != own_rank:
        problems.append(f"rank: r = {rank} there, lora.r = {own_rank} here: set lora.r = {rank}")
    alpha, stabilised = settings.get("lora_alpha", 8), bool(settings.get("use_rslora"))
    scale, own_scale = _scale(alpha, rank, stabilised), _scale(own["lora_alpha"], own_rank, bool(own["use_rslora"]))
    if not math.isclose(scale, own_scale):
        problems.append(
            f"scale: {scale:g} there ({'lora_alpha / √r' if stabilised else 'lora_alpha / r'} with lora_alpha = "
            f"{alpha}), "
            f"{own_scale:g} here: set lora.alpha = {alpha}, lora.rslora = {_toml(stabilised)}"
        )
    start = settings.get("init_lora_weights", True)
    if start not in _BASE_UNTOUCHED:
        problems.append(
            f"init_lora_weights = {start!r}: that way of starting changes the base's weights too, so the adapter is "
            "one on "
            "another base: convert it with PEFT (path_initial_model_for_weight_conversion) first"
        )
    return problems


def _scale(alpha: float, rank: int, stabilised: bool) -> float:
    return alpha / math.sqrt(rank) if stabilised else alpha / rank


def _tensor_differences(tensors: Mapping[str, np.ndarray], layout: Layout, alike: bool) -> list[str]:
    """Which modules only one of both adapts and, where the settings are `alike`, tensors that differ in name or
    shape."""
    shapes = dict(zip(layout.manifest.names, layout.manifest.shapes, strict=True))
    foreign = {name for name in tensors if not any(mark in name for mark in _MARKS)}
    problems = []
    if foreign:
        problems.append(
            f"it holds {len(foreign)} tensors that are no part of an adapter ({some(map(_short, foreign))}): full "
            "weights or "
            "biases were trained beside it, which this app does not do"
        )
    theirs, own = {_module(name) for name in tensors.keys() - foreign}, {_module(name) for name in shapes}
    for modules, sentence in (
        (theirs - own, "modules: it adapts {}, which this run does not"),
        (own - theirs, "modules: it does not adapt {}, which this run does"),
    ):
        if modules:
            problems.append(sentence.format(some({_short(name) for name in modules}, 8)))
    if theirs != own and layout.settings.values["peft_type"] == "LORA":
        leaves = sorted({name.rpartition(".")[2] for name in theirs})
        problems[-1] += f": set lora.target-modules = '{','.join(leaves)}'"
    if not problems and alike:
        wrong = sorted(name for name in shapes.keys() | tensors.keys() if _shape(tensors, name) != shapes.get(name))
        if wrong:
            problems.append(
                f"tensors: {len(wrong)} differ, {wrong[0]} has shape {_shape(tensors, wrong[0])} there and "
                f"{shapes.get(wrong[0])} here: rank and base model must be those it was trained with"
            )
    return problems


def _shape(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, ...] | None:
    return tensors[name].shape if name in tensors else None


def _module(name: str) -> str:
    for mark in _MARKS:
        name = name.split(mark)[0]
    return name


def _short(name: str) -> str:
    return pattern(_module(name).removeprefix("base_model.model."))
