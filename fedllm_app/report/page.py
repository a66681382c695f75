"""The report as one HTML page that needs nothing else: style, scripts and data are in it, and it asks no network."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from fedllm_app.paths import last_parts
from fedllm_app.report.figures import Figure, clean, color_of
from fedllm_app.report.gather import ReportData, RunReport
from fedllm_app.report.headline import Gain, headline, says_more, shown_gain, shown_remark, shown_value
from fedllm_app.report.sections import Code, Notes, Samples, Section, sections, subtitle_of, title_of
from fedllm_app.report.tables import Table
from fedllm_app.runs.measures import LOSS
from fedllm_app.runs.overview import ENDED, FAILED, RUNNING

_HERE = Path(__file__).parent
_KINDS = {Figure: "figure", Table: "table", Notes: "notes", Samples: "samples", Code: "code"}


def page(data: ReportData, written: datetime) -> str:
    """The page. Whatever comes from clients or data is text in it, never markup: Jinja escapes all values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.filters["kind"] = lambda block: _KINDS[type(block)]
    found = sections(data)
    scripts = {"plotly": get_plotlyjs(), "own": (_HERE / "page.js").read_text(encoding="utf-8")}
    return environment.get_template("page.html").render(
        title=title_of(data),
        subtitle=subtitle_of(data),
        written=f"{written:%Y-%m-%d %H:%M}",
        cards=[_card(data, run, place) for place, run in enumerate(data.runs)],
        sections=found,
        figures=json_for_html(_figures(found)),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        policy=content_policy(scripts),
    )


def content_policy(scripts: Mapping[str, str]) -> str:
    """What a browser may do with the page: run exactly these scripts, and fetch nothing.

    Text that became a script in spite of all escaping would not run.
    """
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_for_html(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(clean(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figures(found: list[Section]) -> dict[str, dict]:
    drawn = [block for section in found for block in section.blocks if isinstance(block, Figure)]
    return {one.name: {key: asdict(one)[key] for key in ("title", "traces", "layout", "height")} for one in drawn}


def _over(metric: str, gain: Gain) -> str:
    """What a run is better than, and what is to be known of the difference."""
    value = shown_value(metric, gain.value) if says_more(metric, gain) else ""
    beside = ", ".join(filter(None, [value, shown_remark(gain)]))
    return f"over {gain.name}" + (f" ({beside})" if beside else "")


def _judged(gain: Gain) -> str:
    """The class of a difference: none where it is within a spread."""
    if gain.within or not gain.better:
        return ""
    return "good" if gain.better > 0 else "bad"


def _card(data: ReportData, run: RunReport, place: int) -> dict[str, object]:
    found, loss = headline(data, run), run.metric(LOSS)
    metric = found.series.metric if found else ""
    facts = [
        ("rounds", f"{run.overview.done} of {run.overview.asked}"),
        ("clients", _clients(run)),
        ("time", _time(run)),
        ("traffic", f"{(run.traffic.down + run.traffic.up) / 1e6:,.1f} MB"),
    ]
    if loss and loss.last and metric != LOSS:
        before = f"{shown_value(LOSS, loss.first)} → " if loss.first is not None and loss.last.round else ""
        facts.insert(0, ("held-out loss", before + shown_value(LOSS, loss.last.value)))
    gains = [
        (shown_gain(metric, gain.better), _over(metric, gain), _judged(gain)) for gain in (found.gains if found else ())
    ]
    return {
        "label": run.label,
        "color": color_of(place),
        "about": " · ".join(part for part in (run.overview.strategy, last_parts(run.overview.data)) if part),
        "state": run.overview.state,
        "value": shown_value(metric, found.value) if found else "-",
        "metric": found.series.label if found else "not evaluated",
        "gains": gains,
        "facts": facts,
    }


def _clients(run: RunReport) -> str:
    """How many there were; of a run that ended before they told of themselves, how many it asked for."""
    asked = int(run.config.get("clients.number", 0) or 0)
    if run.clients or not asked:
        return str(len(run.clients))
    return f"{asked} asked for"


def _time(run: RunReport) -> str:
    """What the whole run took; of one without a result, how long its journal goes on."""
    if run.total_seconds is not None:
        return duration(run.total_seconds)
    until = {FAILED: "until it failed", ENDED: "until it was stopped", RUNNING: "so far"}.get(run.overview.state, "")
    return f"{duration(run.overview.ended - run.overview.began)} {until}".strip()


def duration(seconds: float) -> str:
    """Seconds as one would say them."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
