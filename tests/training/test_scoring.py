"""Which held-out rows an evaluation asks."""

import numpy as np
import pytest

from fedllm_app.training.scoring import asked_rows


@pytest.mark.parametrize("examples", [30, 31, 1000])
def test_all_rows_are_asked_if_so_many_are_wanted(examples):
    assert asked_rows(30, examples).tolist() == list(range(30))


def test_some_rows_are_drawn_from_all_and_the_same_every_time():
    """Of 100 rows in the order of their class, as in a sorted file, 20 are asked: not the first 20, which are of one
    class. Drawn at random, a half has 10 of them, and 4 to 16 with a probability of 0.998."""
    asked = asked_rows(100, 20)
    assert asked.tolist() == asked_rows(100, 20).tolist() == sorted(set(asked.tolist()))
    assert len(asked) == 20 and asked[0] >= 0 and asked[-1] < 100
    assert 4 <= np.sum(asked < 50) <= 16
