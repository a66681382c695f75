"""A model card says what is recorded, names nothing of this machine, and owns to what is not known."""

from dataclasses import replace

import pytest
import yaml

from fedllm_app.models.licence import Licence
from fedllm_app.runs.card import Base, CardFacts, model_card, shown_name
from fedllm_app.runs.directory import PromptRecord

SETTINGS = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.0.v_proj"],
}
RESULT = {
    "rounds": 6,
    "participation": [
        {"client": 0, "name": "secret-berlin", "took_part": 5},
        {"client": 1, "name": "secret-madrid", "took_part": 0},
    ],
}
JOURNAL = [
    {"event": "holds", "client": 0, "name": "secret-berlin", "schema": "builtin", "examples": 1000},
    {"event": "holds", "client": 1, "name": "secret-madrid", "schema": "builtin", "examples": 200},
    {"event": "holds", "client": 1, "name": "secret-madrid", "schema": "builtin", "examples": 234},
    {"event": "versions", "clients": [0, 1], "versions": ["fedllm_app 0a1b", "torch 2.13.0"]},
    {"event": "evaluation", "round": 0, "eval_loss": 9.0, "exact_match": 0.0},
    {"event": "evaluation", "round": 4, "eval_loss": 2.0, "exact_match": 0.25},
    {"event": "evaluation", "round": 6, "eval_loss": 1.5, "exact_match": 0.5},
]


@pytest.fixture
def facts(run_config) -> CardFacts:
    config = run_config | {"train.rounds": 6, "strategy.name": "fedprox", "strategy.fedprox.mu": 0.25, "run.seed": 7}
    return CardFacts(
        "my model",
        Base("org/base", "org/base", Licence("other", "own-1", "https://example.org/l")),
        SETTINGS,
        PromptRecord("vicuna", "", None),
        ("Use it.",),
        config=config,
        result=RESULT,
        journal=JOURNAL,
        versions={"Python": "3.11.9"},
    )


def metadata(card: str) -> dict:
    """What a hub reads at the top."""
    _, top, _ = card.split("---\n", 2)
    return yaml.safe_load(top)


def row(card: str, name: str) -> str:
    """The second cell of a row of the table of training."""
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
    return line.split(" | ", 1)[1].removesuffix(" |")


def test_a_federated_run(facts):
    """Two clients, of which one was never used; rows 1,000 + 234, since the second held others when it came back."""
    card = model_card(facts)
    assert card.startswith("---\n")
    assert "\n# my model\n" in card
    assert row(card, "base model") == "[org/base](https://huggingface.co/org/base)"
    assert row(card, "adapter") == "LoRA, r = 8, alpha = 16, on q_proj, v_proj"
    assert row(card, "task") == "instruction tuning (SFT)"
    assert row(card, "data") == "the built-in corpus, generated rows"
    assert row(card, "algorithm") == "fedprox, mu = 0.25"
    assert row(card, "rounds") == "6"
    assert row(card, "clients") == "2, 2 drawn a round; updates of 1 were used; 1,234 training rows"
    assert row(card, "local training") == "2 steps of 2 rows a round, up to 128 tokens a row"
    assert row(card, "optimizer") == "adamw, learning rate 0.003 to 0.0003"
    assert row(card, "seed") == "7"
    assert "- trained with: fedllm_app 0a1b, torch 2.13.0\n- written with: Python 3.11.9\n" in card
    assert "own-1 (https://example.org/l)" in card
    assert "federated learning (Flower)" in card
    assert "no differential privacy and no secure aggregation" in card
    assert "secret" not in card


def test_the_metadata_of_an_adapter_and_of_a_merged_model(facts):
    adapter = metadata(model_card(facts))
    assert adapter == {
        "base_model": "org/base",
        "library_name": "peft",
        "license": "other",
        "license_name": "own-1",
        "license_link": "https://example.org/l",
        "pipeline_tag": "text-generation",
        "tags": ["federated-learning", "flower", "adapter"],
    }
    merged = metadata(model_card(replace(facts, merged="bfloat16")))
    assert merged == adapter | {"library_name": "transformers", "tags": ["federated-learning", "flower"]}
    assert row(model_card(replace(facts, merged="bfloat16")), "weights") == "bfloat16, adapter merged"


