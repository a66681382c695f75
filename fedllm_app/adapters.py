"""Adapters: one packed float32 vector with a manifest ⇄ the parameters of a PEFT model ⇄ a PEFT directory.

Only the packed vector travels. Its layout is the manifest: names, shapes and their order, known by its hash.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.paths import atomic_path

if TYPE_CHECKING:
    import peft
    import torch

ENCODER = "prompt_encoder."  # prompt methods: the names of the encoder's parameters in the manifest begin with it
PROMPT = ENCODER + "embedding.weight"  # which all of them have, and all but p-tuning nothing else
_ENCODER_FILE = "encoder.safetensors"


class AdapterError(ValueError):
    """An adapter does not fit the model or the manifest."""


@dataclass(frozen=True)
class Manifest:
    """The layout of a packed adapter: `names[i]` with `shapes[i]`, laid end to end in C order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> list[int]:
        """Elements of each tensor."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Elements of the packed vector."""
        return sum(self.sizes)

    @property
    def hash(self) -> str:
        """SHA-256 over names and shapes: two adapters with equal hashes can be added element by element."""
        return hashlib.sha256(json.dumps([self.names, self.shapes]).encode()).hexdigest()

    def unpack(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The named tensors of `vector` (shape (size,)), as views."""
        if vector.shape != (self.size,):
            raise AdapterError(f"a packed adapter of shape {vector.shape} does not fit the manifest's ({self.size},)")
        pieces = np.split(vector, np.cumsum(self.sizes)[:-1])
        return {name: piece.reshape(shape) for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)}

    def pack(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        """The inverse of `unpack`: one contiguous float32 vector."""
        if set(tensors) != set(self.names):
            odd = sorted(set(tensors) ^ set(self.names))[:3]
            raise AdapterError(f"the tensors do not fit the manifest; the first that differ: {', '.join(odd)}")
        return np.concatenate([np.asarray(tensors[name], dtype=np.float32).ravel() for name in self.names])


class AdapterView:
    """Reads and writes the adapter of a PEFT model, all its trained parameters, as one packed float32 vector.

    `parameters` are in the manifest's order.
    """

    def __init__(self, model: "peft.PeftModel") -> None:
        trained = {parameter.data_ptr(): parameter for parameter in model.parameters() if parameter.requires_grad}
        named = _named_tensors(model)
        if len(named) != len(trained):
            raise AdapterError(f"{len(trained)} tensors of the model are trained, its adapter has {len(named)}")
        # What PEFT names shares storage with the parameters. The parameters themselves are kept: a trainer may give
        # them other storage.
        self.parameters = [trained[tensor.data_ptr()] for tensor in named.values()]
        self.manifest = manifest_of(model)

    def write(self, vector: np.ndarray) -> None:
        """Load `vector` (shape (manifest.size,)) into the model."""
        import torch

        with torch.no_grad():
            for parameter, piece in zip(self.parameters, self.pieces(vector), strict=True):
                parameter.copy_(piece.view(parameter.shape))

    def restore(self, vector: np.ndarray) -> None:
        """`write`, and make the parameters float32 again if something has cast them."""
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        self.write(vector)

    def read(self) -> np.ndarray:
        """The model's adapter as a new vector of shape (manifest.size,)."""
        import torch

        with torch.no_grad():
            return torch.cat([parameter.reshape(-1).float().cpu() for parameter in self.parameters]).numpy()

    def pieces(self, vector: np.ndarray) -> list["torch.Tensor"]:
        """A copy of `vector` on the model's device, cut in the manifest's order. `AdapterError` on another size."""
        import torch

        if vector.shape != (self.manifest.size,):
            raise AdapterError(f"an adapter of shape {vector.shape} does not fit ({self.manifest.size},)")
        copy = torch.from_numpy(np.array(vector, np.float32)).to(self.parameters[0].device)
        return list(copy.split(self.manifest.sizes))


def manifest_of(model: "peft.PeftModel") -> Manifest:
    """The layout of a model's adapter; the model may be without storage (on the meta device)."""
    named = _named_tensors(model)
    return Manifest(tuple(named), tuple(tuple(tensor.shape) for tensor in named.values()))


def _named_tensors(model: "peft.PeftModel") -> dict[str, "torch.Tensor"]:
    """The adapter's tensors by name: as PEFT saves them, or the parameters of the encoder of a prompt method.

    There PEFT saves the encoder's output, the virtual tokens, which are not what is trained.
    """
    from peft import get_peft_model_state_dict

    if model.active_peft_config.is_prompt_learning:
        encoder = model.prompt_encoder[model.active_adapter]
        return {ENCODER + name: parameter for name, parameter in encoder.named_parameters()}
    return get_peft_model_state_dict(model, save_embedding_layers=False)


@dataclass(frozen=True)
class AdapterSettings:
    """The text of PEFT's adapter_config.json."""

    text: str

    def save_pretrained(self, directory: Path) -> None:
        """Write it as PEFT's own configurations do."""
        (directory / "adapter_config.json").write_text(self.text, encoding="utf-8")

    def peft_config(self) -> "peft.PeftConfig":
        """The configuration that the text describes."""
        from peft import PeftConfig

        return PeftConfig.from_peft_type(**json.loads(self.text))


def save_peft_directory(directory: Path, vector: np.ndarray, manifest: Manifest, settings: AdapterSettings) -> None:
    """Write the adapter as PEFT does, so that `PeftModel.from_pretrained` and inference servers load it as it is.

    PEFT's file of p-tuning holds what its encoder gives, and no longer the encoder: that goes into a file of its own,
    from which `load_peft_directory` starts again.
    """
    from safetensors.numpy import save_file

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
