"""Merged and unmerged models say the same; what cannot be merged is refused by its name."""

import shutil
from dataclasses import replace

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from fedllm_app.adapters import merging
from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.merging import Merged, check_mergeable, merge
from fedllm_app.adapters.start import read_settings
from fedllm_app.evaluation.conversation import Chat, find_source

IDS = list(range(3, 40))
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
METHODS = {
    "lora": {},
    "rslora": {"adapter": {"rslora": True}},
    "dora": {"dora": True},
    "ia3": {"method": "ia3"},
    "ffa": {"lora__aggregation": "ffa"},
    "all linear": {"adapter": {"targets": ALL}},
    "embedding": {"adapter": {"targets": ("embed_tokens", "q_proj")}},
}


@pytest.fixture(scope="module")
def tied_model(tiny_model, tmp_path_factory):
    """The tiny model, its head tied to the embedding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("tied")
    shutil.copytree(tiny_model, directory, dirs_exist_ok=True)
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0].float()


def reloaded(model, directory) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model.save_pretrained(directory)
    return AutoModelForCausalLM.from_pretrained(directory)


@pytest.mark.parametrize(
    ("dtype", "difference", "expected"),
    [("float32", 0.02, True), ("float32", 0.03, False), ("bfloat16", 1.2, True), ("bfloat16", 1.3, False)],
)
def test_what_rounding_explains(dtype, difference, expected):
    """Logits up to 20: of 8 units of 2^-7 in bfloat16 1.25, and 0.001 of them in float32 0.02."""
    model = torch.nn.Linear(1, 1).to(getattr(torch, dtype))
    assert Merged(model, difference, 20.0, 1, 1, 5.0).is_rounding is expected


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("method", METHODS)
def test_merged_and_adapter_logits_agree(save_run, tied_model, tiny_model, tmp_path, method, tied):
    """In float32, to 1e-4, as transformers loads what was saved; the base alone says something else.

    Where the adapter is on an embedding that the head shares, the head must not learn of it.
    """
    run = save_run(model=tied_model if tied else tiny_model, spread=0.2, **METHODS[method])
    model = Chat(find_source(run)).model.eval()
    expected = logits(model)
    with model.disable_adapter():
        effect = float((logits(model) - expected).abs().max())
    assert effect > 0.01
    merged = merge(model, IDS)
    assert merged.difference == pytest.approx(float((logits(merged.model) - expected).abs().max()))
    assert merged.same == int((logits(merged.model).argmax(-1) == expected.argmax(-1)).sum())
    assert merged.places == len(IDS)
    assert merged.effect == pytest.approx(effect)
    assert merged.largest == pytest.approx(float(expected.abs().max()))
    again = reloaded(merged.model, tmp_path / "merged")
    assert (logits(again) - expected).abs().max() < 1e-4
    assert not [name for name, _ in again.named_parameters() if "lora" in name or "ia3" in name]
    assert again.config.tie_word_embeddings is (tied and method != "embedding")


def test_a_sum_is_rounded_once(save_run):
    """To bfloat16: what is written is the float32 sum of weight and change, rounded. The type stays what it was."""
    source = find_source(save_run())
    model = Chat(replace(source, model=replace(source.model, dtype="bfloat16"))).model
    layers = {
        name: layer for name, layer in model.get_base_model().named_modules() if isinstance(layer, BaseTunerLayer)
    }
    sums = {
        f"{name}.weight": layer.get_base_layer().weight.float() + layer.get_delta_weight("default")
        for name, layer in layers.items()
    }
    assert len(sums) == 6
    merged = merge(model, IDS).model.state_dict()
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    for name, total in sums.items():
        assert torch.equal(merged[name], total.bfloat16())


@pytest.mark.parametrize("method", ["prefix-tuning", "p-tuning", "prompt-tuning"])
def test_methods_with_virtual_tokens_are_refused_by_name(save_run, method):
    adapter = save_run(method=method) / "adapter"
    with pytest.raises(AdapterError, match=f"adapter.method = '{method}', which cannot be merged.*fedllm export"):
        check_mergeable(read_settings(adapter), adapter)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA', which is not merged here"),
        ({"peft_type": "LORA", "alora_invocation_tokens": [1]}, "activated LoRA"),
    ],
)
def test_methods_of_elsewhere_are_refused_by_name(tmp_path, settings, named):
    with pytest.raises(AdapterError, match=named):
        check_mergeable(settings, tmp_path)


def test_a_merge_that_says_something_else_is_refused(save_run, monkeypatch):
    """Were a layer left out, nobody would notice it in a file of weights."""
    layers = []

    def all_but_one(layer, whole=merging._merge_layer):
        layers.append(layer)
        if len(layers) == 1:
            layer.scaling["default"] *= 1.5
        whole(layer)

    monkeypatch.setattr(merging, "_merge_layer", all_but_one)
    with pytest.raises(AdapterError, match="does not say what base and adapter say"):
        merge(Chat(find_source(save_run())).model, IDS)


def test_weights_that_do_not_fit_the_type_are_refused(save_run):
    """float16 ends at 65,504."""
    source = find_source(save_run())
    model = Chat(replace(source, model=replace(source.model, dtype="float16"))).model
    next(p for name, p in model.named_parameters() if "lora_B" in name).data.fill_(1e7)
    with pytest.raises(AdapterError, match="too large for float16: set --dtype float32"):
        merge(model, IDS)
