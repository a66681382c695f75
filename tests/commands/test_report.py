"""`fedllm report`: its formats, where it writes, and what it refuses before it writes anything."""

import pytest
from places import ROOT
from run_material import write_run

from fedllm_app.commands.main import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run, and a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs" / "my run")


@pytest.mark.parametrize(
    ("given", "name", "begins"),
    [
        ([], "report.html", "<!doctype html>"),
        (["--format", "markdown"], "report.md", "# fedavg on builtin"),
        (["--format", "csv"], "report.csv", "run,table,round"),
        (["--out", "new folder/a.md"], "new folder/a.md", "# fedavg on builtin"),
        (["--out", "a.csv"], "a.csv", "run,table,round"),
        (["--out", "a.txt", "--format", "csv"], "a.txt", "run,table,round"),
    ],
)
def test_formats(run, tmp_path, capsys, given, name, begins):
    """By --format, else by the ending of --out; a name with a blank, and a folder that is made."""
    assert main(["report", str(run), "--app", str(ROOT), *given]) == 0
    written = tmp_path / name
    assert written.read_text(encoding="utf-8").startswith(begins)
    told = capsys.readouterr().out.replace("\n", "")
    assert f"report of 1 run: {written}" in told
    assert "(0.0 MB)" not in told
    assert (" kB)" in told) == (name != "report.html")


def test_several_runs_and_an_earlier_report(run, tmp_path, capsys):
    """The report is replaced as a whole."""
    (tmp_path / "report.md").write_text("before")
    other = write_run(tmp_path / "runs" / "other", strategy__name="scaffold")
    assert main(["report", str(run), str(other), "--out", "report.md"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| strategy.name | fedavg | scaffold |" in text
    assert "before" not in text.splitlines()[0]
    assert "report of 2 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["runs/nowhere"], "does not exist; name run directories"),
        (["runs"], "holds no run; name run directories"),
        (["runs/my run", "--out", "report.pdf"], "the ending says no format; name a file in .html, .md or .csv"),
        (["runs/my run", "--out", "runs"], "is a directory; name a file"),
        (["runs/my run", "--evaluation", "runs"], "holds no report of fedllm evaluate"),
    ],
)
def test_what_is_refused(run, tmp_path, capsys, given, said):
    assert main(["report", *given]) == 2
    assert said in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("report*"))


def test_a_place_that_cannot_be_written(run, tmp_path, capsys):
    """A file stands where a directory would have to be made."""
    (tmp_path / "file").write_text("x")
    assert main(["report", str(run), "--out", "file/report.md"]) == 2
    assert "cannot be written" in " ".join(capsys.readouterr().out.split())
