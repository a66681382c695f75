"""Rated answers and raw text through the real server and the real clients, from the configuration to a chat."""

import json

import numpy as np
import pytest
from in_process import run_in_process
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fedllm_app.commands.costs import make_plan
from fedllm_app.evaluation.conversation import Chat, find_source
from fedllm_app.runs.directory import read_journal, read_result

HELD_OUT = {
    "kto": {"eval_loss", "reward_accuracy", "reward_margin", "kl", "one_kind"},
    "text": {"eval_loss", "perplexity"},
}


def events(directory, kind):
    return [event for event in read_journal(directory) if event["event"] == kind]


def check_plan(flat, directory):
    """What `fedllm plan` says of a configuration is what its run counted: bytes both ways, steps, rows."""
    plan, result = make_plan(flat), read_result(directory)
    assert (plan.traffic.down, plan.traffic.up) == (result["bytes_down"], result["bytes_up"])
    assert plan.steps == sum(event["steps"] for event in events(directory, "client"))
    held = {event["client"]: (event["examples"], event["held_out"]) for event in events(directory, "holds")}
    assert {client: (one.examples, one.held_out) for client, one in plan.holdings.items()} == held


@pytest.fixture
def config(run_config):
    """Three clients, two rounds of two steps, a checkpoint after each round, rows of the built-in corpus."""
    return run_config | {"clients.number": 3, "run.checkpoint-every": 1, "train.max-length": 256}


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "scaffold", "fedadam"])
@pytest.mark.parametrize("task", ["kto", "text"])
def test_a_run_with_checkpoints_a_plan_and_a_chat(task, strategy, config, tiny_model, tmp_path):
    """Losses are finite, the adapter moves, every file is there, and the final adapter loads in PEFT and answers."""
    flat, directory = config | {"train.task": task, "strategy.name": strategy}, tmp_path / "run"
    run_in_process(flat, directory)
    result = read_result(directory)
    assert result["refused_replies"] == 0
    assert result["adapter_moved"] > 1e-4
    assert np.isfinite([event["train_loss"] for event in events(directory, "client")]).all()
    evaluations = events(directory, "evaluation")
    assert [event["round"] for event in evaluations] == [0, 1, 2]
    for event in evaluations:
        assert HELD_OUT[task] <= event.keys()
        assert event["clients"] == [0, 1, 2]
    if task == "kto":
        assert evaluations[0]["eval_loss"] == pytest.approx(0.5)
        assert evaluations[0]["reward_accuracy"] == 0.5
    check_plan(flat, directory)
    for checkpoint in (directory / "checkpoints" / "round-1", directory / "checkpoints" / "round-2"):
        kept = np.load(checkpoint / "strategy.npz")
        assert bool(kept.files) == (strategy in ("scaffold", "fedadam"))
        assert (checkpoint / "adapter" / "adapter_model.safetensors").is_file()
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    loaded = PeftModel.from_pretrained(base, directory / "adapter")
    assert any(np.abs(p.detach().numpy()).max() > 0 for name, p in loaded.named_parameters() if "lora_B" in name)
    assert isinstance(Chat(find_source(directory), max_new_tokens=3).answer([("user", "2 + 2 =")]), str)


@pytest.mark.parametrize("task", ["kto", "text"])
@pytest.mark.parametrize("changed", [{"update.compress": "int8"}, {"lora.aggregation": "ffa"}])
def test_a_run_with_compression_or_with_one_factor(task, changed, config, tmp_path):
    """Fewer bytes up than without, as planned; the same run again gives the same bytes."""
    flat = config | {"train.task": task} | changed
    once = run_in_process(flat, tmp_path / "once")
    assert run_in_process(flat, tmp_path / "again") == once
    result = read_result(tmp_path / "once")
    assert result["adapter_moved"] > 1e-4
    assert result["refused_replies"] == 0
    check_plan(flat, tmp_path / "once")
    assert result["bytes_up"] < make_plan(config | {"train.task": task}).traffic.up


@pytest.mark.parametrize("method", ["prefix-tuning", "ia3"])
@pytest.mark.parametrize("task", ["kto", "text"])
def test_other_adapters(task, method, config, tmp_path):
    flat = config | {"train.task": task, "adapter.method": method, "adapter.virtual-tokens": 4, "train.rounds": 1}
    run_in_process(flat, tmp_path / "run")
    assert read_result(tmp_path / "run")["adapter_moved"] > 1e-4
    check_plan(flat, tmp_path / "run")


