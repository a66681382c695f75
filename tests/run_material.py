"""Run directories made by hand, whose numbers can be followed in the head."""

import json
from pathlib import Path

from places import ROOT

from fedllm_app.config.parse import default_run_config
from fedllm_app.paths import write_text
from fedllm_app.runs.directory import RunDirectory

NAMES = {0: "north", 1: "south"}
LOSSES = {0: 5.0, 1: 3.0, 2: 2.0}  # held-out, by round, of all clients; client 0 has 0.5 less, client 1 0.5 more
EXACT = {0: 0.0, 1: 0.25, 2: 0.5}
REFUSED = {(1, 1): "it ran out of memory"}  # (round, client)


def write_run(path: Path, names=NAMES, losses=LOSSES, exact=EXACT, refused=REFUSED, ends="finished", **config) -> Path:
    """A run of two rounds and two clients, 8 held-out rows each. A round takes 10 s: 1 of sending, 8 of waiting, 1 of
    aggregation. Its clients train for 4 s each, one after the other, until 5 and 9 s after the messages were sent.

    Everything before round 1 takes 20 s, of which 12 are the clients'; an evaluation 3 s, a checkpoint 0.5 s.
    """
    flat = default_run_config(ROOT) | {"train.rounds": 2, "clients.number": len(names)}
    flat |= {key.replace("__", "."): value for key, value in config.items()}
    run = RunDirectory(path)
    run.create(flat)
    run.journal("started", run="a" * 32, run_id="5", rounds=2, strategy=flat["strategy.name"], code="c")
    versions = ["torch 2.13.0"]
    run.journal("environment", python="3.11.7", system="Linux", cpus=2, memory_mb=2048.0, versions=versions)
    for client, name in names.items():
        run.journal("holds", client=client, name=name, schema="builtin", examples=30, held_out=8, tokens=900)
    run.journal("versions", clients=sorted(names), versions=versions)
    run.journal(
        "ready", seconds=20.0, connect_seconds=2.0, describe_seconds=12.0, parameters=100, clients=sorted(names)
    )
    _evaluation(run, 0, names, losses, exact)
    for number in (1, 2):
        _round(run, number, names, refused)
        _evaluation(run, number, names, losses, exact)
        run.journal("checkpoint", round=number, seconds=0.5)
    _end(run, ends, names, refused)
    return path


def _round(run: RunDirectory, number: int, names, refused) -> None:
    run.journal("round-started", round=number, clients=sorted(names), learning_rate=0.1)
    used = [client for client in names if (number, client) not in refused]
    for client, name in names.items():
        place = {"round": number, "client": client, "name": name}
        if client not in used:
            run.journal("refused", **place, during="train", reason=refused[number, client])
            continue
        numbers = {"num_examples": 30, "train_loss": 4.0 - number + client, "steps": 5, "seconds": 4.0}
        numbers |= {"reply_seconds": 5.0 + 4.0 * client, "peak_memory_mb": 100.0 + client, "peak_gpu_memory_mb": 0.0}
        run.journal("client", **place, **numbers, bytes_down=1000, bytes_up=500, control_reset=int(client == 0))
    mean = sum(4.0 - number + client for client in used) / len(used)
    seconds = {"seconds": 10.0, "send_seconds": 1.0, "wait_seconds": 8.0, "aggregate_seconds": 1.0}
    totals = {"total_bytes_down": 4000 * number, "total_bytes_up": 1000 * number, "peak_memory_mb": 101.0}
    run.journal("round", round=number, clients=used, train_loss=mean, **seconds, **totals)


def _evaluation(run: RunDirectory, number: int, names, losses, exact) -> None:
    for client, name in names.items():
        metrics = {"num_examples": 8, "eval_loss": losses[number] - 0.5 + client, "exact_match": exact[number]}
        place = {"round": number, "client": client, "name": name}
        run.journal("client-evaluation", **place, **metrics, peak_memory_mb=90.0, bytes_down=1000, bytes_up=0)
    values = {"eval_loss": losses[number], "exact_match": exact[number]}
    run.journal("evaluation", round=number, clients=sorted(names), seconds=3.0, **values)


def _end(run: RunDirectory, ends: str, names, refused) -> None:
    lost = {client: [place for place in refused if place[1] == client] for client in names}
    lines = [
        {
            "client": client,
            "name": name,
            "drawn": 2,
            "took_part": 2 - len(lost[client]),
            "refused": len(lost[client]),
            "late": 0,
            "last_reason": refused[lost[client][-1]] if lost[client] else "",
        }
        for client, name in names.items()
    ]
    if ends == "finished":
        run.journal("finished", seconds=60.0, participation=lines)
        totals = {"strategy": "fedavg", "rounds": 2, "seconds": 60.0, "seconds_of_rounds": 40.0, "bytes_down": 8000}
        totals |= {"bytes_up": 2000, "peak_client_memory_mb": 101.0, "refused_replies": len(refused)}
        write_text(run.result_file, json.dumps(totals | {"participation": lines}))
    elif ends:
        run.journal("failed", reason=ends, participation=lines)
