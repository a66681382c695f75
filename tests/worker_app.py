"""A ClientApp for tests of the worker: it does what a message says, and needs no model."""

import os
import signal
import time
from logging import INFO

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore import log

from fedllm_app.client.stopping import Stopped, check_stop
from fedllm_app.messages import failure
from fedllm_app.paths import home
from fedllm_app.process_cache import PROCESS_CACHE


def identity() -> dict[str, str]:
    """As if this were the code of the app."""
    return {"code": "mine"}


def app(message: Message, context: Context) -> Message:
    """Write the message's name to a file, do what it says, and answer with this process's id and the arrays."""
    config = message.content["config"]
    with open(home() / "calls", "a") as calls:
        calls.write(f"{config['name']}\n")
    log(INFO, "working on %s", config["name"])
    if config["do"] == "load":
        PROCESS_CACHE.get("resident model", context.run_config["model.name"], dict)
    elif config["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif config["do"] == "steps":
        try:
            _steps()
        except Stopped as error:
            return failure(message, str(error))
    content = RecordDict({"metrics": MetricRecord({"pid": os.getpid()})})
    if config["do"] == "draw":
        content["metrics"]["drawn"] = float(np.random.normal())
    content["arrays"] = ArrayRecord(dict(message.content["arrays"].items()))
    return Message(content, reply_to=message)


def _steps() -> None:
    """Steps without an end, until a file says that it is enough or nobody wants them."""
    for _ in range(6000):
        check_stop()
        if (home() / "enough").exists():
            return
        time.sleep(0.01)
    raise TimeoutError("nobody stopped the steps")
