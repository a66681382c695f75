"""The layout of an adapter as one packed float32 vector: names, shapes, and which pieces are factors of which module.

Only the packed vector travels. The layout needs NumPy only, so that strategies and updates may read it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    import peft

ENCODER = "prompt_encoder."  # prompt methods: the names of the encoder's parameters in the manifest begin with it
PROMPT = ENCODER + "embedding.weight"  # which all of them have, and all but p-tuning nothing else

_FACTOR_NAMES = ((".lora_A.", ".lora_B."), (".lora_embedding_A", ".lora_embedding_B"))


class AdapterError(UserError):
    """An adapter does not fit the model or the layout."""

    public = "the adapter of the run does not fit the base model that is here"


@dataclass(frozen=True)
class Manifest:
    """Names and shapes of a packed adapter: `names[i]` with `shapes[i]`, laid end to end in C order."""

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

    def pack(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The inverse of `unpack`: one contiguous float32 vector."""
        if set(tensors) != set(self.names):
            odd = sorted(set(tensors) ^ set(self.names))[:3]
            raise AdapterError(f"the tensors do not fit the manifest; the first that differ: {', '.join(odd)}")
        pieces = [np.asarray(tensors[name], dtype=np.float32).ravel() for name in self.names]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def part(self, names: Sequence[str]) -> "Manifest":
        """The manifest of some of the tensors, in the order of this one."""
        kept = [place for place, name in enumerate(self.names) if name in set(names)]
        return Manifest(tuple(self.names[place] for place in kept), tuple(self.shapes[place] for place in kept))


@dataclass(frozen=True)
class AdapterSettings:
    """The text of PEFT's adapter_config.json."""

    text: str

    @cached_property
    def values(self) -> dict:
        """The settings by PEFT's names; none for an empty text."""
        return json.loads(self.text) if self.text else {}

    def save_pretrained(self, directory: Path) -> None:
        """Write it as PEFT's own configurations do."""
        (directory / "adapter_config.json").write_text(self.text, encoding="utf-8")

    def peft_config(self) -> "peft.PeftConfig":
        """The configuration that the text describes."""
        from peft import PeftConfig

        return PeftConfig.from_peft_type(**json.loads(self.text))


@dataclass(frozen=True)
class Factors:
    """The two factors of one adapted module, whose weight is `W + scale · B A`.

    Attributes
    ----------
    module : str
        The module's name as PEFT saves it.
    a, b : str
        Names of A, shape (r, n), and B, shape (m, r), in the manifest.
    scale : float
        `alpha / r`, or `alpha / √r` with rank-stabilised LoRA.
    """

    module: str
    a: str
    b: str
    scale: float


@dataclass(frozen=True)
class Layout:
    """The layout of a packed adapter together with PEFT's settings for it."""

    manifest: Manifest
    settings: AdapterSettings = AdapterSettings("")

    @property
    def hash(self) -> str:
        """See `Manifest.hash`."""
        return self.manifest.hash

    @property
    def size(self) -> int:
        """Elements of the packed vector."""
        return self.manifest.size

    def unpack(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """See `Manifest.unpack`."""
        return self.manifest.unpack(vector)

    def pack(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Manifest.pack`."""
        return self.manifest.pack(tensors)

    def factors(self) -> tuple[Factors, ...]:
        """The factor pairs of LoRA, module by module; none where only one of a pair is in the layout."""
        present = set(self.manifest.names)
        found = []
        for name in self.manifest.names:
            for a, b in _FACTOR_NAMES:
                other = name.replace(a, b)
                if a in name and other in present:
                    found.append(Factors(name.split(a)[0], name, other, self._scale(name)))
        return tuple(found)

    def part(self, wanted: Callable[[str], bool]) -> "Layout":
        """The layout of the tensors whose names are `wanted`."""
        return Layout(self.manifest.part([name for name in self.manifest.names if wanted(name)]), self.settings)

    def slots(self, part: "Layout") -> np.ndarray:
        """Where a part's elements lie in this layout's packed vector, shape (part.size,), int64."""
        numbers = self.manifest.unpack(np.arange(self.size))
        pieces = [numbers[name].ravel() for name in part.manifest.names]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)

    def _scale(self, a_name: str) -> float:
        rank = dict(zip(self.manifest.names, self.manifest.shapes, strict=True))[a_name][0]
        alpha = self.settings.values.get("lora_alpha", rank)
        return alpha / math.sqrt(rank) if self.settings.values.get("use_rslora") else alpha / rank


def is_a_factor(name: str) -> bool:
    """Whether a tensor is a factor A of LoRA."""
    return any(a in name for a, _ in _FACTOR_NAMES)


def is_embedding_factor(name: str) -> bool:
    """Whether a tensor is a factor of LoRA on an embedding, where A starts at zero and B does not."""
    return any(factor in name for factor in _FACTOR_NAMES[1])


def is_b_factor(name: str) -> bool:
    """Whether a tensor is a factor B of LoRA."""
    return any(b in name for _, b in _FACTOR_NAMES)
