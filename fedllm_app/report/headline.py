"""What a run has reached, beside what it started from and what clients reach alone."""

from dataclasses import dataclass

from fedllm_app.report.gather import ReportData, RunReport
from fedllm_app.runs.measures import LOSS, SHARES, Series


@dataclass(frozen=True)
class Gain:
    """A reference value and how much better the run is than it; negative where it is worse."""

    name: str
    value: float
    better: float


@dataclass(frozen=True)
class Headline:
    """The metric of a run that says most, after its last evaluation."""

    series: Series
    value: float
    round: int
    gains: tuple[Gain, ...]


def headline(data: ReportData, run: RunReport, metric: str = "") -> Headline | None:
    """The headline of a run, or the same of another metric; None where nothing was evaluated."""
    series = run.metric(metric or run.headline)
    if series is None or series.last is None:
        return None
    last, gains = series.last, []
    if series.first is not None and last.round:
        gains.append(_gain(run.base_name, series, series.first))
    alone = data.alone(run)
    other = alone.metric(series.metric) if alone is not None else None
    reached = other.after(last.round) if other is not None else None  # one of the two may not have come to its end
    if reached is not None:
        gains.append(_gain("clients alone", series, reached))
    return Headline(series, last.value, last.round, tuple(gains))


def _gain(name: str, series: Series, reference: float) -> Gain:
    difference = series.last.value - reference
    return Gain(name, reference, -difference if series.lower_is_better else difference)


def shown_value(metric: str, value: float | None) -> str:
    """A share in percent, any other number with four digits."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


def shown_gain(metric: str, better: float) -> str:
    """A difference with its sign: of shares in points."""
    if not better:
        return "±0"
    return f"{100 * better:+.1f} points" if is_share(metric) else f"{better:+.4g}"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of the rows, which is shown in percent."""
    return metric.removeprefix("test_") in SHARES


def sentence(data: ReportData, run: RunReport) -> str:
    """What a run has reached, in words."""
    found = headline(data, run)
    if found is None:
        return "Nothing was evaluated."
    loss = headline(data, run, LOSS) if found.series.metric != LOSS else None
    return " ".join(_sentence(one) for one in (found, loss) if one is not None)


def _sentence(found: Headline) -> str:
    metric = found.series.metric
    text = f"{_capital(found.series.label)} {shown_value(metric, found.value)} after round {found.round}"
    parts = []
    for gain in found.gains:
        size = shown_gain(metric, abs(gain.better)).lstrip("+")
        how = "as good as" if not gain.better else f"{size} {'better' if gain.better > 0 else 'worse'} than"
        who = {"base": "the base model", "start": "the adapter that it started from"}.get(gain.name, gain.name)
        parts.append(f"{how} {who} ({shown_value(metric, gain.value)})")
    return f"{text}: {' and '.join(parts)}." if parts else f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
