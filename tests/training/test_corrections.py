"""Corrections on gradients, alone and through a real round of a client."""

import numpy as np
import pytest
import torch

from fedllm_app.messages import ADAPTER, CONTROL, CONTROL_DELTA
from fedllm_app.training import corrections
from fedllm_app.training.client_state import ClientState
from fedllm_app.training.corrections import ControlVariates, Correction, LocalRound, Proximal, corrections_for

QUIET = lambda *_: None  # noqa: E731
SCAFFOLD = {"scaffold": True}


def parameter(values, gradient):
    """A parameter with a gradient."""
    result = torch.nn.Parameter(torch.tensor(values))
    result.grad = torch.tensor(gradient)
    return result


def test_proximal_adds_mu_times_the_distance():
    """y = (1, 2), x = (0.5, 4), g = (10, 20), mu = 0.1: g + 0.1 (0.5, -2) = (10.05, 19.8)."""
    y = parameter([1.0, 2.0], [10.0, 20.0])
    Proximal(0.1, [torch.tensor([0.5, 4.0])]).apply([y])
    torch.testing.assert_close(y.grad, torch.tensor([10.05, 19.8]))


def one_round(asked, version=0, **vectors) -> LocalRound:
    """Round 5 of client 0, whose adapter is one tensor."""
    arrays = {name: np.array(values, np.float32) for name, values in vectors.items()}
    return LocalRound(asked, arrays, lambda vector: [torch.from_numpy(vector)], ClientState("a" * 32, 0), 5, version)


def test_control_variates_correct_and_average_raw_gradients():
    """c = (1, 0), c_i = (0.25, 2): each gradient gets (0.75, -2); the raw ones (2, 4) and (4, 8) average to (3, 6).

    So c_i⁺ = (3, 6) is kept as version 5 and its change (2.75, 4) is sent.
    """
    ClientState("a" * 32, 0).save_version(CONTROL, 2, np.array([0.25, 2.0], np.float32), keep=0)
    (variates,) = corrections_for(one_round(SCAFFOLD, version=2, control=[1.0, 0.0]))
    for gradient in ([2.0, 4.0], [4.0, 8.0]):
        y = parameter([0.0, 0.0], gradient)
        variates.apply([y])
        torch.testing.assert_close(y.grad, torch.tensor([gradient[0] + 0.75, gradient[1] - 2.0]))
    arrays, numbers = variates.finish()
    np.testing.assert_allclose(arrays[CONTROL_DELTA], [2.75, 4.0])
    np.testing.assert_allclose(ClientState("a" * 32, 0).load_version(CONTROL, 5), [3.0, 6.0])
    assert numbers == {"control-reset": 0}


def test_corrections_are_those_that_the_message_asks_for(monkeypatch):
    """None, either, both in the order of the table; and one more once it stands there."""

    class Halving(Correction):
        @classmethod
        def requested(cls, local_round):
            return cls() if local_round.config.get("halve") else None

        def apply(self, parameters):
            for parameter in parameters:
                parameter.grad /= 2

    given = {"adapter": [0.0], "control": [0.0]}
    for asked, expected in (
        ({}, []),
        ({"proximal-mu": 0.0, "scaffold": False}, []),
        ({"proximal-mu": 0.1}, [Proximal]),
        ({"proximal-mu": 0.1, "scaffold": True}, [Proximal, ControlVariates]),
        ({"halve": True}, []),
    ):
        assert [type(one) for one in corrections_for(one_round(asked, **given))] == expected
    monkeypatch.setattr(corrections, "CORRECTIONS", [*corrections.CORRECTIONS, Halving])
    y = parameter([1.0], [4.0])
    for correction in corrections_for(one_round({"proximal-mu": 2.0, "halve": True}, **given)):
        correction.apply([y])
    torch.testing.assert_close(y.grad, torch.tensor([3.0]))  # (4 + 2 (1 - 0)) / 2


