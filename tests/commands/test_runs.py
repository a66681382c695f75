"""`fedllm runs`: what is listed, what would be deleted, and that nothing is deleted unasked."""

import io
import re
import sys

import pytest
from rich.console import Console
from run_material import write_run

from fedllm_app.commands.main import main
from fedllm_app.commands.runs import cut_path, prunable, runs_table
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.overview import RunOverview, overview

DAY = 24 * 3600.0


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with two runs, finished and failed, in runs/."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "good")
    write_run(tmp_path / "runs" / "bad", strategy__name="scaffold", ends="RunFailed: nobody [red]answered[/red]")
    return tmp_path / "runs"


@pytest.fixture
def answer(monkeypatch):
    """What the user types."""

    def typed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return typed


def words(capsys) -> str:
    return " ".join(re.sub(r"[│┃]", " ", capsys.readouterr().out).split())


def test_runs_of_this_directory_and_of_the_home(here, app_home, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_run(app_home / "runs" / "7416", data__name="/data/a,/data/b.csv")
    assert main(["runs"]) == 0
    said = words(capsys)
    for part in ("3 runs", "runs/good", "runs/bad", str(app_home / "runs" / "7416"), "a, b.csv", "2/2", "scaffold"):
        assert part in said
    assert "failed: RunFailed: nobody [red]answered[/red]" in said
    assert "exact match 50.0 %" in said


def test_why_a_run_failed_stands_below_the_table_and_is_cut(tmp_path):
    """Of "RosterError: word word …" 160 characters hold (160 - 13) / 5 = 29 words."""
    write_run(tmp_path / "bad", ends="RosterError: " + "word " * 100)
    console = Console(width=80, file=io.StringIO())
    console.print(runs_table([overview(tmp_path / "bad")], "runs", 80))
    table, below = console.file.getvalue().rsplit("┘", 1)
    assert "word" not in table and " ".join(below.split()).startswith(f"{tmp_path / 'bad'}: failed: RosterError: word")
    assert below.count("word") == 29


def test_places_that_are_named(here, tmp_path, capsys):
    """A run itself, a directory without runs, one that is not there."""
    assert main(["runs", "runs/good"]) == 0
    assert "1 run, " in words(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["runs", "empty"]) == 0
    assert "no runs in empty" in words(capsys)
    assert main(["runs", "nowhere"]) == 2
    assert "nowhere is no directory" in words(capsys)


@pytest.mark.parametrize("width", [80, 110, 160])
def test_no_line_is_wider_than_the_terminal(here, width):
    console = Console(width=width, file=io.StringIO())
    write_run(here / "ugly", ends="RosterError: " + "word " * 100)
    console.print(runs_table([overview(here / name) for name in ("good", "bad", "ugly")], "runs", width))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert ("began" in console.file.getvalue()) == (width >= 110)
    for cell in ("fedavg", "scaffold", "2/2", "exact match 50.0 %"):  # none of these is folded
        assert cell in console.file.getvalue()


def of(name: str, state: str, began: float, ended: float) -> RunOverview:
    return RunOverview(name, "fedavg", "sft", "builtin", 1, 2, state, "", None, began, ended, 10)


FOUND = [
    of("old", "finished", 0 * DAY, 1 * DAY),
    of("old-failed", "failed", 1 * DAY, 2 * DAY),
    of("stopped", "stopped", 7 * DAY, 8 * DAY),
    of("running", "running", 0.5 * DAY, 0.6 * DAY),
    of("new", "finished", 9 * DAY, 9.5 * DAY),
]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({}, ["old-failed", "stopped"]),
        ({"older_than": 5}, ["old-failed"]),
        ({"unfinished": False, "older_than": 5}, ["old", "old-failed"]),
        ({"unfinished": False, "keep": 2}, ["old", "old-failed"]),
        ({"unfinished": False, "keep": 0}, ["old", "old-failed", "stopped", "new"]),
        ({"unfinished": False, "keep": 1, "older_than": 8.5}, ["old"]),
    ],
)
def test_what_would_be_deleted(conditions, names):
    """On day 10. All conditions must name a run; one that goes on is never named, and counts among the newest."""
    assert [run.path for run in prunable(FOUND, now=10 * DAY, **conditions)] == names


