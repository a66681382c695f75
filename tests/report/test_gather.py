"""What a report reads of runs: phases, participation, references, differences."""

import json

import pytest
from run_material import write_run

from fedllm_app.report.figures import held_out_figures
from fedllm_app.report.gather import NoReport, gather, unique_labels
from fedllm_app.report.headline import headline, sentence, three_digits
from fedllm_app.report.participants import NOT_ASKED, REFUSED, TOOK_PART
from fedllm_app.report.phases import covered, phases
from fedllm_app.report.tables import summary_table
from fedllm_app.runs.directory import RunDirectory, keep_federation
from fedllm_app.runs.journal import read_journal


def test_phases_of_a_run(tmp_path):
    """Round 1 has one client, which trains from 1 to 5 s after sending: 4 of 8 s of waiting. Round 2 has two, the other
    from 5 to 9: the 8 s of waiting are all training.

    start 20 − 12 = 8, load 12, send 2 · 1, train 4 + 8, wait 4 + 0, aggregate 2 · 1, checkpoint 2 · 0.5, evaluate
    3 · 3, and of 60 s in all 10 are left.
    """
    (run,) = gather([write_run(tmp_path / "run")]).runs
    assert run.seconds == pytest.approx(
        {
            "start": 8.0,
            "load": 12.0,
            "send": 2.0,
            "train": 12.0,
            "wait": 4.0,
            "aggregate": 2.0,
            "checkpoint": 1.0,
            "evaluate": 9.0,
            "other": 10.0,
        }
    )


def test_a_client_that_trains_while_others_are_sent_their_messages():
    """Sending takes 3 s; the first client has trained for 2 s when it ends, and 0.5 s later its reply comes."""
    events = [
        {"event": "client", "round": 1, "client": 0, "seconds": 2.5, "reply_seconds": 0.5},
        {
            "event": "round",
            "round": 1,
            "send_seconds": 3.0,
            "wait_seconds": 1.0,
            "aggregate_seconds": 0.0,
            "seconds": 4.0,
        },
    ]
    assert phases(events, None) == {"send": 1.0, "train": 2.5, "wait": 0.5, "aggregate": 0.0}


def test_rounds_of_an_earlier_version_stay_whole():
    assert phases([{"event": "ready", "seconds": 5.0}, {"event": "round", "round": 1, "seconds": 7.0}], 14.0) == {
        "start": 5.0,
        "rounds": 7.0,
        "other": 2.0,
    }


def test_the_union_of_spans():
    assert covered([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (5.0, 5.5)]) == 5.0


def test_who_took_part(tmp_path):
    """South was refused in round 1. North says in both rounds that it had lost its control variate."""
    (run,) = gather([write_run(tmp_path / "run")]).runs
    north, south = run.clients
    assert (north.drawn, north.took_part, north.refused, north.resets, north.lost) == (2, 2, 0, 2, "control variate")
    assert (south.took_part, south.refused, south.last_reason, south.resets) == (1, 1, "it ran out of memory", 0)
    assert run.attendance.fates == {0: (TOOK_PART, TOOK_PART), 1: (REFUSED, TOOK_PART)}
    (refusal,) = run.refusals
    assert (refusal.client, refusal.rounds, refusal.reason) == (1, (1,), "it ran out of memory")
    assert (south.bytes_up, south.bytes_down, south.seconds, south.peak_memory_mb) == (500, 4000, 4.0, 101.0)


def test_a_run_that_goes_on_is_counted_from_its_rounds(tmp_path):
    """No event at the end says who took part, and nobody wrote a result."""
    path = write_run(tmp_path / "run", ends="")
    RunDirectory(path).journal("round-started", round=3, clients=[0, 1], learning_rate=0.1)
    (run,) = gather([path]).runs
    assert [(row.drawn, row.took_part, row.refused) for row in run.clients] == [(3, 2, 0), (3, 1, 1)]
    assert run.attendance.fates[0] == (TOOK_PART, TOOK_PART, NOT_ASKED)
    assert (run.total_seconds, run.traffic.down, run.traffic.up) == (None, 8000, 2000)
    assert "other" not in run.seconds


