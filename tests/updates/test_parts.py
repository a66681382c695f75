"""FFA-LoRA: A stays as it was at the start, B is trained and travels, and the mean is exact."""

import json
from pathlib import Path

import numpy as np
import pytest
from in_process import InProcessGrid, run_in_process
from safetensors.numpy import load_file

from fedllm_app.adapters.layout import AdapterSettings, Layout, Manifest
from fedllm_app.adapters.methods import draw_adapter
from fedllm_app.client.build import resident_key
from fedllm_app.commands.costs import make_plan
from fedllm_app.commands.demo import demo
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.evaluation.conversation import Chat, find_source
from fedllm_app.federation.start import starting_point
from fedllm_app.messages import ARRAYS
from fedllm_app.runs.directory import read_journal, read_result
from fedllm_app.training.resident import resident
from fedllm_app.updates.parts import home_part, travelling_part

A, B = "m.lora_A.weight", "m.lora_B.weight"
LAYOUT = Layout(Manifest((A, B), ((1, 2), (2, 1))), AdapterSettings(json.dumps({"lora_alpha": 1})))


def product(tensors: dict) -> np.ndarray:
    return tensors[B] @ tensors[A]


def test_the_parts_of_a_layout():
    """Everything travels, or B alone; the parts are disjoint and complete: slots 0, 1 are A, 2, 3 are B."""
    assert travelling_part(LAYOUT, "factors") == LAYOUT
    assert home_part(LAYOUT, "factors").size == 0
    travelling, home = travelling_part(LAYOUT, "ffa"), home_part(LAYOUT, "ffa")
    assert (travelling.manifest.names, home.manifest.names) == ((B,), (A,))
    assert LAYOUT.slots(travelling).tolist() == [2, 3]
    assert LAYOUT.slots(home).tolist() == [0, 1]
    assert travelling.hash != LAYOUT.hash


def test_the_mean_of_b_is_the_mean_of_the_products():
    """A = (1, 2) for both; B₁ = (1, 0)ᵀ, B₂ = (0, 3)ᵀ. Products (1 2; 0 0) and (0 0; 3 6), their mean (½ 1; 1½ 3).

    The mean of B is (½, 1½)ᵀ, times A the same. With factors of their own, A₁ = (1, 2) and A₂ = (1, 0), the mean of the
    products is (½ 1; 1½ 0) and the product of the means (½ ½; 1½ 1½).
    """
    travelling = travelling_part(LAYOUT, "ffa")
    whole = LAYOUT.pack({A: np.float32([[1, 2]]), B: np.zeros((2, 1), np.float32)})
    replies = [travelling.pack({B: np.float32([[1], [0]])}), travelling.pack({B: np.float32([[0], [3]])})]
    whole[LAYOUT.slots(travelling)] = np.mean(replies, axis=0)
    assert product(LAYOUT.unpack(whole)).tolist() == [[0.5, 1], [1.5, 3]]
    first, second = {A: np.float32([[1, 2]]), B: [[1], [0]]}, {A: np.float32([[1, 0]]), B: [[0], [3]]}
    both = LAYOUT.unpack(np.mean([LAYOUT.pack(first), LAYOUT.pack(second)], axis=0))
    assert product(both).tolist() == [[0.5, 0.5], [1.5, 1.5]]


@pytest.fixture
def ffa(run_config) -> dict:
    """Three clients, two rounds of two steps."""
    return run_config | {
        "lora.aggregation": "ffa",
        "clients.number": 3,
        "data.examples-per-client": 6,
        "data.held-out-examples": 2,
    }


def tensors_of(directory, adapter: str = "adapter") -> dict[str, np.ndarray]:
    return load_file(directory / adapter / "adapter_model.safetensors")


