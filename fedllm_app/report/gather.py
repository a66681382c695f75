"""Runs as a report shows them, read from their directories."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.errors import UserError
from fedllm_app.paths import did_you_mean, expanded
from fedllm_app.report.command import PLACES, full_configuration, run_command
from fedllm_app.report.demo import DEMO_FILE, Demo, demos_of
from fedllm_app.report.evaluations import EvaluationTable, evaluations_of
from fedllm_app.report.participants import Attendance, ClientRow, Refusal, attendance, client_rows, refusals
from fedllm_app.report.phases import phases
from fedllm_app.runs.directory import is_run, read_federation, read_result, read_run_config
from fedllm_app.runs.journal import RESUMED, read_journal
from fedllm_app.runs.measures import (
    ALONE,
    Event,
    Series,
    headline_metric,
    held_out,
    metric_labels,
    number,
    training,
    trains_alone,
)
from fedllm_app.runs.overview import GRID_FILE, GRID_RUNS, RunOverview, overview


class NoReport(UserError):
    """What is named is no run, or its files cannot be read."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of arrays and peaks of memory (MB) of a whole run, as far as it came."""

    down: int
    up: int
    peak_memory_mb: float
    peak_gpu_memory_mb: float


@dataclass(frozen=True)
class RunReport:
    """One run.

    Attributes
    ----------
    label : str
        What it is called in this report; no other run has that name.
    held_out : tuple[Series, ...]
        Every held-out metric, the task's own first.
    headline : str
        The metric that says most, "" where nothing was evaluated.
    suites : tuple[tuple[int, str, str, float], ...]
        Figures of suites that were asked during the run: round, suite, "set/metric", value.
    seconds : Mapping[str, float]
        By phase.
    versions : tuple[tuple[str, tuple[str, ...]], ...]
        Who, and the versions there.
    """

    label: str
    path: Path
    overview: RunOverview
    config: Mapping[str, object]
    training: Series
    held_out: tuple[Series, ...]
    headline: str
    suites: tuple[tuple[int, str, str, float], ...]
    clients: tuple[ClientRow, ...]
    attendance: Attendance
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    total_seconds: float | None
    traffic: Traffic
    parameters: int | None
    environment: Mapping[str, object]
    versions: tuple[tuple[str, tuple[str, ...]], ...]
    command: str
    toml: str

    @property
    def base_name(self) -> str:
        """What the run started from: the model before round 1."""
        return "start" if self.config.get("adapter.start") else "base"

    def metric(self, name: str) -> Series | None:
        """A held-out metric by the journal's name."""
        return next((series for series in self.held_out if series.metric == name), None)


