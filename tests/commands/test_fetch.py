"""Run directories through Flower's log: whole, verified, never over something else, and no other files."""

from pathlib import Path

import pytest

from fedllm_app.commands import attach, fetch
from fedllm_app.commands.fetch import NotFetched, directory_of, receive
from fedllm_app.commands.main import main
from fedllm_app.runs import outgoing
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.event_lines import EventReader, EventWriter
from fedllm_app.runs.outgoing import NotSent, send_run


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(outgoing, "_PAUSE", 0.0)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory with an adapter of several parts, a checkpoint, and links and hidden files that are not its."""
    directory = RunDirectory(tmp_path / "server" / "run")
    directory.create({"train.rounds": 1})
    directory.journal("started", run_id=1)
    for file in ("adapter/adapter_model.safetensors", "checkpoints/round-1/state.json", ".adapter-x/half", "empty"):
        path = directory.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(256)) * 1_000 if "safetensors" in file else b"")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    (directory.path / "link").symlink_to(tmp_path / "secret" / "key")
    (directory.path / "folder").symlink_to(tmp_path / "secret")
    return directory.path


def sent(run: Path, checkpoints: bool = False) -> list[dict]:
    """What arrives of it, through the lines of a log."""
    lines: list[str] = []
    send_run(run, EventWriter(lines.append), checkpoints)
    reader = EventReader()
    return [event for line in lines if (event := reader.read(line))]


def names(directory: Path) -> list[str]:
    return sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file())


def test_what_arrives_is_what_was_there(run, tmp_path):
    out = tmp_path / "out"
    count, size = receive(iter(sent(run)), out)
    assert names(out) == ["adapter/adapter_model.safetensors", "config.json", "empty", "journal.jsonl"]
    assert count == 4
    assert size == sum((run / name).stat().st_size for name in names(out))
    for name in names(out):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    receive(iter(sent(run, checkpoints=True)), tmp_path / "all")
    assert "checkpoints/round-1/state.json" in names(tmp_path / "all")


def test_what_is_no_run_directory_is_not_sent(run, tmp_path, monkeypatch):
    (tmp_path / "linked").symlink_to(run)
    for path in (tmp_path / "secret", tmp_path / "linked", Path("relative"), tmp_path / "nowhere"):
        with pytest.raises(NotSent, match="is no run directory"):
            sent(path)
    monkeypatch.setattr(outgoing, "LARGEST", 1_000)
    with pytest.raises(NotSent, match="scp or rsync"):
        sent(run)


def test_what_was_changed_on_its_way_is_refused(run, tmp_path):
    events = sent(run)
    chunk = next(event for event in events if event["event"] == "chunk")
    chunk["data"] = "AAAA" + chunk["data"][4:]
    with pytest.raises(NotFetched, match="SHA-256"):
        receive(iter(events), tmp_path / "out")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ""])
def test_a_server_writes_nowhere_else(tmp_path, name):
    listed = {"event": "files", "files": [{"path": name, "bytes": 1, "sha256": ""}]}
    with pytest.raises(NotFetched, match="none inside a directory"):
        receive(iter([listed]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_server_sends_no_more_than_it_announced(tmp_path):
    listed = {"event": "files", "files": [{"path": "x", "bytes": 1, "sha256": ""}]}
    chunk = {"event": "chunk", "file": 0, "data": "AAAA"}
    with pytest.raises(NotFetched, match="more bytes"):
        receive(iter([listed, chunk]), tmp_path / "one")
    with pytest.raises(NotFetched, match="not announced"):
        receive(iter([listed, chunk | {"file": 1}]), tmp_path / "two")
    with pytest.raises(NotFetched, match="more than"):
        receive(iter([{"event": "files", "files": [{"path": "x", "bytes": 10**12, "sha256": ""}]}]), tmp_path / "three")


def test_a_directory_that_is_there_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attach, "is_local", lambda connection: False)
    monkeypatch.setattr(fetch, "submit_run", lambda *_: pytest.fail("a run was submitted"))
    (tmp_path / "out").mkdir()
    assert main(["fetch", "/far/run", "sites", "--out", str(tmp_path / "out")]) == 2
    assert "is there already" in " ".join(capsys.readouterr().out.split())


def test_nothing_is_left_where_the_server_refuses(tmp_path, monkeypatch, capsys):
    """The directory of a run is what it names at its beginning."""
    monkeypatch.setattr(attach, "is_local", lambda connection: False)
    monkeypatch.setattr(fetch, "submit_run", lambda *_: 8)
    events = {
        7: [{"event": "settings", "directory": "/far/run"}],
        8: [{"event": "failed", "reason": "run.fetch = '/far/run': is no run directory"}],
    }
    monkeypatch.setattr(fetch, "events_of", lambda run, _: iter(events[run]))
    assert main(["fetch", "7", "sites", "--out", str(tmp_path / "out")]) == 2
    assert "is no run directory" in capsys.readouterr().out.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFetched, match="name the directory itself"):
        directory_of(iter(events[8]), "8")
