"""Clients sharing one machine: tokens a second and memory with 1, 2 and 4 of them at a time, one JSON line each.

    python benchmarks/sharing.py                          # the demo's model, on a GPU if there is one, else on CPU
    cores
    python benchmarks/sharing.py --size 7b --length 512 --batch 16 -c "model.quantization='int8'"

Four clients train for two rounds; the second, in which everything is loaded, is timed. Every row fills the window, so a
step has batch x length tokens. With a GPU each client gets its share of it (`client-resources-num-gpus`), without one
its share of the cores. Sizes other than `demo` are models of that many parameters with random weights, which train as
fast
as trained ones; they are made here from a configuration, with the demo's tokenizer.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.overrides import read_overrides
from fedllm_app.commands.run import run_to_end
from fedllm_app.config.parse import default_run_config
from fedllm_app.models.base import load_tokenizer, locate_model
from fedllm_app.runs.directory import read_journal, read_result

ROOT = Path(__file__).resolve().parents[1]
DEMO = "smollm2-135m-instruct"
CLIENTS = 4
# Hidden size, layers, heads, size of the MLP.
SIZES = {"1b": (2048, 22, 32, 5632), "3b": (3072, 28, 24, 8192), "7b": (4096, 32, 32, 11008)}


def main() -> None:
    """Run with every number of clients at a time that the machine has room for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("demo", *SIZES), default="demo")
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("-c", "--run-config", action="append", default=[], help="overrides of every run")
    parsed = parser.parse_args()
    cores = os.cpu_count() or 1
    for at_once in parsed.at_once:
        if at_once < 1 or CLIENTS % at_once:
            parser.error(f"--at-once {at_once}: accepted is what divides {CLIENTS} clients")
    gpu = apart(gpu_name)
    with tempfile.TemporaryDirectory() as scratch:
        model = DEMO if parsed.size == "demo" else apart(random_model, f"{scratch}/model", *SIZES[parsed.size])
        flat = default_run_config(ROOT) | {
            "model.name": model,
            "data.name": str(full_rows(Path(scratch) / "rows.jsonl", parsed)),
            "data.held-out-share": 0.0,
            "data.template": "none",
            "train.max-length": parsed.length,
            "train.batch-size": parsed.batch,
            "train.local-steps": parsed.steps,
            "train.rounds": 2,
            "evaluate.every": 0,
            "clients.number": CLIENTS,
        }
        flat |= read_overrides(parsed.run_config, flat)
        for at_once in parsed.at_once:
            if cores % at_once and not gpu:
                continue  # so many would not get equal shares of the cores
            share = f"client-resources-num-cpus={max(1, cores // at_once)}"
            share += f" client-resources-num-gpus={1 / at_once}" if gpu else ""
            directory = Path(scratch) / f"run-{at_once}"
            figures = measured(flat | {"run.directory": str(directory)}, share)
            line = {"benchmark": "sharing", "device": gpu or f"{cores} cores", "model": parsed.size, "at_once": at_once}
            print(json.dumps(line | figures), flush=True)


def apart(function: Callable, *arguments):
    """The function's result from a process of its own, so that nothing of CUDA stays in this one: clients need the
    GPU."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def gpu_name() -> str | None:
    """The first GPU, or None."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def measured(flat: dict, share: str) -> dict:
    """Tokens a second of the second round, of all clients together, and the largest client's memory."""
    console = Console(quiet=True)
    directory = Path(flat["run.directory"])
    if not run_to_end(ROOT, flat, console, federation_config=f"num-supernodes={CLIENTS} {share}"):
        raise RuntimeError(f"the run failed: {(directory / 'flower.log').read_text()[-3000:]}")
    journal, result = read_journal(directory), read_result(directory)
    seconds = next(event["seconds"] for event in journal if event["event"] == "round" and event["round"] == 2)
    rows = CLIENTS * flat["train.local-steps"] * flat["train.batch-size"] * flat["train.gradient-accumulation"]
    return {
        "tokens_a_second": round(rows * flat["train.max-length"] / seconds),
        "memory_mb": round(result["peak_client_memory_mb"]),
        "gpu_memory_mb": round(result["peak_client_gpu_memory_mb"]),
    }


def full_rows(file: Path, parsed: argparse.Namespace) -> Path:
    """Rows whose completions are longer than the window."""
    rows = CLIENTS * parsed.batch * parsed.steps * 2
    text = " word" * 2 * parsed.length
    file.write_text("".join(json.dumps({"prompt": f"{row}", "completion": text}) + "\n" for row in range(rows)))
    return file


def random_model(directory: str, hidden: int, layers: int, heads: int, intermediate: int) -> str:
    """A Llama of this shape with random bfloat16 weights, and the demo's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = load_tokenizer(locate_model(DEMO))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


if __name__ == "__main__":
    main()
