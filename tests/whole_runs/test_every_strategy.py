"""Every name of the table, through the real server and the real clients, for SFT and for DPO, without processes."""

import numpy as np
import pytest
from in_process import run_in_process

from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.runs.directory import read_journal, read_result
from fedllm_app.strategies.registry import STRATEGIES, minimum_clients
from fedllm_app.training import resident


@pytest.fixture(autouse=True)
def clean_process():
    """Start and leave without a resident model."""
    resident.release()
    PROCESS_CACHE.clear()
    yield
    resident.release()


@pytest.mark.parametrize("task", ["sft", "dpo"])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_strategy_runs_moves_adapters_and_leaves_no_trace(name, task, run_config, tmp_path):
    """Two rounds of three clients, or as many as the strategy needs: losses finite, adapters moved; the same run again
    gives the same bytes.

    `local` has no global adapter: its clients' own must have moved instead.
    """
    clients = max(3, minimum_clients(name, {}))
    flat = run_config | {
        "strategy.name": name,
        "train.task": task,
        "clients.number": clients,
        "train.local-steps": 1,
        "data.examples-per-client": 6,
        "data.held-out-examples": 2,
    }
    once = run_in_process(flat, tmp_path / "once")
    again = run_in_process(flat, tmp_path / "again")
    assert once == again
    result, journal = read_result(tmp_path / "once"), read_journal(tmp_path / "once")
    losses = [event["train_loss"] for event in journal if event["event"] == "client"]
    assert len(losses) == 2 * (1 if name == "centralized" else clients)
    assert np.isfinite(losses).all()
    assert result["refused_replies"] == 0
    if name == "local":
        assert result["adapter_moved"] == 0
        own = [
            (tmp_path / "once" / "adapters" / f"client-{k}" / "adapter_model.safetensors").read_bytes()
            for k in range(clients)
        ]
        assert len({*own, once}) == clients + 1
    else:
        assert result["adapter_moved"] > 1e-4
    if task == "dpo":
        assert all(0 <= event["reward_accuracy"] <= 1 for event in journal if event["event"] == "client-evaluation")


def test_identities_through_the_whole_app(run_config, tmp_path):
    """fedprox with mu = 0 and fedavgm with beta = 0, eta = 1 are fedavg to float32 rounding; equal shards make
    scaffold's first round fedavg's, and its second another."""
    # Long enough for every row: a dropped one would make the clients' numbers of examples differ.
    flat = run_config | {"clients.number": 3, "train.local-steps": 1, "evaluate.every": 0, "train.max-length": 400}
    variants = {
        "fedavg": {},
        "fedprox": {"strategy.fedprox.mu": 0.0},
        "scaffold": {},
        "fedavgm": {"strategy.fedavgm.beta": 0.0, "strategy.fedavgm.eta-s": 1.0},
    }
    final = {}
    for rounds in (1, 2):
        for name, hyper in variants.items():
            directory = tmp_path / f"{name}-{rounds}"
            run_in_process(flat | hyper | {"strategy.name": name, "train.rounds": rounds}, directory)
            final[name, rounds] = load(directory)
    for rounds in (1, 2):
        for name in ("fedprox", "fedavgm"):
            np.testing.assert_allclose(final[name, rounds], final["fedavg", rounds], atol=1e-6)
    np.testing.assert_allclose(final["scaffold", 1], final["fedavg", 1], atol=1e-6)
    assert np.abs(final["scaffold", 2] - final["fedavg", 2]).max() > 1e-5


def load(directory) -> np.ndarray:
    from safetensors.numpy import load_file

    tensors = load_file(directory / "adapter" / "adapter_model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_partial_participation_goes_on_where_a_client_stopped(run_config, tmp_path):
    """3 of 7 clients a round: the seeded choice is the same twice, and another seed chooses others."""
    flat = run_config | {
        "clients.number": 7,
        "clients.per-round": 3,
        "train.rounds": 4,
        "evaluate.every": 0,
        "train.local-steps": 1,
        "strategy.name": "scaffold",
    }
    chosen = {}
    for label, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_in_process(flat | {"run.seed": seed}, tmp_path / label)
        journal = read_journal(tmp_path / label)
        chosen[label] = [event["clients"] for event in journal if event["event"] == "round-started"]
    assert chosen["a"] == chosen["b"]
    assert chosen["a"] != chosen["c"]
    assert all(len(clients) == 3 for clients in chosen["a"])


@pytest.mark.parametrize(
    "adapter",
    [
        {"lora.dora": True},
        {"adapter.method": "ia3"},
        {"adapter.method": "prefix-tuning"},
        {"adapter.method": "p-tuning"},
        {"adapter.method": "prompt-tuning"},
    ],
    ids=lambda adapter: str(list(adapter.values())[0]),
)
def test_every_adapter_method_runs_and_goes_on(adapter, run_config, tmp_path):
    """A run of SFT from a new adapter, and one of DPO from what the first one left, with that as its reference.

    So the first loss of the second run is ln 2.
    """
    flat = (
        run_config
        | adapter
        | {
            "clients.number": 2,
            "train.local-steps": 1,
            "data.examples-per-client": 6,
            "data.held-out-examples": 2,
            "adapter.virtual-tokens": 4,
        }
    )
    run_in_process(flat | {"strategy.name": "scaffold"}, tmp_path / "first")
    run_in_process(flat | {"train.task": "dpo", "adapter.start": str(tmp_path / "first")}, tmp_path / "second")
    for name in ("first", "second"):
        assert read_result(tmp_path / name)["adapter_moved"] > 1e-4
        assert read_result(tmp_path / name)["refused_replies"] == 0
    first_losses = [
        e["train_loss"] for e in read_journal(tmp_path / "second") if e["event"] == "client" and e["round"] == 1
    ]
    np.testing.assert_allclose(first_losses, np.log(2), atol=1e-5)
