"""Memory and seconds of the server: replies of some size, some number of them, through the round loop.

    python benchmarks/server.py                       # 4.2 and 84 million numbers, 10 and 100 replies: some minutes
    python benchmarks/server.py --sizes 4200000 --replies 1000 --strategies fedavg,krum

Every case is two rounds in a process of its own, and one JSON line. `adapters` is the peak of the process above its
start, in adapters (float32 vectors); `said` is what `fedllm plan` says. `seconds` is the server's time for a reply of
the second round, without the time in which the reply was made; `passes` is that divided by the time in which NumPy sums
the numbers of a reply once. With `slow` the first client answers last, so that all others wait on the disk.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

ROUNDS = 2


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="4200000,84000000", help="numbers of an adapter")
    parser.add_argument("--replies", default="10,100")
    parser.add_argument("--strategies", default="fedavg,scaffold,fedadam,krum,fedmedian")
    parser.add_argument("--most", type=float, default=12.0, help="GB: cases that need more are left out, and told")
    parser.add_argument("--most-disk", type=float, default=12.0, help="GB of waiting replies, likewise")
    parsed = parser.parse_args()
    for size in map(int, parsed.sizes.split(",")):
        for strategy in parsed.strategies.split(","):
            for replies in map(int, parsed.replies.split(",")):
                for slow in (False, True):
                    case = {"size": size, "strategy": strategy, "replies": replies, "slow": slow}
                    print(json.dumps({"benchmark": "server", **case, **_figures(parsed, **case)}), flush=True)


def _figures(parsed: argparse.Namespace, size: int, strategy: str, replies: int, slow: bool) -> dict[str, object]:
    from fedllm_app.strategies.registry import build_strategy

    built = build_strategy(strategy, {}, replies)
    said = built.held_vectors(replies, replies)
    if 4e-9 * size * (said + 2) > parsed.most:
        return {"left_out": f"needs {4e-9 * size * said:.0f} GB of memory"}
    waiting = 4e-9 * size * len(built.reply_arrays) * replies
    if slow and waiting > parsed.most_disk:
        return {"left_out": f"needs {waiting:.0f} GB of disk"}
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process each: its peak is its own
        return {"said": said, **pool.apply(_measure, (size, strategy, replies, slow))}


def _measure(size: int, strategy: str, replies: int, slow: bool) -> dict[str, float]:
    import numpy as np
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1  # without them Flower makes no message
    with tempfile.TemporaryDirectory() as scratch:
        grid = _grid(replies, slow)
        rounds = _loop(grid, strategy, replies, Path(scratch))
        start = np.random.default_rng(0).standard_normal(size, np.float32)
        one_pass = min(_timed(start.sum) for _ in range(3)) * len(rounds.strategy.reply_arrays)
        before = _memory("VmRSS")
        marks = []
        rounds.strategy.configure_train = _marked(rounds.strategy.configure_train, grid, marks)
        rounds.run(start)
        seconds = (time.perf_counter() - marks[-1][0] - (grid.making - marks[-1][1])) / replies
        adapters = (_memory("VmHWM") - before) / start.nbytes
    return {"adapters": round(adapters, 2), "seconds": round(seconds, 4), "passes": round(seconds / one_pass, 1)}


def _marked(function, grid, marks: list):
    """The function, which notes when it was called and how long the grid had made replies until then."""

    def noted(*arguments):
        marks.append((time.perf_counter(), grid.making))
        return function(*arguments)

    return noted


def _timed(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _memory(name: str) -> int:
    """Bytes of this process by a line of Linux's status: VmRSS now, VmHWM at most until now."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line)
    return int(lines[name].split()[0]) * 1024


def _grid(clients: int, slow: bool):
    """Nodes that send back what they got, one copy each, made when the server takes it."""
    from flwr.app import Array, ArrayRecord

    from fedllm_app.messages import Assignment, reply

    class Echo:
        def __init__(self) -> None:
            self.making, self.waiting = 0.0, {}

        def get_node_ids(self) -> list[int]:
            return list(range(clients))

        def push_messages(self, messages) -> list[str]:
            ids = []
            for message in messages:
                message.metadata._message_id = f"{len(self.waiting)}-{message.metadata.dst_node_id}"
                self.waiting[message.metadata.message_id] = message
                ids.append(message.metadata.message_id)
            return ids

        def pull_messages(self, message_ids) -> list:
            order = list(self.waiting)
            first = order[1] if slow and len(order) > 1 else order[0]
            if first not in set(message_ids):
                return []
            began = time.perf_counter()
            answer = self.answer(self.waiting.pop(first))
            self.making += time.perf_counter() - began
            return [answer]

        def answer(self, message):
            names = {"adapter": "adapter", "control": "control-delta"}
            arrays = {
                names[name]: Array(array.dtype, array.shape, array.stype, bytes(memoryview(array.data)))
                for name, array in message.content["arrays"].items()
            }
            job = Assignment.from_message(message)
            return reply(message, ArrayRecord(arrays), {"num-examples": 1, "client": job.client}, job.manifest)

    return Echo()


def _loop(grid, strategy_name: str, clients: int, scratch: Path):
    from fedllm_app.federation import transport
    from fedllm_app.federation.closing import Quorum
    from fedllm_app.federation.exchange import PlainExchange
    from fedllm_app.federation.ledger import Ledger
    from fedllm_app.federation.rounds import Rounds
    from fedllm_app.federation.schedule import Schedule
    from fedllm_app.federation.sent_once import SentOnce
    from fedllm_app.runs.directory import RunDirectory
    from fedllm_app.strategies.registry import build_strategy
    from fedllm_app.updates.chain import UpdateChain

    transport._PULL_INTERVAL = 0.0
    directory = RunDirectory(scratch / "run")
    directory.create({})
    strategy = build_strategy(strategy_name, {}, clients)
    ledger, chain, once = Ledger(directory, clients), UpdateChain(), SentOnce({}, range(clients))
    exchange = PlainExchange(
        grid,
        {client: client for client in range(clients)},
        manifest="m",
        required=strategy.reply_arrays,
        timeout=3600.0,
        ledger=ledger,
        chain=chain,
        once=once,
    )
    schedule = Schedule(
        clients=clients,
        rounds=ROUNDS,
        per_round=0,
        local_steps=1,
        max_learning_rate=1e-3,
        min_learning_rate=1e-3,
        evaluate_every=0,
        checkpoint_every=0,
        seed=0,
    )
    return Rounds(strategy, schedule, exchange, ledger, chain, once, "m", lambda _: None, quorum=Quorum(minimum=0.0))


if __name__ == "__main__":
    main()
