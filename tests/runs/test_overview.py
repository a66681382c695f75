"""The runs on a disk: found, told apart by how they ended, and deleted only where that is safe."""

import os

import pytest
from run_material import write_run

from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.interruption import REASON, STOPPED, journal_interruption
from fedllm_app.runs.overview import (
    NotDeleted,
    alone_beside,
    delete_run,
    directory_size,
    find_runs,
    is_running,
    overview,
)


def test_a_finished_run(tmp_path):
    found = overview(write_run(tmp_path / "run", data__name="/data/rows.csv"))
    assert (found.strategy, found.data, found.done, found.asked) == ("fedavg", "/data/rows.csv", 2, 2)
    assert (found.state, found.reason, found.metric) == ("finished", "", ("exact match", 0.5))
    assert found.ended >= found.began > 0


@pytest.mark.parametrize(
    ("ends", "state", "reason"),
    [
        ("RunFailed: round 1: nobody answered", "failed", "RunFailed: round 1: nobody answered"),
        (STOPPED, "stopped", STOPPED),
        (REASON, "stopped", REASON),
        ("", "stopped", "its processes ended without a word"),
    ],
)
def test_how_a_run_ended(tmp_path, ends, state, reason):
    found = overview(write_run(tmp_path / "run", ends=ends))
    assert (found.state, found.reason) == (state, reason)


def test_a_run_that_goes_on_after_a_failure(tmp_path):
    """What the first attempt said is no end any more."""
    path = write_run(tmp_path / "run", ends="out of memory")
    RunDirectory(path).journal(
        "resumed", run="a" * 32, run_id="6", round=2, again=0, rounds=3, strategy="fedavg", code="c"
    )
    assert overview(path).state == "stopped"
    with RunDirectory(path).held():
        assert overview(path).state == "running"


def test_a_run_is_running_as_long_as_its_directory_is_held(tmp_path):
    """Looking leaves no lock behind, and makes no file."""
    path = write_run(tmp_path / "run", ends="")
    before = sorted(os.listdir(path))
    assert not is_running(path)
    assert sorted(os.listdir(path)) == before
    with RunDirectory(path).held():
        assert is_running(path)
        assert overview(path).state == "running"
    assert not is_running(path)
    with RunDirectory(path).held():  # nobody else holds it
        pass


def test_runs_are_found_here_and_one_level_below(tmp_path):
    """As those of a demo. Links, other directories and files are no runs; a place may be named twice, or be a run."""
    demo = tmp_path / "runs" / "20260101-demo"
    first = write_run(tmp_path / "runs" / "first")
    inner = [write_run(demo / name) for name in ("federated", "alone")]
    elsewhere = write_run(tmp_path / "elsewhere")
    (tmp_path / "runs" / "linked").symlink_to(elsewhere)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "notes" / "journal.jsonl").write_text("{}\n")
    (tmp_path / "runs" / "file").write_text("x")
    assert sorted(find_runs([tmp_path / "runs", tmp_path / "runs"])) == sorted([first, *inner])
    assert find_runs([first]) == [first]
    assert find_runs([tmp_path / "nowhere"]) == []


def test_runs_of_a_comparison_are_found(tmp_path):
    """They lie one level deeper than those of a demo; a directory without `grid.json` is no comparison."""
    cell = write_run(tmp_path / "runs" / "comparison" / "runs" / "fedavg-seed-42")
    (tmp_path / "runs" / "comparison" / "grid.json").write_text("{}")
    write_run(tmp_path / "runs" / "kept" / "runs" / "old")
    assert find_runs([tmp_path / "runs"]) == [cell]
    assert find_runs([tmp_path / "runs" / "comparison"]) == [cell]


def test_a_run_that_failed_before_it_had_a_configuration(tmp_path):
    """`fedllm run` had made and held its directory, and the journal says that its processes were ended."""
    with RunDirectory(tmp_path / "run").held():
        pass
    assert journal_interruption(tmp_path / "run")
    assert find_runs([tmp_path]) == [tmp_path / "run"]
    found = overview(tmp_path / "run")
    assert (found.state, found.reason, found.strategy, found.asked) == ("stopped", REASON, "", 0)


def test_a_damaged_run_is_told_and_hides_no_other(tmp_path):
    damaged = write_run(tmp_path / "damaged")
    (damaged / "journal.jsonl").write_text("[1, 2]\n")
    found = overview(damaged)
    assert found.state == "unreadable"
    assert "its files cannot be read" in found.reason


def test_the_size_counts_files_and_no_links(tmp_path):
    (tmp_path / "run" / "inner").mkdir(parents=True)
    (tmp_path / "run" / "inner" / "a").write_bytes(b"x" * 700)
    (tmp_path / "large").write_bytes(b"x" * 9000)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "large")
    assert 700 <= directory_size(tmp_path / "run") < 1500


def test_deleting_a_run(tmp_path):
    """What a link in it names stays."""
    run, kept = write_run(tmp_path / "run"), tmp_path / "kept"
    kept.mkdir()
    (kept / "weights").write_text("w")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "linked").symlink_to(kept)
    (run / "link").symlink_to(kept)
    delete_run(run)
    assert not run.exists()
    assert (kept / "weights").read_text() == "w"


def test_what_is_not_deleted(tmp_path):
    """A run that goes on, a link to a run, and a directory that is no run."""
    run, other = write_run(tmp_path / "run"), tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(run)
    with RunDirectory(run).held(), pytest.raises(NotDeleted, match="stop it first"):
        delete_run(run)
    for path in (other, tmp_path / "link", tmp_path / "nowhere"):
        with pytest.raises(NotDeleted, match="is no run directory"):
            delete_run(path)
    assert (run / "config.json").is_file()
    assert (other / "config.json").is_file()


def test_an_interrupted_deletion_leaves_a_run(tmp_path, monkeypatch):
    """So that it can be deleted again: the last step, which removes configuration and journal, does not happen."""
    run = write_run(tmp_path / "run")
    (run / "adapter").mkdir()

    def interrupted(path):
        if os.fspath(path) == os.fspath(run):
            raise KeyboardInterrupt
        os.rmdir(path)

    with monkeypatch.context() as patched:
        patched.setattr("fedllm_app.runs.overview.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            delete_run(run)
    assert find_runs([tmp_path]) == [run]
    assert not (run / "adapter").exists()
    delete_run(run)
    assert not run.exists()


def test_the_run_in_which_clients_train_alone(tmp_path):
    """Beside it, finished, of the same experiment, and the newest."""
    together = write_run(tmp_path / "together")
    assert alone_beside(together) is None
    for number, (name, config, ends) in enumerate(
        [
            ("older", {"strategy__name": "local"}, "finished"),
            ("newer", {"strategy__name": "local"}, "finished"),
            ("failed", {"strategy__name": "local"}, "out of memory"),
            ("other-rows", {"strategy__name": "local", "data__seed": 8}, "finished"),
            ("other-seed", {"strategy__name": "local", "run__seed": 8}, "finished"),
            ("other-strategy", {"strategy__name": "fedprox"}, "finished"),
        ]
    ):
        path = write_run(tmp_path / name, ends=ends, **config)
        os.utime(path / "journal.jsonl", (1000 + number, 1000 + number))
    assert alone_beside(together) == tmp_path / "newer"
    assert alone_beside(tmp_path / "newer") is None