def test_data_by_name(facts):
    """A file by the last part of its path, a set by its Hub id, with the licence where it is known."""
    names = "/srv/secret/tickets.csv, alpaca, org/rows"
    holds = [{"event": "holds", "client": 0, "schema": "instruction", "examples": 10}]
    card = model_card(replace(facts, config=facts.config | {"data.name": names}, journal=holds))
    assert metadata(card)["datasets"] == ["tatsu-lab/alpaca", "org/rows"]
    assert row(card, "data").startswith("`tickets.csv`, alpaca ([tatsu-lab/alpaca](https://")
    assert "A site of a deployment may have had data of its own" in card
    assert "CC BY-NC 4.0" in card
    assert "- Data `tickets.csv`: licence not known here." in card
    assert "secret" not in card


def test_data_of_the_sites_own(facts):
    """The configuration says "builtin", and rows were read in another way: the sites had data of their own."""
    holds = [{"event": "holds", "client": 0, "schema": "prompt-completion", "examples": 10}]
    card = model_card(replace(facts, journal=holds))
    assert row(card, "data") == "each site's own, which the server was not told"


@pytest.mark.parametrize(
    ("settings", "config", "shown"),
    [
        ({"use_dora": True}, {}, "DoRA, r = 8"),
        ({"use_rslora": True}, {}, "rank-stabilised LoRA, r = 8"),
        ({"use_rslora": True, "use_dora": True}, {}, "DoRA with rank-stabilised scale, r = 8"),
        ({}, {"lora.aggregation": "ffa"}, "the factors B alone were trained (FFA-LoRA)"),
        ({"peft_type": "IA3"}, {}, "(IA)³"),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": 16}, {}, "p-tuning, 16 virtual tokens"),
        ({"peft_type": "LOHA"}, {}, "LOHA"),
    ],
)
def test_methods(facts, settings, config, shown):
    card = model_card(replace(facts, settings=SETTINGS | settings, config=facts.config | config))
    assert shown in row(card, "adapter")


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"strategy.name": "fedavg"}, "fedavg"),
        (
            {"strategy.name": "own.Mean", "strategy.arguments": "eta=1"},
            "`own.Mean`, a strategy of the run's own (eta=1)",
        ),
        ({"strategy.name": "fedavg", "update.compress": "int8"}, "fedavg, updates sent as int8"),
        ({"strategy.name": "fedavg", "update.steps": "own.Clip"}, "fedavg, update steps `own.Clip`"),
        ({"strategy.name": "fedavg", "train.corrections": "own.Noise"}, "fedavg, corrections `own.Noise`"),
    ],
)
def test_algorithms(facts, config, shown):
    assert row(model_card(replace(facts, config=facts.config | config)), "algorithm") == shown


def test_a_task_of_the_users_own_without_its_code(facts):
    card = model_card(replace(facts, config=facts.config | {"train.task": "nowhere.SPEC"}))
    assert row(card, "task") == "`nowhere.SPEC`"
    assert row(card, "loss") == "1.5"


def test_a_quantized_base_and_a_start_are_told(facts):
    changed = {"model.quantization": "nf4", "adapter.start": "/srv/secret/first"}
    card = model_card(replace(facts, config=facts.config | changed))
    assert row(card, "base while training") == "weights in float32, stored as nf4"
    auto = model_card(replace(facts, config=facts.config | {"model.dtype": "auto"}))
    assert row(auto, "base while training") == "weights in what suits each machine"
    assert row(card, "started from") == "the adapter `first`"
    assert "secret" not in card


def test_a_checkpoint(facts):
    """Of round 4: its metrics and not those of the end. Without a result, clients are the configuration's."""
    card = model_card(replace(facts, result=None, server_round=4))
    assert row(card, "rounds") == "4; a checkpoint of a run of 6"
    assert (row(card, "loss"), row(card, "exact match")) == ("2", "0.25")
    assert row(card, "clients") == "4, 4 drawn a round; 1,234 training rows"


def test_held_out_metrics_of_the_end(facts):
    card = model_card(facts)
    assert (row(card, "loss"), row(card, "exact match")) == ("1.5", "0.5")
    assert "after round 6, up to 4 of each, mean of the clients" in card
    assert "No saved evaluation was found" in card


