"""int8 blocks: numbers by hand, error feedback over rounds, and whole runs."""

import json

import numpy as np
import pytest
from in_process import InProcessGrid, run_in_process

from fedllm_app import server_app
from fedllm_app.commands.costs import make_plan
from fedllm_app.config.parse import parse_run_config
from fedllm_app.messages import ARRAYS, vectors_record
from fedllm_app.paths import home
from fedllm_app.runs.directory import PromptRecord, RunDirectory, read_journal, read_result
from fedllm_app.training.client_state import ClientState, RoundState
from fedllm_app.updates.int8 import BLOCK, Int8Blocks, dequantize, packed_size, quantize
from fedllm_app.updates.update import UpdateError


def parts(packed: np.ndarray, size: int) -> tuple[float, list[float], list[int]]:
    """The largest scale, the share of each block and the codes of a packed vector."""
    count = -(-size // BLOCK)
    shares = packed[4 : 4 + 2 * count].copy().view(np.float16)
    return float(packed[:4].copy().view(np.float32)[0]), shares.tolist(), packed[4 + 2 * count :].view(np.int8).tolist()


def two_blocks() -> np.ndarray:
    """257 coordinates: in the first block 127, -63.6 and 0.4, in the second 12.7 alone."""
    vector = np.zeros(257, np.float32)
    vector[[0, 1, 2, 256]] = 127, -63.6, 0.4, 12.7
    return vector


def test_codes_by_hand():
    """The blocks' scales are 127 / 127 = 1 and 12.7 / 127 = 0.1, so the shares are 1 and 0.1.

    0.1 lies between the float16 numbers 0.09998 and 0.10004 (1638 and 1639 of 2⁻¹⁴); the upper one is taken. The codes
    are 127, round(-63.6) = -64, round(0.4) = 0 and round(12.7 / 0.10004) = round(126.95) = 127.
    """
    largest, shares, codes = parts(quantize(two_blocks()), 257)
    assert largest == 1
    assert shares == [1, 1639 / 2**14]
    assert [codes[place] for place in (0, 1, 2, 256)] == [127, -64, 0, 127]
    assert not any(codes[3:256])


def test_bytes_by_hand():
    """257 coordinates are two blocks: 4 bytes of the largest scale, 2 · 2 of shares, 257 of codes. No coordinate: 4."""
    assert packed_size(257) == 265 == quantize(two_blocks()).size
    assert packed_size(256) == 4 + 2 + 256
    assert packed_size(0) == 4 == quantize(np.zeros(0, np.float32)).size
    assert dequantize(quantize(np.zeros(0, np.float32)), 0).shape == (0,)


def test_back_by_hand():
    """127, -64 and 0 steps of 1, and 127 steps of 1639 / 2¹⁴."""
    back = dequantize(quantize(two_blocks()), 257)
    assert back.dtype == np.float32
    assert back[[0, 1, 2, 256]] == pytest.approx([127, -64, 0, 127 * 1639 / 2**14])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
def test_no_error_is_above_half_a_step(size, scale):
    """A step is the largest of a block divided by 127, or, where float16 has rounded the share up, at most 1/1024 more.

    The blocks differ by a factor of ten each, so that their shares differ.
    """
    random = np.random.default_rng(size)
    tens = 10.0 ** -(np.arange(size) // BLOCK)
    vector = (random.standard_normal(size) * scale * tens).astype(np.float32)
    error = np.abs(dequantize(quantize(vector), size).astype(np.float64) - vector)
    for start in range(0, size, BLOCK):
        block = slice(start, start + BLOCK)
        step = np.abs(vector[block]).max() / 127 * (1 + 2**-10)
        assert error[block].max() <= step / 2 * (1 + 1e-5)


def test_a_block_far_below_the_largest_keeps_its_half_step():
    """Its share, 1e-7, lies between float16's smallest number, 2⁻²⁴ = 5.96e-8, and the next, 2⁻²³ = 1.19e-7.

    The upper one is taken: 127 · 1e-7 is then round(127 · 1e-7 / 1.192e-7) = round(106.5) steps of 1.192e-7. Rounded to
    the nearest, the lower one, no code could hold 127 · 1e-7 / 5.96e-8 = 213 steps.
    """
    vector = np.zeros(512, np.float32)
    vector[0], vector[256] = 127, 127e-7
    back = dequantize(quantize(vector), 512)
    assert abs(back[256] - 127e-7) <= 2.0**-24


def test_zeros_stay_zeros():
    """A vector of zeros, and a block of zeros beside another; no division by zero is warned of."""
    with np.errstate(all="raise"):
        assert not dequantize(quantize(np.zeros(300, np.float32)), 300).any()
        vector = np.zeros(512, np.float32)
        vector[0] = 1
        back = dequantize(quantize(vector), 512)
    assert back[0] == pytest.approx(1)
    assert not back[1:].any()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_not_finite_everywhere(odd):
    """So that the server refuses the reply instead of averaging a large number that was NaN; without a warning."""
    vector = np.ones(300, np.float32)
    vector[7] = odd
    with np.errstate(all="raise"):
        assert np.isnan(dequantize(quantize(vector), 300)).all()


class Rounds:
    """A client's rounds: each change goes through the step under the versions that the server would name."""

    def __init__(self) -> None:
        self.disk, self.step, self.version = ClientState("a" * 32, 0), Int8Blocks(), 0

    def send(self, server_round: int, change: list[float], accepted: bool = True) -> tuple[np.ndarray, int]:
        """What the server reads of this round's change, and "error-reset"."""
        state = RoundState(self.disk, self.version, server_round)
        sent, numbers = self.step.on_client({"adapter": np.float32(change)}, state)
        if accepted:
            self.version = server_round
        return self.step.on_server(sent, len(change))["adapter"], numbers["error-reset"]


def test_error_feedback_over_three_rounds():
    """127 beside the second coordinate makes the step 1; the first coordinate sends its change plus what was left.

    Round 1: 0.4 → 0, left 0.4. Round 2: 0.4 + 0.4 = 0.8 → 1, left -0.2. Round 3: 0.4 - 0.2 = 0.2 → 0, left 0.2.
    The second coordinate is a whole number of steps each time: nothing is left of it.
    """
    client = Rounds()
    sent = [client.send(number, [0.4, 127.0]) for number in (1, 2, 3)]
    assert [vector[0] for vector, _ in sent] == pytest.approx([0, 1, 0])
    assert [vector[1] for vector, _ in sent] == pytest.approx([127, 127, 127])
    assert [reset for _, reset in sent] == [0, 0, 0]


def test_the_error_of_a_refused_reply_is_not_used():
    """Round 1: 0.4 → 0, left 0.4, accepted. Round 2: 0.3 + 0.4 = 0.7 → 1, left -0.3, refused.

    Round 3 starts from 0.4 again: 0.3 + 0.4 = 0.7 → 1. From -0.3 it would be 0.0 → 0.
    """
    client = Rounds()
    client.send(1, [0.4, 127.0])
    client.send(2, [0.3, 127.0], accepted=False)
    sent, reset = client.send(3, [0.3, 127.0])
    assert sent[0] == pytest.approx(1)
    assert reset == 0


def test_a_lost_error_starts_at_zero_and_is_reported():
    """Round 1 leaves 0.4 and its file is lost: round 2 sends round(0.4) = 0 and says so; round 3 has 0.4 again."""
    client = Rounds()
    client.send(1, [0.4, 127.0])
    for file in client.disk.directory.glob("*.npy"):
        file.unlink()
    sent, reset = client.send(2, [0.4, 127.0])
    assert (sent[0], reset) == (0, 1)
    sent, reset = client.send(3, [0.4, 127.0])
    assert (round(float(sent[0]), 5), reset) == (1, 0)


@pytest.mark.parametrize(
    "array",
    [np.zeros(packed_size(300), np.float32), np.zeros(300, np.uint8), np.zeros((1, packed_size(300)), np.uint8)],
)
def test_other_bytes_are_refused(array):
    """Another type, another length and another shape; the sentence names the array and the 300 + 2 · 2 + 4 bytes."""
    with pytest.raises(UpdateError, match="adapter is .* must be 308 bytes"):
        Int8Blocks().on_server({"adapter": array}, 300)


WIDE = {"lora.r": 24}
"""24,576 parameters of the tiny model's adapter: 3 times the 8,192 of r = 8."""


def small(run_config) -> dict:
    """Three clients, three rounds of one step."""
    return run_config | {
        "clients.number": 3,
        "train.rounds": 3,
        "train.local-steps": 1,
        "data.examples-per-client": 6,
        "data.held-out-examples": 2,
        "evaluate.every": 0,
    }


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "scaffold", "fedadam", "local"])
def test_a_quarter_of_the_bytes_and_nearly_the_same_adapters(name, run_config, tmp_path):
    """Of every reply at most 0.26 of float32; `fedllm plan` foretells the bytes; final adapters close to those without.

    SCAFFOLD sends two arrays, both in 8 bits. An adapter's coordinates moved by m; quantization leaves at most half a
    step of a block, and error feedback sends it later, so that the adapters differ by a small part of the way.
    """
    flat = small(run_config) | WIDE | {"strategy.name": name}
    final = {}
    for compress in ("none", "int8"):
        run_in_process(flat | {"update.compress": compress}, tmp_path / compress)
        final[compress], way = final_adapter(tmp_path / compress, name)
    up = {compress: bytes_up(tmp_path / compress) for compress in ("none", "int8")}
    assert max(up["int8"]) <= 0.26 * min(up["none"])
    result, plan = read_result(tmp_path / "int8"), make_plan(flat | {"update.compress": "int8"})
    assert (plan.traffic.down, plan.traffic.up) == (result["bytes_down"], result["bytes_up"])
    assert set(up["int8"]) == {plan.traffic.reply}
    assert result["refused_replies"] == 0
    assert 0 < np.linalg.norm(final["int8"] - final["none"]) < 0.1 * np.linalg.norm(way)
    assert all(event["error_reset"] == 0 for event in clients(tmp_path / "int8"))


