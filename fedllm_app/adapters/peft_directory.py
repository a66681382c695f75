"""Adapters on disk: PEFT directories, written so that PEFT and inference servers load them as they are."""

import json
from pathlib import Path

import numpy as np

from fedllm_app.adapters.layout import ENCODER, PROMPT, AdapterError, AdapterSettings, Layout, Manifest
from fedllm_app.models.files import header_entries
from fedllm_app.paths import atomic_path

SETTINGS_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_ENCODER_FILE = "encoder.safetensors"
_PICKLE_FILE = "adapter_model.bin"

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_BFLOAT16 = "BF16"


def save_peft_directory(directory: Path, vector: np.ndarray, layout: Layout) -> None:
    """Write the adapter as PEFT does, so that `PeftModel.from_pretrained` and inference servers load it as it is.

    PEFT's file of p-tuning holds what its encoder gives, and no longer the encoder: that goes into a file of its own,
    from which `load_peft_directory` starts again.
    """
    from safetensors.numpy import save_file

    manifest, settings = layout.manifest, layout.settings
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in manifest.unpack(vector).items()}
    with atomic_path(directory) as temporary:
        temporary.mkdir()
        if manifest.names == (PROMPT,):
            saved = {"prompt_embeddings": tensors[PROMPT]}
        elif PROMPT in manifest.names:
            saved = {"prompt_embeddings": _virtual_tokens(tensors, settings)}
            save_file(tensors, temporary / _ENCODER_FILE)
        else:
            saved = tensors
        save_file(saved, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        settings.save_pretrained(temporary)
        (temporary / "manifest.json").write_text(
            json.dumps({"hash": manifest.hash, "names": manifest.names, "shapes": manifest.shapes}), encoding="utf-8"
        )


def load_peft_directory(directory: Path, manifest: Manifest) -> np.ndarray:
    """Read the packed vector of a PEFT directory whose adapter has the layout `manifest`; whatever float it is stored
    in.

    Raises
    ------
    AdapterError
        If the directory holds no adapter, one of another layout, or p-tuning's virtual tokens without their encoder.
    """
    file = weights_file(directory)
    if PROMPT in manifest.names and len(manifest.names) > 1:
        file = directory / _ENCODER_FILE
        if not file.is_file():
            raise AdapterError(
                f"{file} does not exist: p-tuning goes on from its encoder, which PEFT does not save; give the "
                "adapter directory of a run of this app"
            )
    tensors = read_tensors(file)
    if manifest.names == (PROMPT,):
        tensors = {PROMPT if name == "prompt_embeddings" else name: tensor for name, tensor in tensors.items()}
    wrong = [n for n, s in zip(manifest.names, manifest.shapes, strict=True) if n in tensors and tensors[n].shape != s]
    if wrong:
        key = "adapter.virtual-tokens" if PROMPT in manifest.names else "lora.r"
        shape = dict(zip(manifest.names, manifest.shapes, strict=True))[wrong[0]]
        raise AdapterError(
            f"{file}: {wrong[0]} has shape {tensors[wrong[0]].shape} and must have {shape} here: set {key} to what it "
            "was "
            "trained with, and model.name to its base"
        )
    return manifest.pack(tensors)


def weights_file(directory: Path, name: str = "") -> Path:
    """The file of an adapter's weights. AdapterError, about `name` or the directory, if there is none or only a
    pickle."""
    name = name or str(directory)
    file = directory / WEIGHTS_FILE
    if file.is_file():
        return file
    if (directory / _PICKLE_FILE).is_file():
        raise AdapterError(
            f"{name} holds its weights in {_PICKLE_FILE}, a pickle, which can run code when it is opened and is not "
            "read "
            "here: where you trust it, load the adapter with PEFT and save it again with "
            f"model.save_pretrained(directory), which writes {WEIGHTS_FILE}"
        )
    raise AdapterError(
        f"{name} holds no {WEIGHTS_FILE}; it holds no weights to go on from: give the directory of a finished run, of "
        "a "
        "checkpoint or of a PEFT adapter"
    )


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as float32. AdapterError if one is stored in a type that does not fit there."""
    entries = header_entries(file)
    with open(file, "rb") as opened:
        start = 8 + int.from_bytes(opened.read(8), "little")
        opened.seek(start)
        content = opened.read()
    strange = sorted({entry["dtype"] for entry in entries.values()} - _FLOATS.keys() - {_BFLOAT16})
    if strange:
        raise AdapterError(
            f"{file} holds tensors of type {', '.join(strange)}: an adapter must be stored in {', '.join(_FLOATS)} or "
            f"{_BFLOAT16}"
        )
    tensors = {}
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        tensors[name] = _float32(content[first:last], entry["dtype"]).reshape(entry["shape"])
    return tensors


def _float32(content: bytes, dtype: str) -> np.ndarray:
    if dtype != _BFLOAT16:
        return np.frombuffer(content, _FLOATS[dtype]).astype(np.float32)
    # The upper half of a float32; NumPy has no such type.
    return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)


def _virtual_tokens(tensors: dict[str, np.ndarray], settings: AdapterSettings) -> np.ndarray:
    """What the encoder of p-tuning gives, shape (virtual tokens, hidden size)."""
    import torch
    from peft import PromptEncoder

    config = settings.peft_config()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        encoder = PromptEncoder(config)
        encoder.load_state_dict({name.removeprefix(ENCODER): torch.from_numpy(t) for name, t in tensors.items()})
        return encoder(torch.arange(config.num_virtual_tokens)).numpy()
