"""What a reader must know of the lines of a table: what varies, how the baselines are made, what failed."""

from collections.abc import Iterator, Mapping, Sequence

from fedllm_app.comparison.figures import Line, Value, shares
from fedllm_app.comparison.grid import Cell
from fedllm_app.comparison.table import place_name

_LONGEST = 300  # characters of a reason


def notes(
    cells: Sequence[Cell],
    lines: Sequence[Line],
    failed: Mapping[str, str],
    headline: Sequence[Value],
    own_rows: bool = True,
) -> list[str]:
    """Sentences, in the order in which they are shown; `headline` are the figures of the short table.

    `own_rows`: the figures are of the held-out rows of the clients.
    """
    return [
        *_seeds(cells),
        *_baselines(cells, lines, own_rows),
        *_reached(cells, headline),
        *(f"{name} failed: {_short(reason)}" for name, reason in failed.items()),
    ]


def _seeds(cells: Sequence[Cell]) -> Iterator[str]:
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    drawn = sorted({cell.flat["data.seed"] for cell in cells})
    told = f"run.seed is {', '.join(map(str, seeds))}: it draws the starting adapter, the order of rows and the clients"
    if len(drawn) == 1:
        yield f"{told} of a round. data.seed is {drawn[0]} in all cells, so every cell has the same rows."
    else:
        yield f"{told} of a round. data.seed varies: {', '.join(map(str, drawn))}."


def _baselines(cells: Sequence[Cell], lines: Sequence[Line], own_rows: bool) -> Iterator[str]:
    alone = [line.name for line in lines if any(cost.models > 1 for cost in line.costs.values())]
    if alone:
        rows = " Each model is asked the held-out rows of its own client, and of no other." if own_rows else ""
        yield f"{', '.join(alone)}: the mean of the clients' models; each has seen the examples of one client.{rows}"
    pooled = list(dict.fromkeys(cell.line for cell in cells if _is_pooled(cell)))
    if pooled:
        yield (
            f"{', '.join(pooled)}: one model on the rows of all clients, for as many steps and examples as all clients "
            "of a federation take together."
        )


def _is_pooled(cell: Cell) -> bool:
    return cell.flat["strategy.name"] == "centralized"


def _reached(cells: Sequence[Cell], headline: Sequence[Value]) -> Iterator[str]:
    """How close the strategies come to training on all rows in one place."""
    trained = {cell.line for cell in cells}
    pooled = next((cell.line for cell in cells if _is_pooled(cell)), None)
    for line, value, share in shares(headline, pooled) if pooled else ():
        if line in trained:
            yield f"{line} reaches {100 * share:.1f} % of {pooled} ({place_name(value.task, value.metric)})"


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
