"""What a run has reached, beside what it started from and what clients reach alone."""

import math
from dataclasses import dataclass

from fedllm_app.report.gather import ReportData, RunReport
from fedllm_app.runs.measures import INTERVAL, LOSS, Series, is_share


@dataclass(frozen=True)
class Gain:
    """A reference value and how much better the run is than it; negative where it is worse.

    Of several seeds both are means, and `deviation` is that of `better`. `within` is the spread that the difference
    does not exceed, in words; "" where it does, or no spread is known.
    """

    name: str
    value: float
    better: float
    deviation: float | None = None
    within: str = ""


@dataclass(frozen=True)
class Headline:
    """The metric of a run that says most, after its last evaluation; of several seeds, their mean and deviation."""

    series: Series
    value: float
    round: int
    gains: tuple[Gain, ...]
    deviation: float | None = None


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
    last = series.last
    difference = last.value - reference
    inside = series.band == INTERVAL and last.low is not None and last.low <= reference <= last.high
    better = -difference if series.lower_is_better else difference
    return Gain(name, reference, better, within="the run's 95 % interval" if inside and difference else "")


def shown_value(metric: str, value: float | None, deviation: float | None = None) -> str:
    """A share in percent, any other number with three digits."""
    if value is None:
        return "-"
    return f"{_number(metric, value, deviation)} %" if is_share(metric) else _number(metric, value, deviation)


def _number(metric: str, value: float, deviation: float | None) -> str:
    numbers = [value] if deviation is None else [value, deviation]
    return " ± ".join(f"{100 * one:.1f}" if is_share(metric) else three_digits(one) for one in numbers)


def three_digits(value: float) -> str:
    """A number with three digits that count, and no exponent where it can be read without one."""
    if not math.isfinite(value) or not value or not 1e-6 <= abs(value) < 1e6:
        return f"{value:.3g}"
    places = 2 - math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown_gain(metric: str, better: float) -> str:
    """A difference with its sign: of shares in points."""
    if not better:
        return "±0"
    return f"{100 * better:+.1f} points" if is_share(metric) else f"{'+' * (better > 0)}{three_digits(better)}"


def shown_remark(gain: Gain) -> str:
    """What is to be known of a difference, "" for nothing."""
    return f"within {gain.within}" if gain.within else ""


def says_more(metric: str, gain: Gain) -> bool:
    """Whether a difference, as it is shown, is another number than its reference: of a loss near 0 it is the same."""
    return shown_gain(metric, abs(gain.better)).lstrip("+") != shown_value(metric, gain.value)


def sentence(data: ReportData, run: RunReport) -> str:
    """What a run has reached, in words."""
    found = headline(data, run)
    if found is None:
        return "Nothing was evaluated."
    loss = headline(data, run, LOSS) if found.series.metric != LOSS else None
    return " ".join(in_words(one) for one in (found, loss) if one is not None)


def in_words(found: Headline) -> str:
    """A headline as a sentence."""
    metric = found.series.metric
    text = (
        f"{_capital(found.series.label)} {shown_value(metric, found.value, found.deviation)} after round {found.round}"
    )
    parts = []
    for gain in found.gains:
        how = f"{_size(metric, gain)}{'worse' if gain.better < 0 else 'better'} than"
        if not gain.better and not gain.deviation:
            how = "the same as"
        who = {"base": "the base model", "start": "the adapter that it started from"}.get(gain.name, gain.name)
        beside = "; ".join(filter(None, [shown_value(metric, gain.value), shown_remark(gain)]))
        parts.append(f"{how} {who} ({beside})")
    return f"{text}: {' and '.join(parts)}." if parts else f"{text}."


def _size(metric: str, gain: Gain) -> str:
    """How much better or worse, with a blank behind it; "" where the reference says the same."""
    if not says_more(metric, gain):
        return ""
    return f"{_number(metric, abs(gain.better), gain.deviation)} {'points ' * is_share(metric)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
