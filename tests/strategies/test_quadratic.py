"""FedAvg, FedProx and SCAFFOLD on clients that disagree: many local steps on quadratics with different curvature.

Client i has ``f_i(y) = ½ (y − b_i)ᵀ A_i (y − b_i)`` and takes K gradient steps of size η. With ``M_i = (I − η A_i)^K``
its move is ``y_i − x = −(I − M_i)(x − b_i)``. The optimum of the mean loss and FedAvg's fixed point (equal counts)
are where

    Σ A_i (x − b_i) = 0            x* = (Σ A_i)⁻¹ Σ A_i b_i
    Σ (I − M_i)(x − b_i) = 0       x̄ = (Σ (I − M_i))⁻¹ Σ (I − M_i) b_i

For K = 1, I − M_i = η A_i and both agree; for many steps I − M_i tends to I, and x̄ to the mean of the b_i: FedAvg
stops where the clients' curvatures do not count. FedProx's client descends ``f_i(y) + (μ/2) ‖y − x‖²`` instead: with
``B_i = A_i + μ I`` its move is ``−(I − (I − η B_i)^K) B_i⁻¹ A_i (x − b_i)``, which tends to a multiple of A_i as μ
outgrows A_i.
SCAFFOLD's fixed point is x*: there c_i = ∇f_i(x*), c = Σ c_i / N = 0, and every corrected gradient vanishes.
"""

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
import pytest
import torch
from flwr.app import Message
from numpy.typing import NDArray
from toy_strategies import Client, make_reply, run_round

from fedllm_app.messages import ADAPTER, read_vectors
from fedllm_app.strategies.registry import build_strategy
from fedllm_app.training.client_state import ClientState
from fedllm_app.training.corrections import LocalRound, corrections_for

STEPS, RATE, MU = 20, 0.05, 3.0
CURVATURES = [np.diag([4.0, 0.2]), np.array([[0.5, 0.3], [0.3, 1.0]]), np.diag([0.1, 3.0]), np.diag([1.5, 1.0])]
CENTRES = [np.array([1.0, 2.0]), np.array([-2.0, 1.0]), np.array([3.0, -1.0]), np.array([0.0, 4.0])]
EYE = np.eye(2)


def quadratic_client(number: int) -> Client:
    """Return a client that descends its quadratic with the app's own corrections, and its own state on disk.

    Like the round loop, it names the round of its last reply as the version that its state must have.
    """
    curvature, centre = (torch.from_numpy(given[number]) for given in (CURVATURES, CENTRES))
    state, rounds = ClientState("a" * 32, number), count(1)

    def client(message: Message) -> Message:
        vectors, server_round = read_vectors(message), next(rounds)
        y = torch.nn.Parameter(torch.from_numpy(vectors[ADAPTER]).double())
        optimizer = torch.optim.SGD([y], lr=RATE)
        corrections = corrections_for(
            LocalRound(dict(message.content["config"]), vectors, pieces, state, server_round, server_round - 1)
        )
        for _ in range(STEPS):
            y.grad = curvature @ (y.detach() - centre)
            for correction in corrections:
                correction.apply([y])
            optimizer.step()
        arrays = {name: array for correction in corrections for name, array in correction.finish()[0].items()}
        named = {name.replace("-", "_"): array for name, array in arrays.items()}
        return make_reply(message, y.detach().numpy(), examples=10, **named)

    return client


def pieces(vector: NDArray) -> list[torch.Tensor]:
    """The adapter is one tensor, in double precision so that rounding plays no part."""
    return [torch.from_numpy(vector).double()]


def fixed_point(moves: list[NDArray]) -> NDArray:
    """Solve Σ D_i (x − b_i) = 0 for the matrices D_i."""
    right = sum(matrix @ centre for matrix, centre in zip(moves, CENTRES, strict=True))
    return np.linalg.solve(sum(moves), right)


def powers(matrices: list[NDArray]) -> list[NDArray]:
    """Return I − (I − η A)^K for every A."""
    return [EYE - np.linalg.matrix_power(EYE - RATE * matrix, STEPS) for matrix in matrices]


OPTIMUM = fixed_point(CURVATURES)
FEDAVG_POINT = fixed_point(powers(CURVATURES))
_PROXIMAL = [curvature + MU * EYE for curvature in CURVATURES]
FEDPROX_POINT = fixed_point(
    [
        power @ np.linalg.solve(proximal, curvature)
        for power, proximal, curvature in zip(powers(_PROXIMAL), _PROXIMAL, CURVATURES, strict=True)
    ]
)


def federate(name: str, hyper: Mapping[str, float], rounds: int, draws: Sequence = (range(4),)) -> NDArray:
    """Return the global vector after some rounds, for which the draws of clients are taken in turn."""
    strategy = build_strategy(name, hyper, num_clients=4)
    clients = [quadratic_client(number) for number in range(4)]
    x = np.array([5.0, -5.0], np.float32)
    for server_round in range(rounds):
        drawn = draws[server_round % len(draws)]
        x = run_round(strategy, server_round + 1, x, {client: clients[client] for client in drawn})
    return x


def test_the_problem_is_worth_solving():
    """FedAvg's fixed point is far from the optimum; otherwise the tests below would show nothing."""
    assert np.linalg.norm(FEDAVG_POINT - OPTIMUM) > 0.3


def test_fedavg_stops_at_its_biased_fixed_point():
    np.testing.assert_allclose(federate("fedavg", {}, 40), FEDAVG_POINT, atol=1e-5)


def test_fedprox_lies_between():
    """At its own fixed point, nearer to the optimum than FedAvg's and not there."""
    x = federate("fedprox", {"mu": MU}, 60)
    np.testing.assert_allclose(x, FEDPROX_POINT, atol=1e-5)
    assert 0.1 < np.linalg.norm(x - OPTIMUM) < 0.8 * np.linalg.norm(FEDAVG_POINT - OPTIMUM)


def test_scaffold_reaches_the_optimum():
    np.testing.assert_allclose(federate("scaffold", {}, 40), OPTIMUM, atol=1e-4)


@pytest.mark.parametrize("draws", [[(0, 1), (2, 3)], [(0,), (1, 2, 3)], [(0, 1, 2), (3,), (1, 3)]])
def test_scaffold_reaches_the_optimum_when_clients_take_turns(draws):
    """|S| / N keeps c the mean of all c_i, however many clients a round has.

    With N = |S| a client of a small round counts more in c than one of a large round, and Σ ∇f_i(x*) = 0 no longer
    means c = 0: x stops elsewhere.
    """
    np.testing.assert_allclose(federate("scaffold", {}, 120, draws), OPTIMUM, atol=1e-4)