def products(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """B A of every module."""
    return {
        name: tensors[name.replace("lora_A", "lora_B")].astype(np.float64) @ tensors[name]
        for name in tensors
        if "lora_A" in name
    }


class Replies(InProcessGrid):
    """A grid that keeps the arrays of every message and reply."""

    seen: list

    def push_messages(self, messages):
        messages = list(messages)
        ids = super().push_messages(messages)
        for message, name in zip(messages, ids, strict=True):
            reply = self.replies[name]
            arrays = {} if reply.has_error() else reply.content.get(ARRAYS, {})
            self.seen.append((message, {key: array.numpy() for key, array in arrays.items()}))
        return ids


@pytest.fixture
def seen(monkeypatch) -> list:
    """Messages to clients and the arrays of their replies, in order."""
    Replies.seen = []
    monkeypatch.setattr("in_process.InProcessGrid", Replies)
    return Replies.seen


def test_the_products_of_a_run_are_the_mean_of_the_clients_products(ffa, tmp_path, seen):
    """One round with FedAvg, equal weights: the final B A is the mean of B_i A over the three clients, to 1e-6."""
    run_in_process(ffa | {"train.rounds": 1, "evaluate.every": 0, "train.max-length": 400}, tmp_path / "run")
    final = tensors_of(tmp_path / "run")
    start = starting_point(parse_run_config(ffa))
    replies = [arrays["adapter"] for _, arrays in seen if "adapter" in arrays]
    assert len(replies) == 3
    whole = [start.layout.unpack(start.merge(reply)) for reply in replies]
    clients = [products(dict(tensors)) for tensors in whole]
    for name, final_product in products(final).items():
        mean = np.mean([client[name] for client in clients], axis=0)
        np.testing.assert_allclose(final_product, mean, atol=1e-6)
        assert np.abs(clients[0][name] - clients[1][name]).max() > 1e-4


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "scaffold", "fedadam", "local"])
def test_a_stays_as_drawn_and_b_travels_alone(name, ffa, tmp_path):
    """A is the drawn one bit for bit, B moved; every array is half of the default's, as `fedllm plan` foretells.

    The seven linear layers of each of two layers have 32 + 32 + 32 + 32 + 32 + 32 + 64 = 256 inputs and
    32 + 16 + 16 + 32 + 64 + 64 + 32 = 256 outputs: B has 2 · 8 · 256 = 4,096 numbers, and A as many.
    """
    flat = ffa | {"strategy.name": name, "run.checkpoint-every": 1}
    run_in_process(flat, tmp_path / "run")
    run_in_process(flat | {"lora.aggregation": "factors"}, tmp_path / "factors")
    result, plan = read_result(tmp_path / "run"), make_plan(flat)
    assert result["refused_replies"] == 0
    assert (plan.traffic.down, plan.traffic.up) == (result["bytes_down"], result["bytes_up"])
    assert plan.trained == 4096
    header = 128  # NumPy's, of each array
    for half, whole in zip(clients(tmp_path / "run"), clients(tmp_path / "factors"), strict=True):
        arrays = 2 if name == "scaffold" else 1
        for way in ("bytes_up", "bytes_down"):
            assert half[way] - arrays * header == (whole[way] - arrays * header) / 2 == arrays * 4 * 4096
    manifest = starting_point(parse_run_config(flat)).layout.manifest
    drawn = manifest.unpack(draw_adapter(manifest, 42))
    for adapter in ("adapters/client-0" if name == "local" else "adapter", "checkpoints/round-1/adapter"):
        final = tensors_of(tmp_path / "run", adapter)
        assert set(final) == set(manifest.names)
        for tensor in final:
            if "lora_A" in tensor:
                assert final[tensor].tobytes() == drawn[tensor].tobytes()
            elif (name, adapter[:5]) != ("local", "check"):  # its global adapter stays where it was
                assert final[tensor].any()


def clients(directory) -> list[dict]:
    return [event for event in read_journal(directory) if event["event"] == "client"]


