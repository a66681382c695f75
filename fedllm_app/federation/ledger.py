"""The books of a run: what was sent, received and refused, each line in the journal, and the totals."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, MessageType, RecordDict

from fedllm_app.federation.participation import Participation, recorded_names
from fedllm_app.messages import METRICS, PEAK_GPU_MEMORY, PEAK_MEMORY, record_bytes
from fedllm_app.runs.checkpoints import Checkpoint
from fedllm_app.runs.directory import RunDirectory


@dataclass
class Totals:
    """What a run adds up to.

    Attributes
    ----------
    down, up : int
        Bytes of arrays sent to and received from clients.
    peak : dict[str, float]
        The largest of the clients' numbers of memory, by their names, in MB.
    refused : int
        Replies that were not used.
    positions, versions : dict[int, int]
        By client, the optimizer steps accepted so far and the round of the last of them (0: none).
    """

    down: int = 0
    up: int = 0
    peak: dict[str, float] = field(default_factory=lambda: dict.fromkeys((PEAK_MEMORY, PEAK_GPU_MEMORY), 0.0))
    refused: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)


class Ledger:
    """Keeps the totals and writes the journal's lines about clients.

    Parameters
    ----------
    directory : RunDirectory
        Whose journal is written.
    clients : int
        How many the run has.
    participation : Participation | None
        Counts who took part; None: one of the ledger's own.
    """

    def __init__(self, directory: RunDirectory, clients: int, participation: Participation | None = None) -> None:
        self.directory = directory
        self.names = {client: f"client {client}" for client in range(clients)}  # until it has said its own
        self.participation = participation or Participation()
        self.totals = Totals(positions=dict.fromkeys(self.names, 0), versions=dict.fromkeys(self.names, 0))
        self._saved: list[dict[int, int]] = []  # versions by client in the last two checkpoints
        self._peaks: dict[str, float] = {}  # largest numbers of memory since `take_peaks`

    def know(self, names: Mapping[int, str]) -> None:
        """What clients are called."""
        self.names |= names
        self.participation.know(names)

    def known_names(self) -> dict[int, str]:
        """What clients are called, by client, of those that have said it."""
        return recorded_names(self.participation.lines())

    def sent(self, content: RecordDict) -> None:
        """Count a message that goes to a client."""
        self.totals.down += record_bytes(content)

    def refused(self, server_round: int, client: int, during: str, reason: str) -> None:
        """Note a reply that is not used."""
        self.totals.refused += 1
        if during == MessageType.TRAIN:
            self.participation.refused(client, reason)
        self.directory.journal("refused", **self._place(server_round, client), during=during, reason=reason)

    def late(self, server_round: int, client: int) -> None:
        """Note a reply that came after its round was closed."""
        self.participation.late(client)
        self.directory.journal("late", **self._place(server_round, client), reason="late, discarded")

    def accepted(
        self, server_round: int, client: int, during: str, sent: RecordDict, answer: Message, seconds: float
    ) -> None:
        """Note a usable reply, its numbers, its bytes and the seconds after which it came."""
        numbers = dict(answer.content[METRICS])
        down, up = record_bytes(sent), record_bytes(answer.content)
        self.totals.up += up
        for name, peak in self.totals.peak.items():
            self.totals.peak[name] = max(peak, numbers.get(name, 0.0))
            if name in numbers:
                self._peaks[name] = max(self._peaks.get(name, 0.0), numbers[name])
        event = "client" if during == MessageType.TRAIN else "client-evaluation"
        place = self._place(server_round, client)
        own = {"bytes_down": down, "bytes_up": up, "reply_seconds": seconds}
        self.directory.journal(event, **place, **journal_keys(numbers), **own)

    def take_peaks(self) -> dict[str, float]:
        """The largest numbers of memory of the replies since the last call, by the journal's names.

        What a strategy makes of them is their mean, which says nothing of what a client must have.
        """
        peaks, self._peaks = self._peaks, {}
        return {name.replace("-", "_"): peak for name, peak in peaks.items()}

    def trained(self, server_round: int, clients: list[int], steps: int) -> None:
        """Advance the clients whose updates entered the global adapter."""
        self.participation.took_part(clients)
        for client in clients:
            self.totals.positions[client] += steps
            self.totals.versions[client] = server_round

    def saved(self, server_round: int, seconds: float) -> None:
        """Journal a checkpoint. Clients keep the state of their versions in it, which their assignments name."""
        self._remember_versions()
        self.directory.journal("checkpoint", round=server_round, seconds=seconds)

    def _remember_versions(self) -> None:
        self._saved = [*self._saved[-1:], dict(self.totals.versions)]

    def versions_in_checkpoints(self, client: int) -> list[int]:
        """The versions of a client in the last two checkpoints: a run that is resumed asks for one of them."""
        return sorted({versions.get(client, 0) for versions in self._saved} - {0})

    def numbers(self) -> dict[str, float]:
        """The totals that a checkpoint holds beside positions and versions."""
        totals = self.totals
        return {"down": totals.down, "up": totals.up, "refused": totals.refused, **totals.peak}

    def restore(self, checkpoint: Checkpoint, versions_before: Mapping[int, int]) -> None:
        """Go on from the books of a checkpoint; `versions_before` are those of the checkpoint before it."""
        totals = self.totals
        totals.positions.update(checkpoint.positions)
        totals.versions.update(checkpoint.versions)
        numbers = checkpoint.totals
        totals.down, totals.up, totals.refused = (int(numbers[name]) for name in ("down", "up", "refused"))
        totals.peak = {name: numbers[name] for name in totals.peak}
        self.participation.restore(checkpoint.participation)
        self.names |= self.known_names()
        self._saved = [dict(versions_before)]
        self._remember_versions()

    def named(self, clients: Iterable[int]) -> str:
        """Clients by number and name, in order."""
        return ", ".join(f"{client} {self.names[client]}" for client in sorted(clients))

    def _place(self, server_round: int, client: int) -> dict[str, object]:
        return {"round": server_round, "client": client, "name": self.names[client]}


def journal_keys(metrics: Mapping[str, object] | None) -> dict[str, object]:
    """Metrics under the names that the journal uses; the number of the client stands in its own field."""
    return {} if metrics is None else {key.replace("-", "_"): metrics[key] for key in metrics if key != "client"}
