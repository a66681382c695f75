"""Hashes of a base model's weights and of its tokenizer, by which sites find out whether theirs are the same."""

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.models.files import CONFIG_FILE, TOKENIZER_FILES, weight_files
from fedllm_app.models.location import ModelLocation, file_of
from fedllm_app.models.packaged import PACKAGED_MODELS, packaged_file
from fedllm_app.paths import file_sha256, home, write_text

_TEMPLATES = ("chat_template*", "chat_templates/*")


@dataclass(frozen=True)
class BaseDigests:
    """SHA-256, 64 hexadecimal digits, of the files that the weights and the tokenizer are loaded from; "" of none."""

    weights: str
    tokenizer: str


def base_digests(location: ModelLocation) -> BaseDigests:
    """The hashes of a model that this machine has.

    They are those of the stored files, whatever `model.quantization` makes of them. Of a built-in model they are those
    of the package's file: its copy depends on the libraries that converted it.
    """
    if location.name in PACKAGED_MODELS:
        digest = files_sha256([packaged_file(location.name)])
        return BaseDigests(digest, digest)
    config = file_of(location, CONFIG_FILE)
    if config is None:
        return BaseDigests("", "")
    directory = config.parent
    named = {file for pattern in (*TOKENIZER_FILES, *_TEMPLATES) for file in directory.glob(pattern) if file.is_file()}
    return BaseDigests(files_sha256(weight_files(directory)), files_sha256(named))


def files_sha256(files: Iterable[Path]) -> str:
    """One hash of the names and contents of files of one directory; "" of none."""
    lines = [f"{file.name} {_remembered_sha256(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _remembered_sha256(file: Path) -> str:
    """A file's hash, kept below FEDLLM_HOME: gigabytes are read once as long as size and time of the file stay."""
    resolved = file.resolve()
    status = resolved.stat()
    return _kept_sha256(str(resolved), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1000)
def _kept_sha256(path: str, size: int, changed: int) -> str:
    kept = home() / "digests" / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if (found.get("size"), found.get("changed")) == (size, changed):
        return found["sha256"]
    digest = file_sha256(Path(path))
    write_text(kept, json.dumps({"size": size, "changed": changed, "sha256": digest}))
    return digest
