"""Norms and gated MLPs that keep less: the numbers of their own classes, less memory, and others left alone."""

import copy

import pytest
import torch
from autograd_memory import kept_bytes
from torch import nn
from transformers import LlamaConfig, Qwen3Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from fedllm_app.training import lean_layers
from fedllm_app.training.lean_layers import RootMeanSquareNorm, SwiGLU, install_lean_layers


def norm(cls=LlamaRMSNorm, dtype=torch.float32):
    torch.manual_seed(0)
    made = cls(24)
    made.weight = nn.Parameter((1 + torch.randn(24) / 5).to(dtype), requires_grad=False)
    return made


def mlp(dtype=torch.float32, cls=LlamaMLP, config=LlamaConfig):
    torch.manual_seed(0)
    made = cls(config(hidden_size=24, intermediate_size=40, num_attention_heads=4)).to(dtype)
    return made.requires_grad_(False)


def outcome(layer, dtype):
    torch.manual_seed(4)
    x = torch.randn(3, 5, 24).to(dtype).requires_grad_()
    out = layer(x)
    torch.manual_seed(5)
    out.backward(torch.randn_like(out))
    return out, x.grad


@pytest.mark.parametrize("make", [norm, mlp])
def test_output_is_the_same_and_gradients_agree(make):
    """float32; the output bit for bit."""
    own, lean = make(), make()
    assert install_lean_layers(lean) == 1
    (expected, gradient), (found, other) = outcome(own, torch.float32), outcome(lean, torch.float32)
    assert torch.equal(expected, found)
    torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [norm, mlp])
def test_bfloat16_is_as_near_to_the_truth(make):
    """Root mean square of the difference of the input's gradient to the one of float32, over that of the own class."""
    own = make(dtype=torch.bfloat16)
    lean, exact = copy.deepcopy(own), copy.deepcopy(own).float()
    install_lean_layers(lean)
    truth = outcome(exact, torch.float32)[1]
    (expected, gradient), (found, other) = outcome(own, torch.bfloat16), outcome(lean, torch.bfloat16)
    assert torch.equal(expected, found)
    # The input of `exact` is not rounded to bfloat16, so that both have that difference too.
    assert (other - truth).pow(2).mean() < 1.1 * (gradient - truth).pow(2).mean()


def test_gradients_by_finite_differences():
    """Of the gated product in float64, and of the norm, which computes in float32, with wider steps."""
    torch.manual_seed(0)
    gate, up = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(SwiGLU.apply, (gate, up))
    x, weight = torch.randn(2, 6, requires_grad=True), torch.rand(6) + 0.5
    assert torch.autograd.gradcheck(
        lambda given: RootMeanSquareNorm.apply(given, weight, 1e-6), (x,), eps=1e-2, atol=1e-2, rtol=1e-2
    )


def kept(layer) -> int:
    return kept_bytes(layer, lambda: layer(torch.randn(50, 24).bfloat16().requires_grad_()))


def test_what_is_kept():
    """50 rows of bfloat16. Norm: 24 columns, before in float32, 50 · 24 · 2 bytes less. MLP: silu(g), 50 · 40 · 2."""
    for make, less in ((norm, 50 * 24 * 2), (mlp, 50 * 40 * 2)):
        own = make(dtype=torch.bfloat16)
        lean = copy.deepcopy(own)
        install_lean_layers(lean)
        assert kept(own) - kept(lean) == less


def test_other_families_of_the_same_form_get_it():
    assert install_lean_layers(norm(Qwen3RMSNorm)) == 1
    assert install_lean_layers(mlp(cls=Qwen3MLP, config=Qwen3Config)) == 1


def test_a_norm_that_computes_something_else_stays_as_it_is():
    """Gemma multiplies by 1 + w, in float32: the check finds that."""
    assert install_lean_layers(norm(Gemma2RMSNorm)) == 0
    gated = mlp(config=lambda **sizes: LlamaConfig(hidden_act="gelu_pytorch_tanh", **sizes))
    assert install_lean_layers(gated) == 0

    class ScaledMLP(LlamaMLP):
        def forward(self, x):
            return super().forward(x) / 2

    class OddRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states, residual):
            return super().forward(hidden_states + residual)

    assert install_lean_layers(mlp(cls=ScaledMLP)) == 0
    assert install_lean_layers(norm(OddRMSNorm)) == 0


def test_a_norm_that_is_trained_keeps_its_own_gradient():
    trained = norm()
    trained.weight.requires_grad_(True)
    assert install_lean_layers(trained) == 0
    later = norm()
    install_lean_layers(later)
    later.weight.requires_grad_(True)
    later(torch.randn(2, 24)).sum().backward()
    assert later.weight.grad is not None


def test_without_weights_it_is_checked_too():
    """`fedllm plan` walks a model on the meta device."""
    with torch.device("meta"):
        made = LlamaRMSNorm(24)
    made.weight.requires_grad_(False)
    assert install_lean_layers(made) == 1


def test_the_random_numbers_of_the_run_stay_as_they_were():
    made = norm()
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    install_lean_layers(made)
    assert torch.equal(torch.rand(3), expected)


def test_generation_uses_the_own_class(monkeypatch):
    made = norm()
    install_lean_layers(made)
    monkeypatch.setattr(lean_layers.RootMeanSquareNorm, "apply", None)
    x = torch.randn(2, 24)
    with torch.no_grad():
        assert torch.equal(made(x), LlamaRMSNorm.forward(made, x))
