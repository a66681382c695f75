"""What a model directory says of itself, read without torch and without its weights.

`config.json` and the headers of safetensors files are small. They are enough to notice a download that stopped
half-way,
weights that are stored quantized, and an adapter that lies beside the base model.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedllm_app.errors import UserError

CONFIG_FILE = "config.json"

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_LENGTH = struct.Struct("<Q")  # a safetensors file begins with the length of its header
_LFS = b"version https://git-lfs"
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")

Shapes = dict[str, tuple[int, ...]]


class UnusableModel(UserError):
    """The base model cannot be trained as its files stand. The message names the file or key and says what to do."""

    public = "the base model cannot be trained as its files stand here"


def read_json(file: Path) -> dict:
    """The content of a JSON file. UnusableModel if it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnusableModel(f"{file} is not valid JSON ({error}): copy or download the model again") from error
    if not isinstance(content, dict):
        raise UnusableModel(f"{file} holds no JSON object: copy or download the model again")
    return content


def weight_shapes(directory: Path) -> Shapes | None:
    """Names and shapes of the weights in a model directory, from the headers of its safetensors files.

    Returns
    -------
    Shapes | None
        None for a model that is stored in another format.

    Raises
    ------
    UnusableModel
        There are no weights, a file of them is missing or incomplete, or the index names weights that its files lack.
    """
    if (directory / _WEIGHTS).is_file():
        return read_header(directory / _WEIGHTS)
    if not (directory / _INDEX).is_file():
        if any((directory / name).is_file() for name in _OTHER_WEIGHTS):
            return None
        raise UnusableModel(
            f"{directory} holds no weights: it must hold {_WEIGHTS}, or {_INDEX} and the files that it names"
        )
    index: Mapping[str, str] = read_json(directory / _INDEX).get("weight_map", {})
    files = sorted(set(index.values()))
    absent = [name for name in files if not (directory / name).is_file()]
    if absent:
        raise UnusableModel(
            f"{directory / _INDEX} names {len(files)} files of weights, {len(absent)} of them are missing "
            f"({some(absent)}): copy or download the model again"
        )
    shapes = {name: read_header(directory / name) for name in files}
    lost = [weight for weight, name in index.items() if weight not in shapes[name]]
    if lost:
        raise UnusableModel(
            f"{directory / _INDEX} names weights that are not in its files: {some(lost)}. Index and files are of "
            "different models or versions: copy or download the model again"
        )
    return {weight: shape for file in shapes.values() for weight, shape in file.items()}


def weight_files(directory: Path) -> list[Path]:
    """The files that the weights are loaded from: those of safetensors, else of PyTorch."""
    if (directory / _WEIGHTS).is_file():
        return [directory / _WEIGHTS]
    for index in (_INDEX, _OTHER_WEIGHTS[1]):
        if (directory / index).is_file():
            named = set(read_json(directory / index).get("weight_map", {}).values())
            return sorted(file for name in named if (file := directory / name).is_file())
    return [file for file in [directory / _OTHER_WEIGHTS[0]] if file.is_file()]


def read_header(file: Path) -> Shapes:
    """Names and shapes of the tensors in a safetensors file. UnusableModel if the file is incomplete or no such
    file."""
    entries = header_entries(file)
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def header_entries(file: Path) -> dict[str, dict]:
    """The header of a safetensors file: of each tensor its `dtype`, `shape` and `data_offsets`."""
    size = file.stat().st_size
    with open(file, "rb") as opened:
        start = opened.read(_LENGTH.size)
        if start + opened.read(len(_LFS) - len(start)) == _LFS:
            raise UnusableModel(
                f"{file} is a pointer of Git LFS, not the weights themselves: run `git lfs pull` in that directory"
            )
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size
        if _LENGTH.size + length > size:
            raise UnusableModel(f"{file} is no complete safetensors file: copy or download it again")
        opened.seek(_LENGTH.size)
        try:
            header = json.loads(opened.read(length))
        except ValueError as error:
            raise UnusableModel(f"{file} is no safetensors file ({error}): copy or download it again") from error
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if _LENGTH.size + length + end > size:
        raise UnusableModel(
            f"{file} has {size} bytes and needs {_LENGTH.size + length + end}: its end is missing; copy or download it "
            "again"
        )
    return header


