"""A finished run directory that no run has written: an adapter of any method, moved away from its start."""

import numpy as np
import pytest

from fedllm_app.adapters.methods import AdapterValues, adapter_layout, initial_adapter
from fedllm_app.models.base import load_base_model, locate_model
from fedllm_app.runs.directory import Checkpoint, PromptRecord, RunDirectory


@pytest.fixture
def save_run(run_config, tiny_model, tmp_path):
    """Write a finished run of the tiny model, or of another `model`; `adapter` are values of `AdapterValues`.

    The adapter's numbers are moved by normal ones of the standard deviation `spread`.
    """
    import torch

    def save(
        template="vicuna",
        system_prompt="",
        clients=0,
        method="lora",
        dora=False,
        model=None,
        adapter=None,
        spread=1.0,
        **config,
    ):
        name = f"run-{len(list(tmp_path.iterdir()))}"
        directory = RunDirectory(tmp_path / name, PromptRecord.of(template, system_prompt))
        overrides = {key.replace("__", ".").replace("_", "-"): value for key, value in config.items()}
        base = str(model or tiny_model)
        directory.create(run_config | {"model.name": base} | overrides)
        directory.journal("started")
        location = locate_model(base)
        given = {"targets": ("q_proj", "v_proj", "down_proj"), "virtual_tokens": 5} | (adapter or {})
        values = AdapterValues(alpha=8, dropout=0.0, dora=dora, method=method, **({"r": 4} | given))
        layout = adapter_layout(location, values)
        vector = initial_adapter(layout, values, 0, lambda: load_base_model(location, torch.float32))
        noise = [
            np.random.default_rng(k).normal(0, spread, vector.shape).astype(np.float32) for k in range(clients + 1)
        ]
        vectors = [vector + moved for moved in noise]
        directory.checkpoint(Checkpoint(1, vectors[0], {}, {}, {}, {}), vectors[0], layout)
        directory.finish(vectors[0], dict(enumerate(vectors[1:])), layout, {"rounds": 2, "participation": []})
        return directory.path

    return save
