"""The chain: order of the steps, changes and vectors, state of the client and of the server."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest

from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.training.client_state import ClientState, RoundState
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.int8 import Int8Blocks
from fedllm_app.updates.update import Arrays, Numbers, StepState, UpdateError, UpdateStep


class Doubling(UpdateStep):
    """Sends twice the change; after the server's step it goes on half of the way."""

    name: ClassVar[str] = "doubling"

    def on_client(self, changes: Arrays, state: StepState) -> tuple[Arrays, Numbers]:
        return {name: 2 * change for name, change in changes.items()}, {"doubled": len(changes)}

    def on_server(self, arrays: Arrays, size: int) -> Arrays:
        return {name: array / 2 for name, array in arrays.items()}

    def after_step(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return (before + after) / 2


class Adding(UpdateStep):
    """Sends one more than the change, keeps how often it did, and on the server counts the replies."""

    name: ClassVar[str] = "adding"

    def __init__(self) -> None:
        self.replies, self.shape = 0, np.zeros((2, 3))

    def on_client(self, changes: Arrays, state: StepState) -> tuple[Arrays, Numbers]:
        times = state.load("times")
        state.save("times", np.float32([1]) if times is None else times + 1)
        return {name: change + 1 for name, change in changes.items()}, {"times": 0 if times is None else int(times[0])}

    def on_server(self, arrays: Arrays, size: int) -> Arrays:
        self.replies += 1
        return {name: array - 1 for name, array in arrays.items()}

    def after_step(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return after + 1

    def state_arrays(self) -> Arrays:
        return {"replies": np.asarray(self.replies), "shape": self.shape}

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.replies, self.shape = int(arrays["replies"]), arrays["shape"]


class Moving(FedAvg):
    """FedAvg as if its coordinates moved."""

    fixed_coordinates: ClassVar[bool] = False


X, Y = np.float32([1, 2]), np.float32([4, 0])
DELTA = np.float32([0.5, 1])


def state(version: int = 0, server_round: int = 1) -> RoundState:
    return RoundState(ClientState("a" * 32, 0), version, server_round)


def test_without_steps_vectors_pass_as_they_are():
    """The very same arrays both ways, whatever they are."""
    sent, numbers = UpdateChain().outgoing({"adapter": Y}, X, state())
    assert sent["adapter"] is Y
    assert numbers == {}
    assert UpdateChain().incoming({"adapter": Y}, X)["adapter"] is Y
    assert UpdateChain().after_step(X, Y) is Y


def test_steps_see_changes_in_order_and_the_server_undoes_them_in_reverse():
    """Y - X = (3, -2). Doubled, then one more: (7, -3). "control-delta" is a change already: (0.5, 1) gives (2, 3).

    On the server one less, then half: (3, -2) and (0.5, 1); X is added to the adapter alone: (4, 0). In the other order
    the server would read (7 / 2 - 1, …) = (2.5, …).
    """
    chain = UpdateChain((Doubling(), Adding()))
    sent, numbers = chain.outgoing({"adapter": Y, "control-delta": DELTA}, X, state())
    assert sent["adapter"].tolist() == [7, -3]
    assert sent["control-delta"].tolist() == [2, 3]
    assert numbers == {"doubled": 2, "times": 0}
    back = chain.incoming(sent, X)
    assert back["adapter"].tolist() == [4, 0]
    assert back["control-delta"].tolist() == [0.5, 1]


def test_after_the_step_in_order():
    """From X = (1, 2) to Y = (4, 0): half of the way is (2.5, 1), then one more (3.5, 2)."""
    assert UpdateChain((Doubling(), Adding())).after_step(X, Y).tolist() == [3.5, 2]


def test_a_reply_without_the_adapter_is_left_to_the_checks():
    """No error here: the loop says which array is missing."""
    assert list(UpdateChain((Doubling(),)).incoming({"control-delta": DELTA}, X)) == ["control-delta"]


def test_a_step_refuses_by_its_error():
    with pytest.raises(UpdateError, match="adapter is float32"):
        UpdateChain((Int8Blocks(),)).incoming({"adapter": Y}, X)


def test_each_step_has_its_own_state_on_the_client():
    """Two steps that use the same name do not read each other's array: in round 2 each finds what it kept, 1 and 10."""

    class Ten(UpdateStep):
        name: ClassVar[str] = "ten"

        def on_client(self, changes: Arrays, state: StepState) -> tuple[Arrays, Numbers]:
            before = state.load("times")
            state.save("times", np.float32([10]))
            return changes, {"ten": 0 if before is None else int(before[0])}

    chain = UpdateChain((Adding(), Ten()))
    chain.outgoing({"adapter": Y}, X, state(0, 1))
    _, numbers = chain.outgoing({"adapter": Y}, X, state(1, 2))
    assert numbers == {"times": 1, "ten": 10}


def test_state_of_the_server_survives_a_checkpoint(tmp_path):
    """A count of shape () and an array of shape (2, 3) under the step's name; a step without state has none."""
    chain = UpdateChain((Doubling(), Adding()))
    for _ in range(2):
        chain.incoming({"adapter": Y}, X)
    np.savez(tmp_path / "updates.npz", **chain.state_arrays())
    again = UpdateChain((Doubling(), Adding()))
    with np.load(tmp_path / "updates.npz") as saved:
        assert sorted(saved) == ["adding/replies", "adding/shape"]
        again.load_state_arrays(dict(saved))
    assert (again.steps[1].replies, again.steps[1].shape.shape) == (2, (2, 3))


def test_error_feedback_and_moving_coordinates_do_not_go_together():
    """int8 adds up by coordinate; doubling keeps nothing. With FedAvg there is no problem."""
    chain = UpdateChain((Doubling(), Int8Blocks()))
    assert list(chain.problems(Moving())) == ["int8"]
    assert "move between rounds" in chain.problems(Moving())["int8"]
    assert chain.problems(FedAvg()) == {}
