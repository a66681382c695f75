"""What a process finds out about its machine."""

import pytest

from fedllm_app.models import hardware


@pytest.mark.parametrize(
    "driver, visible, hidden",
    [
        (True, "", True),  # what Ray sets for a worker that asked for no GPU
        (True, None, False),
        (True, "0", False),
        (False, "", False),
    ],
)
@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_hidden_gpus(driver, visible, hidden, name, monkeypatch, tmp_path):
    for other in hardware._VISIBLE:
        monkeypatch.delenv(other, raising=False)
    if visible is not None:
        monkeypatch.setenv(name, visible)
    monkeypatch.setattr(hardware, "_DRIVERS", (str(tmp_path if driver else tmp_path / "nowhere"),))
    assert hardware.gpus_are_hidden() == hidden
