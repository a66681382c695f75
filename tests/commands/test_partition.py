"""`fedllm partition`: who would hold what."""

import io
import json
from pathlib import Path

import pytest
from places import ROOT
from rich.console import Console

from fedllm_app.commands import main as cli
from fedllm_app.commands.main import main
from fedllm_app.commands.partition import ClientRows, _stacks, divide, partition_table, plot_partition
from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.config.values import data_selection


@pytest.fixture
def topics(tmp_path) -> Path:
    """Sixty rows: topic a of 40, topic b of 20."""
    rows = [{"prompt": str(n), "completion": "x", "topic": "a" if n < 40 else "b"} for n in range(60)]
    (tmp_path / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "topics.jsonl"


def divided(**overrides) -> list[ClientRows]:
    config = parse_run_config(default_run_config(ROOT) | overrides)
    return divide(data_selection(config, config.clients.number, "example"))


def shown(clients: list[ClientRows]) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(partition_table(clients))
    return console.file.getvalue()


def test_a_client_a_label(topics):
    """natural-id: 40 rows of a and 20 of b; a tenth, but at least 8 or a fifth of each, is held out."""
    given = {
        "data.name": str(topics),
        "data.partition": "natural-id",
        "data.partition-column": "topic",
        "data.held-out-share": 0.1,
        "clients.number": 2,
    }
    notes = "columns read: prompt as prompt, completion as completion"
    assert divided(**given) == [
        ClientRows(0, "a", 32, 8, {"a": 40}, notes=notes),
        ClientRows(1, "b", 16, 4, {"b": 20}, notes=notes),
    ]


def test_label_shares_of_an_even_division(topics):
    """A column may be given to look at an iid division too."""
    clients = divided(**{"data.name": str(topics), "data.partition-column": "topic", "clients.number": 3})
    assert [sum(one.labels.values()) for one in clients] == [20, 20, 20]
    assert sum(one.labels["a"] for one in clients) == 40
    first = clients[0].labels["a"] / 20
    assert f"a {first:.0%}, b {1 - first:.0%}" in shown(clients)


def test_sets_and_domains_are_labels(topics, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"prompt": "p", "completion": "c"}\n' * 4)
    clients = divided(
        **{
            "data.name": f"{topics},{tmp_path / 'few.jsonl'}",
            "data.partition": "by-domain",
            "data.held-out-examples": 1,
            "clients.number": 0,
        }
    )
    read = "columns read: prompt as prompt, completion as completion"
    assert clients == [
        ClientRows(0, "topics", 59, 1, {"topics": 60}, notes=f"{read}; columns not read: topic"),
        ClientRows(1, "few", 3, 1, {"few": 4}, duplicates=1, notes=read),  # four equal rows
    ]
    assert [one.labels for one in divided()] == [{name: 320 + 32} for name in ("general", "math", "code", "finance")]


def test_many_clients_are_summed_up():
    """40 clients with 1 to 40 rows: 27 lines, then smallest 1, median 20.5, largest 40, together 820."""
    text = shown([ClientRows(client, f"site{client}", client + 1, 0, {}) for client in range(40)])
    assert "site26" in text
    assert "site27" not in text
    for name, number in (("smallest", 1), ("median", 20), ("largest", 40), ("together", 820)):
        (line,) = [line for line in text.splitlines() if name in line]
        assert f" {number} " in line


def test_rare_labels_become_others():
    """In the table the four largest of six labels are named, in the figure all six; of twelve, nine."""
    six = ClientRows(0, "x", 21, 0, {f"l{n}": n for n in range(1, 7)})
    assert "l6 29%, l5 24%, l4 19%, l3 14%, others 14%" in shown([six])
    assert list(_stacks([six])) == ["l6", "l5", "l4", "l3", "l2", "l1"]
    stacks = _stacks([ClientRows(0, "x", 78, 0, {f"l{n}": n for n in range(1, 13)})])
    assert (len(stacks), stacks["others"].tolist()) == (10, [1 + 2 + 3])


def test_bars_without_labels_are_training_and_held_out_rows():
    stacks = _stacks([ClientRows(0, "x", 9, 1, {}), ClientRows(1, "y", 7, 3, {})])
    assert {name: counts.tolist() for name, counts in stacks.items()} == {"training": [9, 7], "held out": [1, 3]}


def test_the_command_prints_and_draws_and_loads_no_model(topics, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "fedllm_app.models.base.locate_model", lambda *_arguments: pytest.fail("a model was looked for")
    )
    figure = tmp_path / "new" / "division.png"
    given = f'data.name="{topics}" data.partition="dirichlet" data.partition-column="topic" clients.number=3'
    assert main(["partition", str(ROOT), "-c", given, "--plot", str(figure)]) == 0
    assert "who would hold what" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_bad_rows_and_what_was_not_read_are_shown(topics, capsys):
    """61 rows, of which one is bad; a column beside those that are read, and a test split beside the file."""
    folder = topics.parent / "set"
    folder.mkdir()
    (folder / "my_train.jsonl").write_text(topics.read_text() + "oops\n")
    (folder / "my_test.jsonl").write_text("")
    assert (
        cli.main(["partition", str(ROOT), "-c", f'data.name="{folder}" data.max-bad-share=0.1 clients.number=2']) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if line.replace("│", " ").split()[:1] == ["0"])
    assert first.replace("│", " ").split() == ["0", "set", "24", "6", "0", "1"]
    assert lines[-1] == (
        "data of all clients: columns read: prompt as prompt, completion as completion; columns not read: topic; "
        "files not read: my_test.jsonl"
    )


def test_rows_without_a_label_are_named(topics):
    clients = [ClientRows(0, "x", 3, 0, {"": 1, "a": 2})]
    assert "a 67%, (none) 33%" in shown(clients)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('data.name="{topics}" data.partition="shard" data.partition-column="tpoic"', "no column 'tpoic'"),
        ('data.name="{topics}" data.partition="natural-id" data.partition-column="topic"', "set clients.number = 2"),
        ('data.name="/no/such.csv"', "no file or folder"),
        ("clients.number=0", "clients.number = 0"),
    ],
)
def test_what_cannot_be_divided_ends_with_2(topics, given, told, capsys):
    assert cli.main(["partition", str(ROOT), "-c", given.format(topics=topics)]) == 2
    assert told in capsys.readouterr().out.replace("\n", " ")


def test_a_plot_of_many_clients(tmp_path):
    plot_partition([ClientRows(n, "x", 5, 1, {}) for n in range(100)], tmp_path / "a.png", "many")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_narrow_terminal_cuts_no_heading():
    """On 80 columns the names of clients and labels wrap."""
    console = Console(file=io.StringIO(), width=80)
    console.print(partition_table([ClientRows(0, "a-rather-long-name", 1200, 100, {"first-label": 9, "other": 4})]))
    text = console.file.getvalue()
    assert "…" not in text
    for word in ("training", "held-out", "duplicates", "bad", "labels", "1,200"):
        assert word in text
