"""What the questions of a domain are drawn from: a task, ways to ask it, its right and wrong answers."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One task: ways to ask it, and a function that draws (values of the phrasing, answer, wrong answer)."""

    phrasings: tuple[str, ...]
    draw: Callable[[random.Random], tuple[dict[str, object], str, str]]


def matches(reply: str, answer: str) -> bool:
    """Tell whether a reply equals the answer, but for case, white space, one full stop and surrounding quotes."""
    return _normalise(reply) == _normalise(answer)


def _normalise(text: str) -> str:
    text = " ".join(text.casefold().split())
    return text.strip("`'\"").removesuffix(".").strip("`'\"").strip()


def wrong_answer(rng: random.Random, options: Sequence[str], answer: str) -> str:
    """Draw a wrong answer among the right answers to neighbouring questions."""
    while matches(option := rng.choice(options), answer):
        pass
    return option


def lookup(table: dict[str, str], *phrasings: str) -> Kind:
    """A kind that asks for the value of a key `{x}` of a table."""

    def draw(rng: random.Random):
        key, answer = rng.choice(list(table.items()))
        return {"x": key}, answer, wrong_answer(rng, list(table.values()), answer)

    return Kind(phrasings, draw)


def compute(answer: Callable[..., object], slots: dict[str, Sequence], *phrasings: str) -> Kind:
    """A kind whose answer is computed from its slots; the wrong answer is right for a case with one slot changed."""

    def draw(rng: random.Random):
        values = {name: rng.choice(options) for name, options in slots.items()}
        right = str(answer(**values))
        wrong = right
        while matches(wrong, right):
            name = rng.choice(list(slots))
            wrong = str(answer(**(values | {name: rng.choice(slots[name])})))
        return values, right, wrong

    return Kind(phrasings, draw)


def pairs(text: str) -> dict[str, str]:
    """Read pairs `key=value` separated by spaces; underscores stand for spaces."""
    return dict(pair.replace("_", " ").split("=") for pair in text.split())
