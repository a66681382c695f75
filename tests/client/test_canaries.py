"""Nothing of a site's rows, names and paths in what leaves it: replies, log lines, progress, journal and result.

A word that stands in every place of a site's data is looked for in all of them, for each kind of failure.
"""

import json
import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from in_process import InProcessGrid

from fedllm_app import client_app, server_app
from fedllm_app.client.progress import progress_file
from fedllm_app.config.parse import parse_run_config
from fedllm_app.data import shards
from fedllm_app.evaluation.during import SuiteWatch
from fedllm_app.messages import ARRAYS, CONFIG, Assignment, adapter_record
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.training import resident, sft

CANARY = "Kanarienvogel7731"
ROW = {"question": f"{CANARY} asks", "answer": f"{CANARY} answers", f"{CANARY} column": f"{CANARY} cell"}
TEMPLATE = (
    "{% for m in messages %}{% if 'refuse' in m.content %}{{ raise_exception(m.content) }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
)
"""Refuses some rows, with an error that quotes them."""


class Own(Exception):
    """Raised in training, by a class that is called like a row."""


Own.__name__ = Own.__qualname__ = f"{CANARY}Error"


def rows(*more: dict, count: int = 20) -> str:
    return "".join(json.dumps(row) + "\n" for row in [*more, *[ROW] * count])


BAD_ROW = {"question": f"{CANARY} q", "answer": {CANARY: CANARY}}
BAD_ROLE = {"messages": [{"role": CANARY, CANARY: "x"}, {"role": "assistant", "content": CANARY}]}
CSV = f"question,answer,{CANARY}\n" + f"{CANARY},{CANARY},{CANARY}\n" * 20

FILES = {
    "a CSV file without a header": (
        "csv",
        f"{CANARY} Jane Doe,HIV positive\nJohn Roe,flu\n",
        "the 2 columns fit no schema",
    ),
    "a TSV file without a header": ("tsv", f"{CANARY} Jane\tHIV\nJohn\tflu\n", "fit no schema"),
    "JSON keyed by patient": ("json", json.dumps({f"{CANARY} patient 7": {"q": 1}}), "UnknownSchema"),
    "many texts by key": (
        "json",
        json.dumps({f"{CANARY} {n}": CANARY for n in range(200)}),
        "200 texts or numbers by key",
    ),
    "lists of rows by key": ("json", json.dumps({CANARY: [ROW], f"{CANARY}2": [ROW]}), "UnreadableFile"),
    "a name for a role": ("jsonl", json.dumps(BAD_ROLE) + "\n", "1 of 1 rows"),
    "a bad row": ("jsonl", rows(BAD_ROW), "line 1: the completion column holds dict, not text"),
    "broken JSON": ("jsonl", rows() + f'{{"question": "{CANARY}\n', "line 21"),
    "a broken array": ("json", f'[{json.dumps(ROW)}, {{"{CANARY}": ]', "broken JSON: item 2"),
    "a broken record": ("csv", CSV + f'{CANARY},"{CANARY}\n', "line 22"),
    "too many cells": ("csv", CSV + f"{CANARY},{CANARY},{CANARY},{CANARY}\n", "1 of 21 rows"),
    "a column twice": ("csv", f"{CANARY},{CANARY}\nx,y\n", "columns 1 and 2 have the same name"),
    "an unknown encoding": ("csv", CSV.encode() + b"\x90\x8d" * 40 + b",x,y\n", "UnreadableFile"),
    "no rows": ("jsonl", "", "EmptySource"),
    "an unknown ending": (CANARY, rows(), "has no ending that says how to read it"),
    "no Parquet file": ("parquet", rows(), "UnreadableFile"),
    "rows that are too long": ("jsonl", rows({**ROW, "question": CANARY * 100}, count=0) * 9, "EmptyShard"),
}
"""By what is wrong: the ending of the file, its contents, and what the server is told."""


@pytest.fixture
def site(tmp_path, run_config, tiny_model):
    """Write a file at a site whose directory, file and columns are called after the canary; the node's context."""

    def at(contents: str | bytes = rows(), ending: str = "jsonl", run: dict | None = None, **node_config) -> Context:
        file = tmp_path / CANARY / f"{CANARY}.{ending}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        node = {"site": "north", "data-path": str(file), "models": str(tiny_model)} | node_config
        config = run_config | {"clients.number": 1} | (run or {})
        return Context(run_id=5, node_id=11, node_config=node, state=RecordDict(), run_config=config)

    return at


@pytest.fixture(scope="module", autouse=True)
def _one_model():
    """The tests share a loaded model: what a process keeps is known by the paths of each test."""
    PROCESS_CACHE.clear()
    yield
    PROCESS_CACHE.clear()
    resident.release()


