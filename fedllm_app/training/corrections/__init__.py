"""Corrections of a client's gradients, one file each: what an algorithm does on the client.

A strategy asks for a correction by keys in its messages' configuration (`strategies/fedprox.py` sets "proximal-mu"). To
add one, write a file with a subclass of `Correction` and one line here.
"""

from fedllm_app.training.corrections.control_variates import ControlVariates
from fedllm_app.training.corrections.correction import Correction, LocalRound, Numbers, Vectors
from fedllm_app.training.corrections.proximal import Proximal

__all__ = [
    "CORRECTIONS",
    "ControlVariates",
    "Correction",
    "LocalRound",
    "Numbers",
    "Proximal",
    "Vectors",
    "corrections_for",
]

CORRECTIONS: list[type[Correction]] = [Proximal, ControlVariates]


def corrections_for(local_round: LocalRound) -> list[Correction]:
    """The corrections that the round's message asks for, in the order of the table."""
    asked = (correction.asked_for(local_round) for correction in CORRECTIONS)
    return [correction for correction in asked if correction is not None]