def test_the_headline_compares_with_base_and_clients_alone(tmp_path):
    """0.5 exact after round 2, 0 before round 1, 0.25 alone; the loss fell from 5 to 2, alone to 3."""
    data = gather(
        [
            write_run(tmp_path / "together"),
            write_run(
                tmp_path / "alone", strategy__name="local", exact={0: 0, 1: 0.1, 2: 0.25}, losses={0: 5, 1: 4, 2: 3}
            ),
        ]
    )
    together, alone = data.runs
    found = headline(data, together)
    assert (found.series.metric, found.value, found.round) == ("exact_match", 0.5, 2)
    assert [(gain.name, gain.value, gain.better) for gain in found.gains] == [
        ("base", 0.0, 0.5),
        ("clients alone", 0.25, 0.25),
    ]
    assert sentence(data, together) == (
        "Held-out exact match 50.0 % after round 2: 50.0 points better than the base model (0.0 %) and 25.0 points "
        "better than clients alone (25.0 %). Held-out loss 2 after round 2: 3 better than the base model (5) and 1 "
        "better than clients alone (3)."
    )
    assert [gain.name for gain in headline(data, alone).gains] == ["base"]


def test_a_difference_within_the_interval_is_called_that(tmp_path):
    """Of 16 rows 7 are right, 4 before round 1: the 95 % interval of 7/16 is 23.1 to 66.8 % (Wilson), and 4/16 lies in
    it. Without any right answer, base and run are the same, and neither is as good as anything."""
    data = gather([write_run(tmp_path / "run", exact={0: 0.25, 1: 0.25, 2: 0.4375})], [])
    assert "18.8 points better than the base model (25.0 %; within the run's 95 % interval)." in sentence(
        data, data.runs[0]
    )
    data = gather([write_run(tmp_path / "none", exact={0: 0.0, 1: 0.0, 2: 0.0})], [])
    assert "0.0 % after round 2: the same as the base model (0.0 %)." in sentence(data, data.runs[0])


OTHER_EXPERIMENTS = [
    {"data__seed": 7},
    {"data__samples": 7},
    {"clients__number": 3},
    {"model__name": "other"},
    {"run__seed": 7},
    {"train__rounds": 3},
    {"train__local-steps": 7},
    {"train__batch-size": 7},
    {"lora__r": 7},
]


@pytest.mark.parametrize("other", OTHER_EXPERIMENTS)
def test_clients_alone_of_another_experiment_are_no_reference(tmp_path, other):
    """Nothing is said of clients alone then, in no format."""
    alone = write_run(tmp_path / "alone", strategy__name="local", **other)
    data = gather([write_run(tmp_path / "together"), alone], [])
    assert data.alone(data.runs[0]) is None
    assert "alone" not in sentence(data, data.runs[0])
    (row,) = (row for row in summary_table(data).rows if row[0] == "together")
    assert row[summary_table(data).columns.index("over clients alone")] == "-"


def test_what_is_the_strategys_own_or_how_long_one_waits_makes_no_other_experiment(tmp_path):
    own = {"strategy__name": "fedprox", "strategy__fedprox.mu": 0.5, "run__round-timeout": 7.0, "run__directory": "/x"}
    alone = write_run(tmp_path / "alone", strategy__name="local")
    data = gather([write_run(tmp_path / "together", **own), alone], [])
    assert data.alone(data.runs[0]) is data.runs[1]