@pytest.fixture
def leaks(caplog, app_home):
    """Where the canary is found in what leaves the site: a reply, log lines, the progress file."""
    caplog.set_level(logging.DEBUG)

    def found(reply: Message) -> list[str]:
        error = repr(reply.error) if reply.has_error() else ""
        content = "" if reply.has_error() else repr(reply.content)
        progress = progress_file(5)
        places = {
            "error": error,
            "content": content,
            "log": caplog.text,
            "progress": progress.read_text() if progress.exists() else "",
        }
        return [place for place, text in places.items() if CANARY.lower() in text.lower()]

    return found


def ask(context: Context, kind: str, content: RecordDict | None = None) -> Message:
    content = content or RecordDict({CONFIG: ConfigRecord({"client": 0, "clients": 1})})
    message = Message(content, dst_node_id=11, message_type=kind)
    message.metadata._message_id = "asked"
    return client_app.app(message, context)


def work(context: Context, kind: str) -> Message:
    """A round of training or an evaluation, after the description."""
    description = ask(context, "query.describe").content[CONFIG]
    size = client_app._local_client(context, 1).model.manifest.size
    assignment = Assignment(
        client=0, clients=1, server_round=1, position=0, learning_rate=1e-3, manifest=description["manifest"]
    )
    content = RecordDict({CONFIG: ConfigRecord(assignment.to_config())})
    content[ARRAYS] = adapter_record(np.full(size, 0.01, np.float32))
    return ask(context, kind, content)


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_used(site, leaks, app_home, what):
    """The reply says the kind, counts and places; the names and values stand in the site's log."""
    ending, contents, told = FILES[what]
    reply = ask(site(contents, ending), "query.describe")
    assert leaks(reply) == []
    assert told in reply.error.reason
    assert (CANARY in (app_home / "site.log").read_text()) == (told != "EmptyShard")  # which has nothing to hide


@pytest.mark.parametrize(
    "node_config",
    [
        {"data-path": f"/no/{CANARY}.csv"},
        {"data-path": CANARY},
        {"prompt-column": CANARY},
        {"data-split": CANARY},
        {"encoding": CANARY},
        {"delimiter": CANARY},
        {"policy": f"/no/{CANARY}.toml"},
        {"policy": CANARY},
        {"models": f"/no/{CANARY}, {CANARY}"},
        {"site": "north", f"data-path-{CANARY}"[:12]: "x"},
    ],
)
def test_a_node_configuration_that_is_wrong(site, leaks, node_config):
    reply = ask(site(**node_config), "query.describe")
    assert reply.has_error()
    assert leaks(reply) == []


def test_a_description(site, leaks, app_home):
    """Rows are left out for every reason that is counted; columns and files are counted, not named."""
    (Path(site().node_config["data-path"]).parent / f"{CANARY} notes.txt").write_text("x")
    contents = rows(BAD_ROW, {**ROW, "question": CANARY * 100}, {"question": "refuse", "answer": CANARY})
    template = app_home / f"{CANARY}.jinja"
    template.write_text(TEMPLATE)
    policy = app_home / f"{CANARY}.toml"
    policy.write_text(f"[templates]\nallowed = [{json.dumps(str(app_home))}]\n")
    run = {"data.max-bad-share": 0.5, "data.template": str(template)}
    context = site(contents, run=run, policy=str(policy))
    context.node_config["data-path"] = str(Path(context.node_config["data-path"]).parent)
    reply = ask(context, "query.describe")
    described = reply.content[CONFIG]
    assert leaks(reply) == []
    assert (described["name"], described["schema"]) == ("north", "question-answer")
    assert (described["bad"], described["dropped"], described["refused"]) == (1, 1, 1)
    assert described["notes"] == "read: prompt, completion; 1 columns not read; 1 files not read"
    assert described["first-refused"].startswith("row ")
    assert f"{CANARY} column" in (app_home / "site.log").read_text()


def test_a_site_without_a_name_is_not_called_after_its_file(site, leaks):
    context = site()
    del context.node_config["site"]
    reply = ask(context, "query.describe")
    assert leaks(reply) == []
    assert reply.content[CONFIG]["name"] == "client 0"


ERRORS = {
    "RuntimeError": RuntimeError(CANARY),
    "KeyError": KeyError(CANARY),
    "Exception": Own(CANARY),
    "Exception; ": zlib.error(CANARY),
    "out of memory; lower train.batch-size": torch.OutOfMemoryError(CANARY),
    "out of memory; lower": MemoryError(CANARY),
}
"""By what the server is told."""


