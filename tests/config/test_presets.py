"""Every preset of conf/, scaled by conf/cpu.toml, from its file to its result, on rows in its sets' own schemas."""

import json
import tomllib
from pathlib import Path

import pytest
from in_process import run_in_process
from places import ROOT

from fedllm_app.config.parse import default_run_config, flatten, parse_run_config
from fedllm_app.data.origins import DataNotFound
from fedllm_app.data.sources import open_source
from fedllm_app.models.packaged import ModelNotFound
from fedllm_app.runs.directory import read_journal, read_result
from fedllm_app.tasks import task_spec

CPU = ROOT / "conf" / "cpu.toml"
PRESETS = sorted(path for path in (ROOT / "conf").glob("fed*.toml"))
ROWS = 120

# Rows as each set has them, by the name that presets use.
SETS = {
    "alpaca": lambda n: {"instruction": f"Name {n} birds.", "input": "", "output": f"finch {n}", "text": "…"},
    "alpaca-gpt4": lambda n: {"instruction": "Add the numbers.", "input": f"{n}, 1", "output": f"{n + 1}", "text": "…"},
    "fingpt-sentiment": lambda n: {
        "instruction": "What is the sentiment of this news?",
        "input": f"Shares rose by {n} %.",
        "output": "positive",
    },
    "medical-flashcards": lambda n: {
        "instruction": "Answer truthfully.",
        "input": f"What does vitamin {n} do?",
        "output": f"It does {n}.",
    },
    "code-alpaca": lambda n: {"instruction": f"Print {n} in Python.", "input": "", "output": f"print({n})"},
    "math-instruct": lambda n: {"source": "made/cot.json", "instruction": f"What is {n} + {n}?", "output": f"{2 * n}"},
    "ultrafeedback": lambda n: {
        "prompt": f"Say {n}.",
        "prompt_id": str(n),
        "messages": [],
        "score_chosen": 9.0,
        "score_rejected": 2.0,
        "chosen": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}!"}],
        "rejected": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": "No."}],
    },
    "hh-rlhf": lambda n: {
        "chosen": f"\n\nHuman: May I take {n}?\n\nAssistant: Please ask first.",
        "rejected": f"\n\nHuman: May I take {n}?\n\nAssistant: Take it all.",
    },
}


def preset(path: Path) -> dict:
    """The flat configuration of a preset over the defaults."""
    return default_run_config(ROOT) | flatten(tomllib.loads(path.read_text(encoding="utf-8")))


def local_copy(name: str, folder: Path) -> str:
    """A folder with rows of the named set."""
    directory = folder / name
    directory.mkdir()
    lines = [json.dumps(SETS[name](number)) for number in range(ROWS)]
    (directory / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(directory)


def test_there_is_one_preset_a_row_of_the_table():
    assert [path.stem for path in PRESETS] == [
        "fedit-code",
        "fedit-finance",
        "fedit-general",
        "fedit-medical",
        "fedit-multidomain",
        "fedva-harmless",
        "fedva-helpful",
    ]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_values_of_the_paper(path):
    """10 AdamW steps, batch 16, 512 tokens, int8, 200 rounds; learning rates and adapters of FedIT and of FedVA."""
    config = parse_run_config(preset(path))
    train, lora = config.train, config.lora
    common = (train.local_steps, train.batch_size, train.max_length, train.rounds, train.optimizer)
    assert common == (10, 16, 512, 200, "adamw")
    assert config.model.quantization == "int8"
    alignment = path.stem.startswith("fedva")
    assert train.task == ("dpo" if alignment else "sft")
    rates = (5e-4, 1e-5) if alignment else (5e-5, 1e-6)
    assert (train.learning_rate, train.min_learning_rate) == rates
    assert (lora.r, lora.alpha) == ((8, 16) if alignment else (32, 64))
    assert config.data.template == ("vicuna" if alignment else "alpaca")
    clients = {"finance": (50, 5), "multidomain": (4, 4), "helpful": (5, 2), "harmless": (5, 2)}
    expected = clients.get(path.stem.split("-")[1], (20, 2))
    assert (config.clients.number, config.clients.per_round) == expected


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_runs_end_to_end_on_two_cores(path, tiny_model, tmp_path):
    """With conf/cpu.toml, the tiny model and local copies of its sets: two rounds, adapters moved, nothing refused."""
    flat = preset(path)
    names = [local_copy(name, tmp_path) for name in flat["data.name"].split(",")]
    flat |= flatten(tomllib.loads(CPU.read_text(encoding="utf-8")))
    flat |= {"data.name": ",".join(names), "model.name": str(tiny_model), "model.dtype": "float32", "run.threads": 1}
    # A token of the tiny model is a byte, so its rows are four times as long.
    flat |= {"train.max-length": 512, "clients.number": min(flat["clients.number"], 5)}
    run_in_process(flat, tmp_path / "run")
    result, journal = read_result(tmp_path / "run"), read_journal(tmp_path / "run")
    assert result["rounds"] == 2
    assert result["adapter_moved"] > 1e-4
    assert result["refused_replies"] == 0
    holds = [event for event in journal if event["event"] == "holds"]
    assert sum(event["examples"] for event in holds) == ROWS * len(names)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_what_is_missing_is_named(path, tiny_model, tmp_path, monkeypatch):
    """Without a network the model's id, and then the set's, are in the error, with what to do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    flat = preset(path)
    with pytest.raises(ModelNotFound, match=f"{flat['model.name']}.*absolute path"):
        run_in_process(flat | {"run.threads": 1}, tmp_path / "run")
    for name in flat["data.name"].split(","):
        with pytest.raises(DataNotFound, match="(?s)cannot be loaded from the Hub.*data.name = "):
            open_source(name, rows=task_spec(flat["train.task"]).rows, cache_dir=tmp_path / "sources")
