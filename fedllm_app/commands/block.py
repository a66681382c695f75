"""What stands at the bottom of a terminal while a run goes on: rounds, clients, time left, the last evaluation."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedllm_app.messages import plain_text

_MOST = 12  # lines of clients; of more, only numbers are shown
_WITH_STEP, _WITH_LOSS = 44, 56  # columns that the terminal must have for these
_NARROW = 60  # below it, the bar goes
_STEPS_SEEN, _SECONDS_SEEN = 3, 3.0  # of training, before the time that is left is estimated from them


@dataclass
class ClientLine:
    """What is known of a client of this round."""

    name: str
    state: str = "waits"
    since: float = 0.0
    step: int = 0
    steps: int = 0
    loss: float | None = None


class Block:
    """The state of a run as its events and steps tell it; rich draws it anew several times a second.

    Attributes
    ----------
    phase : str
        What goes on outside a round.
    """

    def __init__(self, rounds: int = 0, local_steps: int = 0) -> None:
        self.rounds, self.local_steps = rounds, local_steps
        self.phase = "starting Flower"
        self.before = 0  # rounds of an earlier attempt
        self.current = 0
        self.began: float | None = None
        self.clients: dict[int, ClientLine] = {}
        self.drawn: list[int] = []
        self.held_out = ""
        self._done = 0  # rounds
        self._seen = 0  # steps of the first round
        self._since: tuple[float, float] | None = None  # when the first step was taken, and the share done by then

    def known(self, names: dict[int, str]) -> None:
        """The clients of the run are known."""
        self.clients = {client: ClientLine(plain_text(name, 40)) for client, name in sorted(names.items())}
        self.phase = "the first evaluation"

    def joined(self, client: int, name: str) -> None:
        """A client is known since it was drawn, for the first time."""
        self.clients[client] = ClientLine(
            plain_text(name, 40), "asked" if client in self.drawn else "waits", self.began or 0.0
        )
        self.clients = dict(sorted(self.clients.items()))

    def round_started(self, number: int, clients: Iterable[int], began: float) -> None:
        """Clients were drawn for a round, and are asked."""
        self.current, self.drawn = number, sorted(clients)
        self.began = self.began or began
        self.phase = ""
        for client, line in self.clients.items():
            fresh = ClientLine(line.name, "asked" if client in self.drawn else "waits", began)
            self.clients[client] = fresh

    def round_ended(self, number: int) -> None:
        """A round is over; what follows is no training."""
        self._done = number
        self._since = self._since or self._beginning()
        self.phase = "the next round" if number < self.rounds else "the end of the run"

    def step(self, client: int, step: int, steps: int, loss: float, when: float | None = None) -> None:
        """A client took an optimizer step, at a time in seconds since 1970; None: now."""
        line = self._line(client)
        line.state, line.step, line.steps, line.loss = "trains", step, steps, loss
        self._seen += 1
        if self._since is None and self.began:
            self._since = (when or time.time(), self.share())

    def answered(self, client: int, state: str, loss: float | None = None) -> None:
        """A client trained or evaluated, or was refused."""
        line = self._line(client)
        line.state = state
        self._since = self._since or self._beginning()
        line.loss = loss if loss is not None else line.loss

    def share(self) -> float:
        """How much of this attempt's rounds is done, from 0 to 1."""
        rounds = self.rounds - self.before
        if rounds <= 0 or not self.began:
            return 0.0
        running = self._share_of_round() if self.current > self._done else 0.0
        return min(1.0, (max(self._done - self.before, self.current - 1 - self.before, 0) + running) / rounds)

    def left(self) -> str:
        """Words for the time that is left; "" as long as too little was trained to tell.

        What comes before the first step, above all loading the model, comes once, and is no part of the pace. Sites
        send no steps: there the pace is that of answers, from the beginning on.
        """
        if self._since is None:
            return ""
        when, before = self._since
        seconds, done = time.time() - when, self.share() - before
        if done <= 0 or seconds < _SECONDS_SEEN or (before and not self._done and self._seen < _STEPS_SEEN):
            return ""
        return f"{_clock(seconds * (1 - self.share()) / done)} left"

    def _beginning(self) -> tuple[float, float] | None:
        """The beginning of the first round, from which on answers are counted."""
        return (self.began, 0.0) if self.began else None

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        if self.current:
            yield self._head(options.max_width)
        if self.phase:
            yield Text(self.phase, style="dim", overflow="ellipsis", no_wrap=True)
        if self.clients and self.current:
            yield self._table(options.max_width) if len(self.clients) <= _MOST else self._numbers()
        if self.held_out:
            yield Text(self.held_out, style="cyan", overflow="ellipsis", no_wrap=True)

    def _line(self, client: int) -> ClientLine:
        return self.clients.setdefault(client, ClientLine(f"client {client}"))

    def _share_of_round(self) -> float:
        lines = [self.clients[client] for client in self.drawn if client in self.clients]
        if not lines:
            return 0.0
        parts = [
            1.0 if line.state in ("trained", "refused") else line.step / (line.steps or self.local_steps or 1)
            for line in lines
        ]
        return sum(parts) / len(parts)

    def _head(self, width: int) -> RenderableType:
        elapsed = f"{_clock(time.time() - (self.began or time.time()))} elapsed"
        words = [f"round {self.current}/{self.rounds}", f"{self.share():.0%}", elapsed, *filter(None, [self.left()])]
        if width < _NARROW:
            return Text("  ".join(words), style="bold", no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=1.0, completed=self.share(), width=min(40, width - 44))
        table = Table.grid(padding=(0, 2))
        table.add_row(Text(words[0], style="bold"), bar, *map(Text, words[1:]))
        return table

    def _table(self, width: int) -> Table:
        with_step = width >= _WITH_STEP and any(line.steps for line in self.clients.values())
        with_loss = width >= _WITH_LOSS and any(line.loss is not None for line in self.clients.values())
        table = Table.grid(padding=(0, 2))
        table.add_column(justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 3))
        table.add_column(no_wrap=True, overflow="ellipsis")
        for shown in (with_step, with_loss):
            if shown:
                table.add_column(justify="right", no_wrap=True)
        for client, line in self.clients.items():
            cells = [Text(str(client)), Text(line.name), Text(self._doing(client, line))]
            if with_step:
                cells.append(Text(f"step {line.step}/{line.steps}" if line.steps else ""))
            if with_loss:
                cells.append(Text(f"loss {line.loss:.3f}" if line.loss is not None else ""))
            table.add_row(*cells, style="yellow" if line.state == "refused" else None)
        return table

    def _doing(self, client: int, line: ClientLine) -> str:
        """A site sends no steps, so that the seconds are all that can be said of its training."""
        if line.state == "waits":
            return "waits" if client in self.drawn or not self.drawn else "not drawn"
        if line.state == "asked":
            return f"trains, {time.time() - line.since:.0f} s"
        return line.state

    def _numbers(self) -> Text:
        """Of many clients, how many do what."""
        lines = [self.clients[client] for client in self.drawn if client in self.clients]
        states = ["trains" if line.state == "asked" else line.state for line in lines]
        counts = ", ".join(f"{states.count(state)} {_plural(state)}" for state in dict.fromkeys(sorted(states)))
        return Text(f"{len(self.clients)} clients, {len(self.drawn)} drawn: {counts}")


def _plural(state: str) -> str:
    return {"trains": "train"}.get(state, state)


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