def last_token_id(directory: Path) -> int | None:
    """The largest token id of a tokenizer.json; None where there is none. Loading the tokenizer takes much longer."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    content = read_json(file)
    vocabulary = content.get("model", {}).get("vocab", {})
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    added = (token["id"] for token in content.get("added_tokens") or ())
    return max((*added, max(ids, default=-1)), default=-1)


def check_directory(directory: Path) -> None:
    """Refuse a model directory in which an adapter lies beside the base: transformers would load it into the base."""
    if (directory / "adapter_config.json").is_file():
        raise UnusableModel(
            f"{directory} holds an adapter (adapter_config.json) beside the base model, and transformers would load it "
            "into the base: move the adapter to a directory of its own; adapter.start names one to go on from"
        )


def quantization_problem(stored: Mapping | None, quantization: str, double: bool) -> str | None:
    """Why a base that is stored quantized cannot be loaded with `model.quantization`, and what to do; None if it can.

    Parameters
    ----------
    stored : Mapping | None
        The entry `quantization_config` of config.json.
    """
    if not stored:
        return None
    method = str(stored.get("quant_method") or ("bitsandbytes" if _bits(stored) else "an unknown method"))
    if method != "bitsandbytes":
        return (
            f"the base is stored quantized (quant_method = {method!r} in {CONFIG_FILE}), and adapters are not trained "
            "on "
            "that here: name the model in 16 or 32 bits; model.quantization = 'nf4' or 'int8' quantizes it when it is "
            "loaded"
        )
    if stored.get("load_in_4bit") and stored.get("bnb_4bit_quant_type", "fp4") != "nf4":
        kind = stored.get("bnb_4bit_quant_type", "fp4")
        return f"the base is stored in 4 bits as {kind!r}: name one that is stored as 'nf4', or in 16 or 32 bits"
    wanted = "nf4" if stored.get("load_in_4bit") else "int8"
    if quantization != wanted:
        return (
            f"the base is stored in {_bits(stored)} bits (quantization_config in {CONFIG_FILE}) and "
            "model.quantization = "
            f"{quantization!r}: set model.quantization = {wanted!r}, or name the model in 16 or 32 bits"
        )
    stored_double = bool(stored.get("bnb_4bit_use_double_quant"))
    if wanted == "nf4" and stored_double != double:
        return (
            f"the base is stored with bnb_4bit_use_double_quant = {str(stored_double).lower()} ({CONFIG_FILE}): set "
            f"model.double-quantization = {str(stored_double).lower()}"
        )
    return None


def _bits(stored: Mapping) -> int:
    return 4 if stored.get("load_in_4bit") else 8 if stored.get("load_in_8bit") else 0


def config_digest(directory: Path, code: bool) -> str:
    """A digest of config.json, and with `code` of the Python files that come with the model."""
    return _digest(directory, (CONFIG_FILE, *(("*.py",) if code else ())))


def files_digest(directory: Path) -> str:
    """A digest of everything else in a model directory that loading depends on, short of the weights' values."""
    digest = hashlib.sha256(_digest(directory, ("*.index.json", *TOKENIZER_FILES)).encode())
    for name, header in _headers(directory):
        digest.update(name.encode() + b"\0" + header + b"\0")
    return digest.hexdigest()


def _digest(directory: Path, patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _headers(directory: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(directory.glob("*.safetensors")):
        with open(file, "rb") as opened:
            start = opened.read(_LENGTH.size)
            length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
            yield file.name, start + opened.read(min(length, file.stat().st_size))


def some(names, shown: int = 3) -> str:
    """The first of some names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
