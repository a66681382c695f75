"""Adapters on disk: PEFT directories, written so that PEFT and inference servers load them as they are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.adapters.layout import ENCODER, PROMPT, AdapterError, AdapterSettings, Layout, Manifest
from fedllm_app.paths import atomic_path

if TYPE_CHECKING:
    pass

_ENCODER_FILE = "encoder.safetensors"


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
        save_file(saved, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        settings.save_pretrained(temporary)
        (temporary / "manifest.json").write_text(
            json.dumps({"hash": manifest.hash, "names": manifest.names, "shapes": manifest.shapes}), encoding="utf-8"
        )


def load_peft_directory(directory: Path, manifest: Manifest) -> np.ndarray:
    """Read the packed vector of a PEFT directory whose adapter has the layout `manifest`.

    Raises
    ------
    AdapterError
        If the directory holds no adapter, one of another layout, or p-tuning's virtual tokens without their encoder.
    """
    from safetensors.numpy import load_file

    file = directory / "adapter_model.safetensors"
    if not file.is_file():
        raise AdapterError(f"{file} does not exist: give a run directory's adapter or another PEFT directory")
    key = "lora.r"
    if PROMPT in manifest.names:
        key = "adapter.virtual-tokens"
        if len(manifest.names) > 1:
            file = directory / _ENCODER_FILE
            if not file.is_file():
                raise AdapterError(
                    f"{file} does not exist: p-tuning goes on from its encoder, which PEFT does not save; give the "
                    "adapter directory of a run of this app"
                )
    tensors = load_file(file)
    if manifest.names == (PROMPT,):
        tensors = {PROMPT if name == "prompt_embeddings" else name: tensor for name, tensor in tensors.items()}
    wrong = [n for n, s in zip(manifest.names, manifest.shapes, strict=True) if n in tensors and tensors[n].shape != s]
    if wrong:
        raise AdapterError(
            f"{file}: {wrong[0]} has shape {tensors[wrong[0]].shape}; is {key} the one it was made with?"
        )
    return manifest.pack(tensors)


def _virtual_tokens(tensors: dict[str, np.ndarray], settings: AdapterSettings) -> np.ndarray:
    """What the encoder of p-tuning gives, shape (virtual tokens, hidden size)."""
    import torch
    from peft import PromptEncoder

    config = settings.peft_config()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        encoder = PromptEncoder(config)
        encoder.load_state_dict({name.removeprefix(ENCODER): torch.from_numpy(t) for name, t in tensors.items()})
        return encoder(torch.arange(config.num_virtual_tokens)).numpy()
