"""The demo's figures by hand, and its figure as a file."""

import json

import numpy as np
import pytest

from fedllm_app.evaluation.compare import Comparison
from fedllm_app.runs.figures import plot_run, series


def test_mean_and_average_rank():
    """Two questions a domain. Accuracies: a = (1, .5, 0, .5), b = (.5, .5, 0, 1), c = (0, 0, 0, 0).

    Means .5, .5, 0. Ranks by domain, ties sharing their mean: a 1, 1.5, 2, 2; b 2, 1.5, 2, 1; c 3, 3, 2, 3.
    """
    hits = {"a": (2, 1, 0, 1), "b": (1, 1, 0, 2), "c": (0, 0, 0, 0)}
    domains = ("general", "math", "code", "finance")
    comparison = Comparison(
        {model: {d: np.arange(2) < n for d, n in zip(domains, counts, strict=True)} for model, counts in hits.items()}
    )
    assert [comparison.mean(model) for model in "abc"] == [0.5, 0.5, 0.0]
    assert [comparison.rank(model) for model in "abc"] == pytest.approx([6.5 / 4, 6.5 / 4, 11 / 4])


def test_figure_of_a_journal(tmp_path):
    """One series a client, by round; the figure is a PNG."""
    events = [
        {"event": kind, "round": r, "client": c, "name": name, field: 0.1 * r + c}
        for kind, field in (("client", "train_loss"), ("client-evaluation", "exact_match"))
        for r in (1, 2)
        for c, name in enumerate(("general", "math"))
    ]
    events.append({"event": "evaluation", "round": 2, "exact_match": 0.5})
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert series(events, "client", "train_loss") == {
        "client 0 (general)": [(1, 0.1), (2, 0.2)],
        "client 1 (math)": [(1, 1.1), (2, 1.2)],
    }
    plot_run(tmp_path, tmp_path / "figure.png", "a run")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
