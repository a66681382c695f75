"""Adapters: a packed vector with a manifest, the parameters of a PEFT model, a PEFT directory."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from fedllm_app.adapters import methods as adapter_methods
from fedllm_app.adapters.layout import AdapterError, Layout, Manifest
from fedllm_app.adapters.methods import AdapterValues, adapter_layout, add_adapter, draw_adapter
from fedllm_app.adapters.peft_directory import load_peft_directory, save_peft_directory
from fedllm_app.adapters.view import AdapterView
from fedllm_app.models.base import load_base_model, locate_model

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
SMALL = Manifest(("b", "a"), ((2, 3), (4,)))


def base_of(tiny_model):
    return load_base_model(locate_model(str(tiny_model)), torch.float32).cpu()


def draw(tiny_model, seed=0, targets=("q_proj", "v_proj"), r=4):
    layout = adapter_layout(locate_model(str(tiny_model)), AdapterValues(r, 8, 0.0, targets))
    manifest, settings = layout.manifest, layout.settings
    return draw_adapter(manifest, seed), manifest, settings


def view_of(tiny_model, settings):
    model = add_adapter(base_of(tiny_model), settings.peft_config()).eval()
    return model, AdapterView(model)


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


def noise(manifest):
    return np.random.default_rng(1).normal(0, 0.3, manifest.size).astype(np.float32)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), "all-linear"])
def test_drawn_layout_is_that_of_the_loaded_model(tiny_model, targets):
    _, manifest, settings = draw(tiny_model, targets=targets)
    _, view = view_of(tiny_model, settings)
    assert view.manifest == manifest
    assert view.manifest.hash == manifest.hash


def test_size_by_hand(tiny_model):
    """r = 4 on q (32 → 32) and v (32 → 16) of 2 layers: 2 (4 (32 + 32) + 4 (32 + 16)) = 896."""
    vector, manifest, _ = draw(tiny_model)
    assert vector.shape == (896,) == (manifest.size,)
    assert vector.dtype == np.float32


def test_b_is_zero_and_a_spread_within_its_bound(tiny_model):
    """A is uniform on ±1/√32 = ±0.17678; of 512 draws in all, some lie beyond nine tenths of it on either side."""
    vector, manifest, _ = draw(tiny_model)
    tensors = manifest.unpack(vector)
    a = np.concatenate([tensor.ravel() for name, tensor in tensors.items() if "lora_A" in name])
    b = np.concatenate([tensor.ravel() for name, tensor in tensors.items() if "lora_B" in name])
    assert (a.size, b.size) == (512, 384)
    assert not b.any()
    assert np.abs(a).max() <= 0.17678
    assert a.max() > 0.159 > -0.159 > a.min()
    assert len(np.unique(a)) > 500


def test_bound_is_that_of_each_modules_inputs(tiny_model):
    """down_proj has 64 inputs: ±1/√64 = ±0.125."""
    vector, _, _ = draw(tiny_model, targets=("down_proj",))
    assert 0.12 < np.abs(vector).max() <= 0.125


def test_the_seed_decides(tiny_model):
    assert draw(tiny_model, seed=3)[0].tobytes() == draw(tiny_model, seed=3)[0].tobytes()
    assert draw(tiny_model, seed=3)[0].tobytes() != draw(tiny_model, seed=4)[0].tobytes()


def test_torchs_global_seed_does_not(tiny_model):
    torch.manual_seed(1)
    first = draw(tiny_model)[0]
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, draw(tiny_model)[0])


def test_the_first_forward_pass_is_the_base_models(tiny_model):
    """B = 0, so BA = 0 whatever A is. Any other vector moves the logits."""
    vector, manifest, settings = draw(tiny_model)
    before = logits(base_of(tiny_model))
    model, view = view_of(tiny_model, settings)
    view.write(vector)
    assert torch.equal(logits(model), before)
    view.write(noise(manifest))
    assert (logits(model) - before).abs().max() > 0.01


def test_write_and_read(tiny_model):
    _, manifest, settings = draw(tiny_model)
    _, view = view_of(tiny_model, settings)
    vector = noise(manifest)
    view.write(vector)
    read = view.read()
    np.testing.assert_array_equal(read, vector)
    view.write(np.zeros(manifest.size, np.float32))
    np.testing.assert_array_equal(read, vector)  # a copy, not a view of the model


@pytest.mark.parametrize("size", [895, 897, 1])
def test_another_size_is_refused(tiny_model, size):
    _, _, settings = draw(tiny_model)
    _, view = view_of(tiny_model, settings)
    with pytest.raises(AdapterError, match=r"\(896,\)"):
        view.write(np.zeros(size, np.float32))


def test_only_the_adapter_is_trained_and_in_float32(tiny_model):
    _, _, settings = draw(tiny_model)
    base = load_base_model(locate_model(str(tiny_model)), torch.bfloat16)
    view = AdapterView(add_adapter(base, settings.peft_config()))
    assert sum(parameter.numel() for parameter in view.parameters) == 896
    assert {parameter.dtype for parameter in view.parameters} == {torch.float32}


def test_parameters_come_parameters_in_its_order(tiny_model):
    _, manifest, settings = draw(tiny_model, targets="all-linear")
    _, view = view_of(tiny_model, settings)
    vector = np.arange(manifest.size, dtype=np.float32)
    view.write(vector)
    together = torch.cat([parameter.detach().reshape(-1) for parameter in view.parameters]).numpy()
    np.testing.assert_array_equal(together, vector)
    assert [tuple(parameter.shape) for parameter in view.parameters] == list(manifest.shapes)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in view.parameters)


def test_pieces_are_copies_in_the_manifests_order(tiny_model):
    _, manifest, settings = draw(tiny_model)
    _, view = view_of(tiny_model, settings)
    vector = np.arange(896, dtype=np.float32)
    pieces = view.pieces(vector)
    vector[:] = 0
    assert [len(piece) for piece in pieces] == manifest.sizes
    assert torch.equal(torch.cat(pieces), torch.arange(896.0))
    with pytest.raises(AdapterError, match=r"\(896,\)"):
        view.pieces(vector[1:])


def test_target_modules_that_do_not_exist(tiny_model):
    with pytest.raises(AdapterError, match=r"lora\.target-modules.*c_attn"):
        draw(tiny_model, targets=("c_attn",))


def test_pack_and_unpack():
    """6 elements of b, then 4 of a, as the manifest orders them and not the alphabet."""
    vector = np.arange(10, dtype=np.float32)
    tensors = SMALL.unpack(vector)
    np.testing.assert_array_equal(tensors["b"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(tensors["a"], [6, 7, 8, 9])
    packed = SMALL.pack({"a": tensors["a"].astype(np.float64), "b": tensors["b"]})
    np.testing.assert_array_equal(packed, vector)
    assert packed.dtype == np.float32


def test_what_does_not_fit_the_manifest_is_refused():
    with pytest.raises(AdapterError, match=r"\(9,\).*\(10,\)"):
        SMALL.unpack(np.zeros(9, np.float32))
    with pytest.raises(AdapterError, match=r"\(1, 10\)"):
        SMALL.unpack(np.zeros((1, 10), np.float32))
    with pytest.raises(AdapterError, match="differ: c"):
        SMALL.pack(SMALL.unpack(np.zeros(10, np.float32)) | {"c": np.zeros(1)})
    with pytest.raises(AdapterError, match="differ: a"):
        SMALL.pack({"b": np.zeros((2, 3))})


def test_hash_knows_names_shapes_and_order():
    others = [
        Manifest(("b", "c"), SMALL.shapes),
        Manifest(SMALL.names, ((3, 2), (4,))),
        Manifest(("a", "b"), ((4,), (2, 3))),
    ]
    assert len({SMALL.hash, *(other.hash for other in others)}) == 4
    assert dataclasses.replace(SMALL).hash == SMALL.hash


def test_peft_loads_the_saved_directory(tiny_model, tmp_path):
    from peft import PeftModel

    _, manifest, settings = draw(tiny_model)
    model, view = view_of(tiny_model, settings)
    view.write(noise(manifest))
    save_peft_directory(tmp_path / "adapter", noise(manifest), Layout(manifest, settings))
    loaded = PeftModel.from_pretrained(base_of(tiny_model), tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.peft_config["default"].inference_mode


def test_directory_round_trip(tiny_model, tmp_path):
    _, manifest, settings = draw(tiny_model)
    save_peft_directory(tmp_path / "adapter", noise(manifest), Layout(manifest, settings))
    np.testing.assert_array_equal(load_peft_directory(tmp_path / "adapter", manifest), noise(manifest))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_directory_that_does_not_fit(tiny_model, tmp_path):
    vector, manifest, settings = draw(tiny_model)
    save_peft_directory(tmp_path / "adapter", vector, Layout(manifest, settings))
    with pytest.raises(AdapterError, match="holds no adapter_model.safetensors"):
        load_peft_directory(tmp_path / "elsewhere", manifest)
    with pytest.raises(AdapterError, match=r"has shape \(4, 32\) and must have \(2, 32\) here: set lora\.r"):
        load_peft_directory(tmp_path / "adapter", draw(tiny_model, r=2)[1])
    with pytest.raises(AdapterError, match="down_proj"):
        load_peft_directory(tmp_path / "adapter", draw(tiny_model, targets=("down_proj",))[1])


def test_nothing_is_left_if_saving_fails(tiny_model, tmp_path):
    vector, manifest, settings = draw(tiny_model)
    with pytest.raises(AdapterError):
        save_peft_directory(tmp_path / "adapter", vector[:-1], Layout(manifest, settings))
    assert list(tmp_path.iterdir()) == []


def test_layout_is_kept(tiny_model, monkeypatch):
    """The second time nothing of PEFT is asked; any other value of the adapter is another key."""
    location, values = locate_model(str(tiny_model)), AdapterValues(4, 8, 0.0, ("q_proj", "v_proj"))
    found = adapter_layout(location, values)

    def fail(*_args, **_options):
        raise AssertionError("found again")

    monkeypatch.setattr(adapter_methods, "_find_layout", fail)
    assert adapter_layout(location, values) == found
    others = {
        "r": 5,
        "alpha": 9,
        "dropout": 0.1,
        "targets": "all-linear",
        "rslora": True,
        "dora": True,
        "method": "ia3",
        "virtual_tokens": 3,
        "encoder_hidden_size": 4,
    }
    assert set(others) == {field.name for field in dataclasses.fields(values)}
    for name, other in others.items():
        with pytest.raises(AssertionError, match="found again"):
            adapter_layout(location, dataclasses.replace(values, **{name: other}))


def test_settings_name_where_the_model_is(tiny_model, tmp_path):
    """Of a copy elsewhere with the same configuration: the copy."""
    shutil.copytree(tiny_model, tmp_path / "copy")
    for path in (tiny_model, tmp_path / "copy"):
        layout = adapter_layout(locate_model(str(path)), AdapterValues(4, 8, 0.0, "all-linear"))
        settings = layout.settings
        assert settings.peft_config().base_model_name_or_path == str(path)
