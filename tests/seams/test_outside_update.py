"""An update step from outside the package, with state on the server."""

import numpy as np
import pytest
from in_process import run_in_process

from fedllm_app.runs.directory import read_journal
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.update import UpdateError

STEP = "own_update.ClipNorm"


@pytest.fixture
def clip(monkeypatch):
    """The example's class, with C = 0.1."""
    import own_update

    monkeypatch.setattr(own_update.ClipNorm, "norm", 0.1)
    return own_update.ClipNorm


def test_it_is_short(lines_of_code):
    assert lines_of_code("own_update.py") <= 60


def test_its_arithmetic_by_hand(clip):
    """Δ = (0.3, 0.4) has the norm ½ and becomes a fifth of itself, (0.06, 0.08); (0.03, 0.04) and zero stay."""
    step = clip()
    sent = [step.on_client({"adapter": np.float32(d)}, None) for d in ([0.3, 0.4], [0.03, 0.04], [0, 0])]
    np.testing.assert_allclose(
        [arrays["adapter"] for arrays, _ in sent], [[0.06, 0.08], [0.03, 0.04], [0, 0]], rtol=1e-6
    )
    assert [numbers["update-norm"] for _, numbers in sent] == pytest.approx([0.5, 0.05, 0])
    for arrays, _ in sent:
        step.on_server(arrays, 2)
    assert (step.replies, step.clipped) == (3, 1)
    for odd in ([0.3, 0.4], [np.nan, 0]):
        with pytest.raises(UpdateError, match="above 0.1"):
            step.on_server({"adapter": np.float32(odd)}, 2)
    assert step.replies == 3


@pytest.mark.parametrize("compress", ["none", "int8"])
def test_a_whole_run(run, clip, compress):
    """Each client moves more than 0.1 in round 1; the mean of clipped changes moves the adapter by at most 0.1 a round.

    With compression after it, steps of 8 bits and what they left of the round before add at most the tolerance. Counts
    are in the checkpoint of each round: 3 replies after the first, 6 after the second.
    """
    found = run("own", update__steps=STEP, update__compress=compress)
    norms = [event["update_norm"] for event in found.events("client")]
    assert min(norms[:3]) > 0.1
    assert 0 < found.result["adapter_moved"] <= 0.2 * 1.02
    for number in (1, 2):
        with np.load(found.directory / "checkpoints" / f"round-{number}" / "updates.npz") as saved:
            counts = {name: (array.shape, int(array)) for name, array in saved.items()}
            step = clip()
            UpdateChain((step,)).load_state_arrays(dict(saved))
        clipped = sum(norm > 0.1 for norm in norms[: 3 * number])
        assert counts == {"clip-norm/replies": ((), 3 * number), "clip-norm/clipped": ((), clipped)}
        assert (step.replies, step.clipped) == (3 * number, clipped)


def test_a_client_that_does_not_clip_is_refused(small, tmp_path, clip, monkeypatch):
    """The reply is left out with its reason, and the round goes on with the other two."""
    real, calls = clip.on_client, []

    def first_does_not(self, changes, state):
        calls.append(1)
        return (changes, {}) if len(calls) == 1 else real(self, changes, state)

    monkeypatch.setattr(clip, "on_client", first_does_not)
    run_in_process(small | {"update.steps": STEP, "train.rounds": 1}, tmp_path / "run")
    events = read_journal(tmp_path / "run")
    refused = [event for event in events if event["event"] == "refused"]
    assert [event["client"] for event in refused] == [0]
    assert "above 0.1" in refused[0]["reason"]
    assert [event["client"] for event in events if event["event"] == "client"] == [1, 2]
