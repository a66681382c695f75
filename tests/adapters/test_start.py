"""An adapter to start from, trained here or elsewhere, held against what the run trains."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.methods import AdapterValues, adapter_layout, initial_adapter
from fedllm_app.adapters.peft_directory import load_peft_directory, read_tensors, save_peft_directory
from fedllm_app.adapters.start import load_start
from fedllm_app.models.base import load_base_model, locate_model

TARGETS = ("q_proj", "v_proj")


def lora(r=4, alpha=8, targets=TARGETS, **options) -> AdapterValues:
    return AdapterValues(r, alpha, options.pop("dropout", 0.0), targets, **options)


@pytest.fixture
def layout_of(tiny_model):
    return lambda values: adapter_layout(locate_model(str(tiny_model)), values)


@pytest.fixture
def saved(layout_of, tiny_model, tmp_path):
    """Save a drawn adapter of some values, with other settings put over PEFT's, as another trainer would write it."""

    def save(values=None, tensors=(), **settings):
        layout = layout_of(values or lora())
        location = locate_model(str(tiny_model))
        vector = initial_adapter(layout, values or lora(), 3, lambda: load_base_model(location, torch.float32))
        directory = tmp_path / "elsewhere"
        save_peft_directory(directory, vector, layout)
        if tensors:
            save_file(
                {**load_file(directory / "adapter_model.safetensors"), **dict(tensors)},
                directory / "adapter_model.safetensors",
            )
        text = json.loads((directory / "adapter_config.json").read_text())
        (directory / "adapter_config.json").write_text(json.dumps(text | settings))
        return directory

    return save


def test_an_adapter_of_the_same_values_is_taken_bit_for_bit(saved, layout_of):
    layout = layout_of(lora())
    vector, notes = load_start(saved(), layout)
    np.testing.assert_array_equal(vector, load_peft_directory(saved(), layout.manifest))
    assert notes == ()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (lora(r=2), ["rank: r = 4 there, lora.r = 2 here: set lora.r = 4"]),
        (lora(alpha=16), ["scale: 2 there (lora_alpha / r with lora_alpha = 8), 4 here: set lora.alpha = 8"]),
        # 8 / 4 = 2 there, 8 / √4 = 4 here
        (lora(rslora=True), ["scale: 2 there", "4 here: set lora.alpha = 8, lora.rslora = false"]),
        (
            lora(targets=("q_proj",)),
            ["it adapts", "v_proj, which this run does not: set lora.target-modules = 'q_proj,v_proj'"],
        ),
        (lora(targets=(*TARGETS, "k_proj")), ["does not adapt", "k_proj, which this run does"]),
        (lora(dora=True), ["use_dora = false there, true here: set lora.dora = false"]),
        (lora(method="ia3"), ["it is LORA, adapter.method = 'ia3': set adapter.method = 'lora'"]),
        (lora(r=2, alpha=2, targets=("q_proj",)), ["rank:", "scale:", "modules:"]),
    ],
)
def test_everything_that_differs_is_in_one_error(saved, layout_of, values, named):
    with pytest.raises(
        AdapterError, match=r"adapter\.start: .*is not the adapter that this run trains:\n  - "
    ) as caught:
        load_start(saved(), layout_of(values))
    for part in named:
        assert part in str(caught.value)


def test_the_same_scale_by_other_numbers_is_the_same_adapter(saved, layout_of):
    """16 / √4 = 8 with rank-stabilised LoRA, and 32 / 4 = 8 without."""
    vector, notes = load_start(saved(lora(alpha=16, rslora=True)), layout_of(lora(alpha=32)))
    assert vector.any() and notes == ()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bias": "all"}, "bias = 'all' there, 'none' here"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save = ['embed_tokens'] there"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern = {'q_proj': 8} there"),
        ({"alpha_pattern": {"q_proj": 32}}, "alpha_pattern"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights = 'pissa': that way of starting changes the base's weights too",
        ),
        ({"a_setting_of_peft_99": True}, "a_setting_of_peft_99 = true there"),
        ({"task_type": "SEQ_CLS"}, "task_type = 'SEQ_CLS' there"),
        ({"peft_type": "ADALORA"}, "it is ADALORA"),
    ],
)
def test_what_this_app_does_not_train_is_refused(saved, layout_of, settings, named):
    with pytest.raises(
        AdapterError, match="cannot be gone on from here|changes the base|does not train that method"
    ) as caught:
        load_start(saved(**settings), layout_of(lora()))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"inference_mode": True, "revision": "main", "peft_version": "0.1"},
        {"megatron_config": None, "loftq_config": {}, "rank_pattern": {}, "target_parameters": None},
        {"init_lora_weights": "gaussian"},
        {"fan_in_fan_out": True},
        {"target_modules": ".*(q|v)_proj"},  # an expression that comes to the same modules
    ],
)
def test_what_has_no_effect_may_differ(saved, layout_of, settings):
    assert load_start(saved(**settings), layout_of(lora()))[1] == ()


