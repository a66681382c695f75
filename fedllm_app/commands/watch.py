"""What a user sees while a run goes on: round, client, step, loss, time left; and the summary at its end."""

import time
from collections.abc import Mapping
from types import MappingProxyType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedllm_app.federation.holdings import data_notes, holdings_table, versions_line
from fedllm_app.federation.participation import participation_table
from fedllm_app.messages import ClientHolding, plain_text

_RESETS = {"control_reset": "the control variate", "error_reset": "the rounding error of its updates"}
_LONGEST, _MOST_LINES = 2000, 200  # characters of a line, lines of an event
_LINE_EVERY = 5.0  # seconds between step lines where the terminal cannot be redrawn


class Watch:
    """Turns the events of a run's journal and the steps of its clients into lines on a terminal.

    `metrics` are the held-out metrics to show, by the journal's name, and what to call them. What is not known here
    comes with the event `settings`.
    """

    def __init__(
        self,
        console: Console,
        rounds: int = 0,
        per_round: int = 0,
        local_steps: int = 0,
        metrics: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.console = console
        self.rounds, self.per_round, self.local_steps = rounds, per_round, local_steps
        self.metrics = metrics
        self.names: dict[int, str] = {}
        self.current = 0
        self.before = 0  # rounds of an earlier attempt
        self._held: list[dict] = []
        self._versions: list[dict] = []
        self._steps: dict[tuple[int, int], int] = {}
        self._began: float | None = None
        self._printed = 0.0
        self._status = console.status("starting Flower") if console.is_terminal else None

    def __enter__(self) -> "Watch":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._status:
            self._status.stop()

    def event(self, event: dict) -> None:
        """Show one event of the journal."""
        show = {
            "settings": self._settings,
            "log": self._log,
            "started": self._started,
            "resumed": self._resumed,
            "holds": self._held.append,
            "versions": self._versions.append,
            "warning": self._warning,
            "ready": self._ready,
            "round-started": self._round_started,
            "client": self._client,
            "round": self._round,
            "evaluation": self._evaluation,
            "suite": self._suite,
            "refused": self._refused,
            "late": self._late,
            "waiting": self._waiting,
            "returned": self._returned,
            "too-few": self._too_few,
            "failed": self._failed,
            "finished": self._participation,
        }.get(event["event"])
        if show:
            show(event)

    def step(self, line: dict) -> None:
        """Show one optimizer step of one client."""
        if line["loss"] is None:
            return
        self._steps[line["round"], line["client"]] = line["step"]
        text = (
            f"round {line['round']}/{self.rounds} · client {line['client']} {self.names.get(line['client'], '')} · "
            f"step {line['step']}/{line['steps']} · loss {line['loss']:.3f} · {self._left()}"
        )
        if self._status:
            self._status.update(Text(plain_text(text)))
        elif time.monotonic() - self._printed > _LINE_EVERY:
            self._printed = time.monotonic()
            self._print(f"  {text}")

    def _print(self, text: str, style: str | None = None, soft_wrap: bool | None = None) -> None:
        """Print what may hold words of clients: no markup of theirs, nothing that moves a cursor, no endless line."""
        safe = "\n".join(plain_text(line, _LONGEST) for line in text.splitlines()[:_MOST_LINES])
        self.console.print(safe, style=style, soft_wrap=soft_wrap, markup=False, highlight=False)

    def _left(self) -> str:
        total = (self.rounds - self.before) * self.per_round * self.local_steps
        done = sum(self._steps.values())
        if self._began is None or not done:
            return "time left unknown"
        seconds = (time.time() - self._began) * (total - done) / done
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"

    def _settings(self, event: dict) -> None:
        self.rounds, self.per_round = event["rounds"], event["per_round"]
        self.local_steps, self.metrics = event["local_steps"], event["metrics"]

    def _log(self, event: dict) -> None:
        text = f"server: {event['text']}"
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _started(self, event: dict) -> None:
        self._print(f"run {event['run_id']}: {event['rounds']} rounds of {event['strategy']}")

    def _resumed(self, event: dict) -> None:
        self.before = event["round"]
        again = f"; {event['again']} rounds after it are done again" if event["again"] else ""
        self._print(
            f"run {event['run_id']}: goes on after round {event['round']} of {event['rounds']} of "
            f"{event['strategy']}{again}"
        )

    def _ready(self, event: dict) -> None:
        self.names = {line["client"]: line["name"] for line in self._held}
        clients = len(event["clients"])
        self.per_round = min(self.per_round or clients, clients)
        holdings = {line["client"]: ClientHolding.from_journal(line) for line in self._held}
        self.console.print(holdings_table(holdings))
        for line in data_notes({client: holding.notes for client, holding in holdings.items()}):
            self._print(line, soft_wrap=True)
        for line in self._versions:
            self._print(versions_line(line["versions"], line["clients"], clients))
        self._print(f"ready after {event['seconds']:.1f} s; {event['parameters']:,} adapter parameters travel")

    def _round_started(self, event: dict) -> None:
        self.current = event["round"]
        self._began = self._began or event["time"]

    def _client(self, event: dict) -> None:
        lost = [told for name, told in _RESETS.items() if event.get(name)]
        if lost:
            self._print(
                f"  client {event['client']} ({event['name']}), round {event['round']}: lost {' and '.join(lost)} of "
                "earlier rounds and starts at zero",
                style="yellow",
            )

    def _round(self, event: dict) -> None:
        self._print(
            f"round {event['round']}/{self.rounds}: training loss {_number(event['train_loss'])} from "
            f"{len(event['clients'])} clients in {event['seconds']:.1f} s",
        )

    def _evaluation(self, event: dict) -> None:
        metrics = [(name, label) for name, label in self.metrics.items() if name in event]
        shown = ", ".join(f"{label} {_number(event[name])}" for name, label in metrics) or "no usable reply"
        self._print(f"  held-out after round {event['round']}: {shown}")

    def _suite(self, event: dict) -> None:
        shown = ", ".join(f"{name} {_number(value)}" for name, value in event["figures"].items())
        self._print(
            f"  {event['suite']} after round {event['round']}: {shown or 'no figure'} ({event['seconds']:.0f} s)",
        )

    def _refused(self, event: dict) -> None:
        self._print(
            f"  refused: client {event['client']} ({event['name']}), round {event['round']}, {event['during']}: "
            f"{event['reason']}",
            style="yellow",
        )

    def _late(self, event: dict) -> None:
        self._print(
            f"  client {event['client']} ({event['name']}), round {event['round']}: {event['reason']}",
            style="yellow",
        )

    def _waiting(self, event: dict) -> None:
        text = (
            f"round {event['round']}: waiting up to {event['wait_timeout']:.0f} s for clients "
            f"{', '.join(map(str, event['clients']))} to connect; {event['least']} are needed"
        )
        self._print(text, style="yellow")

    def _returned(self, event: dict) -> None:
        changes = (f"{name.replace('_', '-')} {before} → {after}" for name, (before, after) in event["changed"].items())
        text = f"  client {event['client']} ({event['name']}), round {event['round']}: is back"
        self._print(": ".join([text, *[", ".join(changes)][: bool(event["changed"])]]))

    def _too_few(self, event: dict) -> None:
        text = f"round {event['round']} does not count: {event['reason']}"
        self._print(text, style="yellow")

    def _warning(self, event: dict) -> None:
        self._print(f"warning: {event['reason']}", style="yellow")

    def _failed(self, event: dict) -> None:
        self._participation(event)
        self._print(event["reason"], style="red")

    def _participation(self, event: dict) -> None:
        if event.get("participation"):
            self.console.print(participation_table(event["participation"]), highlight=False)


def summary(result: dict, directory: str) -> Table:
    """The closing table of a finished run."""
    table = Table(title="run finished", show_header=False)
    gpu_mb = result["peak_client_gpu_memory_mb"]
    on_gpu = f", on its GPU {gpu_mb:.0f} MB" if gpu_mb else ""
    rows = {
        "strategy": result["strategy"],
        "rounds": result["rounds"],
        "seconds": f"{result['seconds']:.1f} (rounds {result['seconds_of_rounds']:.1f})",
        "sent to clients": f"{result['bytes_down'] / 1e6:.2f} MB",
        "received": f"{result['bytes_up'] / 1e6:.2f} MB",
        "peak memory of a client": f"{result['peak_client_memory_mb']:.0f} MB" + on_gpu,
        "refused replies": result["refused_replies"],
        "run directory": directory,
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
