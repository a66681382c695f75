"""The directory of a report: tables in three formats, and every question with every model's answer, to look at later.

report.md, report.csv, report.json      the tables
examples/<set>.jsonl                    one line a question; of several seeds examples/<set>-seed-<seed>.jsonl
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedllm_app.errors import UserError
from fedllm_app.evaluation.results import Figure, Paired, Report, TaskResult
from fedllm_app.evaluation.suite import Metric
from fedllm_app.evaluation.tables import csv_text, json_text, markdown
from fedllm_app.paths import atomic_path, expanded

REPORT_FILE = "report.json"
"""Of a saved report."""

WHICH = ("wrong", "right", "differ", "missing", "all")
"""What `show` can look for: what the last model gets wrong or right, where models differ, what has no grade."""

_EXACT = "exact match"  # by which answers are right in reports of an earlier version, where a loss comes first
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ReportError(UserError):
    """There is no report in a directory, or one is there already."""


def save(report: Report, results: Sequence[TaskResult], directory: Path) -> None:
    """Write a report. ReportError if the directory holds something."""
    if directory.exists() and any(directory.iterdir()):
        raise ReportError(f"--out {directory} is not empty: name a new directory")
    with atomic_path(directory) as new:
        new.mkdir()
        (new / "report.md").write_text(markdown(report), encoding="utf-8")
        (new / "report.csv").write_text(csv_text(report), encoding="utf-8")
        (new / REPORT_FILE).write_text(json_text(report), encoding="utf-8")
        (new / "examples").mkdir()
        several = len({result.seed for result in results}) > 1
        titles = [result.task.name + (f"-seed-{result.seed}" if several else "") for result in results]
        for name, result in zip(file_names(titles), results, strict=True):
            lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in example_lines(result))
            (new / "examples" / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def load_report(directory: Path) -> Report:
    """Read what `save` wrote. ReportError if there is no report, or one that cannot be read."""
    file = directory / REPORT_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Report(
            **content
            | {
                "figures": tuple(_figure(each) for each in content["figures"]),
                "paired": tuple(
                    Paired(**_numbers(each, "difference", "low", "high", "p")) for each in content["paired"]
                ),
                "notes": tuple(content["notes"]),
            }
        )
    except OSError as error:
        raise ReportError(f"{directory} holds no report of fedllm evaluate: {error.strerror}: {file}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{file} cannot be read as a report: {type(error).__name__}: {error}") from error


def _figure(content: Mapping[str, Any]) -> Figure:
    by_seed = tuple(_figure(each) for each in content.get("by_seed", ()))
    return Figure(**_numbers(content, "value", "low", "high") | {"by_seed": by_seed})


def _numbers(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """With numbers that JSON does not know, which `json_text` writes as text, as numbers again."""
    return dict(content) | {name: float(content[name]) for name in names if isinstance(content.get(name), str)}


def file_names(titles: Sequence[str]) -> list[str]:
    """A file name for each title, in which nothing leads elsewhere; equal ones are numbered."""
    names: list[str] = []
    for title in titles:
        name = re.sub(r"[^\w.-]", "_", title).lstrip(".") or "_"
        number, own = 1, name
        while own in names:
            number += 1
            own = f"{name}-{number}"
        names.append(own)
    return names


def example_lines(result: TaskResult) -> Iterator[dict[str, Any]]:
    """One object a question: what was asked, what is right, and each model's answer and grade."""
    graded = _graded_by(result.task.metrics)
    for number, question in enumerate(result.questions):
        models = {}
        for name, answers in result.answers.items():
            answer, grade = answers[number], result.grades[name][number]
            models[name] = {
                "texts": list(answer.texts),
                "log_likelihoods": list(answer.log_likelihoods),
                "values": dict(grade.values),
                "labels": dict(grade.labels),
                "missing": grade.missing,
            }
        yield {
            "set": result.task.name,
            "number": number,
            "group": question.group,
            "turns": [list(turn) for turn in question.turns],
            "question": question.text,
            "plain": question.plain,
            "follow_up": question.follow_up,
            "choices": list(question.choices),
            "gold": question.gold,
            "headline": graded,
            "models": models,
        }


