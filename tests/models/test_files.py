"""What a model directory says of itself: headers, indices, stored quantization."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedllm_app.models.files import (
    UnusableModel,
    check_directory,
    config_digest,
    files_digest,
    last_token_id,
    quantization_problem,
    read_header,
    read_json,
    some,
    weight_shapes,
)

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A copy of the tiny model that may be damaged."""
    return shutil.copytree(tiny_model, tmp_path / "copy")


@pytest.fixture
def in_two_files(copy):
    """The copy with its 21 weights in two files and an index."""
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"one.safetensors": names[:10], "two.safetensors": names[10:]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, copy / file)
    index = {name: file for file, part in files.items() for name in part}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return copy


def test_shapes_come_from_the_header_alone(tiny_model):
    """21 weights: embedding, head and last norm; 4 of attention, 3 of the MLP and 2 norms in each of 2 layers."""
    shapes = weight_shapes(tiny_model)
    assert len(shapes) == 3 + 2 * 9
    assert shapes["model.layers.1.mlp.down_proj.weight"] == (32, 64)
    assert shapes["lm_head.weight"] == (300, 32)


def test_shapes_of_several_files(in_two_files, tiny_model):
    assert weight_shapes(in_two_files) == weight_shapes(tiny_model)


def test_a_file_of_the_index_is_missing(in_two_files):
    (in_two_files / "two.safetensors").unlink()
    with pytest.raises(UnusableModel, match=r"names 2 files of weights, 1 of them are missing \(two\.safetensors\)"):
        weight_shapes(in_two_files)


def test_the_index_names_a_weight_that_its_file_lacks(in_two_files):
    index = json.loads((in_two_files / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.7.mlp.up_proj.weight"] = "one.safetensors"
    (in_two_files / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        UnusableModel, match="names weights that are not in its files: model.layers.7.mlp.up_proj.weight"
    ):
        weight_shapes(in_two_files)


def test_a_directory_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UnusableModel, match=r"holds no weights: it must hold model\.safetensors"):
        weight_shapes(copy)


def test_weights_in_another_format_are_left_to_the_load(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert weight_shapes(copy) is None


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_file_whose_end_is_missing(copy, kept):
    """Cut within the length, within the header and one byte before the end."""
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UnusableModel, match="copy or download it\\s+again"):
        read_header(file)


def test_a_file_of_another_kind(copy):
    file = copy / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 4) + b"abcd" + b"\0" * 100)
    with pytest.raises(UnusableModel, match="no safetensors file"):
        read_header(file)


def test_a_pointer_of_git_lfs(copy):
    file = copy / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 150000\n")
    with pytest.raises(UnusableModel, match="pointer of Git LFS.*git lfs pull"):
        read_header(file)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_damaged_configuration(copy, text):
    (copy / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UnusableModel, match=r"config\.json (is not valid JSON|holds no JSON object)"):
        read_json(copy / "config.json")


def test_an_adapter_beside_the_base(copy):
    check_directory(copy)
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(UnusableModel, match=r"adapter_config\.json.*adapter\.start names one"):
        check_directory(copy)


@pytest.mark.parametrize(
    ("stored", "quantization", "double", "expected"),
    [
        (None, "none", False, None),
        (None, "nf4", True, None),
        (NF4, "nf4", False, None),
        (NF4, "none", False, "stored in 4 bits.*set model.quantization = 'nf4'"),
        (NF4, "int8", False, "set model.quantization = 'nf4'"),
        (INT8, "int8", False, None),
        (INT8, "nf4", False, "stored in 8 bits.*set model.quantization = 'int8'"),
        (NF4 | {"bnb_4bit_use_double_quant": True}, "nf4", True, None),
        (NF4 | {"bnb_4bit_use_double_quant": True}, "nf4", False, "set model.double-quantization = true"),
        (NF4, "nf4", True, "set model.double-quantization = false"),
        (NF4 | {"bnb_4bit_quant_type": "fp4"}, "nf4", False, "4 bits as 'fp4'"),
        ({"quant_method": "gptq", "bits": 4}, "none", False, "quant_method = 'gptq'.*name the model in 16 or 32 bits"),
        ({"quant_method": "fp8"}, "int8", False, "quant_method = 'fp8'"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "none", False, "set model.quantization = 'nf4'"),
    ],
)
def test_stored_quantization(stored, quantization, double, expected):
    problem = quantization_problem(stored, quantization, double)
    if expected is None:
        assert problem is None
    else:
        assert re.search(expected, problem)


def test_digests_know_what_loading_depends_on(copy):
    """The configuration apart from the rest; code only where it is run; values of weights not at all."""
    before, files = config_digest(copy, code=True), files_digest(copy)
    tensors = load_file(copy / "model.safetensors")
    save_file(
        {name: np.zeros_like(tensor) for name, tensor in tensors.items()}, copy / "model.safetensors", {"format": "pt"}
    )
    assert (config_digest(copy, code=True), files_digest(copy)) == (before, files)
    (copy / "modeling_mine.py").write_text("x = 1")
    assert config_digest(copy, code=True) != before
    assert config_digest(copy, code=False) == config_digest(copy, code=False)
    tensors.pop("lm_head.weight")
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert files_digest(copy) != files
    files = files_digest(copy)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert files_digest(copy) != files


def test_the_largest_token_id(copy):
    """3 special tokens and 256 bytes: ids 0 to 258."""
    assert last_token_id(copy) == 258
    (copy / "tokenizer.json").unlink()
    assert last_token_id(copy) is None


def test_some_names():
    assert some("ba") == "a, b"
    assert some("edcba") == "a, b, c and 2 more"
