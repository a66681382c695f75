"""Public sets by name, and the names in `data.name`."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

BUILT_IN = "builtin"
"""The name of the corpus that comes with the app; it is no set of rows that is opened."""


@dataclass(frozen=True)
class NamedSet:
    """A public set on the Hub. `configs` are read one after the other; `schema` is what its columns are."""

    hub_id: str
    rows: str
    schema: str
    licence: str
    configs: tuple[str, ...] = ()
    split: str = "train"

    @property
    def url(self) -> str:
        """The dataset card, where source, terms and known defects are described."""
        return f"https://huggingface.co/datasets/{self.hub_id}"


_MATH = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

NAMED_SETS = {
    "alpaca": NamedSet("tatsu-lab/alpaca", "example", "instruction", "CC BY-NC 4.0"),
    "alpaca-gpt4": NamedSet("vicgalle/alpaca-gpt4", "example", "instruction", "CC BY-NC 4.0"),
    "fingpt-sentiment": NamedSet("FinGPT/fingpt-sentiment-train", "example", "instruction", "none on the card"),
    "medical-flashcards": NamedSet(
        "medalpaca/medical_meadow_medical_flashcards", "example", "instruction", "CC (no variant)"
    ),
    "code-alpaca": NamedSet(
        "lucasmccabe-lmi/CodeAlpaca-20k", "example", "instruction", "CC BY 4.0 (the original's card)"
    ),
    "math-instruct": NamedSet("TIGER-Lab/MathInstruct", "example", "instruction", "MIT"),
    "wizardlm": NamedSet("WizardLMTeam/WizardLM_evol_instruct_70k", "example", "instruction", "MIT"),
    "gsm8k": NamedSet("openai/gsm8k", "example", "question-answer", "MIT", ("main",)),
    "math": NamedSet("EleutherAI/hendrycks_math", "example", "problem-solution", "MIT", _MATH),
    "ultrafeedback": NamedSet(
        "HuggingFaceH4/ultrafeedback_binarized", "pair", "preference", "MIT", split="train_prefs"
    ),
    "hh-rlhf": NamedSet("Anthropic/hh-rlhf", "pair", "hh-rlhf", "MIT"),
}
"""Public sets by the name that `data.name` accepts. To add one, add one line."""


def set_names(names: str) -> list[str]:
    """The names of several sets, which stand in `data.name` separated by commas.

    A name that has a comma itself stands in double quotes; without them, the path of a file that is there is one name.
    """
    if Path(names).is_absolute() and os.path.exists(names):
        return [names]
    try:
        return [name.strip() for name in next(csv.reader([names], skipinitialspace=True))] or [""]
    except csv.Error:  # a line break: no name has one, which opening it will say
        return [names]