def final_adapter(directory, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The final global adapter, with `local` the first client's; and its way from B = 0: the factors B alone."""
    from safetensors.numpy import load_file

    folder = directory / "adapters" / "client-0" if name == "local" else directory / "adapter"
    tensors = load_file(folder / "adapter_model.safetensors")
    b = [tensors[key].ravel() for key in sorted(tensors) if "lora_B" in key]
    return np.concatenate([tensors[key].ravel() for key in sorted(tensors)]), np.concatenate(b)


def clients(directory) -> list[dict]:
    return [event for event in read_journal(directory) if event["event"] == "client"]


def bytes_up(directory) -> list[int]:
    return [event["bytes_up"] for event in clients(directory)]


def test_a_checkpoint_holds_the_strategy_and_the_versions(run_config, tmp_path):
    """SCAFFOLD's c is float32 of the adapter's 8,192 numbers; each client's errors are valid after round 3, 3 steps."""
    flat = small(run_config) | {"strategy.name": "scaffold", "update.compress": "int8", "run.checkpoint-every": 3}
    run_in_process(flat, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "round-3"
    with np.load(checkpoint / "strategy.npz") as state:
        assert {name: (array.shape, array.dtype) for name, array in state.items()} == {"control": ((8192,), np.float32)}
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["versions"] == state["positions"] == {"0": 3, "1": 3, "2": 3}
    for client in range(3):
        files = {file.name for file in ClientState(the_run(), client).directory.glob("int8.*-3.npy")}
        assert files == {"int8.adapter-3.npy", "int8.control-delta-3.npy"}


def the_run() -> str:
    """The key of the only run here."""
    [directory] = (home() / "clients").iterdir()
    return directory.name


def test_krum_and_centralized_take_decoded_vectors(run_config, tmp_path):
    """A rule that compares replies, of five clients, and one client that trains on all rows."""
    for name in ("krum", "centralized"):
        flat = small(run_config) | {"strategy.name": name, "clients.number": 5, "update.compress": "int8"}
        run_in_process(flat, tmp_path / name)
        result = read_result(tmp_path / name)
        assert (result["refused_replies"], result["adapter_moved"] > 1e-3) == (0, True)


def test_a_client_that_lost_its_error_is_journaled(run_config, tmp_path, app_home):
    """Client 1 loses its state between rounds 2 and 3: its line of round 3, and no other, says one array was reset."""
    flat = small(run_config) | {"update.compress": "int8", "run.checkpoint-every": 2}
    lost = []

    def lose(*_arguments) -> None:
        for file in app_home.glob("clients/*/client-1/int8.*"):
            file.unlink()
            lost.append(file.name)

    run_with_checkpoints(flat, tmp_path / "run", lose)
    assert "int8.adapter-2.npy" in lost
    resets = {(event["round"], event["client"]): event["error_reset"] for event in clients(tmp_path / "run")}
    assert [place for place, reset in resets.items() if reset] == [(3, 1)]


def run_with_checkpoints(flat: dict, directory, after_checkpoint) -> None:
    """A run in this process that calls `after_checkpoint` after each of its checkpoints."""

    class Watched(RunDirectory):
        def checkpoint(self, *arguments) -> None:
            super().checkpoint(*arguments)
            after_checkpoint(*arguments)

    flat = flat | {"run.directory": str(directory)}
    run = Watched(directory, PromptRecord.of(flat["data.template"], flat["data.system-prompt"]))
    run.create(flat)
    server_app.run_experiment(InProcessGrid(flat, flat["clients.number"]), parse_run_config(flat), run, run_id=5)


def test_a_reply_of_another_form_is_refused_and_the_run_goes_on(run_config, tmp_path, monkeypatch):
    """Client 0 answers in float32, as without compression, client 1 with bytes that are no array; client 2 is used."""
    flat = small(run_config) | {"update.compress": "int8", "train.rounds": 1, "clients.minimum": 0.0}
    push = InProcessGrid.push_messages

    def disturbed(self, messages):
        ids = push(self, messages)
        for name in ids:
            reply = self.replies[name]
            if not reply.has_error() and ARRAYS in reply.content:
                client = reply.content["metrics"]["client"]
                if client == 0:
                    reply.content[ARRAYS] = vectors_record({"adapter": np.zeros(8192, np.float32)})
                if client == 1:
                    reply.content[ARRAYS]["adapter"].data = b"no array"
        return ids

    monkeypatch.setattr(InProcessGrid, "push_messages", disturbed)
    run_in_process(flat, tmp_path / "run")
    refused = {
        event["client"]: event["reason"] for event in read_journal(tmp_path / "run") if event["event"] == "refused"
    }
    assert "must be 8260 bytes" in refused[0]  # 4 + 2 · 32 + 8192
    assert "cannot be read" in refused[1]
    assert [event["client"] for event in clients(tmp_path / "run")] == [2]
