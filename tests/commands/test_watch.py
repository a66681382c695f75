"""What a user sees while a run goes on."""

import io

import pytest
from rich.console import Console

from fedllm_app.commands import watch as watch_module
from fedllm_app.commands.block import Block
from fedllm_app.commands.watch import Watch, summary, summary_line


def shown(events: list[dict], steps: list[dict]) -> str:
    """The lines of a terminal that cannot be redrawn."""
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with Watch(console, rounds=2, local_steps=2, metrics={"eval_loss": "loss", "exact_match": "exact match"}) as watch:
        for event in events:
            watch.event(event)
        for line in steps:
            watch.step(line)
    return console.file.getvalue()


HOLDS = {
    "event": "holds",
    "client": 0,
    "name": "math",
    "schema": "builtin",
    "examples": 1234,
    "held_out": 5,
    "dropped": 6,
    "bad": 11,
    "tokens": 7890,
}
READY = {"event": "ready", "seconds": 12.3, "parameters": 460800, "clients": [0]}


def test_a_step_of_a_round_that_has_ended_is_not_shown():
    """Unless the round is done again."""
    ended = {"event": "round", "round": 1, "train_loss": 1.5, "clients": [0], "seconds": 3.21}
    again = {"event": "resumed", "run_id": 9, "round": 0, "rounds": 2, "strategy": "fedavg", "again": 1}
    late = {"round": 1, "client": 0, "step": 2, "steps": 2, "loss": 0.75}
    assert "step 2/2" not in shown([ended], [late])
    assert "round 1/2 · client 0  · step 2/2" in shown([ended, again], [late])


def test_step_lines_grow_rare(monkeypatch):
    """One step a second for two hours. After t seconds a line comes if the last is more than max(5, t / 10) seconds
    ago, at most 60: at 0, 6, ..., 54, then 61 (7 > 6.1), 68 (7 > 6.8), 76 (8 > 7.6), and at last every 61 seconds."""
    clock = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: clock[0])
    watch = Watch(Console(file=io.StringIO(), width=200, force_terminal=False), rounds=1, local_steps=7200)
    printed = []
    for second in range(7200):
        clock[0] = float(second)
        watch.step({"round": 1, "client": 0, "step": second, "steps": 7200, "loss": 1.0, "time": float(second)})
        lines = watch.console.file.getvalue().count("\n")
        printed += [second] * (lines - len(printed))
    assert printed[:13] == [0, 6, 12, 18, 24, 30, 36, 42, 48, 54, 61, 68, 76]
    assert printed[-1] - printed[-2] == 61
    assert len(printed) < 160


def test_lines_of_a_run():
    text = shown(
        [
            {"event": "started", "run_id": 9, "rounds": 2, "strategy": "fedprox"},
            HOLDS,
            READY,
            {"event": "round", "round": 1, "train_loss": 1.5, "clients": [0], "seconds": 3.21},
            {"event": "evaluation", "round": 1, "eval_loss": 0.25, "exact_match": 0.5},
            {"event": "refused", "client": 0, "name": "math", "round": 2, "during": "train", "reason": "NaN came"},
            {"event": "late", "client": 0, "name": "math", "round": 1, "reason": "late, discarded"},
            {"event": "too-few", "round": 2, "reason": "0 of 1 clients"},
            {"event": "waiting", "round": 2, "clients": [0, 3], "least": 1, "wait_timeout": 120.0},
            {"event": "returned", "round": 2, "client": 0, "name": "math", "changed": {"held_out": [5, 9]}},
            {"event": "returned", "round": 3, "client": 0, "name": "math", "changed": {}},
        ],
        [
            {"round": 2, "client": 0, "step": 0, "steps": 2, "loss": None},
            {"round": 2, "client": 0, "step": 1, "steps": 2, "loss": 0.75},
        ],
    )
    for part in (
        "run 9: 2 rounds of fedprox",
        "1,234",
        "7,890",
        "ready after 12.3 s; 460,800 adapter parameters",
        "round 1/2: training loss 1.500 from 1 clients in 3.2 s",
        "loss 0.250, exact match 50.0 %",
        "refused: client 0 (math), round 2, train: NaN came",
        "client 0 (math), round 1: late, discarded",
        "round 2 does not count: 0 of 1 clients",
        "round 2: waiting up to 120 s for clients 0, 3 to connect; 1 are needed",
        "client 0 (math), round 2: is back: held-out 5 → 9\n",
        "client 0 (math), round 3: is back\n",
        "round 2/2 · client 0 math · step 1/2 · loss 0.750",
    ):
        assert part in text
    assert text.count("step ") == 1  # the beginning of a round is no step


