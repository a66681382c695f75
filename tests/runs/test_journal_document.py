"""docs/journal.md has every event and key that runs write, and none that they cannot write."""

import ast
import re
import shutil
from collections import defaultdict

import pytest
from flwr.app import Error, Message
from in_process import InProcessGrid, resume_in_process, run_in_process
from places import ROOT

from fedllm_app.federation.ledger import Ledger
from fedllm_app.federation.rounds import RunFailed
from fedllm_app.paths import home
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.journal import read_journal

Keys = dict[str, set[str]]

PAGE = (ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
PARTICIPATION = "participation"  # stands for the objects of that key


def documented() -> Keys:
    """By event, the keys of the table below its heading; those that all events have are left out."""
    found: Keys = {}
    for event, text in re.findall(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL):
        table, _, rest = text.partition("\nAn object of `participation`:\n")
        found[event] = keys_of(table)
        if rest:
            found[PARTICIPATION] = keys_of(rest)
    return found


def keys_of(text: str) -> set[str]:
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


def written(*runs) -> Keys:
    """What stands in some journals."""
    found: Keys = defaultdict(set)
    for event in (event for run in runs for event in read_journal(run, everything=True)):
        found[event["event"]] |= event.keys() - {"event", "time"}
        for line in event.get("participation", ()):
            found[PARTICIPATION] |= line.keys()
    return found


def in_the_code() -> Keys:
    """Events whose name and keys stand in a call of `journal(…)`, for those that need a real deployment."""
    found: Keys = defaultdict(set)
    for file in sorted((ROOT / "fedllm_app").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func).endswith("journal") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found[first.value] |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return found


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


class Losing(InProcessGrid):
    """Client 1 is refused in round 1; from round 2 on nobody trains."""

    lost_from = 2

    def push_messages(self, messages):
        messages = list(messages)
        ids = super().push_messages(messages)
        for message, message_id in zip(messages, ids, strict=True):
            asked = message.content["config"]
            lost = asked.get("server-round", 0) >= self.lost_from or asked.get("client") == 1
            if message.metadata.message_type == "train" and lost:
                self.replies[message_id] = Message(Error(code=2, reason="lost"), reply_to=message)
        return ids


@pytest.fixture
def material(run_config, tmp_path):
    """Run directories: all tasks, corrections and compression, refusals, a round with too few, a failure, going on."""
    small = run_config | {
        "clients.number": 2,
        "train.rounds": 1,
        "train.local-steps": 1,
        "data.examples-per-client": 6,
        "data.held-out-examples": 2,
        "evaluate.examples": 2,
        "train.max-length": 300,
    }
    for task in ("dpo", "kto", "text"):
        run_in_process(small | {"train.task": task}, tmp_path / task)
    hard = small | {
        "strategy.name": "scaffold",
        "update.compress": "int8",
        "run.checkpoint-every": 1,
        "clients.retries": 0,
    }
    hard |= {"train.rounds": 3}
    with pytest.raises(RunFailed):
        run_in_process(hard, tmp_path / "hard", Losing)
    shutil.rmtree(home() / "clients")  # what the clients kept is lost
    resume_in_process(hard, tmp_path / "hard")
    late = RunDirectory(tmp_path / "late")
    late.create({})
    Ledger(late, 1).late(1, 0)
    return [tmp_path / name for name in ("dpo", "kto", "text", "hard", "late")]


def test_the_page_has_all_that_runs_write_and_nothing_else(material):
    """Both directions; what only sites can cause (`waiting`, `returned`, `suite`) is read from the calls themselves.

    Events are words with hyphens, keys words with underscores; `clients` is a list, and ids of runs are text.
    """
    page, seen, called = documented(), written(*material), in_the_code()
    assert {"refused", "late", "too-few", "failed", "resumed", "checkpoint", "environment"} <= seen.keys()
    missing = {event: keys - page.get(event, set()) for event, keys in seen.items()}
    assert {event: keys for event, keys in missing.items() if keys} == {}
    assert called.keys() - page.keys() == set()
    known = {event: seen.get(event, set()) | called.get(event, set()) for event in page}
    invented = {event: keys - known[event] for event, keys in page.items()}
    assert {event: keys for event, keys in invented.items() if keys} == {}
    for event, keys in seen.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", event)
        assert [key for key in keys if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", key)] == []
    for event in (event for run in material for event in read_journal(run, everything=True)):
        assert isinstance(event.get("clients", []), list)
        assert isinstance(event.get("run_id", ""), str)
