"""Who took part how often, and how that is shown."""

import io

from rich.console import Console

from fedllm_app.federation.participation import Participation, never_contributed, participation_table


def counted() -> Participation:
    """Client 1 missed one of two rounds, client 2 both, client 3 was never drawn."""
    parts = Participation()
    parts.know({0: "rome", 1: "oslo", 2: "[red]bern", 3: "kyiv"})
    for answering in ([0, 1], [0]):
        parts.drawn([0, 1, 2])
        parts.took_part(answering)
    for reason in ("no rows", "NaN came"):
        parts.refused(2, reason)
    parts.refused(1, "no reply")
    parts.late(1)
    return parts


def shown(lines) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(participation_table(lines))
    return console.file.getvalue()


def test_counts_by_client():
    lines = {line["name"]: line for line in counted().lines()}
    values = {name: tuple(line.values())[2:] for name, line in lines.items()}
    assert values == {
        "rome": (2, 2, 0, 0, ""),
        "oslo": (2, 1, 1, 1, "no reply"),
        "[red]bern": (2, 0, 2, 0, "NaN came"),
        "kyiv": (0, 0, 0, 0, ""),
    }


def test_who_never_contributed_was_drawn():
    assert [line["name"] for line in never_contributed(counted().lines())] == ["[red]bern"]


def test_counts_go_on_from_a_checkpoint():
    parts = Participation()
    parts.know(dict(enumerate("abcd")))
    parts.restore(counted().lines())
    parts.took_part([2])
    assert parts.lines()[2]["took_part"] == 1
    assert parts.lines()[1] == counted().lines()[1]


def test_the_table_names_who_missed_rounds_the_worst_first():
    text = shown(counted().lines())
    assert text.index("[red]bern") < text.index("oslo")
    assert "NaN came" in text
    assert "rome" not in text
    assert "2 missed none" in text


def test_a_sentence_where_nobody_missed_any():
    parts = Participation()
    parts.know({0: "rome", 1: "oslo"})
    parts.drawn([0])
    parts.took_part([0])
    assert shown(parts.lines()).strip() == "no client missed a round that it was drawn for"


def test_of_many_clients_the_table_shows_the_first():
    parts = Participation()
    parts.know({client: f"site {client}" for client in range(100)})
    parts.drawn(range(50))
    text = shown(parts.lines())
    assert text.count("site ") == 20
    assert "30 more missed rounds, 50 missed none" in text