@dataclass(frozen=True)
class ReportData:
    """All that a report shows. `differences` has a row for each key that differs: the key, and each run's value."""

    runs: tuple[RunReport, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    evaluations: tuple[EvaluationTable, ...]
    demos: tuple[Demo, ...] = ()

    def alone(self, run: RunReport) -> RunReport | None:
        """The run in which the same clients train alone, if there is one and `run` is another."""
        return next((other for other in self.runs if trains_alone(other.config, run.config)), None)


def gather(paths: Sequence[Path], saved: Sequence[Path] | None = None, app: Path | None = None) -> ReportData:
    """Read runs and what was saved of evaluations of them.

    Parameters
    ----------
    paths : Sequence[Path]
        Run directories, or those of a comparison or a demo; a run that is named twice is taken once.
    saved : Sequence[Path] | None
        Directories of `fedllm evaluate`; None: those below FEDLLM_HOME that evaluated one of these runs.
    app : Path | None
        The directory of the app, whose defaults the command leaves out.

    Raises
    ------
    NoReport
        A path is no run directory, or cannot be read; or a saved evaluation is none.
    """
    named = [expanded(path).resolve() for path in paths]
    distinct = list(dict.fromkeys(run for path in named for run in runs_in(path)))
    labels = unique_labels(distinct)
    runs = []
    for path, label in zip(distinct, labels, strict=True):
        try:
            runs.append(read_run(path, label, app))
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NoReport(f"{path} cannot be read as a run: {type(error).__name__}: {error}") from error
    try:
        evaluations = evaluations_of(distinct, saved)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoReport(f"a saved evaluation cannot be read: {type(error).__name__}: {error}") from error
    demos = tuple(demos_of(distinct))
    return ReportData(tuple(runs), tuple(differences([run.config for run in runs])), tuple(evaluations), demos)


def runs_in(path: Path) -> list[Path]:
    """The run itself, or the runs of a comparison or a demo: seeds of one setting stand together, in their order.

    NoReport if there are none.
    """
    if is_run(path):
        return [path]
    found = [inner for inner in _inside(path) if is_run(inner) and not inner.is_symlink()]
    if not found:
        what = "holds no run" if path.is_dir() else "does not exist"
        near = "" if path.exists() else did_you_mean(path)
        raise NoReport(
            f"{path} {what}; name run directories, with their config.json, or that of a comparison or a demo: "
            f"fedllm runs shows them{near}"
        )
    return sorted(found, key=_order)


def _inside(path: Path) -> list[Path]:
    """Where the runs of a comparison or a finished demo are; a folder of any runs is neither, and has none to offer."""
    if (path / GRID_FILE).is_file():
        return list((path / GRID_RUNS).glob("*"))
    return list(path.glob("*")) if (path / DEMO_FILE).is_file() else []


def _order(run: Path) -> tuple[bool, str, int, str]:
    """Clients alone last, as what the others are held against; then by name and by the number at its end."""
    try:
        alone = read_run_config(run).get("strategy.name") == ALONE
    except (OSError, ValueError, AttributeError):  # reading the run will say what is wrong
        alone = False
    start = run.name.rstrip("0123456789")
    return alone, start, int(run.name[len(start) :] or 0), run.name


def read_run(path: Path, label: str, app: Path | None = None) -> RunReport:
    """One run directory."""
    config, result = read_run_config(path), read_result(path)
    everything, events = read_journal(path, everything=True), read_journal(path)
    labels = metric_labels(config)
    series = _held_out(events, labels)
    ends = [event for event in events if event["event"] in ("finished", "failed") and event.get("participation")]
    participation = ends[-1]["participation"] if ends else []
    clients = client_rows(events, participation)
    resumed = any(event["event"] == RESUMED for event in everything)
    total = number(result.get("seconds")) if result and not resumed else None
    return RunReport(
        label=label,
        path=path,
        overview=overview(path),
        config=config,
        training=training(events),
        held_out=tuple(series),
        headline=headline_metric(labels, [one.metric for one in series]),
        suites=tuple(_suites(events)),
        clients=tuple(clients),
        attendance=attendance(events, [row.client for row in clients]),
        refusals=tuple(refusals(events)),
        warnings=tuple(dict.fromkeys(str(event["reason"]) for event in events if event["event"] == "warning")),
        seconds=phases(events, total),
        total_seconds=number(result.get("seconds")) if result else None,
        traffic=_traffic(events, result, clients),
        parameters=next((event["parameters"] for event in events if event["event"] == "ready"), None),
        environment=next((event for event in reversed(events) if event["event"] == "environment"), {}),
        versions=tuple(_versions(events)),
        command=run_command(config, app, read_federation(path)),
        toml=full_configuration(config),
    )


def unique_labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for parts in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def differences(configs: Sequence[Mapping[str, object]]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """The keys whose values differ, and each run's value; "-" where a run has no such key."""
    if len(configs) < 2:
        return
    for key in sorted({key for config in configs for key in config} - {*PLACES}):
        values = tuple(_shown(config[key]) if key in config else "-" for config in configs)
        if len(set(values)) > 1:
            yield key, values


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


def _held_out(events: Sequence[Event], labels: Mapping[str, str]) -> list[Series]:
    """The task's metrics, on the clients' held-out rows and on the common test set."""
    there = {name for event in events if event["event"] == "evaluation" for name in event}
    tested = {f"test_{name}": f"{label} on the test set" for name, label in labels.items()}
    wanted = [(name, label) for name, label in (*labels.items(), *tested.items()) if name in there]
    return [held_out(events, name, label) for name, label in wanted]


def _suites(events: Sequence[Event]) -> Iterable[tuple[int, str, str, float]]:
    for event in events:
        if event["event"] == "suite":
            for name, value in event["figures"].items():
                if (found := number(value)) is not None:
                    yield event["round"], str(event["suite"]), str(name), found
        elif event["event"] == "evaluation":
            for name, value in event.items():
                if name.startswith("suite_") and (found := number(value)) is not None:
                    yield event["round"], "on the clients", name.removeprefix("suite_"), found


def _traffic(events: Sequence[Event], result: Mapping | None, clients: Sequence[ClientRow]) -> Traffic:
    peak = max((row.peak_memory_mb for row in clients), default=0.0)
    gpu = max((row.peak_gpu_memory_mb for row in clients), default=0.0)
    if result:
        return Traffic(int(result["bytes_down"]), int(result["bytes_up"]), peak, gpu)
    rounds = [event for event in events if event["event"] == "round"]
    last = rounds[-1] if rounds else {}
    down, up = (last.get(f"total_{key}", last.get(key, 0)) for key in ("bytes_down", "bytes_up"))
    return Traffic(int(down), int(up), peak, gpu)


def _versions(events: Sequence[Event]) -> Iterable[tuple[str, tuple[str, ...]]]:
    server = [event for event in events if event["event"] == "environment"]
    if server:
        yield "the server", tuple(map(str, server[-1]["versions"]))
    groups = [event for event in events if event["event"] == "versions"]
    for event in groups:
        clients = event["clients"]
        who = "all clients" if len(groups) == 1 else "clients " + ", ".join(map(str, clients))
        yield who, tuple(map(str, event["versions"]))
