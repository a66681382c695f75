"""The scan of dependencies fails on a finding, and is skipped only where the data cannot be reached."""

import importlib.util

import pytest
from places import ROOT

CLEAN = {"name": "a", "version": "1", "vulns": []}
FOUND = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.fixture
def audit(monkeypatch):
    spec = importlib.util.spec_from_file_location("audit_dependencies", ROOT / "tools" / "audit_dependencies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    monkeypatch.setattr(module, "IGNORED", {})
    return module


def answers(audit, monkeypatch, known: list[dict], pinned: list[dict]) -> None:
    monkeypatch.setattr(
        audit, "_report", lambda text: {"dependencies": known if text == f"{audit._KNOWN}\n" else pinned}
    )


def test_a_finding_fails(audit, monkeypatch, capsys):
    answers(audit, monkeypatch, [FOUND], [CLEAN, FOUND, SKIPPED])
    assert audit.main() == 1
    said = capsys.readouterr().out
    assert "b 2: PYSEC-1: fixed in 3" in said
    assert "not audited: c: not found" in said
    assert "2 packages audited, 1 findings that count, 0 ignored" in said
    monkeypatch.setattr(audit, "IGNORED", {"PYSEC-1": "only on Windows", "PYSEC-2": "old"})
    assert audit.main() == 0
    said = capsys.readouterr().out
    assert "ignored, only on Windows" in said
    assert "PYSEC-2, which is not found any more" in said


def test_nothing_found_passes(audit, monkeypatch, capsys):
    answers(audit, monkeypatch, [FOUND], [CLEAN])
    assert audit.main() == 0
    assert "skipped" not in capsys.readouterr().out


def test_an_index_without_data_is_no_clean_bill(audit, monkeypatch, capsys):
    """It knows nothing of a package that is known to be vulnerable."""
    answers(audit, monkeypatch, [SKIPPED], [CLEAN])
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("skipped: the vulnerability data cannot be reached")


def test_no_answer_is_skipped_with_the_reason(audit, monkeypatch, capsys):
    monkeypatch.setattr(
        audit.subprocess, "run", lambda *_, **__: audit.subprocess.CompletedProcess([], 1, "", "no name")
    )
    assert audit.main() == 0
    assert "skipped: the vulnerability data cannot be reached: no name" in capsys.readouterr().out


def test_what_is_asked(audit):
    assert audit._requirements("# a\ntorch==2.13.0+cpu\n\npeft==0.21.2  # b\n") == "torch==2.13.0\npeft==0.21.2\n"
