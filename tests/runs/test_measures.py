"""Series by round, from lines of a journal written by hand."""

import pytest

from fedllm_app.runs.measures import (
    INTERVAL,
    SPREAD,
    headline_metric,
    held_out,
    metric_labels,
    metric_text,
    number,
    share_interval,
    training,
)


def test_the_interval_of_a_share():
    """Wilson, z = 1.96, n = 10: of one half, (0.5 + 0.1921 ± 1.96 √(0.025 + 0.0096)) / 1.3841 = 0.5 ± 0.2634; of none,
    from 0 to 0.3842 / 1.3842 = 0.2775."""
    assert share_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert share_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_a_share_is_pooled_over_the_rows_of_the_clients():
    """0.25 of 8 rows and 1 of 2: 4 of 10, whose interval is [0.1682, 0.6873]."""
    events = [
        {"event": "client-evaluation", "round": 1, "client": 0, "exact_match": 0.25, "num_examples": 8},
        {"event": "client-evaluation", "round": 1, "client": 1, "exact_match": 1.0, "num_examples": 2},
        {"event": "evaluation", "round": 1, "exact_match": 0.4},
    ]
    (point,) = held_out(events, "exact_match", "exact match").points
    assert (point.value, point.clients) == (0.4, {0: 0.25, 1: 1.0})
    assert (point.low, point.high) == pytest.approx((0.1682, 0.6873), abs=1e-4)
    assert held_out(events, "exact_match", "").band == INTERVAL


def test_losses_have_the_spread_over_the_clients():
    """Of a client that was asked twice, the last reply counts. Without a line of the round, the mean of the clients."""
    events = [
        {"event": "client", "round": 1, "client": 0, "train_loss": 9.0},
        {"event": "client", "round": 1, "client": 0, "train_loss": 1.0},
        {"event": "client", "round": 1, "client": 1, "train_loss": 2.0},
        {"event": "client", "round": 2, "client": 1, "train_loss": float("nan")},
        {"event": "round", "round": 2, "train_loss": None},
    ]
    series = training(events)
    first, second = series.points
    assert (first.value, first.low, first.high) == (1.5, 1.0, 2.0)
    assert (second.value, second.low, second.clients) == (None, None, {})
    assert (series.band, series.first, series.last.round) == (SPREAD, None, 1)


@pytest.mark.parametrize("value", [None, True, "1", float("inf"), [1.0]])
def test_only_finite_numbers_are_numbers(value):
    assert number(value) is None


def test_the_metric_that_says_most():
    """A share before a loss; of raw text, the loss."""
    assert headline_metric(metric_labels({"train.task": "sft"}), ["eval_loss", "exact_match"]) == "exact_match"
    assert headline_metric(metric_labels({"train.task": "dpo"}), ["eval_loss", "reward_accuracy"]) == "reward_accuracy"
    assert headline_metric(metric_labels({"train.task": "text"}), ["perplexity", "eval_loss"]) == "eval_loss"
    assert headline_metric(metric_labels({"train.task": "own.SPEC"}), ["eval_loss"]) == "eval_loss"
    assert headline_metric(metric_labels({}), []) == ""


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("exact_match", 0.3125, "31.2 %"),
        ("exact match", 0.5, "50.0 %"),
        ("test_reward_accuracy", 1.0, "100.0 %"),
        ("eval_loss", 0.25, "0.250"),
        ("loss", None, "-"),
    ],
)
def test_a_share_is_shown_in_percent(metric, value, said):
    """By its key in the journal, by its label, and of a test set."""
    assert metric_text(metric, value) == said
