"""What federation costs: rounds, start-up and memory against plain TRL in the same run, as one JSON line.

    python benchmarks/overhead.py --data /absolute/path/of/gsm8k/train.jsonl
    python benchmarks/overhead.py --task loss --data /absolute/path/of/gsm8k/train.jsonl
    python benchmarks/overhead.py --task dpo --data /absolute/path/of/hh-rlhf/harmless.jsonl

SFT: SmolLM2-135M, 4 clients, 2 a round, 2 rounds of 5 steps, batch 4, length 256, LoRA r=8 on q_proj and v_proj, Alpaca
template, bfloat16, against 20 steps of TRL's SFTTrainer on rows of the same file: in one process with all threads, and
in two processes of one thread, side by side, with ten steps each. `rounds_ratio` and `rounds_ratio_best` are the time
of the rounds (first message out to last aggregation) over TRL's in one process, and over the faster of the two.

Loss: the largest difference of a step's loss between this app's trainer and TRL's SFTTrainer with its own head, over
5 steps on the same batches from the same adapter (its B not zero, so that it counts), and both sequences.

DPO: the time of a step of this app's trainer, with the reference's log-probabilities in the cache, over that of TRL's
DPOTrainer without precomputation, on the same batches in the same process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedllm_app.adapters.methods import AdapterValues
from fedllm_app.client.progress import STEPS_FILE
from fedllm_app.models.base import ModelValues

ROOT = Path(__file__).resolve().parents[1]
MODEL = "smollm2-135m-instruct"
ADAPTER = AdapterValues(r=8, alpha=16, dropout=0.0, targets=("q_proj", "v_proj"))
STEPS, BATCH, LENGTH = 20, 4, 256


def main() -> None:
    """Run one of the two comparisons and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="absolute path of the data file")
    parser.add_argument("--task", choices=("sft", "loss", "dpo"), default="sft")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--plain-trl", nargs=2, type=int, metavar=("PART", "OF"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.plain_trl:
        print(json.dumps(plain_trl_sft(Path(parsed.data), parsed.dtype, *parsed.plain_trl)))
    elif parsed.task == "sft":
        print(json.dumps(compare_sft(Path(parsed.data), parsed.dtype)))
    elif parsed.task == "loss":
        print(json.dumps(compare_loss(Path(parsed.data), parsed.dtype)))
    else:
        print(json.dumps(compare_dpo(Path(parsed.data), parsed.dtype)))


