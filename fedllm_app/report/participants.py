"""The clients of a run: what each holds, when it took part, what was refused of it and what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedllm_app.runs.measures import Event, client_names, number

TOOK_PART, REFUSED, LATE, NOT_ASKED = "took part", "refused", "late", "not asked"
"""What became of a client in a round."""

_RESETS = {"control_reset": "control variate", "error_reset": "rounding error"}


@dataclass(frozen=True)
class ClientRow:
    """One client.

    Attributes
    ----------
    examples, held_out, tokens : int | None
        What it says it holds; None where it was not asked.
    drawn, took_part, refused, late : int
        As in the journal's participation.
    resets : int
        Rounds in which it had lost its state and started it at zero.
    seconds : float
        Of its training, all rounds.
    bytes_down, bytes_up : int
        Of the replies that were used, training and evaluation.
    peak_memory_mb, peak_gpu_memory_mb : float
        The largest.
    """

    client: int
    name: str
    schema: str
    examples: int | None
    held_out: int | None
    tokens: int | None
    drawn: int
    took_part: int
    refused: int
    late: int
    last_reason: str
    resets: int
    lost: str
    seconds: float
    bytes_down: int
    bytes_up: int
    peak_memory_mb: float
    peak_gpu_memory_mb: float


@dataclass(frozen=True)
class Attendance:
    """What became of the clients, round by round: `fates[client][place]` in the round `rounds[place]`."""

    rounds: tuple[int, ...]
    fates: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class Refusal:
    """Replies of one client that were not used for one reason."""

    client: int
    name: str
    during: str
    reason: str
    rounds: tuple[int, ...]


def client_rows(events: Sequence[Event], participation: Sequence[Mapping[str, object]]) -> list[ClientRow]:
    """All clients, in order. Without `participation`, of a run that goes on, it is counted here."""
    held = {event["client"]: event for event in events if event["event"] == "holds"}
    names = {client: str(line["name"]) for client, line in held.items()} | client_names(events)
    counted = {int(line["client"]): line for line in participation} or _counted(events)
    names |= {client: str(line["name"]) for client, line in counted.items() if line.get("name")}
    return [
        _row(client, names[client], held.get(client, {}), counted.get(client, {}), _own(events, client))
        for client in sorted({*names, *held})
    ]


def _own(events: Sequence[Event], client: int) -> list[Event]:
    kinds = ("client", "client-evaluation")
    return [event for event in events if event["event"] in kinds and event["client"] == client]


def _row(
    client: int, name: str, held: Mapping[str, object], counted: Mapping[str, object], own: Sequence[Event]
) -> ClientRow:
    trained = [event for event in own if event["event"] == "client"]
    lost = [label for key, label in _RESETS.items() if any(event.get(key) for event in trained)]
    return ClientRow(
        client=client,
        name=name,
        schema=str(held.get("schema", "")),
        examples=_count(held.get("examples")),
        held_out=_count(held.get("held_out", held.get("held-out"))),
        tokens=_count(held.get("tokens")),
        drawn=int(counted.get("drawn", 0)),
        took_part=int(counted.get("took_part", 0)),
        refused=int(counted.get("refused", 0)),
        late=int(counted.get("late", 0)),
        last_reason=str(counted.get("last_reason", "")),
        resets=sum(any(event.get(key) for key in _RESETS) for event in trained),
        lost=", ".join(lost),
        seconds=sum(number(event.get("seconds")) or 0.0 for event in trained),
        bytes_down=int(sum(number(event.get("bytes_down")) or 0 for event in own)),
        bytes_up=int(sum(number(event.get("bytes_up")) or 0 for event in own)),
        peak_memory_mb=_largest(own, "peak_memory_mb"),
        peak_gpu_memory_mb=_largest(own, "peak_gpu_memory_mb"),
    )


def _count(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _largest(own: Sequence[Event], key: str) -> float:
    return max((number(event.get(key)) or 0.0 for event in own), default=0.0)


def _counted(events: Sequence[Event]) -> dict[int, dict[str, object]]:
    counts: dict[int, Counter] = {}
    reasons: dict[int, str] = {}

    def count(client: int, what: str) -> None:
        counts.setdefault(client, Counter())[what] += 1

    drawn = {event["round"]: event["clients"] for event in events if event["event"] == "round-started"}
    for clients in drawn.values():
        for client in clients:
            count(client, "drawn")
    for event in events:
        if event["event"] == "round":
            for client in event["clients"]:
                count(client, "took_part")
        elif event["event"] == "refused" and event["during"] == "train":
            count(event["client"], "refused")
            reasons[event["client"]] = str(event["reason"])
        elif event["event"] == "late":
            count(event["client"], "late")
    return {client: dict(found) | {"last_reason": reasons.get(client, "")} for client, found in counts.items()}


def attendance(events: Sequence[Event], clients: Sequence[int]) -> Attendance:
    """What became of each client in each round that has begun."""
    fates: dict[tuple[int, int], str] = {}
    rounds = sorted({event["round"] for event in events if event["event"] in ("round-started", "round")})
    for event in events:
        kind = event["event"]
        if kind == "refused" and event["during"] == "train":
            fates[event["client"], event["round"]] = REFUSED
        elif kind == "late":
            fates[event["client"], event["round"]] = LATE
    for event in events:
        if event["event"] == "round":
            fates |= {(client, event["round"]): TOOK_PART for client in event["clients"]}
    return Attendance(
        tuple(rounds),
        {client: tuple(fates.get((client, number_), NOT_ASKED) for number_ in rounds) for client in clients},
    )


def refusals(events: Sequence[Event]) -> list[Refusal]:
    """Replies that were not used, those of one client and one reason together, the most frequent first."""
    found: dict[tuple[int, str, str, str], list[int]] = {}
    for event in events:
        if event["event"] in ("refused", "late"):
            key = (event["client"], str(event["name"]), str(event.get("during", "train")), str(event["reason"]))
            found.setdefault(key, []).append(event["round"])
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0][0]))
    return [Refusal(*key, tuple(rounds)) for key, rounds in ordered]
