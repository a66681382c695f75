"""What a client keeps on its disk between rounds."""

import os

import numpy as np

from fedllm_app.training.client_state import ClientState, end_run
from fedllm_app.training.references import ReferenceCache

ONE = np.ones(2)


def versions(state: ClientState) -> list[str]:
    return sorted(file.name for file in state.directory.iterdir())


def test_versions_of_names_that_begin_alike_are_kept_apart():
    """Keeping "control" at rounds 1 and 2 removes its round 0, and nothing of "control-delta"."""
    disk = ClientState("a" * 32, 0)
    for version in (0, 1, 2):
        disk.save_version("control-delta", version, np.ones(2), keep=version - 1)
    for version in (0, 1, 2):
        disk.save_version("control", version, np.ones(2), keep=version - 1)
    left = sorted(file.name for file in disk.directory.iterdir())
    assert left == ["control-1.npy", "control-2.npy", "control-delta-1.npy", "control-delta-2.npy"]


def test_versions_of_checkpoints_are_kept():
    """A checkpoint names version 2, so it stays while the client goes on to 5; then the next names 4."""
    for version in (1, 2, 3, 4, 5):
        ClientState("b" * 32, 0, [2]).save_version("error", version, ONE, keep=version - 1)
    assert versions(ClientState("b" * 32, 0)) == ["error-2.npy", "error-4.npy", "error-5.npy"]
    ClientState("b" * 32, 0, [2, 4]).save_version("error", 6, ONE, keep=5)
    ClientState("b" * 32, 0, [4, 6]).save_version("error", 7, ONE, keep=6)
    assert versions(ClientState("b" * 32, 0)) == ["error-4.npy", "error-6.npy", "error-7.npy"]


def test_of_an_ended_run_the_accepted_versions_stay(app_home):
    """The server accepted client 0's reply of round 3, not that of round 4; client 1's last was of round 2."""
    for client, last in ((0, 4), (1, 2)):
        state = ClientState("c" * 32, client)
        state.keep("reference", ONE)
        for version in range(1, last + 1):
            state.save_version("control", version, ONE, keep=version - 1)
    end_run("c" * 32, [3, 2])
    assert versions(ClientState("c" * 32, 0)) == ["control-3.npy", "reference.npy"]
    assert versions(ClientState("c" * 32, 1)) == ["control-2.npy", "reference.npy"]
    assert (app_home / "clients" / ("c" * 32) / "ended").exists()
    end_run("d" * 32, [1])  # nothing of it is here
    assert not (app_home / "clients" / ("d" * 32)).exists()


def test_the_state_of_old_runs_is_removed(app_home):
    """Sixteen runs that have not ended, four that have: the last used ones. A run that goes on has not ended."""

    def used(number: int) -> None:
        state = ClientState(f"{number:032x}", 0)
        state.save_version("control", 1, ONE, keep=0)
        os.utime(state.directory.parent, (number, number))

    for number in range(1, 7):
        used(number)
        end_run(f"{number:032x}", [1])
        os.utime(app_home / "clients" / f"{number:032x}", (number, number))
    used(3)
    for number in range(10, 25):
        used(number)
    left = sorted(int(run.name, 16) for run in (app_home / "clients").iterdir())
    assert left == [3, 4, 5, 6, *range(10, 25)]
    used(25)
    assert sorted(int(run.name, 16) for run in (app_home / "clients").iterdir()) == [4, 5, 6, *range(10, 26)]


def test_a_damaged_array_is_lost(app_home):
    """What a power cut leaves is nothing to train with, and no reason to fail."""
    state = ClientState("e" * 32, 0)
    state.save_version("control", 1, ONE, keep=0)
    state.keep("reference", ONE)
    (state.directory / "control-1.npy").write_bytes(b"")
    (state.directory / "reference.npy").write_bytes((state.directory / "reference.npy").read_bytes()[:-3])
    assert state.load_version("control", 1) is None
    assert state.kept("reference") is None


def test_damaged_log_probabilities_of_a_reference_are_computed_again(app_home):
    cache = ReferenceCache(["a model", "rows"], rows=3)
    cache.put(np.arange(3), np.full((3, 2), -1.5))
    np.testing.assert_array_equal(ReferenceCache(["a model", "rows"], rows=3).values, -1.5)
    cache.path.write_bytes(cache.path.read_bytes()[:-5])
    assert ReferenceCache(["a model", "rows"], rows=3).missing(np.arange(3)).tolist() == [0, 1, 2]