@pytest.mark.parametrize(
    ("at", "told"),
    [*(("train", told) for told in ERRORS), ("tokenization", "RuntimeError"), ("evaluate", "Exception")],
)
def test_what_raises(site, leaks, monkeypatch, app_home, at, told):
    """Tokenizing, training and evaluating raise errors that hold a row, caused by others that do."""

    def fail(*_args, **_kwargs):
        raise ERRORS[told] from ValueError(CANARY)

    target = {
        "tokenization": (shards, "encode_rows"),
        "train": (sft.InstructionTuning, "train"),
        "evaluate": (sft.InstructionTuning, "evaluate"),
    }[at]
    monkeypatch.setattr(*target, fail)
    reply = ask(site(), "query.describe") if at == "tokenization" else work(site(), at)
    assert leaks(reply) == []
    assert reply.error.reason.startswith(f"client 0 (north): {told}")
    assert CANARY in (app_home / "site.log").read_text()


def test_a_round_and_an_evaluation_that_go_well(site, leaks):
    for kind in ("train", "evaluate"):
        reply = work(site(), kind)
        assert not reply.has_error()
        assert leaks(reply) == []


def run_at(contexts: list[Context], directory: Path) -> RunDirectory:
    """A whole run with these sites, in one process."""
    config = contexts[0].run_config | {"run.directory": str(directory), "clients.number": len(contexts)}
    grid = InProcessGrid({}, 0)
    grid.contexts = dict(enumerate(contexts, 100))
    run = RunDirectory(directory)
    run.create(config)
    server_app.run_experiment(grid, parse_run_config(config), run, run_id=5)
    return run


def test_a_run_with_a_client_that_fails(site, caplog, monkeypatch, tmp_path):
    """Journal, result, adapter and the server's log lines, with a client whose training raises its rows in round 1."""
    caplog.set_level(logging.DEBUG)
    second = tmp_path / "second" / f"{CANARY}.jsonl"
    second.parent.mkdir()
    second.write_text(rows())
    contexts = [site(), site(site="south", **{"data-path": str(second)})]
    train, failed = sft.InstructionTuning.train, []

    def fail_once(task, job, indices):
        if job.assignment.client == 1 and not failed:
            failed.append(True)
            raise RuntimeError(CANARY) from ValueError(CANARY)
        return train(task, job, indices)

    monkeypatch.setattr(sft.InstructionTuning, "train", fail_once)
    run = run_at(contexts, tmp_path / "run")
    assert failed
    texts = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert run.journal_file in texts
    assert b"RuntimeError; the site's log says more" in texts[run.journal_file]
    assert [path for path, text in texts.items() if CANARY.encode() in text] == []
    assert CANARY not in caplog.text


def test_a_run_that_cannot_begin(site, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Exception, match="fit no schema") as caught:
        run_at([site(FILES["a CSV file without a header"][1], "csv")], tmp_path / "run")
    assert CANARY not in str(caught.value)
    assert CANARY not in caplog.text
    assert CANARY not in (tmp_path / "run" / "journal.jsonl").read_text()


def test_a_simulation_says_everything(site):
    """There, the rows belong to whoever starts the run, and a full text helps."""
    context = site(FILES["a CSV file without a header"][1], "csv")
    context.run_config["data.name"] = context.node_config["data-path"]
    context.node_config = {"partition-id": 0, "num-partitions": 1}
    assert f"the columns (HIV positive, {CANARY} Jane Doe) fit no schema" in ask(context, "query.describe").error.reason


def test_paths_that_lead_elsewhere_at_the_site(site, leaks, tmp_path, app_home):
    """The run names a link; an error of the configuration quotes the link, not the directory behind it."""
    (tmp_path / CANARY).mkdir()
    (tmp_path / "public").symlink_to(tmp_path / CANARY)
    policy = app_home / "policy.toml"
    policy.write_text(f"[data]\nallowed = [{json.dumps(str(tmp_path / 'public'))}]\n")
    suite = f"file:{tmp_path}/public/x.jsonl"
    run = {"evaluate.suite": suite, "evaluate.suite-at": "clients", "evaluate.every": 0}
    reply = ask(site(run=run, policy=str(policy)), "query.describe")
    assert f"evaluate.suite = {suite!r} needs evaluate.every above 0" in reply.error.reason
    assert leaks(reply) == []


def test_figures_of_a_sites_own_file_are_not_called_after_it(site, leaks, app_home, monkeypatch):
    context = site()
    data = Path(context.node_config["data-path"])
    policy = app_home / "policy.toml"
    policy.write_text(f"[data]\nallowed = [{json.dumps(str(data))}]\n")
    (data.parent.parent / "public.jsonl").symlink_to(data)
    run = {"evaluate.suite": f"file:{data.parent.parent}/public.jsonl", "evaluate.suite-at": "clients"}
    context = site(run=run | {"evaluate.every": 1}, policy=str(policy))
    monkeypatch.setattr(SuiteWatch, "figures", lambda watch, *_: {f"{Path(watch.name).stem}/loss": 2.0})
    reply = work(context, "evaluate")
    assert leaks(reply) == []
    assert reply.content["metrics"]["suite-file/loss"] == 2.0
