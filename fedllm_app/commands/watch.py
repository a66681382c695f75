"""What a user sees while a run goes on: round, client, step, loss, time left; and the summary at its end."""

import math
import time
from collections.abc import Mapping
from types import MappingProxyType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedllm_app.commands.block import Block
from fedllm_app.federation.holdings import data_notes, holdings_table, versions_line
from fedllm_app.federation.participation import participation_table
from fedllm_app.messages import ClientHolding, plain_text
from fedllm_app.runs.measures import metric_text

_RESETS = {"control_reset": "the control variate", "error_reset": "the rounding error of its updates"}
_LONGEST, _MOST_LINES = 2000, 200  # characters of a line, lines of an event
# Seconds between step lines where the terminal cannot be redrawn: a tenth of those that have passed, within bounds.
_LINE_AT_LEAST, _LINE_AT_MOST = 5.0, 60.0


class Watch:
    """Turns the events of a run's journal and the steps of its clients into lines, above a block that is drawn anew.

    Where the terminal cannot be redrawn, some of the steps are lines instead of the block.

    `metrics` are the held-out metrics to show, by the journal's name, and what to call them. What is not known here
    comes with the event `settings`.

    `told` is what runs before this one in the same command have said of their clients: where a run says the same, one
    line says so. None: the run stands alone.
    """

    def __init__(
        self,
        console: Console,
        rounds: int = 0,
        local_steps: int = 0,
        metrics: Mapping[str, str] = MappingProxyType({}),
        told: set[str] | None = None,
    ) -> None:
        self.console = console
        self.metrics = metrics
        self.told = told
        self.began = time.monotonic()
        self.block = Block(rounds, local_steps)
        self.names: dict[int, str] = {}
        self._held: list[dict] = []
        self._versions: list[dict] = []
        self._base: dict[str, float] = {}  # metrics before round 1
        self._printed = -math.inf
        self._ended = 0  # the last round that has
        self._live = Live(self.block, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Watch":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live:
            self._live.stop()

    def event(self, event: dict) -> None:
        """Show one event of the journal."""
        show = {
            "settings": self._settings,
            "log": self._log,
            "connecting": self._connecting,
            "describing": self._describing,
            "started": self._started,
            "resumed": self._resumed,
            "holds": self._holds,
            "versions": self._versions.append,
            "warning": self._warning,
            "ready": self._ready,
            "round-started": self._round_started,
            "client": self._client,
            "client-evaluation": self._client_evaluation,
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
        """Show one optimizer step of one client. Steps lie in another file than the events, and some come late."""
        if line["loss"] is None or line["round"] <= self._ended:
            return
        self.block.step(line["client"], line["step"], line["steps"], line["loss"], line.get("time"))
        if self._live is None and self._line_is_due():
            parts = (
                f"  round {line['round']}/{self.block.rounds}",
                f"client {line['client']} {self.names.get(line['client'], '')}",
                f"step {line['step']}/{line['steps']}",
                f"loss {line['loss']:.3f}",
                self.block.left(),
            )
            self._print(" · ".join(filter(None, parts)))

    def _line_is_due(self) -> bool:
        """Whether another step line may be printed now, which is then the last one."""
        now = time.monotonic()
        due = now - self._printed > min(max((now - self.began) / 10, _LINE_AT_LEAST), _LINE_AT_MOST)
        self._printed = now if due else self._printed
        return due

    def _print(self, text: str, style: str | None = None, soft_wrap: bool | None = None) -> None:
        """Print what may hold words of clients: no markup of theirs, nothing that moves a cursor, no endless line."""
        safe = "\n".join(plain_text(line, _LONGEST) for line in text.splitlines()[:_MOST_LINES])
        self.console.print(safe, style=style, soft_wrap=soft_wrap, markup=False, highlight=False)

    def _settings(self, event: dict) -> None:
        self.block.rounds, self.block.local_steps = event["rounds"], event["local_steps"]
        self.metrics = event["metrics"]

    def _connecting(self, event: dict) -> None:
        kind = "virtual clients" if event["simulation"] else "sites"
        self.block.phase = f"waiting for {kind}: {event['connected']} of {event['needed'] or '?'}"

    def _describing(self, event: dict) -> None:
        self.block.phase = f"{len(event['clients'])} clients look at their data"

    def _holds(self, event: dict) -> None:
        self._held.append(event)
        if self.names:
            self.names[event["client"]] = event["name"]
            self.block.joined(event["client"], event["name"])

    def _log(self, event: dict) -> None:
        text = f"server: {event['text']}"
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _started(self, event: dict) -> None:
        count = event["rounds"]
        self._print(f"run {event['run_id']}: {count} round{'s'[: count > 1]} of {event['strategy']}")

    def _resumed(self, event: dict) -> None:
        self.block.before = self._ended = event["round"]
        count = event["again"]
        again = f"; {count} round{'s are' if count > 1 else ' is'} done again" if count else ""
        self._print(
            f"run {event['run_id']}: goes on after round {event['round']} of {event['rounds']} of "
            f"{event['strategy']}{again}"
        )

    def _ready(self, event: dict) -> None:
        self.names = {line["client"]: line["name"] for line in self._held}
        clients = len(event["clients"])
        self.block.known(self.names)
        holdings = {line["client"]: ClientHolding.from_journal(line) for line in self._held}
        versions = [versions_line(line["versions"], line["clients"], len(holdings)) for line in self._versions]
        if self._was_told(f"{holdings} {versions}"):
            self._print("clients, row counts and versions are the same as in an earlier run")
        else:
            self.console.print(holdings_table(holdings))
            for line in data_notes({client: holding.notes for client, holding in holdings.items()}):
                self._print(line, soft_wrap=True)
            for line in versions:
                self._print(line)
        if clients > len(holdings):
            self._print(f"the other {clients - len(holdings):,} clients look at their data when they are drawn first")
        self._print(f"ready after {event['seconds']:.1f} s; {event['parameters']:,} adapter parameters travel")

    def _was_told(self, text: str) -> bool:
        """Whether a run before has said this; from now on one has."""
        if self.told is None:
            return False
        before = text in self.told
        self.told.add(text)
        return before

    def _round_started(self, event: dict) -> None:
        self.block.round_started(event["round"], event["clients"], event["time"])

    def _client(self, event: dict) -> None:
        self.block.answered(event["client"], "trained", event.get("train_loss"))
        lost = [told for name, told in _RESETS.items() if event.get(name)]
        if lost:
            self._print(
                f"  client {event['client']} ({event['name']}), round {event['round']}: lost {' and '.join(lost)} of "
                "earlier rounds and starts at zero",
                style="yellow",
            )

    def _client_evaluation(self, event: dict) -> None:
        self.block.answered(event["client"], "evaluated")

    def _round(self, event: dict) -> None:
        self.block.round_ended(event["round"])
        self._ended = event["round"]
        self._print(
            f"round {event['round']}/{self.block.rounds}: training loss {metric_text('loss', event['train_loss'])} "
            f"from {len(event['clients'])} clients in {event['seconds']:.1f} s",
        )

    def _evaluation(self, event: dict) -> None:
        metrics = [(name, label) for name, label in self.metrics.items() if name in event]
        shown = ", ".join(f"{label} {metric_text(name, event[name])}" for name, label in metrics) or "no usable reply"
        self._print(f"  held-out after round {event['round']}: {shown}")
        if event["round"] == 0:
            self._base = {name: event[name] for name, _ in metrics}
        parts = (f"{label} {metric_text(name, event[name])}{self._beside(name)}" for name, label in metrics)
        self.block.held_out = f"held-out after round {event['round']}: {', '.join(parts)}" if metrics else ""

    def _beside(self, metric: str) -> str:
        return f" (base {metric_text(metric, self._base[metric])})" if metric in self._base else ""

    def _suite(self, event: dict) -> None:
        shown = ", ".join(f"{name} {metric_text(name, value)}" for name, value in event["figures"].items())
        self._print(
            f"  {event['suite']} after round {event['round']}: {shown or 'no figure'} ({event['seconds']:.0f} s)",
        )

    def _refused(self, event: dict) -> None:
        self.block.answered(event["client"], "refused")
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


def summary(result: Mapping, directory: str, seconds: float | None = None) -> Table:
    """The closing table of a finished run. `seconds` are those since it was prepared, the start of Flower included."""
    table = Table(title="run finished", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # the whole of a path
    for name, value in {"strategy": result["strategy"], "rounds": result["rounds"]}.items():
        table.add_row(name, str(value))
    for name, value in _spent(result, directory, seconds).items():
        table.add_row(name, value)
    return table


def summary_line(result: Mapping, directory: str, seconds: float | None = None) -> str:
    """The same in one line, for a run among many, whose strategy and rounds are known."""
    return "finished: " + "; ".join(f"{name} {value}" for name, value in _spent(result, directory, seconds).items())


def _spent(result: Mapping, directory: str, seconds: float | None) -> dict[str, str]:
    """What a run took, and where its files are."""
    gpu_mb = result["peak_client_gpu_memory_mb"]
    on_gpu = f", on its GPU {gpu_mb:.0f} MB" if gpu_mb else ""
    return {
        "seconds": _seconds(result, seconds),
        "sent to clients": f"{result['bytes_down'] / 1e6:.2f} MB",
        "received": f"{result['bytes_up'] / 1e6:.2f} MB",
        "peak memory of a client": f"{result['peak_client_memory_mb']:.0f} MB{on_gpu}",
        "refused replies": str(result["refused_replies"]),
        "run directory": directory,
    }


def _seconds(result: Mapping, whole: float | None) -> str:
    rounds = f"rounds {result['seconds_of_rounds']:.1f}"
    if whole is None:
        return f"{result['seconds']:.1f} ({rounds})"
    return f"{whole:.1f} (after the start of Flower {result['seconds']:.1f}, {rounds})"
