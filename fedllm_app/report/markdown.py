"""The report as Markdown: the same sections, without figures."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from fedllm_app.report.figures import Figure
from fedllm_app.report.gather import ReportData
from fedllm_app.report.sections import Block, Code, Notes, Samples, sections, subtitle_of, title_of
from fedllm_app.report.tables import Table

_SPECIAL = re.compile(r"([\\`*_\[\]|~<>&$])")
_LEADING = re.compile(r"^(?:#+(?=\s)|[-+](?=\s|$)|-+$|=+$|\d+(?=[.)]\s))")


def markdown(data: ReportData, written: datetime) -> str:
    """The report. Whatever comes from clients or data is text in it: characters that mean something are escaped."""
    lines = [f"# {text(title_of(data))}", "", text(subtitle_of(data)), ""]
    for section in sections(data):
        blocks = [block for block in section.blocks if not isinstance(block, Figure)]
        if blocks:
            lines += [f"## {text(section.title)}", ""]
            for block in blocks:
                lines += [*_block(block, section.title), ""]
    return "\n".join([*lines, f"Written by fedllm report on {written:%Y-%m-%d %H:%M}.", ""])


def text(words: str) -> str:
    """Words as they stand, on one line."""
    return _LEADING.sub(_escaped, _SPECIAL.sub(r"\\\1", " ".join(str(words).split())))


def _escaped(found: re.Match) -> str:
    """A beginning that would make a heading, a list or a rule."""
    return f"{found[0]}\\" if found[0].isdecimal() else f"\\{found[0]}"


def _block(block: Block, section: str) -> Iterator[str]:
    if isinstance(block, Table):
        yield from _titled(block.title if block.title != section else "")
        yield from _table(block)
    elif isinstance(block, Notes):
        yield from _titled(block.title)
        yield from (line for note in block.lines for line in _note(note))
    elif isinstance(block, Samples):
        yield from _samples(block)
    elif isinstance(block, Code):
        yield from _titled(block.title)
        yield from _fenced(block.text, "sh")


def _titled(title: str) -> Iterator[str]:
    if title:
        yield f"### {text(title)}"
        yield ""


def _note(note: str) -> Iterator[str]:
    """A note as a point of a list, its further lines, such as the reasons of clients, as points below it."""
    first, *others = filter(str.strip, note.splitlines())
    yield f"- {text(first)}"
    yield from (f"  - {text(line)}" for line in others)


def _table(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield "| " + " | ".join("---:" if place in table.numeric else "---" for place in range(len(table.columns))) + " |"
    for place, row in enumerate(table.rows):
        yield _row(
            [f"**{text(cell)}**" if (place, n) in table.best else text(cell) for n, cell in enumerate(row)], True
        )
    if table.about:
        yield ""
        yield text(table.about)


def _row(cells: Sequence[str], ready: bool = False) -> str:
    return "| " + " | ".join(cell if ready else text(cell) for cell in cells) + " |"


def _samples(block: Samples) -> Iterator[str]:
    yield from _titled(block.title)
    for sample in block.samples:
        yield (f"**{text(sample.set)}**: " if sample.set else "") + text(sample.question)
        yield ""
        if sample.gold:
            yield f"- right: {text(sample.gold)}"
        for answer in sample.answers:
            verdict = {True: " (right)", False: " (wrong)", None: ""}[answer.right]
            yield f"- {text(answer.model)}{verdict}: {text(answer.text)}"
        yield ""


def _fenced(code: str, language: str) -> Iterator[str]:
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{language}"
    yield code
    yield fence
