"""What a model card needs to know of an adapter, gathered from its run and from saved evaluations."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedllm_app.adapters.peft_directory import weights_file
from fedllm_app.adapters.start import read_settings
from fedllm_app.errors import UserError
from fedllm_app.paths import expanded, home
from fedllm_app.runs.card import Base, CardFacts
from fedllm_app.runs.checkpoints import FOLDER, checkpoint_round
from fedllm_app.runs.directory import PromptRecord, read_result, read_run_config, run_of
from fedllm_app.runs.journal import read_journal

_REPORT = "report.json"
_PACKAGES = ("fedllm-app", "torch", "transformers", "peft")

Evaluation = tuple[Mapping[str, object], str]


class NoEvaluation(UserError):
    """A directory holds no saved evaluation of the model."""


def gather_facts(
    adapter: Path,
    title: str,
    base: Base,
    prompt: PromptRecord | None,
    use: Sequence[str],
    merged: str = "",
    evaluations: Sequence[Evaluation] = (),
) -> CardFacts:
    """What is known of an adapter, the absolute path of a PEFT directory; for the rest see `CardFacts`."""
    run = run_of(adapter)
    checkpoint = adapter.parent if adapter.parent.parent.name == FOLDER else None
    client = adapter.name.removeprefix("client-") if adapter.parent.name == "adapters" else ""
    return CardFacts(
        title,
        base,
        read_settings(adapter),
        prompt,
        tuple(use),
        merged,
        config=read_run_config(run) if run else None,
        result=read_result(run) if run and not checkpoint else None,
        journal=read_journal(run) if run else (),
        server_round=checkpoint_round(checkpoint) if run and checkpoint else None,
        client=int(client) if run and client.isdecimal() else None,
        evaluations=tuple(evaluations),
        versions={
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    )


def saved_evaluations(adapter: Path, named: Sequence[Path] = ()) -> list[Evaluation]:
    """The saved reports of `fedllm evaluate` in which an adapter was asked, and its name there.

    They are looked for in the `named` directories; if there are none, in FEDLLM_HOME/evaluations and in the run
    directory, where those that are older than the adapter are of an earlier end of the run. Of each suite the newest
    counts.

    Raises
    ------
    NoEvaluation
        A named directory holds no report, a broken one, or none of this adapter.
    """
    found: list[Evaluation] = []
    for directory in named:
        reports = [_read(file) for file in sorted(expanded(directory).glob(f"**/{_REPORT}"))]
        if not reports:
            raise NoEvaluation(f"--evaluation {directory}: holds no report of fedllm evaluate ({_REPORT})")
        own = [pair for report in reports for pair in _of(report, adapter)]
        if not own:
            models = sorted({what for report in reports for what in report["models"].values()})
            raise NoEvaluation(
                f"--evaluation {directory}: {adapter} was not asked there, but {', '.join(models)}; evaluate it with "
                "fedllm evaluate"
            )
        found += own
    trained = weights_file(adapter).stat().st_mtime
    for directory in () if named else filter(None, (home() / "evaluations", run_of(adapter))):
        for file in sorted(directory.glob(f"**/{_REPORT}")):
            if file.stat().st_mtime < trained:
                continue
            try:
                found += _of(_read(file), adapter)
            except NoEvaluation:  # of something else, or of a command that was killed: nobody named it
                continue
    newest: dict[str, Evaluation] = {}
    for report, name in sorted(found, key=lambda pair: str(pair[0]["settings"].get("time", ""))):
        newest[str(report["suite"])] = report, name
    return [newest[suite] for suite in sorted(newest)]


def _read(file: Path) -> dict:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(report, dict) and isinstance(report["models"], dict) and report.keys() >= {"figures", "settings"}:
            return report
    except (ValueError, KeyError, OSError) as error:
        raise NoEvaluation(f"{file} cannot be read as a report of fedllm evaluate: {error}") from error
    raise NoEvaluation(f"{file} is no report of fedllm evaluate")


def _of(report: Mapping, adapter: Path) -> list[Evaluation]:
    return [(report, name) for name, what in report["models"].items() if what == str(adapter)]
