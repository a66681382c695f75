"""The tables of a report as text, for the page and for Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fedllm_app.evaluation.tables import LEGEND, PAIR_COLUMNS, SEEDS_LEGEND, pair_cells
from fedllm_app.report.demo import Demo
from fedllm_app.report.evaluations import EvaluationTable
from fedllm_app.report.gather import ReportData, RunReport
from fedllm_app.report.headline import Gain, headline, shown_gain, shown_remark, shown_value, three_digits
from fedllm_app.report.phases import PHASES, phase_share
from fedllm_app.runs.measures import LOSS

_MOST_ROWS = 200  # of a table; a CSV has all


@dataclass(frozen=True)
class Table:
    """A table.

    `numeric` are the columns whose cells are numbers, `best` the cells to stress, as (row, column). A page shows one
    that is `folded` when its reader asks for it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    best: frozenset[tuple[int, int]] = frozenset()
    about: str = ""
    folded: bool = False


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1, about: str = "") -> Table:
    """A table whose first `text` columns are words and whose other ones are numbers; without an end, it is cut."""
    found = [tuple(row) for row in rows]
    if len(found) > _MOST_ROWS:
        about = f"{about} The first {_MOST_ROWS} of {len(found):,} rows.".strip()
    numeric = frozenset(range(text, len(columns)))
    return Table(title, tuple(columns), tuple(found[:_MOST_ROWS]), numeric, about=about)


def summary_table(data: ReportData) -> Table:
    """One line a run: what it was and what it reached."""
    starts = " or ".join(dict.fromkeys(run.base_name for run in data.runs))
    columns = ["run", "strategy", "data", "rounds", "held-out loss", "headline", f"over {starts}", "over clients alone"]
    found = _table("Runs", [*columns, "seconds", "MB"], (_summary_row(data, run) for run in data.runs), text=3)
    return replace(found, numeric=found.numeric - {columns.index("headline")})  # words, which may wrap


def _gain_cell(metric: str, gain: Gain | None) -> str:
    if gain is None:
        return "-"
    return ", ".join(filter(None, [shown_gain(metric, gain.better), shown_remark(gain)]))


def _summary_row(data: ReportData, run: RunReport) -> list[str]:
    found, loss = headline(data, run), run.metric(LOSS)
    gains = {gain.name: gain for gain in found.gains} if found else {}
    metric = found.series.metric if found else ""
    start, alone = gains.get(run.base_name), gains.get("clients alone")
    return [
        run.label,
        run.overview.strategy,
        run.overview.data,
        f"{run.overview.done}/{run.overview.asked}",
        shown_value(LOSS, loss.last.value if loss and loss.last else None),
        f"{found.series.label} {shown_value(metric, found.value)}" if found else "-",
        _gain_cell(metric, start),
        _gain_cell(metric, alone),
        _seconds(run.total_seconds),
        f"{(run.traffic.down + run.traffic.up) / 1e6:,.1f}",
    ]


def differences_table(data: ReportData) -> Table | None:
    """The configuration of the runs, where it differs."""
    if not data.differences:
        return None
    rows = [(key, *values) for key, values in data.differences]
    columns = ("key", *(run.label for run in data.runs))
    return Table("Differences of configuration", columns, tuple(rows))


def rounds_table(run: RunReport) -> Table:
    """The metrics of a run by round."""
    series = [run.training, *run.held_out]
    rounds = sorted({point.round for one in series for point in one.points})
    values = [{point.round: point.value for point in one.points} for one in series]
    rows = (
        [str(number), *(shown_value(one.metric, found.get(number)) for one, found in zip(series, values, strict=True))]
        for number in rounds
    )
    return replace(_table(f"By round: {run.label}", ["round", *(one.label for one in series)], rows), folded=True)


def participation_table(run: RunReport) -> Table:
    """Who took part how often, what was refused, and who had lost its state."""
    columns = ["client", "name", "drawn", "took part", "refused", "late", "resets", "last reason"]
    rows = [
        [
            str(row.client),
            row.name,
            *map(str, (row.drawn, row.took_part, row.refused, row.late)),
            f"{row.resets} ({row.lost})" if row.resets else "0",
            row.last_reason,
        ]
        for row in run.clients
    ]
    return replace(_table(f"Participation: {run.label}", columns, rows), numeric=frozenset({2, 3, 4, 5, 6}))


def refusals_table(run: RunReport) -> Table | None:
    """What was not used, and why."""
    if not run.refusals:
        return None
    rows = [
        [f"{one.client} {one.name}", one.during, str(len(one.rounds)), _rounds(one.rounds), one.reason]
        for one in run.refusals
    ]
    columns = ["client", "during", "times", "rounds", "reason"]
    return replace(_table(f"Refusals: {run.label}", columns, rows), numeric=frozenset({2}))


def _rounds(rounds: Sequence[int]) -> str:
    shown = ", ".join(map(str, rounds[:12]))
    return shown + (", …" if len(rounds) > 12 else "")