def test_option_two_of_the_paper_under_sgd(make_client, assign):
    """SGD, constant rate eta, K = 2: c_i⁺ = c_i - c + (x - y) / (K eta), with c_i from round 1 and any c."""
    client = make_client(train__optimizer="sgd", train__max_grad_norm=0.0)
    size, eta, steps = client.model.manifest.size, 1e-2, 2
    x = np.random.default_rng(0).normal(0, 0.05, size).astype(np.float32)
    first, _ = client.train(assign(client, config=SCAFFOLD, learning_rate=eta), {ADAPTER: x, CONTROL: x * 0}, QUIET)
    c_i, c = first[CONTROL_DELTA], np.full(size, 0.03, np.float32)
    second, numbers = client.train(
        assign(client, config=SCAFFOLD, learning_rate=eta, server_round=2, position=2, state_version=1),
        {ADAPTER: x, CONTROL: c},
        QUIET,
    )
    option_two = c_i - c + (x - second[ADAPTER]) / (steps * eta)
    np.testing.assert_allclose(c_i + second[CONTROL_DELTA], option_two, atol=2e-4)
    assert numbers["control-reset"] == 0
    assert np.abs(second[CONTROL_DELTA]).max() > 1e-3


def test_control_follows_the_version_that_the_server_knows(make_client, assign):
    """A reply of round 2 that was never accepted: the next message still names version 1, and version 1 is used.

    So two attempts at a round from the same version send the same change. A client that finds no version it should
    have starts at zero and says so.
    """
    client = make_client()
    size = client.model.manifest.size
    vectors = {ADAPTER: np.full(size, 0.01, np.float32), CONTROL: np.zeros(size, np.float32)}
    client.train(assign(client, config=SCAFFOLD), vectors, QUIET)
    attempt = {"config": SCAFFOLD, "state_version": 1, "position": 2}
    lost, _ = client.train(assign(client, server_round=2, **attempt), vectors, QUIET)
    again, numbers = client.train(assign(client, server_round=3, **attempt), vectors, QUIET)
    assert np.array_equal(lost[CONTROL_DELTA], again[CONTROL_DELTA])
    assert numbers["control-reset"] == 0
    elsewhere = assign(client, server_round=3, run="e" * 32, **attempt)  # another run, of which nothing is here
    delta, numbers = client.train(elsewhere, vectors, QUIET)
    assert numbers["control-reset"] == 1
    assert not np.array_equal(delta[CONTROL_DELTA], again[CONTROL_DELTA])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_proximal_pulls_towards_the_global_adapter(make_client, assign, optimizer):
    """A strong proximal term leaves the client nearer to where it started; mu = 0 is plain training to the bit."""
    client = make_client(train__local_steps=4, train__optimizer=optimizer)
    x = np.full(client.model.manifest.size, 0.01, np.float32)
    plain, zero, held = (
        client.train(assign(client, config={"proximal-mu": mu}), {ADAPTER: x}, QUIET)[0][ADAPTER]
        for mu in (0.0, 0.0, 50.0)
    )
    assert np.array_equal(plain, zero)
    assert np.linalg.norm(held - x) < 0.9 * np.linalg.norm(plain - x)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_proximal_is_not_scaled_by_accumulation_and_not_in_the_loss(make_client, assign, accumulation):
    """Two SGD steps of 4 examples, whole or in two halves, at rate eta from x to y1 to y2.

    At the first y = x and mu adds nothing; the second it moves by -eta mu (y1 - x). The first loss lacks mu's term.
    """
    eta, mu, between = 0.1, 3.0, []
    client = make_client(
        train__local_steps=2,
        train__batch_size=4 // accumulation,
        train__gradient_accumulation=accumulation,
        train__optimizer="sgd",
        train__max_grad_norm=0.0,
    )
    x = np.full(client.model.manifest.size, 0.01, np.float32)

    def watch(step, _steps, _loss):
        if step == 1:
            between.append(client.model.adapter.read())

    (plain, plain_numbers), (held, held_numbers) = (
        client.train(assign(client, config={"proximal-mu": weight}, learning_rate=eta), {ADAPTER: x}, watch)
        for weight in (0.0, mu)
    )
    assert np.array_equal(*between)
    assert np.abs(between[0] - x).max() > 1e-4
    np.testing.assert_allclose(held[ADAPTER] - plain[ADAPTER], -eta * mu * (between[0] - x), atol=1e-7)
    assert held_numbers["first-loss"] == plain_numbers["first-loss"]
