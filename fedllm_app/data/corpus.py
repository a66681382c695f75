"""The demo's corpus: four domains of short questions whose answers can be checked by exact match.

Every domain is a list of *kinds* (a task with its phrasings), and every kind can draw cases: the values that fill the
phrasing, the answer and a wrong answer. A domain's bank is all distinct questions of a fixed number of draws per kind,
split once into train and held-out by a hash of the case. A seed only chooses and orders questions inside one part, so
no held-out question of any seed is a training question of another, not even in other words.

Each domain answers in its own house style, which every question states: general as ``-> mice``, math as ``= 12``,
code as ``>>> 12`` and finance as ``#positive``.
"""

import functools
import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from fedllm_app.data.domains.arithmetic import MATH
from fedllm_app.data.domains.finance import FINANCE
from fedllm_app.data.domains.general import GENERAL
from fedllm_app.data.domains.kinds import matches
from fedllm_app.data.domains.programming import CODE

__all__ = ["DOMAINS", "Part", "Question", "matches", "questions"]

DOMAINS = ("general", "math", "code", "finance")
Part = Literal["train", "held-out"]

_DRAWS = 9000  # per domain, shared equally by its kinds
_HELD_OUT = 51  # cases whose first hash byte is below: one in five


@dataclass(frozen=True)
class Question:
    """One row: the user's text, the good answer and a plausible bad one, both in the domain's house style."""

    domain: str
    instruction: str
    answer: str
    rejected: str


def questions(domain: str, part: Part, count: int, seed: int) -> list[Question]:
    """Return `count` distinct questions of one part of a domain, the same ones for the same arguments.

    A shorter list with the same seed is a prefix of a longer one. Raises ValueError for an unknown domain or part, and
    for a `count` below 0 or above the number of questions that exist.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain {domain!r} is not one of {', '.join(DOMAINS)}")
    if part not in ("train", "held-out"):
        raise ValueError(f"part {part!r} of domain {domain!r} is not 'train' or 'held-out'")
    pool = list(_bank(domain)[part])
    if not 0 <= count <= len(pool):
        raise ValueError(f"{count} questions asked of {domain}/{part}: 0 to {len(pool)} can be given")
    random.Random(f"{domain}/{part}/{seed}").shuffle(pool)
    return pool[:count]


@functools.cache  # a client asks for both parts, and a process serves several clients
def _bank(domain: str) -> dict[Part, tuple[Question, ...]]:
    """All questions of a domain by part, in a fixed order."""
    kinds, hint, style = _DOMAINS[domain]
    found: dict[str, tuple[Part, Question]] = {}
    for kind in kinds:
        rng = random.Random(f"{domain}/{kind.phrasings[0]}")
        for _ in range(_DRAWS // len(kinds)):
            values, answer, wrong = kind.draw(rng)
            instruction = rng.choice(kind.phrasings).format(**values) + hint
            question = Question(domain, instruction, style.format(answer), style.format(wrong))
            # The case and not the text is hashed: all phrasings of a case fall into the same part.
            digest = hashlib.sha256(f"{kind.phrasings[0]} {values}".encode()).digest()
            found.setdefault(instruction, ("held-out" if digest[0] < _HELD_OUT else "train", question))
    return {
        part: tuple(question for place, question in found.values() if place == part) for part in ("train", "held-out")
    }


# Per domain: its kinds, the hint that ends every question, and the form of its answers.
_DOMAINS = {
    "general": (GENERAL, " (-> word)", "-> {}"),
    "math": (MATH, " (= number)", "= {}"),
    "code": (CODE, " >>>", ">>> {}"),
    "finance": (FINANCE, "", "#{}"),
}
