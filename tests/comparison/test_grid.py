"""The cells of a comparison, their names, and whether a directory may be used again."""

import json
from pathlib import Path

import pytest

from fedllm_app.comparison.grid import GRID_FILE, BadGrid, ChangedGrid, held, make_grid
from fedllm_app.config.sections import ConfigError


def lines(cells):
    return list(dict.fromkeys(cell.line for cell in cells))


def test_strategies_times_settings_times_seeds(run_config):
    """2 strategies x 2 values x 2 seeds, the seeds outermost, so that what ends first can be compared."""
    cells = make_grid(run_config, ["fedavg", "local"], [3, 4], {"train.local-steps": [1, 2]}, Path("/out"))
    assert [cell.seed for cell in cells] == [3] * 4 + [4] * 4
    assert lines(cells) == [f"{name}, train.local-steps = {n}" for name in ("fedavg", "local") for n in (1, 2)]
    last = cells[-1]
    assert (last.flat["strategy.name"], last.flat["train.local-steps"], last.flat["run.seed"]) == ("local", 2, 4)
    assert last.directory == Path("/out/runs/local-train.local-steps=2-seed-4")
    assert len({cell.directory for cell in cells}) == 8


def test_a_setting_of_one_strategy_varies_with_that_one_alone(run_config):
    cells = make_grid(run_config, ["fedavg", "fedprox"], [1], {"strategy.fedprox.mu": [0.1, 1.0]}, Path("/out"))
    assert lines(cells) == ["fedavg", "fedprox, mu = 0.1", "fedprox, mu = 1.0"]


def test_arguments_are_those_of_the_class_that_they_were_for(run_config):
    own = "flwr.serverapp.strategy.FedAdam"
    base = run_config | {"strategy.name": own, "strategy.arguments": "eta=0.5"}
    cells = make_grid(base, [own, "fedavg"], [1], {}, Path("/out"))
    assert [cell.flat["strategy.arguments"] for cell in cells] == ["eta=0.5", ""]


def test_names_that_look_alike_have_directories_of_their_own(run_config):
    """A slash and a blank become the same character."""
    cells = make_grid(
        run_config,
        ["fedavg"],
        [1],
        {
            "data.partition-column": ["a/b", "a b"],
        },
        Path("/out"),
    )
    assert len({cell.directory.name for cell in cells}) == 2
    assert all(cell.directory.parent == Path("/out/runs") for cell in cells)


@pytest.mark.parametrize(
    ("strategies", "seeds", "settings", "told"),
    [
        (["fedavg", "fedavg"], [1], {}, "--strategies: fedavg is there twice"),
        (["fedavg"], [1, 1], {}, "--seeds: 1 is there twice"),
        (["fedavg"], [1], {"train.rounds": [2, 2]}, "--set train.rounds: 2 is there twice"),
        (["fedavg"], [1], {"run.seed": [2]}, "--set run.seed: this varies with --seeds"),
        (["fedavg"], [1], {"strategy.name": ["local"]}, "varies with --strategies"),
        (["fedavg"], [1], {"model.name": ["a", "b"]}, "one base model in one template"),
        (["fedavg"], [1], {"strategy.fedprox.mu": [0.1]}, "none of the strategies fedavg reads it"),
    ],
)
def test_what_contradicts_itself_is_refused(strategies, seeds, settings, told, run_config):
    with pytest.raises(BadGrid, match=told):
        make_grid(run_config, strategies, seeds, settings, Path("/out"))


def test_every_cell_is_checked_and_each_problem_told_once(run_config):
    with pytest.raises(ConfigError) as caught:
        make_grid(run_config, ["fedavg", "fedprxo"], [1, 2], {"train.rounds": [0, 1]}, Path("/out"))
    assert len(caught.value.problems) == 2
    assert "train.rounds = 0" in str(caught.value)
    assert "did you mean 'fedprox'" in str(caught.value)


def test_the_same_directory_needs_the_same_configuration(run_config, tmp_path):
    """Strategy and seed are the cells' own; every other value must be what it was."""
    with held(tmp_path / "out", run_config):
        pass
    with held(tmp_path / "out", run_config | {"strategy.name": "local", "run.seed": 7}):
        pass
    with (
        pytest.raises(ChangedGrid, match=r"train.rounds = 9: the comparison there has 2\n") as caught,
        held(tmp_path / "out", run_config | {"train.rounds": 9}),
    ):
        pytest.fail("it was let in")
    assert str(caught.value).count("  - ") == 1
    kept = json.loads((tmp_path / "out" / GRID_FILE).read_text())["configuration"]
    assert kept["train.rounds"] == 2


def test_a_directory_of_something_else_is_left_alone(run_config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ChangedGrid, match="not empty and holds no comparison"), held(tmp_path, run_config):
        pytest.fail("it was let in")
    with pytest.raises(ChangedGrid, match="no directory"), held(tmp_path / "notes.txt", run_config):
        pytest.fail("it was let in")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_comparisons_do_not_share_a_directory(run_config, tmp_path):
    with (
        held(tmp_path / "out", run_config),
        pytest.raises(ChangedGrid, match="in use"),
        held(tmp_path / "out", run_config),
    ):
        pytest.fail("it was let in")
    with held(tmp_path / "out", run_config):
        pass
