"""Who took part how often: counted during a run, told at its end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table
from rich.text import Text

from fedllm_app.messages import plain_text

Line = Mapping[str, int | str]
"""One client's participation as in result.json and in the last event of the journal."""

_ROWS = 20  # lines of clients in a table


@dataclass
class ClientPart:
    """One client's part in a run.

    Attributes
    ----------
    name : str
        "" for one that has not said yet what it is called.
    drawn, took_part : int
        Rounds for which it was drawn, and in which its update was used.
    refused : int
        Training replies that were not used, missing ones included; a repeated round can have several.
    late : int
        Replies that came after their round was closed.
    last_reason : str
        Why the last one was refused.
    """

    client: int
    name: str
    drawn: int = 0
    took_part: int = 0
    refused: int = 0
    late: int = 0
    last_reason: str = ""


class Participation:
    """Counts by client."""

    def __init__(self) -> None:
        self._parts: dict[int, ClientPart] = {}

    def know(self, names: Mapping[int, str]) -> None:
        """Clients of the run and what they are called, before one of them is counted."""
        for client, name in names.items():
            self._part(client).name = name

    def restore(self, lines: Iterable[Line]) -> None:
        """Go on from the counts of a checkpoint."""
        for line in lines:
            self._parts[int(line["client"])] = ClientPart(**line)

    def drawn(self, clients: Iterable[int]) -> None:
        """Count the clients that a round is for."""
        for client in clients:
            self._part(client).drawn += 1

    def took_part(self, clients: Iterable[int]) -> None:
        """Count the clients whose updates entered a round."""
        for client in clients:
            self._part(client).took_part += 1

    def refused(self, client: int, reason: str) -> None:
        """Count a training reply that was not used."""
        part = self._part(client)
        part.refused += 1
        part.last_reason = reason

    def late(self, client: int) -> None:
        """Count a reply that came after its round was closed."""
        self._part(client).late += 1

    def lines(self) -> list[dict[str, int | str]]:
        """All clients that are known or were drawn, in order."""
        return [asdict(self._parts[client]) for client in sorted(self._parts)]

    def _part(self, client: int) -> ClientPart:
        return self._parts.setdefault(client, ClientPart(client, ""))


def recorded_names(lines: Iterable[Line]) -> dict[int, str]:
    """What clients are called, by client, of those that had said it when the lines were written."""
    return {int(line["client"]): str(line["name"]) for line in lines if line["name"]}


def never_contributed(lines: Iterable[Line]) -> list[Line]:
    """The clients that were drawn and of which no update was ever used."""
    return [line for line in lines if line["drawn"] and not line["took_part"]]


def participation_table(lines: Sequence[Line]) -> Table | str:
    """One line a client that missed a round; a sentence where none did."""
    missed = [line for line in lines if line["took_part"] < line["drawn"]]
    if not missed:
        return "no client missed a round that it was drawn for"
    table = Table(title="who took part")
    for column in ("client", "name", "drawn", "took part", "refused", "late", "last reason"):
        table.add_column(column, justify="left" if column in ("name", "last reason") else "right")
    for line in sorted(missed, key=lambda line: line["took_part"] / line["drawn"])[:_ROWS]:
        counts = (str(line[name]) for name in ("drawn", "took_part", "refused", "late"))
        name, reason = (Text(plain_text(str(line[key]))) for key in ("name", "last_reason"))
        table.add_row(str(line["client"]), name, *counts, reason)
    more = [f"{len(missed) - _ROWS} more missed rounds"] if len(missed) > _ROWS else []
    if len(missed) < len(lines):
        more.append(f"{len(lines) - len(missed)} missed none")
    table.caption = ", ".join(more)
    return table