def test_versions_and_warnings():
    held = [HOLDS, HOLDS | {"client": 1, "name": "[red]north"}]
    versions = [
        {"event": "versions", "clients": [0], "versions": ["flwr 1.41.0", "torch 2.13.0"]},
        {"event": "versions", "clients": [1], "versions": ["flwr 1.41.0", "torch 2.12.0"]},
    ]
    text = shown([*held, *versions, {"event": "warning", "reason": "torch differs"}, READY | {"clients": [0, 1]}], [])
    for part in (
        "[red]north",
        "bad ┃",
        "versions of client 0: flwr 1.41.0, torch 2.13.0",
        "versions of client 1: flwr 1.41.0, torch 2.12.0",
        "warning: torch differs",
    ):
        assert part in text
    assert "versions of all clients: flwr 1.41.0" in shown([HOLDS, versions[0], READY], [])


def test_rounds_and_evaluations_without_numbers_do_not_break_it():
    text = shown(
        [
            HOLDS,
            READY,
            {"event": "round", "round": 1, "train_loss": None, "clients": [0], "seconds": 1.0},
            {"event": "evaluation", "round": 1},
        ],
        [],
    )
    assert "training loss - from" in text
    assert "no usable reply" in text


def left_after(steps, now, monkeypatch, rounds=2, local_steps=10, ended=()) -> str:
    """The time left of a run of one client whose steps came at such times; the round began at 100."""
    block = Block(rounds, local_steps)
    block.known({0: "math"})
    block.round_started(1, [0], 100.0)
    for step, when in steps:
        block.step(0, step, local_steps, 1.0, when)
    for when in ended:
        monkeypatch.setattr("fedllm_app.commands.block.time.time", lambda when=when: when)
        block.answered(0, "trained")
        block.round_ended(1)
    monkeypatch.setattr("fedllm_app.commands.block.time.time", lambda: now)
    return block.left()


def test_time_left_follows_the_steps_and_not_the_loading(monkeypatch):
    """The model loads for 60 s, then a step takes 5 s. After the third of 20 steps 17 are left: 85 s."""
    steps = [(1, 160.0), (2, 165.0), (3, 170.0)]
    assert left_after(steps, 170.0, monkeypatch) == "1:25 left"
    assert left_after(steps[:1], 160.0, monkeypatch) == ""
    assert left_after(steps[:2], 165.0, monkeypatch) == ""  # one step says little
    assert left_after([], 130.0, monkeypatch) == ""
    assert left_after([(1, 160.0), (2, 160.1), (3, 160.2)], 160.3, monkeypatch) == ""


def test_time_left_after_a_round_counts_what_lies_between_rounds(monkeypatch):
    """10 steps until 205, an evaluation until 215: 55 s for 9/20 since the first step, so 61 s for the other half."""
    steps = [(number, 160.0 + 5 * (number - 1)) for number in range(1, 11)]
    assert left_after(steps, 215.0, monkeypatch, ended=[205.0]) == "1:01 left"


def test_time_left_of_sites_follows_their_answers(monkeypatch):
    """They send no steps: 40 s for the first of two rounds, so 40 s are left."""
    assert left_after([], 140.0, monkeypatch, ended=[140.0]) == "0:40 left"


def test_step_lines_begin_without_the_time_left(monkeypatch):
    monkeypatch.setattr("fedllm_app.commands.watch.time.time", lambda: 110.0)
    started = {"event": "round-started", "round": 1, "clients": [0], "time": 100.0}
    text = shown([HOLDS, READY, started], [{"round": 1, "client": 0, "step": 1, "steps": 2, "loss": 1.0}])
    assert text.rstrip().endswith("step 1/2 · loss 1.000")


@pytest.mark.parametrize("gpu_mb", [0.0, 7021.6])
def test_summary_names_what_was_spent(gpu_mb):
    """Memory of a GPU only where one was used."""
    result = {
        "strategy": "fedavg",
        "rounds": 3,
        "seconds": 20.04,
        "seconds_of_rounds": 10.0,
        "bytes_down": 2e6,
        "bytes_up": 1e6,
        "peak_client_memory_mb": 512.4,
        "peak_client_gpu_memory_mb": gpu_mb,
        "refused_replies": 1,
    }
    console = Console(file=io.StringIO(), width=100)
    console.print(summary(result, "the/directory"))
    table, line = console.file.getvalue(), summary_line(result, "the/directory")
    for part in ("20.0 (rounds 10.0)", "2.00 MB", "1.00 MB", "512 MB", "the/directory"):
        assert part in table and part in line
    for text in (table, line):
        assert ("7022 MB" in text) == ("GPU" in text) == bool(gpu_mb)
    console.print(summary(result, "the/directory", seconds=33.3))
    assert "33.3 (after the start of Flower 20.0, rounds 10.0)" in console.file.getvalue()