@pytest.mark.parametrize("task", ["kto", "text"])
def test_the_rows_of_all_as_if_one_owned_them(task, config, tmp_path):
    """`centralized` trains on the rows of all clients, thumbs and all."""
    flat = config | {"train.task": task, "strategy.name": "centralized"}
    run_in_process(flat, tmp_path / "run")
    trained, held = events(tmp_path / "run", "client"), events(tmp_path / "run", "holds")
    assert [event["client"] for event in trained] == [0, 0]
    assert trained[0]["num_examples"] == sum(event["examples"] for event in held)
    check_plan(flat, tmp_path / "run")


def test_the_reference_of_rated_answers_is_the_starting_adapter(config, tmp_path):
    """After a run of continued pretraining, thumbs go on from its adapter: rewards are 0 before the first round."""
    run_in_process(config | {"train.task": "text"}, tmp_path / "first")
    flat = config | {"train.task": "kto", "adapter.start": str(tmp_path / "first")}
    run_in_process(flat, tmp_path / "second")
    before, *_, after = events(tmp_path / "second", "evaluation")
    assert (before["reward_accuracy"], before["reward_margin"]) == (0.5, 0.0)
    assert before["eval_loss"] == pytest.approx(0.5)
    assert after["reward_accuracy"] != 0.5
    check_plan(flat, tmp_path / "second")


@pytest.fixture
def by_site(config, tmp_path):
    """Two clients with a set each, whose paths are given."""

    def make(task, *paths):
        names = ",".join(map(str, paths))
        return config | {"train.task": task, "data.name": names, "data.partition": "by-domain", "clients.number": 2}

    return make


def test_a_site_with_a_single_document_trains_and_does_not_evaluate(by_site, tmp_path):
    """A document cannot be both trained on and held out: the site is named in a warning and left out of evaluations."""
    (tmp_path / "book.txt").write_text("The whole of this site's text is one document. " * 20)
    (tmp_path / "notes").mkdir()
    for number in range(6):
        (tmp_path / "notes" / f"{number}.md").write_text(f"# Note {number}\n\n" + "Some words. " * 30)
    flat = by_site("text", tmp_path / "book.txt", tmp_path / "notes")
    run_in_process(flat, tmp_path / "run")
    holds = events(tmp_path / "run", "holds")
    assert [(event["name"], event["held_out"] > 0) for event in holds] == [("book", False), ("notes", True)]
    told = [event["reason"] for event in events(tmp_path / "run", "warning")]
    assert [reason for reason in told if "held-out" in reason] == [
        "client 0 has no held-out rows and takes no part in evaluations"
    ]
    assert [event["clients"] for event in events(tmp_path / "run", "evaluation")] == [[1]] * 3
    assert [event["clients"] for event in events(tmp_path / "run", "round")] == [[0, 1]] * 2
    assert events(tmp_path / "run", "refused") == []
    check_plan(flat, tmp_path / "run")


def test_packing_is_switched(by_site, tmp_path):
    """Six documents of 40 and the begin and end token: 252 tokens in one window of 256, or in six of 42."""
    (tmp_path / "notes").mkdir()
    for number in range(6):
        (tmp_path / "notes" / f"{number}.txt").write_text(f"{number}" * 40)
    none = {"data.held-out-examples": 0, "data.held-out-share": 0.0, "evaluate.every": 0}
    flat = by_site("text", tmp_path / "notes", tmp_path / "notes") | none
    packed, apart = make_plan(flat), make_plan(flat | {"text.packing": False})
    assert [holding.examples for holding in packed.holdings.values()] == [1, 1]
    assert [holding.examples for holding in apart.holdings.values()] == [6, 6]
    assert [holding.tokens for holding in apart.holdings.values()] == [252, 252]
    assert (packed.length, apart.length) == (252, 42)


def test_a_site_with_one_kind_of_label_takes_part_and_says_so(by_site, tmp_path):
    """One site has thumbs up only: its numbers say so, have all the names that the other's have, and a margin of 0."""
    for name, thumbs in (("happy", ["up"]), ("mixed", ["up", "down"])):
        rows = [{"prompt": f"p {n}", "answer": f"a {n}", "vote": thumbs[n % len(thumbs)]} for n in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flat = by_site("kto", tmp_path / "happy.jsonl", tmp_path / "mixed.jsonl") | {"data.label-column": "vote"}
    run_in_process(flat, tmp_path / "run")
    for kind in ("client", "client-evaluation"):
        happy, mixed = (event for event in events(tmp_path / "run", kind) if event["round"] == 2)
        assert (happy["one_kind"], mixed["one_kind"]) == (1, 0)
        assert happy.keys() == mixed.keys()
    told = [event["reason"] for event in events(tmp_path / "run", "warning")]
    assert sum(reason.startswith("client 0: the training rows have one kind of label only") for reason in told) == 1
    assert happy["reward_margin"] == 0.0
    assert mixed["reward_margin"] != 0.0
    assert read_result(tmp_path / "run")["refused_replies"] == 0