def clients_table(run: RunReport) -> Table:
    """What each client holds and what it cost."""
    columns = [
        "client",
        "name",
        "schema",
        "examples",
        "held-out",
        "tokens",
        "training s",
        "MB down",
        "MB up",
        "peak MB",
    ]
    rows = [
        [
            str(row.client),
            row.name,
            row.schema,
            *("-" if count is None else f"{count:,}" for count in (row.examples, row.held_out, row.tokens)),
            _seconds(row.seconds),
            f"{row.bytes_down / 1e6:,.2f}",
            f"{row.bytes_up / 1e6:,.2f}",
            f"{row.peak_memory_mb:,.0f}" + (f" (GPU {row.peak_gpu_memory_mb:,.0f})" if row.peak_gpu_memory_mb else ""),
        ]
        for row in run.clients
    ]
    return _table(f"Clients: {run.label}", columns, rows, text=3)


def phases_table(data: ReportData) -> Table | None:
    """Seconds and shares of the phases."""
    shown = [phase for phase in PHASES if any(phase in run.seconds for run in data.runs)]
    if not shown:
        return None
    shares = [phase_share(run.seconds) for run in data.runs]
    rows = [
        [
            phase,
            *(
                f"{run.seconds[phase]:,.1f} ({share[phase]:.0%})" if phase in run.seconds else "-"
                for run, share in zip(data.runs, shares, strict=True)
            ),
            PHASES[phase],
        ]
        for phase in shown
    ]
    found = _table("Phases", ["phase", *(run.label for run in data.runs), "what it is"], rows)
    return replace(found, numeric=frozenset(range(1, 1 + len(data.runs))))


def cost_table(data: ReportData) -> Table:
    """Bytes and memory of the runs."""
    columns = ["run", "trained parameters", "MB to clients", "MB back", "peak MB of a client", "peak MB of a GPU"]
    rows = [
        [
            run.label,
            "-" if run.parameters is None else f"{run.parameters:,}",
            f"{run.traffic.down / 1e6:,.2f}",
            f"{run.traffic.up / 1e6:,.2f}",
            f"{run.traffic.peak_memory_mb:,.0f}",
            f"{run.traffic.peak_gpu_memory_mb:,.0f}" if run.traffic.peak_gpu_memory_mb else "-",
        ]
        for run in data.runs
    ]
    return _table("Bytes and memory", columns, rows)


def suites_table(run: RunReport) -> Table | None:
    """Figures of suites that were asked during a run, the rounds side by side."""
    if not run.suites:
        return None
    rounds = sorted({server_round for server_round, *_ in run.suites})
    values = {(suite, name, server_round): value for server_round, suite, name, value in run.suites}
    names = dict.fromkeys((suite, name) for _, suite, name, _ in run.suites)
    rows = (
        [suite, name, *("-" if (v := values.get((suite, name, r))) is None else three_digits(v) for r in rounds)]
        for suite, name in names
    )
    return _table(f"Suites by round: {run.label}", ["suite", "figure", *map(str, rounds)], rows, text=2)


def demo_table(demo: Demo) -> Table:
    """The table that `fedllm demo` shows: every model on every domain."""
    columns = ["model", *demo.domains, "mean", "average rank"]
    rows = [
        [
            model,
            *(f"{shares[domain]:.1%}" if domain in shares else "-" for domain in demo.domains),
            f"{demo.mean(model):.1%}",
            f"{demo.ranks[model]:.2f}" if model in demo.ranks else "-",
        ]
        for model, shares in demo.shares.items()
    ]
    return _table(f"Demo: exact match on {demo.questions} held-out questions a domain", columns, rows)


def evaluation_tables(table: EvaluationTable) -> Iterator[Table]:
    """A saved evaluation: its figures with intervals, and the paired tests against the first model."""
    report, models = table.report, list(table.report.models)
    rows, best = [], set()
    for place, (task, metric, cells) in enumerate(table.rows):
        rows.append((task, metric, *(text for text, _ in cells)))
        best |= {(place, 2 + number) for number, (_, is_best) in enumerate(cells) if is_best}
    about = LEGEND.format(first=models[0] if models else "")
    if any(figure.seed is None for figure in report.figures):
        about += f" {SEEDS_LEGEND}"
    numeric = frozenset(range(2, 2 + len(models)))
    title = f"Evaluation: {report.suite}"
    yield Table(title, ("set", "metric", *models), tuple(rows), numeric, frozenset(best), about)
    pairs = [pair_cells(pair) for pair in report.paired if models and pair.first == models[0]]
    if pairs:
        found = _table(f"Paired tests: {report.suite}", PAIR_COLUMNS, pairs)
        yield replace(found, numeric=frozenset({3, 4, 5, 7}), folded=True)


def environment_table(data: ReportData) -> Table:
    """When and on what each run ran, and the versions there."""
    rows = []
    for run in data.runs:
        place = run.environment
        rows.append((run.label, "time", _times(run)))
        if place:
            memory = f"{float(place['memory_mb']) / 1024:,.1f} GiB" if "memory_mb" in place else "-"
            machine = f"{place.get('system', '-')}, {place.get('cpus', '-')} CPUs, {memory}"
            rows.append((run.label, "server", f"Python {place.get('python', '-')}, {machine}"))
        rows += [(run.label, f"versions of {who}", ", ".join(names)) for who, names in run.versions]
    return Table("Environment", ("run", "what", ""), tuple(rows))


def _times(run: RunReport) -> str:
    began, ended = (datetime.fromtimestamp(when) for when in (run.overview.began, run.overview.ended))
    return f"{began:%Y-%m-%d %H:%M:%S} to {ended:%Y-%m-%d %H:%M:%S}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
