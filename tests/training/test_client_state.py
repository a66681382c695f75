"""What a client keeps on its disk between rounds."""

import numpy as np

from fedllm_app.training.client_state import ClientState


def test_versions_of_names_that_begin_alike_are_kept_apart():
    """Keeping "control" at rounds 1 and 2 removes its round 0, and nothing of "control-delta"."""
    disk = ClientState("a" * 32, 0)
    for version in (0, 1, 2):
        disk.save_version("control-delta", version, np.ones(2), keep=version - 1)
    for version in (0, 1, 2):
        disk.save_version("control", version, np.ones(2), keep=version - 1)
    left = sorted(file.name for file in disk.directory.iterdir())
    assert left == ["control-1.npy", "control-2.npy", "control-delta-1.npy", "control-delta-2.npy"]
