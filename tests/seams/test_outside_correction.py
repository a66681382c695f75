"""A correction from outside the package."""

import numpy as np
import pytest
import torch


def test_it_is_short(lines_of_code):
    assert lines_of_code("own_correction.py") <= 60


def test_its_arithmetic_by_hand():
    """Rows (1, 3) and (0, 4) lose their means, 2 and 2: (-1, 1) and (-2, 2). Of a norm √26, √10 are left.

    A vector is no matrix and stays as it is.
    """
    from own_correction import Centralized

    matrix, vector = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
    matrix.grad, vector.grad = torch.tensor([[1.0, 3.0], [0.0, 4.0]]), torch.tensor([5.0, 7.0])
    correction = Centralized.requested(None)
    correction.apply([matrix, vector])
    assert matrix.grad.tolist() == [[-1, 1], [-2, 2]]
    assert vector.grad.tolist() == [5, 7]
    arrays, numbers = correction.finish()
    assert arrays == {}
    assert numbers["centralized"] == pytest.approx((10 / 26) ** 0.5)


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_a_whole_run(run, task):
    """With SGD every row of B, which starts at zero, moves by what sums to zero; without the correction it does not."""
    options = {"train__task": task, "train__optimizer": "sgd", "train__learning_rate": 0.1, "train__rounds": 1}
    found = run("own", train__corrections="own_correction.Centralized", **options)
    plain = run("plain", **options)
    b = [name for name in found.tensors if "lora_B" in name]
    assert max(np.abs(found.tensors[name].mean(axis=1)).max() for name in b) < 1e-6
    assert max(np.abs(plain.tensors[name].mean(axis=1)).max() for name in b) > 1e-5
    shares = [event["centralized"] for event in found.events("client")]
    assert len(shares) == 3 and all(0 < share < 1 for share in shares)


def test_it_acts_beside_a_strategys_own(run):
    """SCAFFOLD asks for control variates, and the correction comes after them: both report."""
    found = run("own", train__corrections="own_correction.Centralized", strategy__name="scaffold")
    assert all("centralized" in event and event["control_reset"] == 0 for event in found.events("client"))
