"""Which apps a site accepts."""

import hashlib
import io
import re
import zipfile

import pytest
from flwr.cli.build import build_fab_from_disk
from places import ROOT

from fedllm_app.commands.complete_app import complete_app
from fedllm_app.sites.approval import OWN, SAME, CodeRefused, check_bundle


def bundle(changes: dict[str, bytes | None], base: bytes) -> bytes:
    """A bundle with other files: None leaves one out."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(base)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in changes:
                new.writestr(name, old.read(name))
        for name, content in changes.items():
            if content is not None:
                new.writestr(name, content)
    return made.getvalue()


@pytest.fixture(scope="module")
def original() -> bytes:
    with complete_app(ROOT) as directory:
        return build_fab_from_disk(directory)


def refusal(content: bytes, rule: str = SAME) -> str:
    """Why a bundle is refused; "" if it is not."""
    try:
        check_bundle(content, hashlib.sha256(content).hexdigest(), rule)
    except CodeRefused as error:
        return str(error)
    return ""


def test_flowers_bundle_of_this_app_is_accepted(original):
    assert refusal(original) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"fedllm_app/client_app.py": b"import os"},
        {"fedllm_app/training/sft.py": None},
        {"fedllm_app/more.py": b""},
    ],
    ids=["changed", "left out", "added"],
)
def test_other_code_is_refused_by_name(original, changes):
    (name,) = changes
    assert re.search(f"1 of .* files differ: {name}", refusal(bundle(changes, original)))


def test_what_is_never_imported_at_a_site_may_differ(original):
    """Strategies of one's own, presets, documents; and by the rule `own` the package itself."""
    assert refusal(bundle({"torch.py": b"raise SystemExit", "README.md": b"x"}, original)) == ""
    assert refusal(bundle({"fedllm_app/client_app.py": b"import os"}, original), OWN) == ""


@pytest.mark.parametrize("rule", [SAME, OWN])
def test_content_must_have_the_hash_by_which_it_is_called(original, rule):
    with pytest.raises(CodeRefused, match="not that of its hash"):
        check_bundle(original, "0" * 64, rule)


def test_no_archive_and_a_huge_one_are_refused(original):
    assert "not a readable bundle" in refusal(b"PK")
    assert "larger" in refusal(bundle({"fedllm_app/huge.py": b" " * 60_000_000}, original))


def test_names_of_files_are_shown_without_control_characters(original):
    said = refusal(bundle({"fedllm_app/\x1b[31m.py": b""}, original))
    assert "files differ" in said
    assert "\x1b" not in said