def test_dropout_is_told_of(saved, layout_of):
    _, notes = load_start(saved(lora_dropout=0.05), layout_of(lora()))
    assert notes == ("adapter.start: it was trained with lora_dropout = 0.05, lora.dropout = 0.0 here",)


class TestBases:
    def test_another_name_is_refused(self, saved, layout_of):
        with pytest.raises(AdapterError, match="it was trained on meta-llama/Llama-2-7b-hf.*base_model_name_or_path"):
            load_start(saved(base_model_name_or_path="meta-llama/Llama-2-7b-hf"), layout_of(lora()))

    def test_the_same_name_at_another_place_is_told_of(self, saved, layout_of, tiny_model):
        directory = saved(base_model_name_or_path=f"owner/{tiny_model.name.upper()}")
        _, (note,) = load_start(directory, layout_of(lora()))
        assert "is taken for model.name" in note

    @pytest.mark.parametrize("name", [None, ""])
    def test_no_name_is_told_of(self, saved, layout_of, name):
        _, (note,) = load_start(saved(base_model_name_or_path=name), layout_of(lora()))
        assert "does not say on which base" in note


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_of_another_float_are_converted(self, saved, layout_of, dtype):
        directory = saved()
        file = directory / "adapter_model.safetensors"
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        save_file(tensors, file)
        vector, _ = load_start(directory, layout_of(lora()))
        expected = np.concatenate([tensors[n].float().numpy().ravel() for n in layout_of(lora()).manifest.names])
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, expected)

    def test_of_no_float_are_refused(self, tmp_path):
        save_file({"a": torch.ones(3, dtype=torch.int8), "b": torch.ones(2)}, tmp_path / "x.safetensors")
        with pytest.raises(AdapterError, match="tensors of type I8: an adapter must be stored in"):
            read_tensors(tmp_path / "x.safetensors")

    def test_beside_the_adapter_are_refused(self, saved, layout_of):
        """As PEFT saves them where the vocabulary was enlarged."""
        directory = saved(tensors={"base_model.model.lm_head.weight": torch.ones(300, 32)})
        with pytest.raises(AdapterError, match=r"holds 1 tensors that are no part of an adapter \(lm_head.weight\)"):
            load_start(directory, layout_of(lora()))

    def test_of_another_size_are_refused(self, saved, layout_of):
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        with pytest.raises(
            AdapterError, match=r"tensors: 1 differ, .*lora_A.weight has shape \(4, 64\) there and \(4, 32\) here"
        ):
            load_start(saved(tensors={name: torch.ones(4, 64)}), layout_of(lora()))

    def test_that_are_not_finite_are_refused(self, saved, layout_of):
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        with pytest.raises(AdapterError, match="values that are not finite"):
            load_start(saved(tensors={name: torch.full((4, 32), torch.nan)}), layout_of(lora()))

    def test_in_a_pickle_are_not_read(self, saved, layout_of):
        directory = saved()
        (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
        with pytest.raises(AdapterError, match=r"adapter_model\.bin, a pickle, which can run code.*save_pretrained"):
            load_start(directory, layout_of(lora()))


@pytest.mark.parametrize(
    ("content", "named"), [(None, "does not exist"), ("{", "cannot be read"), ("{}", "does not name a peft_type")]
)
def test_settings_that_are_none(saved, layout_of, content, named):
    file = saved() / "adapter_config.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(AdapterError, match=rf"adapter_config\.json {named}"):
        load_start(file.parent, layout_of(lora()))


@pytest.mark.parametrize(
    ("method", "options", "key"),
    [
        ("prompt-tuning", {"virtual_tokens": 5}, "adapter.virtual-tokens = 5"),
        ("prefix-tuning", {"virtual_tokens": 5}, "adapter.virtual-tokens = 5"),
        ("p-tuning", {"virtual_tokens": 5, "encoder_hidden_size": 24}, "adapter.encoder-hidden-size = 24"),
    ],
)
def test_virtual_tokens(saved, layout_of, method, options, key):
    directory = saved(lora(method=method, **options))
    assert load_start(directory, layout_of(lora(method=method, **options)))[0].any()
    with pytest.raises(AdapterError, match=f"set {key}"):
        load_start(directory, layout_of(lora(method=method, virtual_tokens=6, encoder_hidden_size=25)))


def test_ia3(saved, layout_of):
    directory = saved(lora(method="ia3"))
    assert load_start(directory, layout_of(lora(method="ia3")))[0].any()


def test_an_adapter_that_peft_has_made(tiny_model, layout_of, tmp_path):
    """By a script of its own: settings that PEFT fills in, the modules as an expression."""
    from peft import LoraConfig, get_peft_model

    base = load_base_model(locate_model(str(tiny_model)), torch.float32).cpu()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=r".*\.(q|v)_proj", task_type="CAUSAL_LM", lora_dropout=0.1)
    get_peft_model(base, config).save_pretrained(tmp_path / "made")
    vector, notes = load_start(tmp_path / "made", layout_of(lora()))
    assert vector.size == 896
    assert len(notes) == 1 and "lora_dropout = 0.1" in notes[0]
