"""What it takes to get from a file of 52,000 rows to the tokenized shards of the clients of a round, as one JSON line.

    python benchmarks/loading.py
    python benchmarks/loading.py --rows 5000 --clients 10

The rows are drawn from a seed and as long as Alpaca's: instruction, input, output, about 350 characters in all. The
tokenizer is that of smollm2-135m-instruct, whose conversion is not counted. Every stage runs in a process of its own,
so that its peak memory is its own: the first opens (and converts) the file, divides it and tokenizes the shards of the
sampled clients; the second does the same again and finds everything in caches; the third tokenizes the shards of all
clients. `peak_memory_mb` and `imported_memory_mb` are of the first: at its end, and before it touched the rows.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "his",
    "but",
    "at",
    "are",
    "this",
    "have",
    "from",
    "or",
    "had",
    "an",
    "they",
    "which",
    "one",
    "you",
    "were",
    "all",
    "her",
    "she",
    "there",
    "would",
    "their",
    "we",
    "him",
    "been",
    "has",
    "when",
    "who",
    "will",
    "no",
    "more",
    "if",
    "out",
    "so",
    "up",
    "said",
    "what",
    "its",
    "about",
    "than",
    "into",
    "them",
    "can",
    "only",
    "other",
    "time",
    "new",
    "some",
    "could",
    "these",
    "two",
    "may",
    "first",
    "then",
    "do",
    "any",
    "like",
    "my",
    "now",
    "over",
    "such",
    "our",
    "man",
    "even",
    "most",
    "made",
    "after",
    "also",
    "did",
    "many",
    "off",
    "before",
    "must",
    "well",
    "back",
    "through",
    "years",
    "much",
    "where",
    "your",
    "way",
    "down",
    "should",
    "because",
    "long",
    "each",
    "just",
    "state",
    "people",
    "those",
    "too",
    "mr",
    "how",
    "little",
    "good",
    "world",
    "make",
    "very",
    "year",
    "still",
    "see",
    "own",
    "work",
    "men",
    "day",
    "get",
    "here",
    "between",
    "both",
    "life",
    "being",
    "under",
    "three",
    "never",
    "know",
    "same",
    "last",
    "another",
    "while",
    "us",
    "might",
    "great",
    "old",
    "against",
    "go",
    "come",
    "since",
    "right",
    "used",
    "himself",
    "take",
    "house",
    "without",
    "again",
    "place",
    "around",
    "home",
    "small",
    "found",
    "thought",
    "went",
    "say",
    "part",
    "once",
    "general",
    "high",
]


def main() -> None:
    """Write the rows, run the three stages and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--sampled", type=int, default=5)
    parser.add_argument("--stage", choices=("sampled", "all"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.stage:
        print(json.dumps(stage(Path(parsed.file), parsed.clients, parsed.sampled, parsed.stage)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.jsonl"
        characters = write_rows(file, parsed.rows)
        home = Path(scratch) / "home"
        share_models(home)
        first, second, whole = (run_stage(parsed, file, home, name) for name in ("sampled", "sampled", "all"))
    line = {
        "benchmark": "loading",
        "cores": os.cpu_count(),
        "rows": parsed.rows,
        "characters_a_row": characters,
        "clients": parsed.clients,
        "sampled": parsed.sampled,
    }
    line |= {f"{name}_seconds": first[name] for name in ("conversion", "partition", "tokenizing")}
    line["second_run_seconds"] = round(sum(second[name] for name in ("conversion", "partition", "tokenizing")), 2)
    line["tokenizing_all_seconds"] = whole["tokenizing"]
    line |= {name: first[name] for name in ("peak_memory_mb", "imported_memory_mb")}
    line["peak_memory_all_mb"] = whole["peak_memory_mb"]
    print(json.dumps(line))


def write_rows(file: Path, count: int) -> float:
    """Write `count` rows of Alpaca's columns; the mean number of characters of a row."""
    rng = random.Random(1)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most))).capitalize() + "."

    total = 0
    with open(file, "w", encoding="utf-8") as lines:
        for number in range(count):
            # Two rows of five have an input, as in Alpaca.
            row = {"instruction": text(6, 18), "input": text(4, 24) if number % 5 < 2 else "", "output": text(10, 90)}
            total += sum(map(len, row.values()))
            lines.write(json.dumps(row) + "\n")
    return round(total / count, 1)


def share_models(home: Path) -> None:
    """Convert the tokenizer's model into the user's home, as a run does, and let the scratch home use it."""
    from fedllm_app import paths
    from fedllm_app.models.base import load_tokenizer, locate_model

    load_tokenizer(locate_model("smollm2-135m-instruct"))
    home.mkdir()
    (home / "models").symlink_to(paths.home().resolve() / "models")


def run_stage(parsed: argparse.Namespace, file: Path, home: Path, name: str) -> dict:
    """One stage in a process of its own."""
    options = ["--stage", name, "--file", str(file), "--clients", str(parsed.clients), "--sampled", str(parsed.sampled)]
    environment = os.environ | {"FEDLLM_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def stage(file: Path, clients: int, sampled: int, name: str) -> dict:
    """Open, divide and tokenize as a client process does; seconds and memory."""
    from fedllm_app.client.build import local_client
    from fedllm_app.client.local_client import peak_memory_mb
    from fedllm_app.config.parse import default_run_config, parse_run_config
    from fedllm_app.config.values import data_selection
    from fedllm_app.data import client_rows as loading
    from fedllm_app.federation.schedule import choose_clients

    flat = default_run_config(ROOT) | {
        "data.name": str(file),
        "data.template": "alpaca",
        "train.max-length": 512,
        "clients.number": clients,
        "clients.per-round": sampled,
    }
    selection = data_selection(parse_run_config(flat), clients, "example")
    client = local_client(1, tuple(sorted(flat.items())), clients)
    # Reading the tokenizer is part of loading the model, not of the data.
    assert client.model.tokenizer_hash
    seconds, imported = {}, peak_memory_mb()
    began = time.perf_counter()
    loading.open_set(selection, 0)
    seconds["conversion"] = time.perf_counter() - began
    began = time.perf_counter()
    loading.client_data(selection, 0)
    seconds["partition"] = time.perf_counter() - began
    chosen = choose_clients(clients, sampled, selection.seed, 1) if name == "sampled" else range(clients)
    began = time.perf_counter()
    for number in chosen:
        client.shards(number)
    seconds["tokenizing"] = time.perf_counter() - began
    memory = {"peak_memory_mb": round(peak_memory_mb()), "imported_memory_mb": round(imported)}
    return {key: round(value, 2) for key, value in seconds.items()} | memory


if __name__ == "__main__":
    main()
