"""Runs whose clients and data try to be markup, and an evaluation of them."""

import json
from pathlib import Path

import pytest
from run_material import write_run

from fedllm_app.evaluation.results import Figure, Paired, Report
from fedllm_app.evaluation.saved import REPORT_FILE
from fedllm_app.evaluation.tables import json_text

EVIL = "<script>document.title='owned'</script>"
IMAGE = '"><img src=x onerror="document.title=1">'
LINK = "<a href='javascript:document.title=1'>x</a>"


def write_evaluation(directory: Path, models: dict[str, str]) -> Path:
    """What `fedllm evaluate` writes: one set of ten questions, the first model right in two, the second in six."""
    figures = [
        Figure(EVIL, "exact match", model, share, share - 0.1, share + 0.2, 10, seed=0)
        for model, share in zip(models, (0.2, 0.6), strict=True)
    ]
    figures.append(Figure(EVIL, "perplexity", next(iter(models)), float("inf"), None, None, 10, seed=0, percent=False))
    first, second = models
    paired = (Paired(EVIL, "exact match", first, second, 0.4, 0.1, 0.7, 0.03, "McNemar", 10, 0),)
    report = Report(f"own {IMAGE}", models, tuple(figures), paired, (f"a note {EVIL}",), {}, {}, {}, {})
    (directory / "examples").mkdir(parents=True)
    (directory / REPORT_FILE).write_text(json_text(report))
    lines = [
        {
            "set": EVIL,
            "number": number,
            "group": "",
            "turns": [],
            "question": f"question {number} {IMAGE}",
            "plain": "",
            "follow_up": "",
            "choices": [],
            "gold": f"= {number}",
            "headline": "exact",
            "models": {
                first: {"texts": ["no"], "log_likelihoods": [], "values": {"exact": 0.0}, "labels": {}, "missing": ""},
                second: {
                    "texts": [f"= {number} {EVIL}"],
                    "log_likelihoods": [],
                    "values": {"exact": float(number == 4)},
                    "labels": {},
                    "missing": "",
                },
            },
        }
        for number in range(5)
    ]
    (directory / "examples" / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


@pytest.fixture
def evil_runs(tmp_path) -> list[Path]:
    """A federated run and one alone. Names, reasons, data and an answer are markup."""
    names = {0: EVIL, 1: f"{LINK}%{{x}}"}
    data = f"/data/{IMAGE.replace('/', '')}.csv"
    together = write_run(
        tmp_path / "runs" / "together", names=names, refused={(1, 1): f"because {IMAGE}"}, data__name=data
    )
    alone = write_run(
        tmp_path / "runs" / "alone",
        names=names,
        refused={},
        data__name=data,
        strategy__name="local",
        exact={0: 0.0, 1: 0.1, 2: 0.25},
        losses={0: 5.0, 1: 4.0, 2: 3.0},
    )
    return [together, alone]


@pytest.fixture
def evaluation(evil_runs, tmp_path) -> Path:
    """A saved evaluation of the base and of the first run."""
    models = {"base": "the base model alone", f"together {EVIL}": str(evil_runs[0] / "adapter")}
    return write_evaluation(tmp_path / "evaluations" / "one", models)
