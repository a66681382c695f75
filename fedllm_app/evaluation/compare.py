"""Models side by side on the built-in corpus: base, clients alone and federated model, asked the same questions."""

import time
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from fedllm_app.config.sections import Config
from fedllm_app.config.values import tokenization
from fedllm_app.data import corpus
from fedllm_app.training.resident import Resident

QUESTIONS = 60  # held-out questions a domain
_NEW_TOKENS = 24


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
        for domain in self.accuracy[model]:
            own = self.accuracy[model][domain]
            others = [scores[domain] for scores in self.accuracy.values()]
            ranks.append(sum(o > own for o in others) + (sum(o == own for o in others) + 1) / 2)
        return float(np.mean(ranks))


def compare(config: Config, model: Resident, models: dict[str, np.ndarray | None], console: Console) -> Comparison:
    """Ask base, clients alone and federated model the same held-out questions."""
    from fedllm_app.data.examples import Example
    from fedllm_app.data.shards import tokenize
    from fedllm_app.training.scoring import score_rows

    values = tokenization(config)
    template = values.bind(model.tokenizer, model.stops)
    shards = {}
    for domain, asked in held_out_questions(config).items():
        rows = [Example((("user", question.instruction),), question.answer) for question in asked]
        shards[domain] = tokenize(rows, template, model.tokenizer, values.max_length, values.system_prompt)
    exact = {}
    for name, adapter in models.items():
        began = time.monotonic()
        exact[name] = {domain: score_rows(model, shard, adapter, QUESTIONS).exact for domain, shard in shards.items()}
        shown = ", ".join(f"{domain} {hits.mean():.0%}" for domain, hits in exact[name].items())
        console.print(f"  {name}: {shown} ({time.monotonic() - began:.0f} s)", highlight=False)
    return Comparison(exact)


def held_out_questions(config: Config) -> dict[str, list[corpus.Question]]:
    """The questions that all models are asked, by domain; none of them is in any client's training part."""
    return {domain: corpus.questions(domain, "held-out", QUESTIONS, config.data.seed) for domain in corpus.DOMAINS}


def sample_answers(
    config: Config, model: Resident, models: dict[str, np.ndarray | None], comparison: Comparison, console: Console
) -> dict[str, str]:
    """Have base and federated model answer a question that only the latter gets right, if there is one."""
    from fedllm_app.data.encoding import encode_prompts
    from fedllm_app.evaluation.generation import generate

    asked = [question for questions in held_out_questions(config).values() for question in questions]
    base, federated = (np.concatenate(list(comparison.exact[name].values())) for name in ("base", "federated"))
    chosen = asked[int(np.argmax(federated & ~base))]
    values = tokenization(config)
    template = values.bind(model.tokenizer, model.stops)
    prompts = encode_prompts([[("user", chosen.instruction)]], template, model.tokenizer, values.system_prompt)
    sample = {"question": chosen.instruction, "expected": chosen.answer}
    console.print(f"a held-out question: {chosen.instruction}", markup=False, highlight=False)
    for name in ("base", "federated"):
        with model.using(models[name]) as adapted:
            sample[name] = generate(adapted, model.tokenizer, template, prompts, _NEW_TOKENS)[0].strip()
        console.print(f"  {name}: {sample[name]}", markup=False, highlight=False)
    console.print(f"  expected: {chosen.answer}", markup=False, highlight=False)
    return sample
