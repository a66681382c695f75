"""A task from outside the package."""

import numpy as np
import pytest
import torch

from fedllm_app.client.build import local_client, resident_key
from fedllm_app.config.parse import parse_run_config
from fedllm_app.messages import Assignment
from fedllm_app.tasks import task_spec
from fedllm_app.training.resident import resident

SPEC = "own_task.SPEC"


def test_it_is_short(lines_of_code):
    assert lines_of_code("own_task.py") <= 60


def test_a_whole_run(run):
    """Evaluated as "sft" is, trained towards other targets: the same held-out loss first, then another adapter."""
    found, plain = run("own", train__task=SPEC), run("plain", train__task="sft")
    metrics = task_spec(SPEC).metrics
    before, after = found.events("evaluation")
    assert set(metrics) <= set(before)
    assert before["eval_loss"] == plain.events("evaluation")[0]["eval_loss"]
    assert after["eval_loss"] != plain.events("evaluation")[1]["eval_loss"]
    assert found.result["adapter_moved"] > 1e-3
    assert any(np.abs(found.tensors[name] - plain.tensors[name]).max() > 1e-4 for name in plain.tensors)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_that_it_trains(run, small, accumulation):
    """The first step's loss is 0.9 of the right tokens' and 0.1 of the mean over all 300 tokens (Szegedy et al. 2016).

    One client, one step of one or two batches of one row: its rows are scored here from the logits of the base. A step
    counts each completion token once, however many batches it has.
    """
    options = {
        "clients__number": 1,
        "train__local_steps": 1,
        "train__batch_size": 1,
        "train__gradient_accumulation": accumulation,
        "train__rounds": 1,
    }
    (client,) = run("own", train__task=SPEC, **options).events("client")
    flat = small | {"train.task": SPEC} | {k.replace("__", ".").replace("_", "-"): v for k, v in options.items()}
    served = local_client(5, tuple(sorted(flat.items())), 1)
    shards = served.shards(0)
    total, tokens = 0.0, 0
    model = resident(resident_key(parse_run_config(flat)))
    with model.using(None) as base, torch.no_grad():
        for index in served.indices(shards, Assignment(0, 1, 1, 0, 0.0, "")):
            ids, start = shards.train.example(index)
            ids = torch.from_numpy(ids.astype(np.int64))
            log_probs = torch.log_softmax(base(input_ids=ids[None]).logits[0, start - 1 : -1].double(), dim=-1)
            right = log_probs.gather(1, ids[start:, None])[:, 0]
            total -= float((0.9 * right + 0.1 * log_probs.mean(dim=1)).sum())
            tokens += len(right)
    assert client["first_loss"] == pytest.approx(total / tokens, rel=1e-4)
