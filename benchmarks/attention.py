"""Training steps of a base model with each attention of `model.attention`, and with attention in blocks of queries.

One process and one thread, rows of equal length, LoRA r=8 on q_proj and v_proj, batch 4. Prints a line a length:
seconds a step (the least of some), and the peak memory of the process that ran it. `python benchmarks/attention.py`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

KINDS = ("eager", "sdpa", "blocked")


def measure(model: str, kind: str, length: int, dtype: str, rows: int = 4, steps: int = 6) -> dict[str, float]:
    """Seconds of a step and peak memory in MB."""
    import torch
    from peft import LoraConfig, get_peft_model

    from fedllm_app.models.base import load_base_model, locate_model
    from fedllm_app.training.blocked_attention import install_attention

    torch.set_num_threads(1)
    attention = "sdpa" if kind == "blocked" else kind
    base = load_base_model(locate_model(model, False), getattr(torch, dtype), attention)
    if kind == "blocked":
        assert install_attention(base)
    torch.manual_seed(0)
    lora = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    lora.train()
    ids = torch.randint(0, base.config.vocab_size, (rows, length))
    best = float("inf")
    for _ in range(steps):
        began = time.perf_counter()
        hidden = lora.base_model.model.model(input_ids=ids, use_cache=False).last_hidden_state
        hidden.float().square().mean().backward()
        best = min(best, time.perf_counter() - began)
    return {"seconds": best, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Each kind in a process of its own, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--lengths", default="64,128,230,512")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "LENGTH"))
    parsed = parser.parse_args()
    if parsed.one:
        print(json.dumps(measure(parsed.model, parsed.one[0], int(parsed.one[1]), parsed.dtype)))
        return
    for length in parsed.lengths.split(","):
        line: dict[str, object] = {"benchmark": "attention", "dtype": parsed.dtype, "length": int(length)}
        for kind in KINDS:
            options = ["--model", parsed.model, "--dtype", parsed.dtype, "--one", kind, length]
            done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True)
            line[kind] = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
