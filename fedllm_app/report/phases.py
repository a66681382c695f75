"""Where the time of a run went, on the server's clock."""

from collections.abc import Iterable, Mapping, Sequence

from fedllm_app.runs.measures import Event, number

PHASES = {
    "start": "connecting the clients and building the first adapter",
    "load": "the clients load the base model and read their rows, before round 1",
    "send": "sending the messages of the rounds",
    "train": "at least one client trains",
    "wait": "waiting for replies while no client trains: messages travel, sites load, sites are missing",
    "aggregate": "the server's own work in a round: checks and the strategy's step",
    "rounds": "rounds of a version that does not tell sending, training and aggregation apart",
    "checkpoint": "writing checkpoints",
    "evaluate": "held-out rows on the clients, and suites",
    "other": "what is left, such as writing the final adapter",
}
"""The phases in their order, and what each is."""


def phases(events: Sequence[Event], total: float | None) -> dict[str, float]:
    """Seconds by phase; those that the journal does not tell are left out.

    Parameters
    ----------
    events : Sequence[Event]
        The journal, each round once.
    total : float | None
        Seconds of the whole run, if it was not resumed; None: what is left is not known.
    """
    found: dict[str, float] = {}

    def add(phase: str, seconds: object) -> None:
        value = number(seconds)
        if value is not None:
            found[phase] = found.get(phase, 0.0) + max(0.0, value)

    for event in events:
        kind = event["event"]
        if kind == "ready":
            load = number(event.get("describe_seconds"))
            add("start", (number(event.get("seconds")) or 0.0) - (load or 0.0))
            add("load", load)
        elif kind == "round":
            _add_round(event, [line for line in events if _trained_in(line, event)], add)
        elif kind == "checkpoint":
            add("checkpoint", event.get("seconds"))
        elif kind in ("evaluation", "suite"):
            add("evaluate", event.get("seconds"))
    if total is not None and found:
        add("other", total - sum(found.values()))
    return {phase: found[phase] for phase in PHASES if phase in found}


def _trained_in(line: Event, round_event: Event) -> bool:
    return line["event"] == "client" and line["round"] == round_event["round"]


def _add_round(event: Event, trained: Iterable[Event], add) -> None:
    wait = number(event.get("wait_seconds"))
    if wait is None:
        add("rounds", event.get("seconds"))
        return
    trained = list(trained)
    send, waiting = number(event.get("send_seconds")) or 0.0, min(wait, covered(_spans(trained)))
    sending = min(send, _before(trained))  # while others are still sent their messages, the first ones train
    add("send", send - sending)
    add("train", sending + waiting)
    add("wait", wait - waiting)
    add("aggregate", event.get("aggregate_seconds"))


def _spans(trained: Iterable[Event]) -> list[tuple[float, float]]:
    """When each client trained, in seconds after the messages were sent: until its reply came, at the latest."""
    spans = []
    for line in trained:
        end, seconds = number(line.get("reply_seconds")), number(line.get("seconds"))
        if end is not None and seconds is not None:
            spans.append((max(0.0, end - seconds), max(0.0, end)))
    return spans


def _before(trained: Iterable[Event]) -> float:
    """Seconds of training before all messages were sent, of all clients together."""
    times = [(number(line.get("reply_seconds")), number(line.get("seconds"))) for line in trained]
    return sum(max(0.0, seconds - end) for end, seconds in times if end is not None and seconds is not None)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans of time."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def phase_share(seconds: Mapping[str, float]) -> dict[str, float]:
    """The share of each phase of their sum."""
    total = sum(seconds.values())
    return {phase: value / total if total else 0.0 for phase, value in seconds.items()}
