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

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    import peft


ENCODER = "prompt_encoder."  # prompt methods: the names of the encoder's parameters in the manifest begin with it
PROMPT = ENCODER + "embedding.weight"  # which all of them have, and all but p-tuning nothing else


class AdapterError(UserError):
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
