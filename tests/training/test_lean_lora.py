"""LoRA's product without float32 copies of its input: PEFT's numbers, less memory, and PEFT itself for all that is not
plain LoRA.
"""

import copy

import pytest
import torch
from autograd_memory import kept_bytes
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from fedllm_app.training import lean_lora
from fedllm_app.training.lean_lora import LowRankProduct, install_lean_lora


class Block(nn.Module):
    """Two layers with one input, and one that reads what they make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.o = nn.Linear(12, 10), nn.Linear(12, 10), nn.Linear(10, 6)

    def forward(self, x):
        return self.o(torch.tanh(self.q(x)) * self.k(x))


def peft_model(dtype=torch.float32, **options):
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q", "k", "o"], "init_lora_weights": False} | options
    return get_peft_model(Block().to(dtype), LoraConfig(**settings), autocast_adapter_dtype=True)


def lean(model):
    model = copy.deepcopy(model)
    install_lean_lora(model)
    return model


def outcome(model, dtype):
    """Output, gradient of the input, and gradients of all factors."""
    torch.manual_seed(2)
    x = torch.randn(2, 5, 12).to(dtype).requires_grad_()
    torch.manual_seed(3)
    out = model(x)
    out.backward(torch.ones_like(out) / 7)
    return [out, x.grad, *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)]


def used(monkeypatch) -> list:
    calls = []
    apply = LowRankProduct.apply
    monkeypatch.setattr(lean_lora.LowRankProduct, "apply", lambda *given: calls.append(1) or apply(*given))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_those_of_peft(dtype, monkeypatch):
    """In both dtypes of a base: the products are the same, in the same order."""
    model = peft_model(dtype)
    expected = outcome(copy.deepcopy(model), dtype)
    calls = used(monkeypatch)
    found = outcome(lean(model), dtype)
    assert len(calls) == 3
    assert len(found) == 2 + 6
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    x, a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(2, 3, 5), (2, 5), (4, 2)])
    assert torch.autograd.gradcheck(lambda *given: LowRankProduct.apply(*given, 1.5), (x, a, b))


def kept(model) -> int:
    return kept_bytes(model, lambda: model(torch.randn(64, 12).bfloat16().requires_grad_()))


def test_inputs_are_kept_once_in_the_dtype_of_the_base():
    """64 rows, bfloat16. PEFT keeps float32 copies of 12, 12 and 10 columns: 64 · 34 · 4 = 8,704 bytes. What is kept
    instead are the common input of q and k, 64 · 12 · 2 = 1,536 bytes, and that of o, 64 · 10 · 2 = 1,280.
    """
    model = peft_model(torch.bfloat16)
    assert kept(copy.deepcopy(model)) - kept(lean(model)) == 8704 - 1536 - 1280


@pytest.mark.parametrize("frozen", ["lora_A", "lora_B"])
def test_a_frozen_factor_gets_no_gradient_and_keeps_nothing(frozen):
    model = peft_model()
    for name, parameter in model.named_parameters():
        if frozen in name:
            parameter.requires_grad_(False)
    expected, found = outcome(copy.deepcopy(model), torch.float32), outcome(lean(model), torch.float32)
    assert len(found) == 2 + 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    if frozen == "lora_A":
        narrow = peft_model(torch.bfloat16)
        whole = kept(lean(narrow))
        for name, parameter in narrow.named_parameters():
            parameter.requires_grad_(frozen not in name and parameter.requires_grad)
        assert whole - kept(lean(narrow)) == 1536 + 1280


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}])
def test_what_is_not_plain_is_left_to_peft(options, monkeypatch):
    model = peft_model(**options)
    expected = outcome(copy.deepcopy(model), torch.float32)
    calls = used(monkeypatch)
    for one, other in zip(outcome(lean(model), torch.float32), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not calls


def test_adapters_that_are_off_or_merged_are_off_or_merged(monkeypatch):
    model = lean(peft_model())
    calls, x = used(monkeypatch), torch.randn(3, 12)
    with_adapter = model(x)
    assert len(calls) == 3
    with model.disable_adapter():
        torch.testing.assert_close(model(x), copy.deepcopy(model).unload()(x))
    model.merge_adapter()
    torch.testing.assert_close(model(x), with_adapter)
    model.unmerge_adapter()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q", "k", "o"]))
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(model(x), with_adapter)  # a new adapter's B is zero
    with torch.no_grad():
        model(x)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    assert len(calls) == 3


def test_quantized_and_other_layers_are_not_touched():
    """Their classes are other ones, whose forward passes do more."""

    class Quantized(Linear):
        pass

    model = peft_model()
    layer = model.base_model.model.q
    layer.__class__ = Quantized
    install_lean_lora(model)
    assert "forward" not in vars(layer)
    assert "forward" in vars(model.base_model.model.k)


def test_a_clients_model_has_it(tiny_model):
    from fedllm_app.adapters.methods import AdapterValues
    from fedllm_app.models.base import ModelValues
    from fedllm_app.training.resident import Resident, ResidentKey

    adapter = AdapterValues(r=4, alpha=4, dropout=0.0, targets="all-linear")
    key = ResidentKey("sft", ModelValues(str(tiny_model), "float32"), adapter)
    layers = [module for module in Resident(key).model.modules() if type(module) is Linear]
    assert layers and all("forward" in vars(layer) for layer in layers)
