"""The worker of a site, as a process: with a ClientApp that needs no model, and at the end with the real one."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from places import ROOT

from fedllm_app.client import worker_handover
from fedllm_app.client.worker import WorkerSupervisor
from fedllm_app.client.worker_handover import WorkerBusy, WorkerDied, WorkerUnavailable, hand_over, worker_socket
from fedllm_app.client.worker_process import misfit

ARRAYS = {"adapter": Array(np.arange(5, dtype=np.float32))}


def supervisor(**options) -> WorkerSupervisor:
    """A worker of this test's home, with the ClientApp that needs no model."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return WorkerSupervisor(**({"environment": environment, "app": "worker_app", "say": print} | options))


@pytest.fixture
def worker(app_home):
    """It has no process until it is asked."""
    with supervisor() as one:
        yield one


def ask(
    worker: WorkerSupervisor, do: str = "", name: str = "it", model: str = "m", ttl: float = 60.0, code: str = "mine"
) -> int:
    """Hand a message over; the id of the process that answered with the same arrays."""
    config = ConfigRecord({"do": do, "name": name, "server-round": 2})
    content = RecordDict({"config": config, "arrays": ArrayRecord(dict(ARRAYS))})
    message = Message(content, dst_node_id=1, message_type="train", ttl=ttl)
    context = Context(7, 1, {"site": "oslo"}, RecordDict(), {"model.name": model, "train.rounds": 1})
    reply = hand_over(worker.socket, message, context, {"code": code})
    assert reply.content["arrays"] == content["arrays"]
    return int(reply.content["metrics"]["pid"])


def eventually(holds) -> bool:
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def calls(app_home: Path) -> list[str]:
    file = app_home / "calls"
    return file.read_text().split() if file.exists() else []


def test_a_process_stays_and_its_log_lines_arrive(caplog):
    """None runs before the first message; the second finds the same process. At the end neither it nor the socket is
    left."""
    with supervisor() as worker, caplog.at_level(logging.INFO, "flwr"):
        assert worker.process is None
        first = ask(worker, name="one")
        assert (ask(worker), worker.process) == (first, first)
    assert "working on one" in caplog.messages
    assert first != os.getpid()
    assert not psutil.pid_exists(first)
    assert not worker.socket.parent.exists()


def test_a_process_that_is_killed_costs_one_message(app_home):
    """The reason arrives; nobody works on the message again; the next one is answered by a new process."""
    said = []
    with supervisor(say=said.append) as worker:
        with pytest.raises(WorkerDied, match="was killed by SIGKILL while it worked on the message"):
            ask(worker, do="die", name="killed")
        assert ask(worker, name="next") == worker.process
    assert calls(app_home) == ["killed", "next"]
    assert len(said) == 1
    assert "was killed by SIGKILL; the next message starts a new one" in said[0]


def test_another_model_gets_another_process(worker):
    """A process that holds no model yet serves any."""
    first = ask(worker, model="a")
    assert ask(worker, do="load", model="b") == first
    assert ask(worker, model="b") == first
    second = ask(worker, do="load", model="c")
    assert second != first
    assert not psutil.pid_exists(first)


def test_an_idle_process_ends_and_frees_its_memory():
    with supervisor(idle=0.3) as worker:
        first = ask(worker)
        assert eventually(lambda: worker.process is None)
        assert ask(worker) != first


def test_a_message_waits_while_another_is_worked_on(worker, app_home, caplog):
    """It is told with what the worker is busy. One that cannot wait as long is not worked on."""
    pids = []
    first = threading.Thread(target=lambda: pids.append(ask(worker, do="steps", name="long")))
    first.start()
    assert eventually(lambda: "long" in calls(app_home))
    with pytest.raises(WorkerBusy, match="was busy with run 7, round 2, for .* s for as long as this message may take"):
        ask(worker, name="hasty", ttl=0.1)
    with caplog.at_level(logging.INFO, "flwr"):
        second = threading.Thread(target=lambda: pids.append(ask(worker, name="patient")))
        second.start()
        assert eventually(lambda: any("is busy with run 7, round 2" in line for line in caplog.messages))
    assert pids == []
    (app_home / "enough").touch()
    for thread in (first, second):
        thread.join(60)
    assert len(set(pids)) == 1
    assert len(pids) == 2
    assert calls(app_home) == ["long", "patient"]


def test_work_that_nobody_waits_for_stops_between_two_steps(worker, app_home, monkeypatch):
    """The process that handed the message over goes away; the worker stays, and takes the next message."""
    links = []
    connect = worker_handover.connect

    def remembered(*arguments):
        links.append(connect(*arguments))
        return links[-1]

    monkeypatch.setattr(worker_handover, "connect", remembered)

    def abandoned() -> None:
        with pytest.raises(WorkerDied):
            ask(worker, do="steps", name="abandoned")

    thread = threading.Thread(target=abandoned)
    thread.start()
    assert eventually(lambda: "abandoned" in calls(app_home))
    before = worker.process
    links[0]._connection.shutdown(2)
    thread.join(60)
    assert ask(worker, name="next") == before


def test_a_worker_of_other_code_takes_nothing(worker, app_home):
    """And it ends, so that its memory is free for the process that does the work."""
    first = ask(worker, name="fits")
    with pytest.raises(WorkerUnavailable, match="does not take the message: it runs other code of the app"):
        ask(worker, name="other", code="other")
    assert calls(app_home) == ["fits"]
    assert eventually(lambda: not psutil.pid_exists(first))


def test_both_must_have_the_same_protocol_code_and_home():
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    said = worker_handover.greeting(message, Context(7, 1, {}, RecordDict(), {}), {"code": "mine"})
    assert misfit(said, {"code": "mine"}) == ""
    for key in ("protocol", "identity", "home"):
        assert misfit(said | {key: "other"}, {"code": "mine"})
        assert misfit({name: value for name, value in said.items() if name != key}, {"code": "mine"})


def test_a_worker_that_cannot_start_is_not_waited_for(app_home):
    said = []
    refused = pytest.raises(WorkerUnavailable, match="its process died 2 times in a row")
    with supervisor(app="no_such_app", say=said.append) as worker, refused:
        ask(worker)
    assert [line.partition(" ended ")[2] for line in said] == ["with status 1; the next message starts a new one"] * 2


def test_where_no_worker_is_the_message_is_not_taken(tmp_path):
    class Nowhere:
        socket = tmp_path / "no" / "socket"

    with pytest.raises(WorkerUnavailable, match="cannot be reached: there is no"):
        ask(Nowhere())


def test_a_site_names_its_worker_and_a_simulation_has_none(monkeypatch):
    assert worker_socket({"site": "oslo"}) is None
    assert worker_socket({"worker": "/run/w"}) == Path("/run/w")
    monkeypatch.setenv("FEDLLM_WORKER", "/run/v")
    assert worker_socket({"data-path": "/d"}) == Path("/run/v")
    assert worker_socket({"partition-id": 0, "num-partitions": 2}) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_leaves_no_process(tmp_path, number, app_home):
    """However it ends; only SIGKILL leaves the socket, which the next one replaces."""
    path = tmp_path / "w" / "socket"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "fedllm_app.client.worker", "--socket", str(path), "--app", "worker_app"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        assert eventually(path.exists)

        class Command:
            socket = path

        child = ask(Command())
        process.send_signal(number)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert eventually(lambda: not psutil.pid_exists(child))
    assert path.exists() == (number == signal.SIGKILL)
