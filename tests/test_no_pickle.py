"""Nothing that is read can run code: no pickle on the wire, in checkpoints and in caches, and no text is executed."""

import ast
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from places import ROOT

from fedllm_app import client_app
from fedllm_app.messages import ADAPTER, ARRAYS, CONFIG, Assignment, read_vectors

PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "multiprocessing"}
"""Modules that read or write pickles, or send them to another process."""

ARRAYS_OF_OBJECTS = {"load", "save", "savez", "savez_compressed"}  # of NumPy: a pickle, unless allow_pickle is False
UNSAFE = {("torch", "load"), ("torch", "save"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")}
EXECUTE = {"eval", "exec", "exec_module", "execfile", "read_pickle", "to_pickle", "run_path"}

ALLOWED = {
    "evaluation/graders/guarded.py": {"exec"},  # the sandbox, in a process of its own without rights
    "evaluation/suites/__init__.py": {"exec_module"},  # a suite of the user's, which a site's policy has to name
    "data/domains/programming.py": {"eval"},  # expressions of its own, to know their answers
}


def dangers(text: str) -> Iterator[str]:
    """What in a Python file reads, writes or runs code that somebody else may have written."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in PICKLERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PICKLERS:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    called = node.func
    if isinstance(called, ast.Name) and called.id in EXECUTE:
        yield called.id
    if not isinstance(called, ast.Attribute):
        return
    owner = called.value.id if isinstance(called.value, ast.Name) else ""
    if called.attr in EXECUTE - {"eval"} or (owner, called.attr) in UNSAFE:  # .eval() is a model's
        yield called.attr
    if owner in ("np", "numpy") and called.attr in ARRAYS_OF_OBJECTS:
        safe = any(
            keyword.arg == "allow_pickle" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            for keyword in node.keywords
        )
        yield from [] if safe else [f"{owner}.{called.attr}"]


def test_no_file_of_the_package_reads_writes_or_runs_what_could_be_code():
    package = ROOT / "fedllm_app"
    found = {str(file.relative_to(package)): set(dangers(file.read_text("utf-8"))) for file in package.rglob("*.py")}
    assert len(found) > 150
    assert {
        name: what - ALLOWED.get(name, set()) for name, what in found.items() if what - ALLOWED.get(name, set())
    } == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def late():\n    from multiprocessing.connection import Client",
        "from joblib import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=allowed)",
        "np.save(path, array)",
        "np.savez(path, **arrays)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "spec.loader.exec_module(module)",
        "frame.to_pickle(path)",
    ],
)
def test_each_kind_is_found(text):
    assert list(dangers(text))


@pytest.mark.parametrize("text", ["np.load(path, allow_pickle=False)", "model.eval()", "yaml.safe_load(text)"])
def test_what_is_safe_is_not(text):
    assert not list(dangers(text))


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def pickled(tmp_path):
    """An array of objects as a peer may send it, in each of two ways; and the file that it would leave."""
    ran, buffer = tmp_path / "RAN", io.BytesIO()
    np.save(buffer, np.array([Runs(ran)], dtype=object), allow_pickle=True)
    arrays = {
        "an array of objects": Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue()),
        "a bare pickle": Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=pickle.dumps(Runs(ran))),
        "of another kind": Array(dtype="float32", shape=(1,), stype="pickle", data=pickle.dumps(Runs(ran))),
    }
    return arrays, ran


@pytest.mark.parametrize("how", ["an array of objects", "a bare pickle", "of another kind"])
def test_a_pickle_in_a_message_is_refused_and_not_opened(pickled, how, run_config):
    """By a client as an error reply, and by what the server reads replies with."""
    arrays, ran = pickled
    assignment = Assignment(client=0, clients=1, server_round=1, position=0, learning_rate=1e-3, manifest="m")
    content = RecordDict({CONFIG: ConfigRecord(assignment.to_config()), ARRAYS: ArrayRecord({ADAPTER: arrays[how]})})
    message = Message(content, dst_node_id=11, message_type="train")
    message.metadata._message_id = "asked"
    context = Context(
        run_id=3,
        node_id=11,
        node_config={"partition-id": 0, "num-partitions": 1},
        state=RecordDict(),
        run_config=run_config | {"clients.number": 0},
    )
    assert client_app.app(message, context).has_error()
    with pytest.raises((ValueError, TypeError, OSError)):
        read_vectors(message)
    assert not ran.exists()