def test_each_seed_is_held_against_clients_alone_of_its_own_seed(tmp_path):
    """0.5 exact in both; alone 0.5 with seed 42 and 0.25 with seed 43. Whichever is named first makes no difference."""
    paths = []
    for seed, reached in ((42, 0.5), (43, 0.25)):
        paths.append(write_run(tmp_path / f"fedavg-seed-{seed}", run__seed=seed))
        exact = {0: 0.0, 1: 0.1, 2: reached}
        paths.append(write_run(tmp_path / f"local-seed-{seed}", run__seed=seed, strategy__name="local", exact=exact))
    for order in (paths, paths[::-1]):
        data = gather(order, [])
        found = {run.label: headline(data, run).gains for run in data.runs}
        gains = {label: [gain.better for gain in own if gain.name == "clients alone"] for label, own in found.items()}
        assert gains == {
            "fedavg-seed-42": [0.0],
            "fedavg-seed-43": [0.25],
            "local-seed-42": [],
            "local-seed-43": [],
        }


def test_a_run_is_held_against_clients_alone_after_as_many_rounds(tmp_path):
    """Of one that goes on, the value alone after the same round counts: 0.25 against 0.1, not 0.4."""
    alone = write_run(tmp_path / "alone", strategy__name="local", exact={0: 0.0, 1: 0.1, 2: 0.4})
    together = write_run(tmp_path / "together", ends="")
    events = [json.loads(line) for line in (together / "journal.jsonl").read_text().splitlines()]
    kept = [event for event in events if event.get("round", 0) < 2]
    (together / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in kept))
    data = gather([together, alone], [])
    assert [gain.value for gain in headline(data, data.runs[0]).gains] == [0.0, 0.1]