def test_a_is_not_trained_after_the_base_alone_was_asked(ffa, tmp_path):
    """PEFT makes the whole adapter trainable when it is switched on again, as after DPO's reference was the base alone.

    After a run of DPO, in which that happened, every A is frozen, holds what was drawn, and has no gradient.
    """
    flat = ffa | {"train.task": "dpo", "train.optimizer": "sgd"}
    run_in_process(flat, tmp_path / "run")
    model = resident(resident_key(parse_run_config(flat)))
    start = starting_point(parse_run_config(flat))
    np.testing.assert_array_equal(model.home.read(), start.full[start.layout.slots(start.home)])
    with model.using(None):
        pass
    assert all(parameter.requires_grad for parameter in model.home.parameters)  # what PEFT does
    run_in_process(flat, tmp_path / "again")
    final, again = tensors_of(tmp_path / "run"), tensors_of(tmp_path / "again")
    assert all(final[name].tobytes() == again[name].tobytes() for name in final)
    assert not any(parameter.requires_grad for parameter in model.home.parameters)


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_a_start_is_sent_once(task, ffa, tmp_path, seen):
    """Another run's adapter: its A goes to each client with the first message and no other, and is the A at the end.

    For DPO, the reference policy's B goes with it. `fedllm plan` counts both.
    """
    run_in_process(ffa | {"run.seed": 7, "lora.aggregation": "factors"}, tmp_path / "first")
    flat = ffa | {"adapter.start": str(tmp_path / "first"), "train.task": task, "clients.per-round": 2}
    plan = make_plan(flat)
    seen.clear()
    run_in_process(flat, tmp_path / "run")
    result = read_result(tmp_path / "run")
    assert result["refused_replies"] == 0
    assert (plan.traffic.down, plan.traffic.up) == (result["bytes_down"], result["bytes_up"])
    once = {"home"} | ({"reference"} if task == "dpo" else set())
    times = {}
    for message, _ in seen:
        if ARRAYS in message.content:
            client = message.content["config"]["client"]
            assert set(message.content[ARRAYS]) == ({"adapter"} | once if client not in times else {"adapter"})
            times[client] = times.get(client, 0) + 1
    assert len(times) >= 2 and sum(times.values()) == 4 + 6
    first, final = tensors_of(tmp_path / "first"), tensors_of(tmp_path / "run")
    for name in first:
        assert (first[name].tobytes() == final[name].tobytes()) == ("lora_A" in name)