def test_it_asks_before_it_deletes(here, answer, capsys):
    """No, a mere return, and no answer at all delete nothing; yes deletes what was listed."""
    for text in ("no\n", "\n", ""):
        answer(text)
        assert main(["runs", "--prune"]) == 0
        said = words(capsys)
        assert "to delete: 1 run, " in said
        assert "nothing was deleted" in said
        assert (here / "bad" / "config.json").is_file()
    answer("y\n")
    assert main(["runs", "--prune"]) == 0
    assert f"deleted: {here / 'bad'}" in words(capsys)
    assert not (here / "bad").exists()
    assert (here / "good" / "config.json").is_file()
    answer("y\n")
    assert main(["runs", "--prune"]) == 0
    assert "nothing to delete" in words(capsys)


def test_without_a_question(here, capsys):
    assert main(["runs", "--prune", "--keep", "0", "--yes"]) == 0
    assert sorted(path.name for path in here.iterdir()) == []


def test_a_run_that_begins_while_the_user_reads_stays(here, answer, capsys, monkeypatch):
    """It is listed as failed, and goes on before the answer comes."""
    held = RunDirectory(here / "bad").held()

    def start_and_answer(*_arguments, **_options):
        held.__enter__()
        return "yes"

    monkeypatch.setattr("rich.console.Console.input", start_and_answer)
    try:
        assert main(["runs", "--prune"]) == 1
    finally:
        held.__exit__(None, None, None)
    assert "in use by a run that has not ended" in words(capsys)
    assert (here / "bad" / "journal.jsonl").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--keep", "2"], "--keep chooses what --prune deletes; add --prune"),
        (["--older-than", "3"], "--older-than chooses what --prune deletes"),
        (["--yes"], "--yes answers the question of --prune"),
    ],
)
def test_options_that_need_another(here, given, said, capsys):
    assert main(["runs", *given]) == 2
    assert said in words(capsys)


@pytest.mark.parametrize("given", [["--keep", "-1"], ["--keep", "many"], ["--older-than", "-1"], ["--older-than", "x"]])
def test_numbers_that_are_none(here, given, capsys):
    with pytest.raises(SystemExit):
        main(["runs", "--prune", *given])
    assert "must be a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "most", "cut"),
    [
        ("runs/20260102-fedavg", 30, "runs/20260102-fedavg"),
        ("/home/me/projects/clinic/runs/20260102-fedavg", 30, "/home/me/proj…/20260102-fedavg"),
        ("runs/20260102-fedavg", 17, "…/20260102-fedavg"),
        ("runs/20260102-fedavg", 16, "20260102-fedavg"),
        ("runs/20260102-fedavg", 5, "20260102-fedavg"),
    ],
)
def test_a_path_is_cut_in_its_middle_and_keeps_its_name(path, most, cut):
    """The name has 15 characters, "…/" two."""
    assert cut_path(path, most) == cut


def test_a_narrow_terminal_shows_the_names_of_runs_whole(tmp_path, monkeypatch):
    """On 80 columns, far from the working directory: no name is broken into two lines."""
    monkeypatch.chdir("/")
    run = write_run(tmp_path / "a-directory-with-a-long-name" / "20260102-030405-scaffold", strategy__name="scaffold")
    console = Console(width=80, file=io.StringIO())
    console.print(runs_table([overview(run)], "runs", 80))
    assert "20260102-030405-scaffold" in console.file.getvalue()


def test_the_metric_of_clients_alone_is_marked(here):
    """It is the mean of models that each know one client's rows."""
    alone = write_run(here / "alone", strategy__name="local")
    console = Console(width=120, file=io.StringIO())
    console.print(runs_table([overview(here / "good"), overview(alone)], "runs", 120))
    assert console.file.getvalue().count("each on own rows") == 1
