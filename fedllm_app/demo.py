"""The main job: federate four domains, train each client alone for as many steps, and compare what came out."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fedllm_app.config import Config
from fedllm_app.data import corpus
from fedllm_app.paths import write_text
from fedllm_app.report import plot_run

QUESTIONS = 60  # held-out questions a domain
_NEW_TOKENS = 12  # the longest answers of the corpus have fewer

RunIt = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Comparison:
    """Accuracy of every model on every domain, best mean first, and the questions behind it."""

    accuracy: dict[str, dict[str, float]]
    replies: dict[str, dict[str, list]]

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
    run({"run.directory": str(directory / "alone"), "strategy.name": "local"})
    console.rule(f"3/3 {QUESTIONS} held-out questions a domain, the same for every model")
    comparison = compare(config, directory, console)
    figure = directory / "training.png"
    plot_run(directory / "federated", figure, "Federated training: SmolLM2-135M-Instruct, four domains")
    console.print(_table(comparison))
    _sample(comparison, console)
    _write(comparison, directory / "comparison.json")
    console.print(f"figure: {figure}", soft_wrap=True)
    console.print(f"run directory: {directory}", soft_wrap=True)
    console.print(f"all of it took {time.monotonic() - started:.0f} s")


def compare(config: Config, directory: Path, console: Console) -> Comparison:
    """Grade base, clients alone and federated model on the same held-out questions."""
    from fedllm_app.adapters import load_peft_directory
    from fedllm_app.client_app import resident_key
    from fedllm_app.data.templates import get_template
    from fedllm_app.evaluation.exact_match import grade
    from fedllm_app.training.resident import resident, set_threads

    set_threads(0)
    loaded = resident(resident_key(config))
    template = get_template(config.data.template, loaded.tokenizer)
    models = {"base": None}
    models |= {f"{domain} alone": directory / "alone" / "adapters" / f"client-{client}"
               for client, domain in enumerate(corpus.DOMAINS)}
    models["federated"] = directory / "federated" / "adapter"
    accuracy, replies = {}, {}
    for name, adapter in models.items():
        began = time.monotonic()
        vector = (np.zeros(loaded.manifest.size, np.float32) if adapter is None
                  else load_peft_directory(adapter, loaded.manifest))
        loaded.adapter.write(vector)
        replies[name] = {}
        for domain in corpus.DOMAINS:
            asked = corpus.questions(domain, "held-out", QUESTIONS, config.run.seed)
            prompts = [template.render_prompt((("user", q.instruction),), config.data.system_prompt) for q in asked]
            answers = [question.answer for question in asked]
            replies[name][domain] = grade(
                loaded.model, loaded.tokenizer, prompts, answers, corpus.matches, _NEW_TOKENS
            )
        accuracy[name] = {d: float(np.mean([g.right for g in graded])) for d, graded in replies[name].items()}
        shown = ", ".join(f"{domain} {value:.0%}" for domain, value in accuracy[name].items())
        console.print(f"  {name}: {shown} ({time.monotonic() - began:.0f} s)", highlight=False)
    return Comparison(accuracy, replies)


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


def _sample(comparison: Comparison, console: Console) -> None:
    """Show a question that the two models answer differently, if there is one."""
    pairs = [
        (before, after)
        for domain in corpus.DOMAINS
        for before, after in zip(comparison.replies["base"][domain], comparison.replies["federated"][domain], strict=True)
    ]
    before, after = next(((b, a) for b, a in pairs if a.right and not b.right), pairs[0])
    console.print("a held-out question:", before.prompt.strip(), markup=False, highlight=False)
    for name, graded in (("base", before), ("federated", after)):
        verdict = "right" if graded.right else "wrong"
        console.print(f"  {name}: {graded.reply.strip()!r} ({verdict}; expected {graded.answer!r})", markup=False)


def _write(comparison: Comparison, file: Path) -> None:
    content = {
        "questions_per_domain": QUESTIONS,
        "accuracy": comparison.accuracy,
        "mean": {model: comparison.mean(model) for model in comparison.accuracy},
        "average_rank": {model: comparison.rank(model) for model in comparison.accuracy},
        "replies": {
            model: {domain: [[g.prompt, g.answer, g.reply, g.right] for g in graded] for domain, graded in domains.items()}
            for model, domains in comparison.replies.items()
        },
    }
    write_text(file, json.dumps(content, indent=1) + "\n")
