"""What of an error may leave a site."""

import errno
import stat

import pytest
import torch

from fedllm_app.client.disclosure import public_error, write_site_log
from fedllm_app.client.policy import SiteRefuses
from fedllm_app.data.readers.base import UnreadableFile
from fedllm_app.data.sources import public_reason
from fedllm_app.errors import UserError

CANARY = "CANARY7731"


class OfATest(ValueError):
    """A class of no known package."""


def nasty(name: str, module: str, base: type = Exception) -> Exception:
    return type(name, (base,), {"__module__": module})(CANARY)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError(CANARY), "RuntimeError"),
        (KeyError(CANARY), "KeyError"),
        (OfATest(CANARY), "ValueError"),
        (torch.OutOfMemoryError(CANARY), "OutOfMemoryError"),
        (nasty(CANARY, "builtins", OSError), "OSError"),
        (nasty(CANARY, "fedllm_app.errors", UserError), "UserError"),
        (nasty("RuntimeError", "torch"), "Exception"),
        (nasty(CANARY, CANARY), "Exception"),
        (ExceptionGroup(CANARY, [ValueError(CANARY)]), "ExceptionGroup"),
        (UserError(CANARY), "UserError"),
        (UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY), "UnicodeDecodeError"),
        (OSError(99999, CANARY, CANARY), "OSError"),
    ],
)
def test_an_error_is_told_by_its_kind(error, kind):
    """Whatever its text, its class or its module is called."""
    error.add_note(CANARY)
    error.__cause__ = ValueError(CANARY)
    assert public_error(error, {}) == f"{kind}; the site's log says more"


def test_what_the_system_says_is_told_in_the_systems_words():
    told = public_error(OSError(errno.ENOSPC, CANARY, CANARY), {})
    assert told == "OSError: No space left on device; the site's log says more"


def test_a_public_form_is_told_and_points_to_the_log():
    error = UnreadableFile.of("/data/CANARY.csv", "line 3: cannot be read")
    assert str(error) == "/data/CANARY.csv line 3: cannot be read"
    assert public_error(error, {}) == (
        "UnreadableFile: a data file of the site line 3: cannot be read; the site's log says more"
    )


def test_paths_of_the_site_are_left_out(app_home):
    """Also where a message that may leave repeats them; the name of the site is no secret."""
    error = UserError("x", public=f"from /data/{CANARY}/x to {app_home}/shards at berlin")
    told = public_error(error, {"data-path": f"/data/{CANARY}", "site": "berlin"})
    assert told == "UserError: from …/x to …/shards at berlin; the site's log says more"


def test_a_refusal_repeats_the_run_and_tells_no_path_of_the_site(app_home):
    """Were the site's paths left out of what the run asked for, it could find them by asking."""
    refusal = SiteRefuses(f"data.name = '{app_home}/x'")
    assert public_error(refusal, {"data-path": str(app_home)}) == f"SiteRefuses: data.name = '{app_home}/x'"


@pytest.mark.parametrize(
    ("where", "why", "told"),
    [
        ("CANARY.csv line 4", "column 'CANARY' is empty", "line 4: the prompt column is empty"),
        (
            "CANARY.json row 17",
            "message 1 of column 'CANARY' has no role",
            "row 17: message 1 of the prompt column has no role",
        ),
        ("CANARY.json key CANARY", "column 'CANARY' is empty", "a row: the prompt column is empty"),
        ("CANARY.parquet row 2", "column 'other CANARY' holds broken UTF-8", "row 2"),
        ("x row 2 CANARY", "5 cells, the header has 4", "a row: 5 cells, the header has 4"),
    ],
)
def test_the_reason_of_a_bad_row_names_fields_and_places(where, why, told):
    assert public_reason(where, why, {"prompt": "CANARY"}) == told


def test_a_longer_column_that_begins_like_another_is_replaced_whole():
    assert public_reason("row 1", "column 'a b' is empty", {"prompt": "a", "completion": "a b"}) == (
        "row 1: the completion column is empty"
    )


def test_the_sites_log_holds_the_whole_and_is_the_owners(app_home):
    try:
        raise ValueError("outer") from KeyError("inner")
    except ValueError as error:
        said = write_site_log("client failed", error)
    log = app_home / "site.log"
    assert said == f"the site's log: {log}"
    assert {"outer", "inner"} <= set(log.read_text().replace("'", " ").split())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_large_log_is_begun_anew_and_the_one_before_is_kept(app_home, monkeypatch):
    monkeypatch.setattr("fedllm_app.client.disclosure._LARGEST_LOG", 10)
    for what in ("first of all", "second"):
        write_site_log(what)
    assert "second" in (app_home / "site.log").read_text()
    assert "first of all" in (app_home / "site.log.1").read_text()


def test_a_log_that_cannot_be_written_is_told(app_home):
    (app_home / "site.log").mkdir()
    assert write_site_log("x") == "the site's log cannot be written: IsADirectoryError"