def test_what_runs_before_have_said_is_not_said_again():
    """Of three runs the second holds what the first did and the third another number of rows."""
    told: set[str] = set()
    said = []
    for rows in (1234, 1234, 1235):
        console = Console(file=io.StringIO(), width=200, force_terminal=False)
        watch = Watch(console, told=told)
        for event in (HOLDS | {"examples": rows}, READY):
            watch.event(event)
        said.append(console.file.getvalue())
    same = "clients, row counts and versions are the same as in an earlier run"
    assert [same in text for text in said] == [False, True, False]
    assert ["what the clients hold" in text for text in said] == [True, False, True]
    assert all("ready after 12.3 s" in text for text in said)


def test_lost_state_of_a_client_is_told():
    """Of three clients, one lost both; one journals zeros, one has an algorithm without state."""
    place = {"event": "client", "round": 3, "name": "math"}
    text = shown(
        [
            place | {"client": 0, "control_reset": 1, "error_reset": 2},
            place | {"client": 1, "control_reset": 0, "error_reset": 0},
            place | {"client": 2},
        ],
        [],
    )
    assert text.splitlines() == [
        "  client 0 (math), round 3: lost the control variate and the rounding error of its updates of earlier rounds "
        "and starts at zero"
    ]


def test_the_end_says_who_took_part():
    parts = [
        {"client": 0, "name": "[b]north", "drawn": 2, "took_part": 0, "refused": 2, "late": 1, "last_reason": "[/x]"}
    ]
    for event in ({"event": "finished"}, {"event": "failed", "reason": "nobody"}):
        text = shown([event | {"participation": parts}], [])
        assert "who took part" in text
        assert "[b]north" in text
        assert "[/x]" in text


def test_a_run_that_goes_on_says_where():
    event = {"event": "resumed", "run_id": 9, "rounds": 8, "round": 5, "again": 2, "strategy": "scaffold"}
    said = "run 9: goes on after round 5 of 8 of scaffold; 2 rounds are done again"
    assert said in shown([event], [])
    assert "; 1 round is done again" in shown([event | {"again": 1}], [])
    assert "done again" not in shown([event | {"again": 0}], [])


REFUSED = {"event": "refused", "client": 1, "name": "b", "round": 1, "during": "train"}


@pytest.mark.parametrize(
    ("change", "there"),
    [
        ({"reason": "KeyError: [/x]"}, "KeyError: [/x]"),
        ({"reason": "cannot open [/data/a.csv]"}, "[/data/a.csv]"),
        ({"reason": "r", "name": "[/x]"}, "([/x])"),
        ({"reason": "[bold]loud"}, "[bold]loud"),
        ({"reason": "\x1b[2J\x1b]0;owned\x07red\u202eder"}, " [2J ]0;owned red der"),
    ],
)
def test_words_of_clients_are_printed_as_they_are(change, there):
    """No markup, no control characters, no writing from right to left."""
    text = shown([REFUSED | change], [])
    assert there in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_long_words_of_clients_are_shortened():
    assert len(shown([REFUSED | {"reason": "A" * 5_000_000}], [])) < 3000


def test_tables_and_sentences_print_names_as_they_are():
    """A closing tag in a name or a reason would end the command with an error."""
    part = {"client": 0, "name": "[/x]", "drawn": 2, "took_part": 1, "refused": 1, "late": 0, "last_reason": "[/y]\\"}
    versions = {"event": "versions", "clients": [0], "versions": ["torch [/z]"]}
    lines = [HOLDS | {"name": "[/x]", "notes": "[/n]"}, versions, READY, {"event": "finished", "participation": [part]}]
    lost = {"event": "client", "client": 0, "name": "[/x]", "round": 1, "error_reset": 1}
    text = shown([*lines, lost], [])
    assert text.count("[/x]") == 3
    assert all(told in text for told in ("[/n]", "[/z]", "[/y]"))


