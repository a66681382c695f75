"""The main job: federate four domains, train each client alone for as many steps, and compare what came out."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fedllm_app.adapters import Manifest, load_peft_directory
from fedllm_app.config import Config
from fedllm_app.data import corpus
from fedllm_app.data.templates import get_template
from fedllm_app.paths import write_text
from fedllm_app.report import plot_run
from fedllm_app.training.local_client import peak_memory_mb
from fedllm_app.training.resident import Resident, resident, set_threads
from fedllm_app.values import resident_key, tokenization

QUESTIONS = 60  # held-out questions a domain
_NEW_TOKENS = 24

RunIt = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Comparison:
    """Which questions every model answers exactly, by domain, and from those the figures of the table."""

    exact: dict[str, dict[str, np.ndarray]]

    @property
    def accuracy(self) -> dict[str, dict[str, float]]:
        """Share of exact answers of every model on every domain."""
        return {model: {d: float(hits.mean()) for d, hits in domains.items()} for model, domains in self.exact.items()}

    def mean(self, model: str) -> float:
        """Mean accuracy over the domains."""
        return float(np.mean(list(self.accuracy[model].values())))

    def rank(self, model: str) -> float:
        """Average rank over the domains, 1 the best; equal accuracies share the mean of their ranks."""
        ranks = []
        for domain in corpus.DOMAINS:
            own = self.accuracy[model][domain]
            others = [scores[domain] for scores in self.accuracy.values()]
            ranks.append(sum(o > own for o in others) + (sum(o == own for o in others) + 1) / 2)
        return float(np.mean(ranks))


def demo(config: Config, directory: Path, run: RunIt, console: Console) -> None:
    """Run the whole job into `directory`: two runs, the comparison, the figure, a sample."""
    started = time.monotonic()
    console.rule("1/3 federated training: four clients, one domain each")
    run({"run.directory": str(directory / "federated")})
    console.rule("2/3 each client alone, for the same number of steps")
    run({"run.directory": str(directory / "alone"), "strategy.name": "local", "strategy.arguments": ""})
    console.rule(f"3/3 {QUESTIONS} held-out questions a domain, the same for every model")
    set_threads(0)
    model = resident(resident_key(config))
    models = load_models(directory, model.manifest)
    comparison = compare(config, model, models, console)
    figure = directory / "training.png"
    plot_run(directory / "federated", figure, "Federated training: SmolLM2-135M-Instruct, four domains")
    console.print(_table(comparison))
    sample = _sample(config, model, models, comparison, console)
    seconds = time.monotonic() - started
    _write(comparison, sample, seconds, directory / "comparison.json")
    console.print(f"figure: {figure}", soft_wrap=True)
    console.print(f"run directory: {directory}", soft_wrap=True)
    console.print(
        f"all of it took {seconds:.0f} s; peak memory of this process {peak_memory_mb():.0f} MB, of a client: above"
    )


def held_out_questions(config: Config) -> dict[str, list[corpus.Question]]:
    """The questions that all models are asked, by domain; none of them is in any client's training part."""
    return {domain: corpus.questions(domain, "held-out", QUESTIONS, config.run.seed) for domain in corpus.DOMAINS}


def load_models(directory: Path, manifest: Manifest) -> dict[str, np.ndarray | None]:
    """The packed adapter of every model by name; the base has none."""
    paths = {
        f"{domain} alone": directory / "alone" / "adapters" / f"client-{client}"
        for client, domain in enumerate(corpus.DOMAINS)
    }
    paths["federated"] = directory / "federated" / "adapter"
    trained = {name: load_peft_directory(path, manifest) for name, path in paths.items()}
    return {"base": None} | trained


def compare(config: Config, model: Resident, models: dict[str, np.ndarray | None], console: Console) -> Comparison:
    """Ask base, clients alone and federated model the same held-out questions."""
    from fedllm_app.data.examples import Example
    from fedllm_app.data.shards import tokenize
    from fedllm_app.training.sft import score_rows

    how = tokenization(config)
    template = get_template(how.template, model.tokenizer)
    shards = {}
    for domain, asked in held_out_questions(config).items():
        rows = [Example((("user", question.instruction),), question.answer) for question in asked]
        shards[domain] = tokenize(rows, template, model.tokenizer, how.max_length, how.system_prompt)
    exact = {}
    for name, adapter in models.items():
        began = time.monotonic()
        exact[name] = {domain: score_rows(model, shard, adapter, QUESTIONS).exact for domain, shard in shards.items()}
        shown = ", ".join(f"{domain} {hits.mean():.0%}" for domain, hits in exact[name].items())
        console.print(f"  {name}: {shown} ({time.monotonic() - began:.0f} s)", highlight=False)
    return Comparison(exact)


def _table(comparison: Comparison) -> Table:
    table = Table(title=f"exact match on {QUESTIONS} held-out questions a domain")
    table.add_column("model")
    for column in (*corpus.DOMAINS, "mean", "average rank"):
        table.add_column(column, justify="right")
    for model in sorted(comparison.accuracy, key=comparison.mean, reverse=True):
        scores = [f"{comparison.accuracy[model][domain]:.1%}" for domain in corpus.DOMAINS]
        style = "bold" if model == "federated" else None
        table.add_row(model, *scores, f"{comparison.mean(model):.1%}", f"{comparison.rank(model):.2f}", style=style)
    return table


def _sample(
    config: Config, model: Resident, models: dict[str, np.ndarray | None], comparison: Comparison, console: Console
) -> dict[str, str]:
    """Have base and federated model answer a question that only the latter gets right, if there is one."""
    from fedllm_app.data.shards import encode_prompts
    from fedllm_app.evaluation.generation import generate

    asked = [question for questions in held_out_questions(config).values() for question in questions]
    base, federated = (np.concatenate(list(comparison.exact[name].values())) for name in ("base", "federated"))
    chosen = asked[int(np.argmax(federated & ~base))]
    how = tokenization(config)
    template = get_template(how.template, model.tokenizer)
    prompts = encode_prompts([[("user", chosen.instruction)]], template, model.tokenizer, how.system_prompt)
    sample = {"question": chosen.instruction, "expected": chosen.answer}
    console.print(f"a held-out question: {chosen.instruction}", markup=False, highlight=False)
    for name in ("base", "federated"):
        with model.using(models[name]) as adapted:
            sample[name] = generate(adapted, model.tokenizer, template, prompts, _NEW_TOKENS)[0].strip()
        console.print(f"  {name}: {sample[name]}", markup=False, highlight=False)
    console.print(f"  expected: {chosen.answer}", markup=False, highlight=False)
    return sample


def _write(comparison: Comparison, sample: dict[str, str], seconds: float, file: Path) -> None:
    content = {
        "questions_per_domain": QUESTIONS,
        "accuracy": comparison.accuracy,
        "mean": {model: comparison.mean(model) for model in comparison.accuracy},
        "average_rank": {model: comparison.rank(model) for model in comparison.accuracy},
        "sample": sample,
        "seconds": seconds,
    }
    write_text(file, json.dumps(content, indent=1) + "\n")