def test_a_start_is_sent_again_after_it_was_lost(ffa, tmp_path, app_home, seen):
    """Client 1 loses its A after the first evaluation: its reply of round 1 is an error, in round 2 A travels again."""
    run_in_process(ffa | {"run.seed": 7}, tmp_path / "first")
    seen.clear()
    lost = []
    push = Replies.push_messages

    def losing(self, messages):
        messages = list(messages)
        for message in messages:
            config = message.content.get("config", {})
            if config.get("server-round") == 1 and config.get("client") == 1 and not lost:
                lost.extend(app_home.glob("clients/*/client-1/home.npy"))  # of the first run as well
                for file in lost:
                    file.unlink()
        return push(self, messages)

    Replies.push_messages, unchanged = losing, push
    try:
        run_in_process(ffa | {"adapter.start": str(tmp_path / "first")}, tmp_path / "run")
    finally:
        Replies.push_messages = unchanged
    refused = [event for event in read_journal(tmp_path / "run") if event["event"] == "refused"]
    assert [(event["round"], event["client"]) for event in refused] == [(1, 1)]
    assert "'home'" in refused[0]["reason"]
    trained = [(event["round"], event["client"]) for event in clients(tmp_path / "run")]
    assert trained == [(1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]


def test_a_drawn_a_does_not_travel(ffa, tmp_path, app_home, seen):
    """Each client draws the A that the server drew, and keeps it."""
    run_in_process(ffa, tmp_path / "run")
    assert all(set(message.content.get(ARRAYS, {})) <= {"adapter"} for message, _ in seen)
    assert read_result(tmp_path / "run")["refused_replies"] == 0
    start = starting_point(parse_run_config(ffa))
    for client in range(3):
        (file,) = app_home.glob(f"clients/*/client-{client}/home.npy")
        np.testing.assert_array_equal(np.load(file), start.full[start.layout.slots(start.home)])


def test_with_compression_an_eighth_travels_up(ffa, tmp_path):
    """Half of the numbers, each in a byte: 128 + 4 + 2 · 16 + 4,096 bytes of 128 + 4 · 8,192."""
    run_in_process(ffa | {"update.compress": "int8"}, tmp_path / "run")
    assert {event["bytes_up"] for event in clients(tmp_path / "run")} == {128 + 4 + 2 * 16 + 4096}


@pytest.mark.parametrize(("quantization", "task"), [("int8", "sft"), ("nf4", "dpo")])
def test_on_a_quantized_base(quantization, task, ffa, wide_model, tmp_path):
    """TRL casts what is trainable on such a base to bfloat16, with DPO A too; then A is float32 and drawn again.

    DPO asks the base alone before its trainer is built, and PEFT makes A trainable then.
    """
    flat = ffa | {"model.name": str(wide_model), "model.quantization": quantization, "train.task": task}
    run_in_process(flat, tmp_path / "run")
    assert read_result(tmp_path / "run")["refused_replies"] == 0
    start = starting_point(parse_run_config(flat))
    home = resident(resident_key(parse_run_config(flat))).home
    assert {str(parameter.dtype) for parameter in home.parameters} == {"torch.float32"}
    np.testing.assert_array_equal(home.read(), start.full[start.layout.slots(start.home)])
    assert any(tensor.any() for name, tensor in tensors_of(tmp_path / "run").items() if "lora_B" in name)


def test_with_gradient_checkpointing(ffa, tmp_path):
    """The same adapter to rounding: activations are recomputed, and B is reached though A is frozen."""
    for checkpointing in (False, True):
        run_in_process(ffa | {"train.gradient-checkpointing": checkpointing}, tmp_path / str(checkpointing))
    plain, recomputed = (tensors_of(tmp_path / str(value)) for value in (False, True))
    for name in plain:
        np.testing.assert_allclose(recomputed[name], plain[name], atol=1e-6)


def test_an_embedding_is_refused(ffa, tmp_path):
    """There, A starts at zero: frozen, it would leave B without a gradient. The plan refuses it as the run does."""
    flat = ffa | {"lora.target-modules": "embed_tokens,q_proj"}
    for begin in (make_plan, lambda flat: run_in_process(flat, tmp_path / "run")):
        with pytest.raises(ConfigError, match="must name no embedding"):
            begin(flat)


def test_an_embedding_is_trained_otherwise(ffa, tmp_path):
    """A from zero and B drawn: the first step already moves A."""
    flat = ffa | {"lora.target-modules": "embed_tokens", "lora.aggregation": "factors"}
    run_in_process(flat, tmp_path / "run")
    assert read_result(tmp_path / "run")["adapter_moved"] > 1e-3


def test_chat_and_demo_load_the_whole_adapter(ffa, tmp_path, monkeypatch, console):
    """Saved adapters hold A and B, though a client trains B alone: the comparison's models have both; chat as ever."""
    monkeypatch.setattr("fedllm_app.commands.demo.QUESTIONS", 2)
    flat = ffa | {"clients.number": 4, "data.template": "none"}

    def run(own) -> bool:
        return bool(run_in_process(dict(own), Path(own["run.directory"])))

    demo(flat, tmp_path / "demo", run, console)
    compared = json.loads((tmp_path / "demo" / "comparison.json").read_text())
    assert {"base", "base, 3 examples shown", "general alone", "finance alone", "federated"} < set(compared["accuracy"])
    source = find_source(tmp_path / "demo" / "federated", None, None, None, None, False, None)
    assert isinstance(Chat(source, False, 2, 0.0).answer([("user", "a")]), str)