def block_of(events: list[dict], steps: list[dict], width: int, monkeypatch, seconds: float = 110.0) -> str:
    """The block at the bottom of a terminal of this width, at this time."""
    monkeypatch.setattr("fedllm_app.commands.watch.time.time", lambda: seconds)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    watch = Watch(console, rounds=4, local_steps=2, metrics={"eval_loss": "loss"})
    for event in events:
        watch.event(event)
    for line in steps:
        watch.step(line)
    console.file.truncate(0)
    console.file.seek(0)
    console.print(watch.block)
    return console.file.getvalue()


IN_ROUND_2 = [
    HOLDS,
    HOLDS | {"client": 1, "name": "a site with quite a long name"},
    HOLDS | {"client": 2, "name": "code"},
    READY | {"clients": [0, 1, 2]},
    {"event": "evaluation", "round": 0, "eval_loss": 4.5},
    {"event": "round-started", "round": 1, "clients": [0, 1], "time": 100.0},
    {"event": "round", "round": 1, "train_loss": 1.0, "clients": [0, 1], "seconds": 4.0},
    {"event": "evaluation", "round": 1, "eval_loss": 1.25},
    {"event": "round-started", "round": 2, "clients": [0, 1], "time": 105.0},
]


def test_the_block_of_a_simulation(monkeypatch):
    """Client 0 has taken both of its steps, client 1 none: round 1 and half of round 2 of 4 are done, 3/8 in 10 s. So
    10 · (5/8) / (3/8) = 16.7 s are left."""
    steps = [{"round": 2, "client": 0, "step": 2, "steps": 2, "loss": 0.75}]
    text = block_of(IN_ROUND_2, steps, 100, monkeypatch)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("round 2/4 ") and lines[0].endswith("38% 0:10 elapsed 0:16 left")
    assert lines[1:] == [
        "0 math trains step 2/2 loss 0.750",
        "1 a site with quite a long name trains, 5 s",
        "2 code not drawn",
        "held-out after round 1: loss 1.250 (base 4.500)",
    ]


@pytest.mark.parametrize("width", [20, 40, 50, 80, 160])
def test_no_line_of_the_block_is_wider_than_the_terminal(width, monkeypatch):
    """Narrow columns go first: the loss below 56, the steps below 44."""
    steps = [{"round": 2, "client": 0, "step": 1, "steps": 2, "loss": 0.75}]
    text = block_of(IN_ROUND_2, steps, width, monkeypatch)
    assert max(len(line) for line in text.splitlines()) <= width
    assert len(text.splitlines()) == 5
    assert ("loss 0.750" in text, "step 1/2" in text) == (width >= 56, width >= 44)


def test_the_block_of_a_deployment(monkeypatch):
    """Sites send no steps: the seconds since they were asked, then their answers."""
    answered = {"event": "client", "client": 1, "name": "x", "round": 2, "train_loss": 0.5}
    refused = {"event": "refused", "client": 0, "name": "x", "round": 2, "during": "train", "reason": "NaN"}
    assert "1  a site with quite a long name  trains, 75 s" in block_of(IN_ROUND_2, [], 100, monkeypatch, 180.0)
    text = block_of([*IN_ROUND_2, answered, refused], [], 100, monkeypatch)
    assert [" ".join(line.split()) for line in text.splitlines()[1:3]] == [
        "0 math refused",
        "1 a site with quite a long name trained loss 0.500",
    ]


def test_the_block_before_round_1(monkeypatch):
    connecting = {"event": "connecting", "connected": 1, "needed": 2, "simulation": False}
    assert block_of([], [], 80, monkeypatch) == "starting Flower\n"
    assert block_of([connecting], [], 80, monkeypatch) == "waiting for sites: 1 of 2\n"
    describing = {"event": "describing", "clients": [0, 1]}
    assert block_of([connecting, describing], [], 80, monkeypatch) == "2 clients look at their data\n"


def test_the_block_of_many_clients(monkeypatch):
    """Of 20 clients 3 are drawn: 1 has answered, 2 train."""
    held = [HOLDS | {"client": client, "name": f"site-{client}"} for client in range(20)]
    events = [
        *held,
        READY | {"clients": list(range(20))},
        {"event": "round-started", "round": 1, "clients": [3, 5, 7], "time": 100.0},
        {"event": "client", "client": 5, "name": "site-5", "round": 1, "train_loss": 0.5},
    ]
    assert "20 clients, 3 drawn: 1 trained, 2 train" in block_of(events, [], 80, monkeypatch)
