"""Corrections of a client's gradients, one file each: what an algorithm does on the client.

A strategy asks for a correction by keys in its messages' configuration (`strategies/fedprox.py` sets "proximal-mu"). To
add one, write a file with a subclass of `Correction` and one line here, or name its class in `train.corrections`.
"""

from collections.abc import Iterable

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


def corrections_for(local_round: LocalRound, own: Iterable[type[Correction]] = ()) -> list[Correction]:
    """The corrections that the round's message asks for, in the order of the table, and then `own` ones of the user."""
    requested = (correction.requested(local_round) for correction in (*CORRECTIONS, *own))
    return [correction for correction in requested if correction is not None]
