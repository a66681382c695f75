"""Adapters: one packed float32 vector with a manifest ⇄ the parameters of a PEFT model ⇄ a PEFT directory.

Only the packed vector travels. Its layout is the manifest: names, shapes and their order, known by its hash.
"""

import hashlib
import importlib.metadata
import json
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.models import ModelLocation, load_model_config
from fedllm_app.paths import atomic_path, home, write_text

if TYPE_CHECKING:
    import peft
    import torch
    from transformers import PretrainedConfig


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


@dataclass(frozen=True)
class LoraValues:
    """What determines a LoRA adapter beside the model; `base` is its name, for whoever loads the finished adapter."""

    r: int
    alpha: int
    dropout: float
    targets: list[str] | str
    base: str


def lora_config(r: int, alpha: int, dropout: float, targets: list[str] | str, base: str = "") -> "peft.LoraConfig":
    """PEFT's LoRA configuration of this run; `base` is recorded for whoever loads the finished adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def add_adapter(base: "torch.nn.Module", adapter: "peft.PeftConfig") -> "peft.PeftModel":
    """Put the adapter into `base`, with float32 adapter weights. `AdapterError` if no module is a target."""
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    try:
        model = get_peft_model(base, adapter)
    except ValueError as error:
        raise AdapterError(f"lora.target-modules does not fit this model: {str(error).splitlines()[0]}") from error
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        # Losses multiply hidden states by the head's weight directly, so an adapter on it would never be trained.
        raise AdapterError("lora.target-modules names the language-model head: accepted are modules below it")
    return model


class AdapterView:
    """Reads and writes the adapter of a PEFT model as one packed float32 vector."""

    def __init__(self, model: "peft.PeftModel") -> None:
        from peft import get_peft_model_state_dict

        # The state dict shares storage with the parameters, so copying into its tensors swaps adapters in place.
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        self._tensors = list(state.values())
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.manifest = Manifest(tuple(state), tuple(tuple(tensor.shape) for tensor in self._tensors))
        storage = {parameter.data_ptr(): index for index, parameter in enumerate(self.parameters)}
        self._order = [storage[tensor.data_ptr()] for tensor in self._tensors]

    def write(self, vector: np.ndarray) -> None:
        """Load `vector` (shape (manifest.size,)) into the model."""
        import torch

        with torch.no_grad():
            for tensor, piece in zip(self._tensors, self.pieces(vector), strict=True):
                tensor.copy_(piece.view(tensor.shape))

    def read(self) -> np.ndarray:
        """The model's adapter as a new vector of shape (manifest.size,)."""
        import torch

        with torch.no_grad():
            return torch.cat([tensor.reshape(-1).float().cpu() for tensor in self._tensors]).numpy()

    def pieces(self, vector: np.ndarray) -> list["torch.Tensor"]:
        """A copy of `vector` on the model's device, cut in the manifest's order. `AdapterError` on another size."""
        import torch

        if vector.shape != (self.manifest.size,):
            raise AdapterError(f"an adapter of shape {vector.shape} does not fit ({self.manifest.size},)")
        copy = torch.from_numpy(np.array(vector, np.float32)).to(self._tensors[0].device)
        return list(copy.split(self.manifest.sizes))

    def by_manifest(self) -> list["torch.nn.Parameter"]:
        """The trained parameters in the manifest's order."""
        return [self.parameters[index] for index in self._order]


