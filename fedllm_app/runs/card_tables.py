"""The tables of a model card."""

from collections.abc import Iterable, Mapping, Sequence

from fedllm_app.class_paths import ClassPathError
from fedllm_app.tasks import task_spec

_BASE = "base"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(_cell(text) for text in row) + " |" for row in lines]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def evaluation_lines(report: Mapping, model: str) -> list[str]:
    """The figures of `model` in a saved report (report.json of `fedllm evaluate`), beside those of the base."""
    names = [name for name in report["models"] if name == _BASE] + [model]
    figures = {(figure["task"], figure["metric"], figure["model"]): figure for figure in report["figures"]}
    rows = []
    for task, metric in dict.fromkeys((task, metric) for task, metric, _ in figures):
        cells = [figures.get((task, metric, name)) for name in names]
        n = next((str(cell["n"]) for cell in reversed(cells) if cell), "")
        rows.append([task, metric, n, *map(_figure, cells)])
    settings = report["settings"]
    named = ("limit", "seeds", "template", "dtype", "quantization")
    how = ", ".join(f"{key}: {_last_part(str(settings[key]))}" for key in named if key in settings)
    intro = f"Suite {_last_part(report['suite'])}, asked with the adapter over the base ({how}):"
    legend = "[low, high] is a 95 % interval, n the number of questions. Shares are in percent."
    heads = ["base model" if name == _BASE else "this model" for name in names]
    return [intro, "", *markdown_table(["set", "metric", "n", *heads], rows), "", legend]


def _last_part(suite: str) -> str:
    return suite.rstrip("/").rpartition("/")[2]


def _figure(figure: Mapping | None) -> str:
    if figure is None:
        return "-"
    if figure["value"] is None:
        return ", ".join(f"{count} {reason}" for reason, count in figure["missing"].items()) or "-"
    percent = figure["percent"] and not figure["count"]
    text = _number(figure["value"], percent)
    if figure["low"] is None or figure["count"]:
        return text
    if figure["seed"] is None:  # a mean over seeds, whose low is one standard deviation away
        return f"{text} ± {_number(figure['value'] - figure['low'], percent)}"
    return f"{text} [{_number(figure['low'], percent)}, {_number(figure['high'], percent)}]"


def _number(value: float | str, percent: bool) -> str:
    if isinstance(value, str):  # what JSON has no number for
        return value
    return f"{100 * value:.1f}" if percent else f"{value:.4g}"


def held_out_lines(journal: Sequence[Mapping], config: Mapping, last_round: int | None) -> list[str]:
    """The last held-out metrics of a run up to a round, the clients' mean; none where it evaluated nothing."""
    events = [
        event
        for event in journal
        if event["event"] == "evaluation" and event["round"] > 0 and event["round"] <= (last_round or event["round"])
    ]
    if not events:
        return []
    event = events[-1]
    shown = _metrics(str(config["train.task"]))
    rows = [(name, f"{event[key]:.4g}") for key, name in shown.items() if event.get(key) is not None]
    if not rows:
        return []
    intro = (
        f"Held-out rows of the clients after round {event['round']}, up to {config['evaluate.examples']} of each, mean "
        "of the clients:"
    )
    return [intro, "", *markdown_table(("metric", "value"), rows)]


def _metrics(task: str) -> Mapping[str, str]:
    """The journal's names of a task's metrics, and what they are called."""
    try:
        return task_spec(task).metrics
    except ClassPathError:  # a task of the user's own, whose code is not on this machine
        return {"eval_loss": "loss"}
