"""Held-out metrics at the end of the cells' runs, from their journals: what the clients measured on their own rows."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedllm_app.comparison.cell import is_finished
from fedllm_app.comparison.figures import Line, Value
from fedllm_app.comparison.grid import Cell
from fedllm_app.evaluation.contestants import BASE
from fedllm_app.runs.journal import read_journal
from fedllm_app.runs.measures import is_share

HELD_OUT = "held-out rows"
"""Stands in `Value.task`."""

_LOSSES = ("eval_loss", "perplexity")  # of which less is better


def held_out(cells: Sequence[Cell], lines: Sequence[Line], metrics: Mapping[str, str], first: str) -> list[Value]:
    """The figures after the last round, line by line; those of the base are from before round 1.

    They are means over clients, which have no single questions to pair: the difference has no interval and no p.

    Parameters
    ----------
    metrics : Mapping[str, str]
        By the journal's name, what they are called.
    first : str
        The line that the others are held against; the base's figures are those of its cells.
    """
    found = []
    for name, label in metrics.items():
        ends = {line.name: _by_seed(cells, line.name, name, -1) for line in lines if not line.fixed}
        before = _by_seed(cells, first, name, 0)
        for line in lines:
            own = before if line.fixed == BASE else ends.get(line.name, {})
            if own:
                found.append(_value(line, name, label, own, ends.get(first, {}) if line.name != first else {}))
    return found


def _by_seed(cells: Sequence[Cell], line: str, metric: str, place: int) -> dict[int, float]:
    """A metric by seed: of the first (0) or last (-1) round in which the clients evaluated, where there are both."""
    found = {}
    for cell in cells:
        if cell.line != line or not is_finished(cell):
            continue
        events = [event for event in read_journal(cell.directory) if event["event"] == "evaluation"]
        values = [event[metric] for event in events if metric in event]
        if len(values) > 1 and events[0]["round"] == 0:
            found[cell.seed] = float(values[place])
    return found


def _value(line: Line, name: str, label: str, own: Mapping[int, float], first: Mapping[int, float]) -> Value:
    both = [seed for seed in own if seed in first]
    several = len(own) > 1 and not line.fixed
    return Value(
        line.name,
        HELD_OUT,
        label,
        float(np.mean(list(own.values()))),
        float(np.std(list(own.values()), ddof=1)) if several else None,
        {} if line.fixed else own,
        0,
        is_share(name),
        name in _LOSSES,
        float(np.mean([own[seed] - first[seed] for seed in both])) if both else None,
    )