def initial_adapter(
    model_config: "PretrainedConfig", adapter: "peft.LoraConfig", seed: int
) -> tuple[np.ndarray, Manifest]:
    """The adapter that every client starts from, drawn without the base model's weights.

    LoRA as its paper and PEFT start it: `A` uniform on ±1/√fan_in (Kaiming uniform with a = √5), `B` zero, so that the
    first forward pass is the base model's. All clients must share `A`, hence one draw, on the server, from `seed`.

    Returns
    -------
    tuple[np.ndarray, Manifest]
        The packed float32 vector of shape (manifest.size,), and its layout.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model_config)
    manifest = meta_manifest(add_adapter(skeleton, adapter))
    return draw_adapter(manifest, seed), manifest


def draw_adapter(manifest: Manifest, seed: int) -> np.ndarray:
    """The seeded initial LoRA adapter of a layout; see `initial_adapter`."""
    random = np.random.default_rng([seed, 0])
    tensors = {}
    for name, shape in zip(manifest.names, manifest.shapes, strict=True):
        bound = 1.0 / math.sqrt(shape[-1])
        drawn = random.uniform(-bound, bound, shape) if "lora_A" in name else np.zeros(shape)
        tensors[name] = drawn.astype(np.float32)
    return manifest.pack(tensors)


@dataclass(frozen=True)
class AdapterSettings:
    """The text of PEFT's adapter_config.json."""

    text: str

    def save_pretrained(self, directory: Path) -> None:
        """Write it as PEFT's own configurations do."""
        (directory / "adapter_config.json").write_text(self.text, encoding="utf-8")


def adapter_layout(location: ModelLocation, values: LoraValues) -> tuple[Manifest, AdapterSettings]:
    """The layout of the adapter on a model, and PEFT's settings for it, without the model's weights.

    Finding it takes PEFT and transformers, whose import is a good part of a run's start. For a model in a local
    directory it is therefore found once, and kept under a key of all that it depends on.
    """
    config = Path(location.reference) / "config.json"
    cache = None
    if config.is_file():
        versions = [importlib.metadata.version(name) for name in ("peft", "transformers")]
        key = json.dumps([config.read_text(encoding="utf-8"), asdict(values), versions])
        cache = home() / "layouts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        if cache.is_file():
            kept = json.loads(cache.read_text(encoding="utf-8"))
            shapes = tuple(tuple(shape) for shape in kept["shapes"])
            return Manifest(tuple(kept["names"]), shapes), AdapterSettings(kept["settings"])
    adapter = lora_config(**asdict(values))
    _, manifest = initial_adapter(load_model_config(location), adapter, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        adapter.save_pretrained(scratch)
        settings = AdapterSettings((Path(scratch) / "adapter_config.json").read_text(encoding="utf-8"))
    if cache is not None:
        kept = {"names": manifest.names, "shapes": manifest.shapes, "settings": settings.text}
        write_text(cache, json.dumps(kept))
    return manifest, settings


def meta_manifest(model: "peft.PeftModel") -> Manifest:
    """The layout of the adapter of a model without storage (on the meta device)."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return Manifest(tuple(state), tuple(tuple(tensor.shape) for tensor in state.values()))


def save_peft_directory(
    directory: Path, vector: np.ndarray, manifest: Manifest, adapter: "AdapterSettings | peft.PeftConfig"
) -> None:
    """Write the adapter as PEFT does, so that `PeftModel.from_pretrained` and inference servers load it as it is."""
    from safetensors.numpy import save_file

    with atomic_path(directory) as temporary:
        temporary.mkdir()
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in manifest.unpack(vector).items()}
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        adapter.save_pretrained(temporary)
        (temporary / "manifest.json").write_text(
            json.dumps({"hash": manifest.hash, "names": manifest.names, "shapes": manifest.shapes}), encoding="utf-8"
        )


def load_peft_directory(directory: Path, manifest: Manifest) -> np.ndarray:
    """Read the packed vector of a PEFT directory whose adapter has the layout `manifest`."""
    from safetensors.numpy import load_file

    file = directory / "adapter_model.safetensors"
    if not file.is_file():
        raise AdapterError(f"{file} does not exist: give a run directory's adapter or another PEFT directory")
    tensors = load_file(file)
    wrong = [n for n, s in zip(manifest.names, manifest.shapes, strict=True) if n in tensors and tensors[n].shape != s]
    if wrong:
        raise AdapterError(f"{file}: {wrong[0]} has shape {tensors[wrong[0]].shape}; is lora.r the one it was made with?")
    return manifest.pack(tensors)