def test_a_client_alone(facts):
    """No figure of the others, and no federated learning."""
    card = model_card(replace(facts, client=1, config=facts.config | {"strategy.name": "local"}))
    assert "Client 1 of the run trained it alone" in card
    assert row(card, "clients") == "1 of 2, alone"
    assert "No evaluation is recorded" in card
    assert "tags" not in metadata(card) or "federated-learning" not in metadata(card)["tags"]


def test_centralized_training_is_not_called_federated(facts):
    card = model_card(replace(facts, config=facts.config | {"strategy.name": "centralized"}))
    assert "trained on the data of all clients in one place" in card
    assert "each of several clients" not in card
    assert "The rows of all clients were trained on in one place" in card
    assert "federated-learning" not in metadata(card)["tags"]


def test_an_adapter_of_elsewhere(facts):
    """Nothing is known but its settings."""
    card = model_card(replace(facts, base=Base("tiny"), prompt=None, config=None, result=None, journal=(), versions={}))
    assert "not trained by a run that is recorded here" in card
    assert "How the prompts were written in training is not recorded" in card
    assert "licence not known" in card
    assert "base_model" not in metadata(card)
    assert card.endswith("## Versions\n\nnot recorded\n")


def test_prompts(facts):
    card = model_card(replace(facts, prompt=PromptRecord("/srv/secret/own.jinja", "Be\nbrief.", "{{ x }}")))
    assert "the template `own.jinja` and this system prompt:\n\n```text\nBe\nbrief.\n```" in card
    assert "secret" not in card
    fenced = model_card(replace(facts, prompt=PromptRecord("vicuna", "Write\n```\ncode\n```", None)))
    assert "\n````text\nWrite\n```\ncode\n```\n````\n" in fenced


FIGURE = {"missing": {}, "seed": 0, "percent": True, "count": False}
REPORT = {
    "suite": "file:/srv/secret/rows.jsonl",
    "models": {"base": "the base model alone", "first": "/srv/secret/first/adapter", "other": "/srv/secret/other"},
    "settings": {"limit": 50, "seeds": "0", "template": "/srv/secret/own.jinja", "dtype": "float32"},
    "figures": [
        FIGURE
        | {"task": "a", "metric": "loss", "model": name, "value": value, "low": 1, "high": 3.25, "n": 50}
        | {"percent": False}
        for name, value in (("base", "inf"), ("first", 2.0), ("other", 77.0))
    ]
    + [
        FIGURE | {"task": "a", "metric": "right", "model": "first", "value": 0.5, "low": 0.25, "high": 0.75, "n": 50},
        FIGURE
        | {
            "task": "a",
            "metric": "mean",
            "model": "first",
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
            "n": 9,
            "seed": None,
        },
        FIGURE
        | {
            "task": "a",
            "metric": "unread",
            "model": "first",
            "value": 3,
            "low": None,
            "high": None,
            "n": 9,
            "count": True,
        },
        FIGURE
        | {"task": "a", "metric": "grade", "model": "first", "value": None, "low": None, "high": None, "n": 0}
        | {"missing": {"not judged": 9}},
    ],
}


def test_a_saved_evaluation(facts):
    """Base and this model and no other; shares in percent, ± of several seeds, counts as they are."""
    card = model_card(replace(facts, evaluations=[(REPORT, "first")]))
    assert (
        "Suite rows.jsonl, asked with the adapter over the base (limit: 50, seeds: 0, template: own.jinja, dtype:"
        in card
    )
    lines = [line for line in card.splitlines() if line.startswith(("| set", "| a |"))]
    assert lines == [
        "| set | metric | n | base model | this model |",
        "| a | loss | 50 | inf [1, 3.25] | 2 [1, 3.25] |",
        "| a | right | 50 | - | 50.0 [25.0, 75.0] |",
        "| a | mean | 9 | - | 50.0 ± 10.0 |",
        "| a | unread | 9 | - | 3 |",
        "| a | grade | 0 | - | 9 not judged |",
    ]
    assert "secret" not in card and "77" not in card


@pytest.mark.parametrize(
    ("name", "shown"), [("/a/b c", "b c"), ("~/x", "x"), ("./y", "y"), ("org/name", "org/name"), ("gpt2", "gpt2")]
)
def test_names(name, shown):
    assert shown_name(name) == shown
