"""A base on two GPUs, without one: what accelerate is told, and a walk through the model in which each tensor knows its
device and has no numbers.

The devices of the walk are the CPU and "meta", because PyTorch takes no others where it finds no GPU; an operation that
mixes the two fails as it would on two GPUs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import PreTrainedModel

from fedllm_app.adapters.view import AdapterView
from fedllm_app.models import base
from fedllm_app.models.base import load_base_model, locate_model
from fedllm_app.models.files import UnusableModel
from fedllm_app.models.several_gpus import check_spread, spread_options
from fedllm_app.training import head
from fedllm_app.training.lean_layers import install_lean_layers
from fedllm_app.training.lean_lora import install_lean_lora

FIRST, SECOND = "cpu", "meta"
PLACES = {
    "model.embed_tokens": FIRST,
    "model.rotary_emb": FIRST,
    "model.layers.0": FIRST,
    "model.layers.1": SECOND,
    "model.norm": SECOND,
    "lm_head": FIRST,  # as where it is tied to the embedding
}


def see(monkeypatch, gpus: int, free: int = 1000) -> None:
    """Let torch see so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free * (gpu + 1), 2 * free))


def test_all_gpus_get_layers_and_nothing_else_does(monkeypatch):
    """Nine tenths of what is free on each."""
    see(monkeypatch, 2)
    assert spread_options("auto") == {"device_map": "auto", "max_memory": {0: 900, 1: 1800}}
    assert spread_options("none") == {}


@pytest.mark.parametrize(("gpus", "seen"), [(0, "no GPU"), (1, "one GPU")])
def test_one_device_is_told(monkeypatch, caplog, gpus, seen):
    see(monkeypatch, gpus)
    assert spread_options("auto") == {}
    assert f"model.device-map = 'auto' is not used: this process sees {seen}" in caplog.text


def test_what_has_no_room_is_refused(tiny_model):
    model = SimpleNamespace(hf_device_map={"model.layers.0": 0, "model.layers.1": 1, "model.norm": "disk"})
    with pytest.raises(UnusableModel, match=r"1 of its 3 parts have no room, model.norm is the first.*num-gpus"):
        check_spread(model, locate_model(str(tiny_model)))


def test_a_base_is_loaded_where_it_is_to_lie(tiny_model, monkeypatch):
    """Here by transformers' own way with the CPU as the one place; the weights are those of a base that is moved."""
    monkeypatch.setattr(base, "spread_options", lambda wanted: {"device_map": "auto", "max_memory": {"cpu": 10**9}})
    checked = []
    monkeypatch.setattr(base, "check_spread", lambda model, location: checked.append(type(model).__name__))
    location = locate_model(str(tiny_model))
    spread = load_base_model(location, torch.float32, device_map="auto")
    assert checked == ["LlamaForCausalLM"]
    monkeypatch.undo()
    plain = load_base_model(location, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(spread.parameters(), plain.parameters(), strict=True))


def on_two_devices(directory: Path) -> tuple[torch.nn.Module, PreTrainedModel]:
    """A PEFT model as a client has it, whose tensors lie where accelerate would have put them."""
    model = load_base_model(locate_model(str(directory)), torch.float32, "eager")
    with mock.patch("accelerate.hooks.set_module_tensor_to_device"):  # nothing is moved yet
        attach_align_device_hook_on_blocks(model, {"": FIRST, **PLACES}, dict.fromkeys(PLACES, False))
    peft = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    install_lean_lora(peft)
    install_lean_layers(peft)
    return peft, model


def lay(model: torch.nn.Module) -> None:
    """Put tensors without numbers in the place of a model's, each on its device."""
    for name, module in model.named_modules():
        device = next((place for part, place in PLACES.items() if name.startswith(part)), FIRST)
        for key, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, device=device)
                module._parameters[key] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for key, buffer in module._buffers.items():
            module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


@contextmanager
def without_numbers(model: torch.nn.Module) -> Iterator[None]:
    """The model's tensors, and all that are made of them, have a shape and a device only."""
    environment = ShapeEnv(allow_dynamic_output_shape_ops=True)  # how many labels there are is not known then
    with mock.patch("torch.is_autocast_enabled", lambda *_: False), FakeTensorMode(shape_env=environment):
        lay(model)
        yield


def test_a_step_goes_through_both_devices(tiny_model):
    """Forward and backward, LoRA on every layer: each gradient lies beside its parameter."""
    peft, model = on_two_devices(tiny_model)
    with without_numbers(model):
        logits = peft(input_ids=torch.zeros(2, 5, dtype=torch.long, device=FIRST), use_cache=False).logits
        logits.sum().backward()
    assert logits.device == torch.device(FIRST)
    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    assert {parameter.device.type for parameter in trained} == {FIRST, SECOND}
    assert all(parameter.grad.device == parameter.device for parameter in trained)


def test_the_head_gets_all_on_its_own_device(tiny_model, monkeypatch):
    """The last layer is on the second device, head and labels are on the first."""
    _, model = on_two_devices(tiny_model)
    given = []

    def apply(hidden, weight, bias, labels):
        given.extend((hidden.device, weight.device, labels.device))
        return hidden.sum(-1), labels > 0

    monkeypatch.setattr(head._LabelLogProbs, "apply", apply)
    with without_numbers(model):
        labels = torch.zeros(2, 5, dtype=torch.long, device=FIRST)
        results = head.completion_log_probs(model, labels, input_ids=labels)
    assert {device.type for device in given} == {FIRST}
    assert {result.device.type for result in results} == {FIRST}


def test_a_vector_is_cut_for_the_devices_of_its_parameters(tiny_model):
    """As SCAFFOLD's and FedProx's are, which are added to gradients."""
    peft, model = on_two_devices(tiny_model)
    size = AdapterView(peft).manifest.size
    lay_adapter(model)
    view = AdapterView(peft)
    pieces = view.pieces(np.arange(size, dtype=np.float32))
    assert [piece.device for piece in pieces] == [parameter.device for parameter in view.parameters]
    assert {piece.device.type for piece in pieces} == {FIRST, SECOND}


def lay_adapter(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if name.startswith("model.layers.1") and "lora_" in name and "weight" in module._parameters:
            module._parameters["weight"] = torch.nn.Parameter(torch.empty(module.weight.shape, device=SECOND))
