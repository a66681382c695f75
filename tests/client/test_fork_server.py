"""The process that clients of a simulation are forked from, with a ClientApp that needs no model."""

import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from places import ROOT

from fedllm_app.client import forked_backend, worker_messages
from fedllm_app.client.forked import ForkedClient, NoClient, misfit
from fedllm_app.client.forked_backend import ForkedBackend
from fedllm_app.client.worker_link import connect, listen

MINE = {"code": "mine"}
CONTEXT = Context(7, 1, {"partition-id": 1, "num-partitions": 4}, RecordDict(), {"model.name": "m"})


class Server:
    """A fork server of the ClientApp `worker_app`, as `fedllm run` starts one."""

    def __init__(self, directory: Path) -> None:
        self.socket, self.output = directory / "own" / "socket", directory / "output"
        with listen(self.socket) as listener:
            number = str(listener.fileno())
            command = [sys.executable, "-P", "-m", "fedllm_app.client.fork_server", "--app", "worker_app", "--imports"]
            self.process = subprocess.Popen(
                [*command, "json", "--socket-descriptor", number, "--remove", str(self.socket.parent)],
                env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )

    def client(self, **environment: str) -> ForkedClient:
        return ForkedClient(self.socket, os.environ | {"FEDLLM_CLIENT_OUTPUT": str(self.output)} | environment)

    def backend(self, monkeypatch, **config) -> ForkedBackend:
        monkeypatch.setenv("FEDLLM_CLIENT_OUTPUT", str(self.output))
        return ForkedBackend(config, self.socket)


@pytest.fixture
def server(tmp_path, app_home):
    one = Server(tmp_path)
    yield one
    one.process.stdin.close()
    assert one.process.wait(timeout=20) in (0, -9)


def message(do: str = "", name: str = "it") -> Message:
    content = RecordDict({"config": ConfigRecord({"do": do, "name": name})})
    content["arrays"] = ArrayRecord({"adapter": Array(np.arange(5, dtype=np.float32))})
    return Message(content, dst_node_id=1, message_type="train", ttl=60.0)


def process_of(reply: Message) -> int:
    return int(reply.content["metrics"]["pid"])


def numpy_draw(client: ForkedClient) -> float:
    return float(client.answer(message("draw"), CONTEXT).content["metrics"]["drawn"])