def compare_sft(data: Path, dtype: str) -> dict:
    """The federated run through Flower, then plain TRL in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        began = time.perf_counter()
        first_step = federated(data, dtype, directory)
        whole = time.perf_counter() - began
        journal = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
        result = json.loads((directory / "result.json").read_text())
    (trl,), two = side_by_side(data, dtype, 1), side_by_side(data, dtype, 2)
    apart = max(part["seconds"] for part in two)
    rounds = sum(event["seconds"] for event in journal if event["event"] == "round")
    return {
        "benchmark": "overhead-sft",
        "dtype": dtype,
        "cores": os.cpu_count(),
        "rounds_seconds": round(rounds, 2),
        "process_seconds": round(whole, 2),
        "trl_seconds": round(trl["seconds"], 2),
        "trl_two_processes_seconds": round(apart, 2),
        "rounds_ratio": round(rounds / trl["seconds"], 3),
        "rounds_ratio_best": round(rounds / min(trl["seconds"], apart), 3),
        "startup_seconds": round(first_step, 2),
        "peak_client_memory_gb": round(result["peak_client_memory_mb"] / 1024, 2),
        "trl_peak_memory_gb": round(trl["peak_memory_mb"] / 1024, 2),
    }


def side_by_side(data: Path, dtype: str, parts: int) -> list[dict]:
    """Plain TRL in so many processes at once, which share the steps and the cores."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(max(1, os.cpu_count() // parts))} if parts > 1 else {})
    command = [sys.executable, __file__, "--data", str(data), "--dtype", dtype, "--plain-trl"]
    running = [
        subprocess.Popen([*command, str(part), str(parts)], stdout=subprocess.PIPE, text=True, env=environment)
        for part in range(parts)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("plain TRL failed; its messages are above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def federated(data: Path, dtype: str, directory: Path) -> float:
    """One `fedllm run`: seconds from the command to the moment that the first client begins to train."""
    overrides = {
        "run.directory": directory,
        "data.name": data,
        "data.template": "alpaca",
        "model.name": MODEL,
        "model.dtype": dtype,
        "lora.target-modules": ",".join(ADAPTER.targets),
        "lora.r": ADAPTER.r,
        "lora.alpha": ADAPTER.alpha,
        "evaluate.every": 0,
        "clients.number": 4,
        "clients.per-round": 2,
        "train.rounds": 2,
        "train.local-steps": 5,
        "train.batch-size": BATCH,
        "train.max-length": LENGTH,
        "train.learning-rate": 1e-4,
        "train.min-learning-rate": 1e-5,
    }
    command = [str(Path(sys.executable).parent / "fedllm"), "run"]
    for key, value in overrides.items():
        command += ["-c", f"{key}={value}"]
    command += ["--federation-config", "num-supernodes=4 client-resources-num-cpus=1"]
    started = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    first, *_ = (directory / STEPS_FILE).read_text().splitlines()
    return json.loads(first)["time"] - started


def plain_trl_sft(data: Path, dtype: str, part: int, parts: int) -> dict:
    """TRL's SFTTrainer as its documentation uses it, on rows of the same file: seconds of this process's steps."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from fedllm_app.adapters.methods import peft_config
    from fedllm_app.client.local_client import peak_memory_mb
    from fedllm_app.data.sources import open_source
    from fedllm_app.data.templates import get_template
    from fedllm_app.models.base import locate_model
    from fedllm_app.paths import home

    steps = STEPS // parts
    location = locate_model(MODEL).reference
    tokenizer = AutoTokenizer.from_pretrained(location)
    template = get_template("alpaca", tokenizer)
    source = open_source(str(data), rows="example", cache_dir=home() / "sources", max_bad_share=0.01)
    rows = [
        {"prompt": template.render_prompt(e.prompt, None), "completion": e.completion}
        for e in source.examples(range(part * steps * BATCH, (part + 1) * steps * BATCH))
    ]
    arguments = SFTConfig(
        output_dir="unused",
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        max_length=LENGTH,
        learning_rate=1e-4,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(location, dtype=getattr(torch, dtype)),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft_config(ADAPTER),
    )
    started = time.perf_counter()
    trainer.train()
    return {"seconds": time.perf_counter() - started, "peak_memory_mb": peak_memory_mb()}


def _train_config(steps: int):
    """The defaults of `train` for so many steps of the benchmark's batches."""
    from fedllm_app.config.parse import default_run_config, parse_run_config

    changes = {"train.local-steps": steps, "train.batch-size": BATCH}
    return parse_run_config(default_run_config(ROOT) | changes).train


def _job(model, start):
    """One round of training from `start`, for no client in particular."""
    from fedllm_app.messages import Assignment
    from fedllm_app.training.task import Job

    assignment = Assignment(0, 1, 1, 0, 1e-4, "")
    return Job(model, None, None, assignment, start, None, seed=0, corrections=[], progress=None)


def compare_loss(data: Path, dtype: str, steps: int = 5) -> dict:
    """The loss of every step of this app's SFT trainer and of TRL's, on copies of the same model."""
    import numpy as np
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from fedllm_app.adapters.methods import draw_adapter, peft_config
    from fedllm_app.adapters.view import AdapterView
    from fedllm_app.data.shards import tokenize
    from fedllm_app.data.sources import open_source
    from fedllm_app.data.templates import get_template
    from fedllm_app.models.base import locate_model
    from fedllm_app.paths import home
    from fedllm_app.training.resident import ResidentKey, resident, set_threads
    from fedllm_app.training.sft import sft_dataset, sft_trainer
    from fedllm_app.training.trainer import InGivenOrder, train_round, training_arguments

    class Plain(InGivenOrder, SFTTrainer):
        """Same batches in the same order, nothing else changed."""

    set_threads(0)
    model = resident(ResidentKey("sft", ModelValues(MODEL, dtype), ADAPTER))
    source = open_source(str(data), rows="example", cache_dir=home() / "sources", max_bad_share=0.01)
    template = get_template("alpaca", model.tokenizer)
    shard = tokenize(source.examples(range(steps * BATCH)), template, model.tokenizer, LENGTH, None)
    dataset = sft_dataset([shard.example(index) for index in range(steps * BATCH)])
    start = draw_adapter(model.manifest, 0)
    start += np.random.default_rng(0).normal(0, 0.01, start.shape).astype(np.float32)
    training = _train_config(steps)
    ours = train_round(_job(model, start), sft_trainer(model, training), dataset).losses
    base = AutoModelForCausalLM.from_pretrained(locate_model(MODEL).reference, dtype=getattr(torch, dtype))
    plain = get_peft_model(base, peft_config(ADAPTER))
    AdapterView(plain).write(start)
    arguments = training_arguments(training) | {"learning_rate": 1e-4, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = Plain(plain, args=SFTConfig(**arguments), train_dataset=dataset, processing_class=model.tokenizer)
    trainer.train()
    trl = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "benchmark": "overhead-loss",
        "dtype": dtype,
        "largest_difference": round(max(abs(a - b) for a, b in zip(ours, trl, strict=True)), 6),
        "losses": [round(float(loss), 4) for loss in ours],
        "trl_losses": [round(float(loss), 4) for loss in trl],
    }


def compare_dpo(data: Path, dtype: str, steps: int = 6) -> dict:
    """Seconds a step of both DPO trainers on the same batches, in turns, in one process."""
    import numpy as np

    from fedllm_app.data.order import walk
    from fedllm_app.training.dpo import complete_references, dpo_dataset, dpo_trainer
    from fedllm_app.training.references import ReferenceCache
    from fedllm_app.training.resident import ResidentKey, resident, set_threads
    from fedllm_app.training.trainer import train_round

    set_threads(0)
    os.environ["FEDLLM_HOME"] = os.environ.get("FEDLLM_HOME") or str(Path.home() / ".fedllm")
    model = resident(ResidentKey("dpo", ModelValues(MODEL, dtype), ADAPTER))
    shard = _pair_shard(data, model)
    indices = walk(len(shard), 0, 0, 0, steps * BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        cache = ReferenceCache(["benchmark"], len(shard))
        cache.path = Path(scratch) / "references.npy"
        cache.values[:] = np.nan
        complete_references(model, shard, indices, None, cache)
    dataset = dpo_dataset(shard, indices, cache)
    training = _train_config(steps)
    start = model.adapter.read()
    plain = _plain_trl_dpo(model, training)
    ours = []
    trl = []
    for _ in range(2):
        began = time.perf_counter()
        plain(dataset.remove_columns(["ref_chosen_logps", "ref_rejected_logps"]))
        trl.append(time.perf_counter() - began)
        result = train_round(_job(model, start), dpo_trainer(model, training, 0.1, "sigmoid"), dataset)
        ours.append(result.seconds)
    return {
        "benchmark": "overhead-dpo",
        "dtype": dtype,
        "cores": os.cpu_count(),
        "step_seconds": round(min(ours) / steps, 3),
        "trl_step_seconds": round(min(trl) / steps, 3),
        "step_ratio": round(min(ours) / min(trl), 3),
    }


def _pair_shard(data: Path, model):
    from fedllm_app.data.examples import Example
    from fedllm_app.data.shards import PairShard, tokenize
    from fedllm_app.data.sources import open_source
    from fedllm_app.data.templates import get_template
    from fedllm_app.paths import home

    source = open_source(str(data), rows="pair", cache_dir=home() / "sources", max_bad_share=0.01)
    template = get_template("alpaca", model.tokenizer)
    parts = []
    for column in ("chosen", "rejected"):
        rows = (Example(pair.prompt, getattr(pair, column)) for pair in source.examples(range(200)))
        parts.append(tokenize(rows, template, model.tokenizer, LENGTH, None))
    return PairShard(*parts)


def _plain_trl_dpo(model, training):
    """TRL's DPOTrainer on a second copy of the base, with a new LoRA adapter and the reference run at every step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    from fedllm_app.adapters.methods import peft_config
    from fedllm_app.models.base import locate_model
    from fedllm_app.training.trainer import InGivenOrder, training_arguments

    class Plain(InGivenOrder, DPOTrainer):
        """Same batches in the same order, nothing else changed."""

    dtype = getattr(torch, model.key.model.dtype)
    base = AutoModelForCausalLM.from_pretrained(locate_model(MODEL).reference, dtype=dtype)
    trainer = Plain(
        base,
        args=DPOConfig(**training_arguments(training), max_length=None),
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}),
        processing_class=model.tokenizer,
        peft_config=peft_config(ADAPTER),
    )
    trainer.remove_callback(PrinterCallback)

    def train(dataset) -> None:
        trainer.train_dataset = dataset
        trainer.optimizer, trainer.lr_scheduler = None, None
        trainer.train()

    return train


if __name__ == "__main__":
    main()
