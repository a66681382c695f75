"""Runs of one setting under several seeds, and the directories of comparisons and demos that hold them."""

import pytest
from run_material import write_run

from fedllm_app.report.gather import NoReport, gather
from fedllm_app.report.seeds import summary_lines
from fedllm_app.runs.overview import GRID_FILE, GRID_RUNS

FULL = {0: 0.0, 1: 0.1}


@pytest.fixture
def grid(tmp_path):
    """What `fedllm compare` leaves: fedavg reaches 0.5 and 0.7, clients alone 0.5 and 0.3."""
    out = tmp_path / "grid"
    for name, by_seed in {"local": {9: 0.5, 10: 0.3}, "fedavg": {9: 0.5, 10: 0.7}}.items():
        for seed, reached in by_seed.items():
            write_run(
                out / GRID_RUNS / f"{name}-seed-{seed}", strategy__name=name, run__seed=seed, exact=FULL | {2: reached}
            )
    (out / GRID_FILE).write_text("{}")
    (out / "answers").mkdir()
    return out


def test_the_directory_of_a_comparison_stands_for_its_runs(grid):
    """Seeds of one strategy in their order, clients alone last; a run that is named again is taken once."""
    data = gather([grid, grid / GRID_RUNS / "fedavg-seed-9"], [])
    assert [run.label for run in data.runs] == ["fedavg-seed-9", "fedavg-seed-10", "local-seed-9", "local-seed-10"]


def test_the_directory_of_a_demo_stands_for_its_runs(tmp_path):
    write_run(tmp_path / "demo" / "alone", strategy__name="local")
    write_run(tmp_path / "demo" / "federated")
    (tmp_path / "demo" / "comparison.json").write_text("{}")
    (tmp_path / "demo" / "link").symlink_to("federated")
    assert [run.label for run in gather([tmp_path / "demo"], []).runs] == ["federated", "alone"]


def test_a_folder_of_any_runs_is_refused(tmp_path):
    write_run(tmp_path / "run")
    with pytest.raises(NoReport, match="holds no run; name run directories"):
        gather([tmp_path], [])


def test_a_comparison_without_a_run_is_refused(tmp_path):
    (tmp_path / GRID_FILE).write_text("{}")
    with pytest.raises(NoReport, match="holds no run; name run directories"):
        gather([tmp_path], [])


def test_one_line_for_all_seeds_of_a_strategy(grid):
    """Fedavg 0.5 and 0.7: mean 0.6, deviation 0.1414. Better than alone by 0 and 0.4: mean 0.2, deviation 0.2828."""
    together, alone = summary_lines(gather([grid], []))
    assert together == (
        "fedavg, mean ± deviation over 2 seeds (9, 10): Held-out exact match 60.0 ± 14.1 % after round 2: 60.0 ± 14.1 "
        "points better than the base model (0.0 %) and 20.0 ± 28.3 points better than clients alone (40.0 %; within "
        "the deviation). Held-out loss 2 ± 0 after round 2: 3 ± 0 better than the base model (5) and the same as "
        "clients alone (2)."
    )
    assert alone.startswith("local, mean ± deviation over 2 seeds (9, 10): Held-out exact match 40.0 ± 14.1 % after")


def test_differences_that_cancel_each_other_out_are_not_the_same(tmp_path):
    """0.4 and 0.6 against 0.5 alone: 0 on average, and 0.1414 of deviation. Of losses no figure stands there twice."""
    losses = {0: 3.43, 1: 1.0, 2: 0.0002325}
    for seed, reached in ((1, 0.4), (2, 0.6)):
        write_run(tmp_path / f"avg-{seed}", run__seed=seed, exact=FULL | {2: reached}, losses=losses)
        write_run(tmp_path / f"alone-{seed}", run__seed=seed, strategy__name="local", exact=FULL | {2: 0.5})
    _, line = summary_lines(gather(sorted(tmp_path.iterdir()), []))
    assert "0.0 ± 14.1 points" in line
    assert "Held-out loss 0.000233 ± 0 after round 2: better than the base model (3.43) and" in line


def test_settings_have_a_line_each_that_says_what_differs(tmp_path):
    """What another strategy reads is no difference, nor what only another strategy's settings differ in."""
    for mu in (0.1, 0.5):
        for seed in (1, 2):
            own = {"strategy__name": "fedprox", "strategy__fedprox.mu": mu, "run__seed": seed}
            write_run(tmp_path / f"prox-{mu}-{seed}", **own)
    for seed in (1, 2):
        write_run(tmp_path / f"scaffold-{seed}", strategy__name="scaffold", run__seed=seed, lora__r=7)
    for seed, mu in ((1, 0.1), (2, 0.5)):
        write_run(tmp_path / f"avg-{seed}", run__seed=seed, **{"strategy__fedprox.mu": mu})
    names = [line.partition(", mean")[0] for line in summary_lines(gather(sorted(tmp_path.iterdir()), []))]
    assert names == ["fedavg", "fedprox, mu = 0.1", "fedprox, mu = 0.5", "scaffold"]


def test_a_seed_that_has_not_come_as_far_is_not_in_the_mean(tmp_path):
    """Nor is one that lacks a reference of the others: then nothing is said of that reference."""
    for seed in (1, 2):
        write_run(tmp_path / f"fedavg-seed-{seed}", run__seed=seed)
    write_run(tmp_path / "local-seed-1", run__seed=1, strategy__name="local")
    short = write_run(tmp_path / "fedavg-seed-3", run__seed=3, ends="")
    lines = (short / "journal.jsonl").read_text().splitlines(keepends=True)
    (short / "journal.jsonl").write_text("".join(line for line in lines if '"round": 2' not in line))
    together, third, alone = summary_lines(gather(sorted(tmp_path.iterdir()), []))
    assert together.startswith("fedavg, mean ± deviation over 2 seeds (1, 2): ")
    assert "alone" not in together
    assert third.startswith("fedavg-seed-3: Held-out exact match 25.0 % after round 1")
    assert alone.startswith("local-seed-1: ")


def test_the_same_seed_again_is_no_other_seed(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / name)
    assert [line.partition(":")[0] for line in summary_lines(gather(sorted(tmp_path.iterdir()), []))] == ["one", "two"]