def gone(process: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_client_answers_and_its_log_lines_arrive(server, caplog):
    """It stays for the next message; another client is another process; both are children of the server."""
    first, second = server.client(), server.client()
    asked = message(name="one")
    with caplog.at_level(logging.INFO, "flwr"):
        reply = first.answer(asked, CONTEXT)
    assert reply.content["arrays"] == asked.content["arrays"]
    assert "working on one" in caplog.messages
    assert process_of(first.answer(message(), CONTEXT)) == first.process == process_of(reply)
    assert process_of(second.answer(message(), CONTEXT)) == second.process != first.process
    assert {child.pid for child in psutil.Process(server.process.pid).children()} == {first.process, second.process}
    first.close()
    assert gone(first.process)
    assert process_of(second.answer(message(), CONTEXT)) == second.process


def test_a_client_is_as_the_process_that_asks(server, tmp_path, monkeypatch):
    """Directory, environment and the name by which `top` shows it."""
    monkeypatch.chdir(tmp_path)
    client = server.client(FEDLLM_HOME=str(tmp_path))  # Kept: the process ends with the last reference to its client.
    process = psutil.Process(client.process)
    assert process.cwd() == str(tmp_path)
    assert process.name() == "fedllm-client"


def test_a_message_that_was_delivered_stays_so(server):
    """Flower notes in the message's metadata that it was delivered, and would deliver it again without the note."""
    asked = message()
    asked.metadata.delivered_at = "now"
    server.client().answer(asked, CONTEXT)
    assert asked.metadata.delivered_at == "now"


def test_a_client_that_dies_costs_one_message(server, monkeypatch):
    """The reply says how it ended, and the next message is answered by a new process."""
    backend = server.backend(monkeypatch, client_resources={"num_cpus": 1}, init_args={"num_cpus": 1})
    first = process_of(backend.process_message(message(), CONTEXT)[0])
    reply, context = backend.process_message(message("die"), CONTEXT)
    assert context is CONTEXT
    assert "the process that served it was killed by SIGKILL while it worked on the message" in reply.error.reason
    assert gone(first)
    second = process_of(backend.process_message(message(), CONTEXT)[0])
    assert second != first
    backend.terminate()
    assert gone(second)


def test_a_client_ends_with_its_simulation_whatever_it_does(server, app_home):
    client = server.client()
    client._link.send(*_packed(message("steps")))
    while not (app_home / "calls").exists():
        time.sleep(0.02)
    client.close()
    assert gone(client.process)


def _packed(asked: Message):
    from fedllm_app.client.worker_messages import pack_request

    return pack_request(asked, CONTEXT)


def test_who_does_not_fit_is_told_why(server, monkeypatch):
    assert misfit(server.socket, MINE) == ""
    assert misfit(server.socket, {"code": "other"}) == (
        "it runs other code of the app, or other versions of its libraries"
    )
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    monkeypatch.setenv("UNREAD", "1")
    assert misfit(server.socket, MINE) == "its environment differs in HF_HOME"


def test_with_the_command_all_end(tmp_path, app_home):
    """Its standard input is closed, as when `fedllm run` is killed: clients that work end as well, and the socket's
    directory is gone."""
    server = Server(tmp_path)
    idle, works = server.client(), server.client()
    works._link.send(*_packed(message("steps")))
    server.process.stdin.close()
    assert server.process.wait(timeout=20) == 0
    assert gone(idle.process)
    assert gone(works.process)
    assert not server.socket.parent.exists()
    with pytest.raises(NoClient, match="the fork server cannot be reached"):
        server.client()
    assert "it cannot be reached" in misfit(server.socket, MINE)


def test_who_says_nothing_sensible_is_refused(server):
    """And the others are served as before."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(server.socket))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with connect(server.socket, 20.0) as link:
        link.send({"want": "end"})
        assert "KeyError" in link.receive()[0]["refused"]
    assert process_of(server.client().answer(message(), CONTEXT))


def test_a_client_that_was_killed_while_it_waited_is_replaced(server, monkeypatch):
    """Before it is handed a message, so that none is lost."""
    backend = server.backend(monkeypatch, client_resources={"num_cpus": 1}, init_args={"num_cpus": 1})
    first = process_of(backend.process_message(message(), CONTEXT)[0])
    psutil.Process(first).kill()
    assert gone(first)
    assert process_of(backend.process_message(message(), CONTEXT)[0]) != first
    backend.terminate()


def test_a_client_that_has_ended_is_gone_before_its_link_says_so(server, monkeypatch):
    """As long as the fork server has not closed its own end of a new client's link, the link looks alive."""
    client = server.client()
    monkeypatch.setattr(type(client._link), "gone", lambda _: False)
    assert not client.gone()
    psutil.Process(client.process).kill()
    assert gone(client.process) and client.gone()


def test_a_place_without_a_process_does_not_take_the_messages_of_the_others(server, monkeypatch):
    """The fork server dies, and one of two clients. The one that lives answers on; the other place refuses a message,
    with the reason, and waits before it takes the next."""
    waited = []
    monkeypatch.setattr(forked_backend.time, "sleep", waited.append)
    backend = server.backend(monkeypatch, client_resources={"num_cpus": 1}, init_args={"num_cpus": 1})
    server.process.kill()
    reply, _ = backend.process_message(message(), CONTEXT)
    assert "no process can be had for a client: the fork server cannot be reached" in reply.error.reason
    assert waited == [forked_backend._NEXT_TRY]


def test_a_client_whose_answer_was_not_read_is_not_asked_again(server, monkeypatch):
    """Or the rest of it would be taken for the answer to the next message."""
    backend = server.backend(monkeypatch, client_resources={"num_cpus": 1}, init_args={"num_cpus": 1})

    def out_of_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(worker_messages, "unpack_reply", out_of_memory)
        with pytest.raises(MemoryError):
            backend.process_message(message(), CONTEXT)
    asked = message(name="second")
    assert backend.process_message(asked, CONTEXT)[0].content["arrays"] == asked.content["arrays"]
    assert backend._free.qsize() == 1
    backend.terminate()


def test_clients_draw_numbers_of_their_own(server):
    draws = {numpy_draw(server.client()) for _ in range(3)}
    assert len(draws) == 3


@pytest.mark.parametrize(
    ("config", "workers", "threads"),
    [
        ({"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 4}}, 4, "1"),
        ({"client_resources": {"num_cpus": 3}, "init_args": {"num_cpus": 8}}, 2, "3"),
        ({"client_resources": {"num_cpus": 0.5}, "init_args": {"num_cpus": 2}}, 4, "1"),
        ({"init_args": {"num_cpus": 2}}, 1, "2"),
    ],
)
def test_as_many_clients_at_a_time_as_ray_would_start(config, workers, threads, monkeypatch):
    """Cores over cores of a client, rounded down: ⌊4/1⌋, ⌊8/3⌋, ⌊2/0.5⌋; Flower's default client has two cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    backend = ForkedBackend(config, Path("/nowhere"))
    assert backend.num_workers == workers
    assert backend.is_worker_idle()
    assert backend.environment["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("resources", [{"num_cpus": 3}, {"num_cpus": 1, "num_gpus": 0.5}])
def test_a_client_that_needs_more_than_there_is(resources):
    with pytest.raises(ValueError, match="this machine has 2 cores and no GPU"):
        ForkedBackend({"client_resources": resources, "init_args": {"num_cpus": 2}}, Path("/nowhere"))
