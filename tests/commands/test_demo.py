"""The demo's figures by hand."""

import numpy as np
import pytest

from fedllm_app.evaluation.compare import Comparison


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
