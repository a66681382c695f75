"""Intervals and paired tests, against numbers worked out by hand."""

import numpy as np
import pytest

from fedllm_app.evaluation.statistics import mcnemar, mean_resamples, paired_p, percentiles, resamples, wilson


def test_wilson():
    """8 of 10, z = 1.95996, z² = 3.8415: centre (0.8 + 3.8415/20)/(1 + 0.38415) = 0.71674; half width
    1.95996 √(0.8·0.2/10 + 3.8415/400)/(1.38415) = 1.95996 · √0.0256037/1.38415 = 0.22658."""
    interval = wilson(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.71674 - 0.22658, 0.71674 + 0.22658), abs=1e-4)


def test_wilson_of_nothing_says_nothing():
    interval = wilson(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_mcnemar():
    """One question that only the first gets right, five that only the second does: 2 (C(6,0) + C(6,1))/2⁶ = 14/64."""
    first = np.array([True] + [False] * 5 + [True] * 10)
    second = np.array([False] + [True] * 5 + [True] * 10)
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(first, first) == 1.0


def test_the_bootstrap_of_a_mean():
    """400 values 0 and 1, half and half: the mean's standard error is 0.5/√400 = 0.025, the interval 0.5 ± 1.96 · 0.025
    = [0.451, 0.549]."""
    interval = percentiles(mean_resamples(np.tile([0.0, 1.0], 200), 0))
    assert (interval.low, interval.high) == pytest.approx((0.451, 0.549), abs=0.005)


def test_models_on_as_many_questions_are_resampled_alike():
    """Else the difference of two models would not be paired: of equal values it must be zero in every resample."""
    values = np.arange(30.0)
    np.testing.assert_array_equal(mean_resamples(values, 3), mean_resamples(values, 3))
    np.testing.assert_allclose(mean_resamples(values + 1, 3) - mean_resamples(values, 3), 1.0)
    largest = resamples(lambda places: values[places].max(), 30, 3)
    assert len(set(largest)) > 1
    np.testing.assert_array_equal(largest, resamples(lambda places: values[places].max(), 30, 3))


def test_paired_p():
    """Of 99 resampled differences 2 are below zero: 2 (2 + 1)/100. All above: 2 · 1/100, never 0. All zero: 1."""
    assert paired_p(np.array([-1.0] * 2 + [1.0] * 97), 50) == pytest.approx(0.06)
    assert paired_p(np.ones(99), 50) == pytest.approx(0.02)
    assert paired_p(np.zeros(99), 50) == 1.0


def test_few_questions_prove_nothing():
    """All 99 above zero would be 0.02. By exchange, 2 of 2^n arrangements are as extreme: 1, 1/4, 1/16 of 1, 3, 5."""
    assert [paired_p(np.ones(99), n) for n in (1, 3, 5)] == [1.0, 0.25, 0.0625]
    assert paired_p(np.ones(99), 14_000) == pytest.approx(0.02)


def test_a_difference_that_is_no_number_proves_nothing():
    assert paired_p(np.full(99, np.nan), 50) == 1.0
    assert paired_p(np.full(99, np.inf), 50) == pytest.approx(0.02)


def test_models_that_are_the_same_do_not_differ():
    """The same values resampled alike: every difference is zero, p is 1."""
    values = np.arange(40.0)
    assert paired_p(mean_resamples(values, 5) - mean_resamples(values.copy(), 5), 40) == 1.0
