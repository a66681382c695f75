"""Time of scoring multiple choice here, as a share of lm-evaluation-harness's own `hf` backend.

    python benchmarks/scoring.py --data <folder of local test sets>

Same model (SmolLM2-135M-Instruct, bfloat16), same tasks of the harness, same batch size and limit, both in this
process, one after the other, each task twice (the faster one counts). Three tasks: answers of one token behind prompts
that share a few words (finance sentiment), answers of several tokens (PubMedQA, yes/no/maybe in a sentence), and 3
worked examples before every question (a task of BIG-bench Hard). Prints one JSON line with both times, their ratio, the
accuracies of both, and the cost of putting another adapter on the loaded base.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from fedllm_app.evaluation.contestants import BASE, Contestant, Stage
from fedllm_app.evaluation.harness_model import AskedModel
from fedllm_app.evaluation.prompts import PlainPrompts
from fedllm_app.models.base import ModelValues

BATCH = 16

LABELS = ["negative", "neutral", "positive"]
SENTENCES = ["Yes, the evidence supports it.", "No, the evidence is against it.", "Maybe; the evidence is mixed."]


def write_tasks(data: Path, folder: Path, limit: int) -> None:
    """Three tasks of the harness on local rows."""
    finance = [json.loads(line) for line in (data / "finance" / "fpb.jsonl").read_text().splitlines()][:limit]
    write(
        folder,
        "bench_finance",
        [
            {
                "prompt": f"{row['instruction']}\n{row['input']}\nAnswer:",
                "choices": LABELS,
                "gold": LABELS.index(row["output"]),
            }
            for row in finance
        ],
    )
    papers = list(json.loads((data / "pubmedqa" / "ori_pqal.json").read_text()).values())[: limit // 2]
    write(
        folder,
        "bench_pubmed",
        [
            {
                "prompt": f"{' '.join(row['CONTEXTS'])[:1200]}\nQuestion: {row['QUESTION']}\nAnswer:",
                "choices": SENTENCES,
                "gold": ["yes", "no", "maybe"].index(row["final_decision"]),
            }
            for row in papers
        ],
    )
    rows = json.loads((data / "bbh" / "disambiguation_qa.json").read_text())["examples"]
    shots = "\n\n".join(f"Q: {row['input']}\nA: {row['target']}" for row in rows[:3])
    options = ["(A)", "(B)", "(C)"]
    write(
        folder,
        "bench_shots",
        [
            {"prompt": f"{shots}\n\nQ: {row['input']}\nA:", "choices": options, "gold": options.index(row["target"])}
            for row in rows[3 : limit // 2 + 3]
            if row["target"] in options
        ],
    )


def write(folder: Path, name: str, rows: list[dict]) -> None:
    """One task: its rows and its definition."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/{name}.jsonl\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: prompt\ndoc_to_choice: choices\n"
        "doc_to_target: gold\nmetric_list:\n  - metric: acc\n"
    )


def timed(model, name: str, manager: TaskManager) -> tuple[float, float]:
    """Seconds of the requests of one task (the faster of two times), and the accuracy."""
    taken = []
    plain = model.loglikelihood

    def clocked(requests, *rest, **options):
        began = time.perf_counter()
        answers = plain(requests, *rest, **options)
        taken.append(time.perf_counter() - began)
        return answers

    model.loglikelihood = clocked
    for _ in range(2):
        results = simple_evaluate(model=model, tasks=[name], task_manager=manager, bootstrap_iters=0)
    model.loglikelihood = plain
    return min(taken), results["results"][name]["acc,none"]


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with finance/, pubmedqa/ and bbh/")
    parser.add_argument(
        "--limit", type=int, default=200, help="questions of the first task; half as many of the others"
    )
    parser.add_argument(
        "--adapter", type=Path, help="a run directory or PEFT directory, for the cost of another adapter"
    )
    parsed = parser.parse_args()
    stage = Stage(ModelValues("smollm2-135m-instruct", "auto"), BATCH)
    began = time.perf_counter()
    _ = stage.base, stage.unshared
    line = {
        "benchmark": "scoring",
        "threads": torch.get_num_threads(),
        "load_seconds": round(time.perf_counter() - began, 2),
    }
    theirs = HFLM(pretrained=stage.base, tokenizer=stage.tokenizer, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder, stage.asker(Contestant(BASE, None)) as asker:
        write_tasks(parsed.data, Path(folder), parsed.limit)
        manager = TaskManager(include_path=folder)
        ours = AskedModel(asker, PlainPrompts(stage.tokenizer))
        for name in ("bench_finance", "bench_pubmed", "bench_shots"):
            mine, accuracy = timed(ours, name, manager)
            other, expected = timed(theirs, name, manager)
            line[name.removeprefix("bench_")] = {
                "seconds": round(mine, 2),
                "harness_seconds": round(other, 2),
                "ratio": round(mine / other, 3),
                "accuracy": round(accuracy, 4),
                "harness_accuracy": round(expected, 4),
            }
    if parsed.adapter:
        from fedllm_app.evaluation.contestants import find_contestants

        (contestant, *_) = find_contestants([parsed.adapter])
        began = time.perf_counter()
        with stage.asker(contestant):
            line["adapter_seconds"] = round(time.perf_counter() - began, 2)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
