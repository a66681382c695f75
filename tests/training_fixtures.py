"""A resident tiny model and a local client on it."""

import numpy as np
import pytest
from jobs import steps

from fedllm_app.adapters.methods import AdapterValues, adapter_layout, draw_adapter
from fedllm_app.client.build import local_client
from fedllm_app.messages import Assignment
from fedllm_app.models.base import ModelValues, locate_model
from fedllm_app.training import resident as resident_module
from fedllm_app.training.resident import ResidentKey, resident


@pytest.fixture(autouse=True)
def clean_process():
    """No test sees the resident model of another."""
    resident_module.release()
    yield
    resident_module.release()


@pytest.fixture
def model(tiny_model):
    """A resident float32 model with LoRA r=4 on q_proj and v_proj, for SFT."""
    return resident(
        ResidentKey("sft", ModelValues(str(tiny_model), "float32"), AdapterValues(4, 8, 0.0, ("q_proj", "v_proj")))
    )


@pytest.fixture
def training():
    """Three AdamW steps of two examples."""
    return steps(3, 2, 1, "adamw", 0.0, 1.0)


@pytest.fixture
def start(tiny_model):
    """The seeded initial adapter of `model`, moved a little so that B is not zero."""
    layout = adapter_layout(locate_model(str(tiny_model)), AdapterValues(4, 8, 0.0, ("q_proj", "v_proj")))
    manifest = layout.manifest
    vector = draw_adapter(manifest, seed=0)
    return vector + np.random.default_rng(0).normal(0, 0.02, vector.shape).astype(np.float32)


@pytest.fixture
def rows():
    """Six rows of different lengths: (token ids, position of the first completion token)."""
    random = np.random.default_rng(1)
    return [(random.integers(3, 250, length).astype(np.int32), length // 2) for length in (9, 14, 6, 11, 17, 8)]


@pytest.fixture
def make_client(run_config):
    """Build a local client from the small run configuration with overrides."""

    def make(run_id: int = 1, clients: int = 4, **overrides):
        flat = run_config | {key.replace("__", ".").replace("_", "-"): value for key, value in overrides.items()}
        return local_client(run_id, tuple(sorted(flat.items())), clients)

    return make


@pytest.fixture
def assign():
    """An assignment of client 0 in round 1, with overrides."""

    def make(client, **overrides) -> Assignment:
        manifest = client.model.manifest.hash
        values = {"client": 0, "clients": 4, "server_round": 1, "position": 0, "learning_rate": 1e-2}
        return Assignment(**{**values, "manifest": manifest, **overrides})

    return make