def _graded_by(metrics: Sequence[Metric]) -> str:
    """The value by which an answer is right: the first metric's, or of the first share where that one has none, as a
    loss; "" where there is neither."""
    return metrics[0].key or next((metric.key for metric in metrics if metric.kind == "share"), "")


@dataclass(frozen=True)
class Seen:
    """A question of a saved report, and whether each model has it right by the headline metric (None: not graded)."""

    line: dict[str, Any]

    @property
    def right(self) -> dict[str, bool | None]:
        """By model."""
        key = self.line["headline"] or _EXACT
        return {
            name: None if given["missing"] or key not in given["values"] else given["values"][key] >= 1.0
            for name, given in self.line["models"].items()
        }

    def is_shown(self, which: str) -> bool:
        """Whether `which` of `WHICH` asks for it."""
        right = list(self.right.values())
        return {
            "wrong": right[-1] is False,
            "right": right[-1] is True,
            "differ": len(set(right)) > 1,
            "missing": None in right,
            "all": True,
        }[which]


def examples(directory: Path) -> Iterator[Seen]:
    """The questions of a report, or of several below one directory. ReportError if there are none."""
    files = sorted(expanded(directory).glob("**/examples/*.jsonl"))
    if not files:
        raise ReportError(f"{directory} holds no report of fedllm evaluate (no examples/*.jsonl)")
    for file in files:
        # No splitlines(): an answer may hold other line separators than "\n", which JSON leaves as they are.
        for line in filter(None, file.read_text(encoding="utf-8").split("\n")):
            yield Seen(json.loads(line))


def show(directory: Path, which: str, limit: int, console: Console, sets: Sequence[str] = ()) -> None:
    """Print up to `limit` questions of every set, or of these `sets`, with all answers.

    Raises
    ------
    ReportError
        There is no report, or none of a set that is named.
    """
    printed: dict[str, int] = {}
    found: dict[str, int] = {}
    questions = list(examples(directory))
    there = dict.fromkeys(seen.line["set"] for seen in questions)
    if unknown := [name for name in sets if name not in there]:
        raise ReportError(f"--only: {directory} has no set {', '.join(unknown)}; there are {', '.join(there)}")
    for seen in questions:
        name = seen.line["set"]
        if sets and name not in sets:
            continue
        found.setdefault(name, 0)
        if not seen.is_shown(which):
            continue
        found[name] += 1
        if printed.get(name, 0) < limit:
            printed[name] = printed.get(name, 0) + 1
            _print(seen, console)
    for name, count in found.items():
        console.print(f"{name}: {count:,} {which}, {printed.get(name, 0):,} shown", highlight=False, markup=False)


def _print(seen: Seen, console: Console) -> None:
    line = seen.line
    group = f" ({line['group']})" if line["group"] else ""
    console.rule(_plain(f"{line['set']} {line['number']}{group}"))
    _say(console, "question", line["plain"] or line["question"])
    if line["follow_up"]:
        _say(console, "then", line["follow_up"])
    gold = line["gold"] if line["gold"] is not None else ""
    _say(console, "right", gold if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False))
    for name, given in line["models"].items():
        verdict = {True: "right", False: "wrong", None: given["missing"] or "not graded"}[seen.right[name]]
        text = " | ".join(given["texts"]) or ", ".join(f"{value:.2f}" for value in given["log_likelihoods"])
        _say(console, f"{name} ({verdict})", text)


def _say(console: Console, who: str, text: str) -> None:
    # A model's answer is not markup, and must not move the cursor or ring the bell.
    console.print(f"{_plain(who)}: {_plain(str(text))}", markup=False, highlight=False, soft_wrap=True, emoji=False)


def _plain(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