def test_a_small_loss_has_its_digits_under_the_pointer_too(tmp_path):
    """Three that count, not three places: 0.0002325 would be 0.000."""
    figures = held_out_figures(gather([write_run(tmp_path / "run")], []))
    shown = [trace["hovertemplate"] for one in figures for trace in one.traces if "hovertemplate" in trace]
    assert shown and all("%{y:.3r}" in words for words in shown)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0002325, "0.000233"),
        (3.43, "3.43"),
        (-3.4349, "-3.43"),
        (2.0, "2"),
        (9.999, "10"),
        (0.05, "0.05"),
        (0.99999, "1"),
        (120.0, "120"),
        (123456.7, "123,457"),
        (1.234e9, "1.23e+09"),
        (2.325e-9, "2.33e-09"),
        (0.0, "0"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_three_digits(value, text):
    assert three_digits(value) == text


def test_a_difference_that_is_the_reference_once_more_is_left_out(tmp_path):
    """3.43 from the base model's 3.43 is no news; 3 from 5 is."""
    losses = {0: 3.43, 1: 1.0, 2: 0.0002325}
    data = gather([write_run(tmp_path / "run", losses=losses)], [])
    assert sentence(data, data.runs[0]).endswith(
        "Held-out loss 0.000233 after round 2: better than the base model (3.43)."
    )
    data = gather([write_run(tmp_path / "other")], [])
    assert sentence(data, data.runs[0]).endswith("Held-out loss 2 after round 2: 3 better than the base model (5).")


def test_lines_of_starts_that_differ_say_whose_they_are(tmp_path):
    """The base model reaches other values on the rows of another seed."""
    paths = [
        write_run(tmp_path / f"seed-{seed}", run__seed=seed, losses={0: 4.0 + seed, 1: 3.0, 2: 2.0}) for seed in (1, 2)
    ]

    def names(data):
        (figure,) = (figure for figure in held_out_figures(data) if figure.name == "held-out-eval_loss")
        return [trace["name"] for trace in figure.traces if trace["line"].get("dash") == "dash"]

    assert names(gather(paths, [])) == ["base (round 0) of seed-1", "base (round 0) of seed-2"]
    assert names(gather(paths[:1], [])) == ["base (round 0)"]


def test_a_run_that_started_from_an_adapter_has_no_base(tmp_path):
    (run,) = gather([write_run(tmp_path / "run", adapter__start="/runs/first")]).runs
    assert run.base_name == "start"


def test_differences_of_configuration(tmp_path):
    """Where a run is, is no difference."""
    one = write_run(tmp_path / "a", run__directory="/x/a")
    two = write_run(tmp_path / "b", run__directory="/x/b", strategy__name="scaffold", update__compress="int8")
    data = gather([one, two, one])
    assert [run.label for run in data.runs] == ["a", "b"]
    assert data.differences == (("strategy.name", ("fedavg", "scaffold")), ("update.compress", ("none", "int8")))


def test_labels_tell_runs_apart(tmp_path):
    paths = [tmp_path / "x" / "federated", tmp_path / "y" / "federated", tmp_path / "y" / "alone"]
    assert unique_labels(paths) == ["x/federated", "y/federated", "y/alone"]
    assert unique_labels(paths[:1]) == ["federated"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(NoReport, match="does not exist; name run directories"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(NoReport, match="holds no run"):
        gather([tmp_path])
    run = write_run(tmp_path / "run")
    (run / "journal.jsonl").write_text("{broken}\n")
    with pytest.raises(NoReport, match="cannot be read as a run"):
        gather([run])


def test_a_journal_of_an_earlier_version(tmp_path):
    """Hyphens in keys, numbers for ids, totals without their prefix, no seconds of phases."""
    path = write_run(tmp_path / "run", ends="")
    lines = []
    for event in read_journal(path, everything=True):
        if event["event"] == "holds":
            event["held-out"] = event.pop("held_out")
        if event["event"] == "round":
            event |= {"bytes_down": event.pop("total_bytes_down"), "bytes_up": event.pop("total_bytes_up")}
            del event["wait_seconds"], event["send_seconds"], event["aggregate_seconds"]
        if event["event"] in ("environment", "checkpoint"):
            continue
        lines.append(event)
    (path / "journal.jsonl").unlink()
    for event in lines:
        RunDirectory(path).journal(event.pop("event"), **{key: value for key, value in event.items() if key != "time"})
    (run,) = gather([path]).runs
    assert (run.clients[0].held_out, run.traffic.down, run.seconds["rounds"]) == (8, 8000, 20.0)


def test_the_federation_that_a_run_was_given_is_in_the_command(tmp_path):
    """A resumed run without one keeps the first; a new run in the directory of a failed start has none."""
    path = write_run(tmp_path / "run")
    keep_federation(path, "num-supernodes=2")
    assert "--federation-config num-supernodes=2" in gather([path], []).runs[0].command
    keep_federation(path, None, resumed=True)
    assert "--federation-config" in gather([path], []).runs[0].command
    keep_federation(path, None)
    assert "--federation-config" not in gather([path], []).runs[0].command


DEMO = {
    "questions_per_domain": 4,
    "accuracy": {"base": {"plural": 0.0, "sum": 0.25}, "federated": {"plural": 1.0, "sum": 0.5}},
    "mean": {"base": 0.125, "federated": 0.75},
    "average_rank": {"base": 2.0, "federated": 1.0},
    "sample": {"question": "mouse?", "expected": "-> mice", "base": "mouses", "federated": " -> mice"},
    "seconds": 9.0,
}


@pytest.mark.parametrize("place", ["demo", "demo/federated"])
def test_the_table_of_a_demo_is_found_in_or_beside_a_run(tmp_path, place):
    """The best model first, and one of the answers is right. Two runs of one demo have one table."""
    runs = [write_run(tmp_path / "demo" / name) for name in ("federated", "alone")]
    (tmp_path / place / "comparison.json").write_text(json.dumps(DEMO))
    (found,) = gather(runs, []).demos
    assert (list(found.shares), found.domains, found.questions) == (["federated", "base"], ["plural", "sum"], 4)
    assert found.mean("federated") == 0.75
    assert [(one.model, one.right) for one in found.sample.answers] == [("base", False), ("federated", True)]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"lines": []}', json.dumps(DEMO | {"accuracy": {"base": {"a": "much"}}}), "{}"]
)
def test_another_file_of_that_name_is_no_demo(tmp_path, content):
    """That of a comparison is called so, too."""
    run = write_run(tmp_path / "run")
    (tmp_path / "comparison.json").write_text(content)
    assert gather([run], []).demos == ()
