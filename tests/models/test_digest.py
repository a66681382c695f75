"""Hashes of a base model's files."""

import json
import os

import pytest

from fedllm_app.models import digest
from fedllm_app.models.digest import BaseDigests, base_digests
from fedllm_app.models.location import ModelLocation
from fedllm_app.paths import home


@pytest.fixture
def model(tmp_path):
    """A directory with files of a model, whose content does not matter here."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"):
        (directory / name).write_text(f'{{"of": "{name}"}}')
    return directory


def of(directory) -> BaseDigests:
    digest._kept_sha256.cache_clear()  # another process
    return base_digests(ModelLocation(str(directory), str(directory)))


@pytest.mark.parametrize(
    ("file", "weights", "tokenizer"),
    [
        ("model.safetensors", True, False),
        ("tokenizer.json", False, True),
        ("chat_template.jinja", False, True),
        ("special_tokens_map.json", False, True),
        ("README.md", False, False),
        ("config.json", False, False),
    ],
)
def test_each_file_belongs_to_weights_or_tokenizer(model, file, weights, tokenizer):
    before = of(model)
    (model / file).write_text("another content, of another length")
    after = of(model)
    assert (after.weights != before.weights, after.tokenizer != before.tokenizer) == (weights, tokenizer)
    assert {len(value) for value in (after.weights, after.tokenizer)} == {64}


def test_copies_elsewhere_have_the_same_hashes(model, tmp_path):
    model.rename(tmp_path / "elsewhere")
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    assert of(tmp_path / "model") == of(tmp_path / "elsewhere")


def test_shards_are_those_of_the_index(model):
    """A file that the index does not name is not loaded."""
    (model / "model.safetensors").rename(model / "part-1.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    before = of(model)
    (model / "part-2.safetensors").write_text("left over")
    assert of(model) == before
    (model / "part-1.safetensors").write_text("changed")
    assert of(model).weights != before.weights


def test_a_file_is_read_once_until_size_or_time_change(model, monkeypatch):
    before = of(model)
    file = model / "model.safetensors"
    status = file.stat()
    content = file.read_text()
    file.write_text(content.replace("model", "ledom"))  # as long, and as old: nobody looks
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert of(model) == before
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert of(model).weights != before.weights
    assert all(kept.stat().st_mode & 0o077 == 0 for kept in (home() / "digests").iterdir())


def test_a_built_in_model_is_its_packages_file(tmp_path, monkeypatch):
    """Its copy depends on the libraries that converted it."""
    (tmp_path / "m.gguf").write_text("weights")
    monkeypatch.setattr(digest, "packaged_file", lambda name: tmp_path / "m.gguf")
    found = base_digests(ModelLocation(str(tmp_path / "copy"), "smollm2-135m-instruct"))
    assert found.weights == found.tokenizer != ""
