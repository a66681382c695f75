"""Known vulnerabilities of the pinned dependencies, by pip-audit; part of `make check`.

The exit status is 1 if there is one that IGNORED does not name. Where the data cannot be reached, the status is 0 and
the only line begins with "skipped". An index without vulnerability data answers as if every package were sound, so an
old package with known ones is asked about first.

    python tools/audit_dependencies.py
"""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

IGNORED: dict[str, str] = {}
"""Identifiers of findings that do not concern this app, with the reason."""

_PINNED = Path(__file__).parents[1] / "constraints.txt"
_KNOWN = "jinja2==2.10"  # CVE-2019-10906 and others
_TIMEOUT = 300  # seconds


class DataUnreachable(Exception):
    """pip-audit gave no report."""


def main() -> int:
    """Audit, say what came out, and give the exit status."""
    if find_spec("pip_audit") is None:
        print("skipped: pip-audit is not installed (pip install pip-audit)")
        return 0
    try:
        if not _findings(_report(f"{_KNOWN}\n")):
            raise DataUnreachable(f"no vulnerability of {_KNOWN} is known there, so the index has no such data")
        report = _report(_requirements(_PINNED.read_text()))
    except DataUnreachable as error:
        print(f"skipped: the vulnerability data cannot be reached: {error}")
        return 0
    return judge(report)


def judge(report: dict) -> int:
    """Print what was found, ignored and not audited; 1 if a finding is not ignored."""
    skipped = [f"{item['name']}: {item['skip_reason']}" for item in report["dependencies"] if "skip_reason" in item]
    for line in skipped:
        print(f"not audited: {line}")
    found = _findings(report)
    for name, identifier, fixed in found:
        reason = IGNORED.get(identifier)
        said = f"ignored, {reason}" if reason else f"fixed in {', '.join(fixed) or 'no version yet'}"
        print(f"{name}: {identifier}: {said}")
    for identifier in sorted(set(IGNORED) - {identifier for _, identifier, _ in found}):
        print(f"IGNORED names {identifier}, which is not found any more: take it out")
    serious = [finding for finding in found if finding[1] not in IGNORED]
    audited = len(report["dependencies"]) - len(skipped)
    print(f"{audited} packages audited, {len(serious)} findings that count, {len(found) - len(serious)} ignored")
    return 1 if serious else 0


def _findings(report: dict) -> list[tuple[str, str, list[str]]]:
    return [
        (f"{item['name']} {item['version']}", finding["id"], finding["fix_versions"])
        for item in report["dependencies"]
        for finding in item.get("vulns", ())
    ]


def _report(requirements: str) -> dict:
    """pip-audit's answer; it installs and resolves nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--format", "json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except subprocess.TimeoutExpired as error:
            raise DataUnreachable(f"no answer within {_TIMEOUT} s") from error
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        raise DataUnreachable(last[0][:300]) from error


def _requirements(text: str) -> str:
    """The pins without what a public index does not know: comments, and local versions such as 2.13.0+cpu."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return "".join(f"{line.partition('+')[0]}\n" for line in lines if line)


if __name__ == "__main__":
    sys.exit(main())
