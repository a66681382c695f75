"""A strategy from outside the package that needs the factors, one with a state of its own, and one of Flower's."""

import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from toy_strategies import make_reply, send

from fedllm_app.adapters.layout import AdapterSettings, Layout, Manifest
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.federation.start import starting_point
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.strategies.registry import build_strategy

NAME = "own_strategy.ProductMean"
A, B = "m.lora_A.weight", "m.lora_B.weight"
LAYOUT = Layout(Manifest((A, B, "bias"), ((1, 2), (2, 1), (1,))), AdapterSettings(""))


def test_it_is_short(lines_of_code):
    assert lines_of_code("own_strategy.py") <= 60


def packed(a, b, bias) -> np.ndarray:
    return LAYOUT.pack({A: np.float32([a]), B: np.float32(b)[:, None], "bias": np.float32([bias])})


def test_the_product_and_its_cut_by_hand():
    """B₁A₁ = (2, 0)ᵀ(1, 0) = diag(2, 0) with 1 example, B₂A₂ = (0, 1)ᵀ(0, 2) = diag(0, 2) with 3.

    The mean is diag(½, 1½); cut to rank 1 it is diag(0, 1½), which keeps 1½² / (½² + 1½²) = 0.9 of the energy. The
    means of the factors would give (½, ¾)ᵀ (¼, 1½). What is no factor is averaged: ¼ · 4 + ¾ · 0 = 1.
    """
    strategy = build_strategy(NAME, {}, 2)
    strategy.bind(LAYOUT)
    replies = {0: (packed([1, 0], [2, 0], 4), 1), 1: (packed([0, 2], [0, 1], 0), 3)}
    messages = send(strategy, 1, packed([1, 1], [0, 0], 0), replies)
    answers = (make_reply(message, *replies[message.metadata.dst_node_id]) for message in messages)
    arrays, _ = strategy.aggregate_train(1, answers)
    tensors = LAYOUT.unpack(arrays["adapter"].numpy())
    np.testing.assert_allclose(tensors[B] @ tensors[A], [[0, 0], [0, 1.5]], atol=1e-6)
    assert tensors["bias"] == pytest.approx(1)
    assert strategy.round_numbers()["kept-energy"] == pytest.approx(0.9)


def test_a_whole_run(run):
    """By its class path: the journal holds its number, and the adapter is another than FedAvg's.

    The mean of three products of rank 8 has the rank 24 (k and v: 16, their outputs); the cut to 8 loses some of it.
    """
    found, fedavg = run("own", strategy__name=NAME), run("fedavg")
    kept = [event["kept_energy"] for event in found.events("round")]
    assert len(kept) == 2 and all(0.5 < share < 1 for share in kept)
    assert found.tensors.keys() == fedavg.tensors.keys()
    assert any(np.abs(found.tensors[name] - fedavg.tensors[name]).max() > 1e-3 for name in fedavg.tensors)


def test_the_final_adapter_is_the_cut_of_the_clients_products(run, monkeypatch, small):
    """One round, equal examples: B A of each module is the best approximation, rank 8, of the mean of B_i A_i."""
    replies = []
    add = FedAvg._add_reply

    def keep(self, reply, means, metrics) -> None:
        add(self, reply, means, metrics)
        replies.append(reply.content["arrays"]["adapter"].numpy())

    monkeypatch.setattr(FedAvg, "_add_reply", keep)
    found = run("own", strategy__name=NAME, train__rounds=1)
    clients = [starting_point(parse_run_config(small)).layout.unpack(reply) for reply in replies]
    assert len(clients) == 3
    for a in (name for name in found.tensors if "lora_A" in name):
        b = a.replace("lora_A", "lora_B")
        u, sigma, vt = np.linalg.svd(np.mean([client[b].astype(float) @ client[a] for client in clients], axis=0))
        np.testing.assert_allclose(found.tensors[b] @ found.tensors[a], u[:, :8] * sigma[:8] @ vt[:8], atol=1e-5)


def test_error_feedback_with_it_is_refused(run):
    """Before the run, by the names of both keys."""
    with pytest.raises(ConfigError, match=f"update.compress = 'int8' does not work with strategy.name = '{NAME}'"):
        run("own", strategy__name=NAME, update__compress="int8")


class Counting(FedAvg):
    """FedAvg that keeps the adapter before, a number, and a table of examples by round and client."""

    state_names: ClassVar[tuple[str, ...]] = ("before",)
    free_state_names: ClassVar[tuple[str, ...]] = ("rounds", "table")

    def __init__(self) -> None:
        super().__init__()
        self.before, self.rounds, self.table = None, 0, np.zeros((2, 3))

    def _server_step(self, x, means):
        self.before, self.rounds = x.astype(np.float32), self.rounds + 1
        self.table[self.rounds - 1] = self.rounds
        return super()._server_step(x, means)


@pytest.fixture
def counting(monkeypatch) -> str:
    """The class path of `Counting`."""
    module = ModuleType("counting_strategy")
    module.Counting = Counting
    monkeypatch.setitem(sys.modules, "counting_strategy", module)
    return "counting_strategy.Counting"


def test_numbers_and_tables_of_a_state_survive_a_checkpoint(run, counting):
    """After round 2: the adapter of round 1, the number 2 as an int, and the table (1 1 1; 2 2 2)."""
    found = run("own", strategy__name=counting)
    with np.load(found.directory / "checkpoints" / "round-2" / "strategy.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    again = Counting()
    again.load_state_arrays(arrays)
    assert (type(again.rounds), again.rounds) == (int, 2)
    assert again.table.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert again.before.shape == (8192,) and again.before.any()
    again.load_state_arrays({})
    assert again.before is None


def test_a_strategy_of_flowers_runs_whole(run):
    """FedMedian, by its class path, in the wrapper that answers for it: its adapter is not FedAvg's."""
    found, fedavg = run("median", strategy__name="flwr.serverapp.strategy.FedMedian"), run("fedavg")
    assert found.result["adapter_moved"] > 1e-3
    assert [event["clients"] for event in found.events("round")] == [[0, 1, 2]] * 2
    assert any(np.abs(found.tensors[name] - fedavg.tensors[name]).max() > 1e-5 for name in fedavg.tensors)


def test_the_product_forgets_a_round_that_is_repeated():
    """The replies of the first attempt would count twice: 2 · diag(2, 0) and diag(0, 2) instead of one of each."""
    replies = {0: (packed([1, 0], [2, 0], 4), 1), 1: (packed([0, 2], [0, 1], 0), 1)}

    def broken(messages):
        yield make_reply(messages[0], *replies[0])
        raise RuntimeError("too few")

    results = []
    for attempts in (1, 2):
        strategy = build_strategy(NAME, {}, 2)
        strategy.bind(LAYOUT)
        for attempt in range(attempts):
            messages = send(strategy, 1, packed([1, 1], [0, 0], 0), replies)
            if attempt + 1 < attempts:
                with pytest.raises(RuntimeError):
                    strategy.aggregate_train(1, broken(list(messages)))
        made = [make_reply(message, *replies[number]) for number, message in enumerate(messages)]
        arrays, _ = strategy.aggregate_train(1, made)
        results.append(arrays["adapter"].numpy().tolist())
    assert results[0] == results[1]
