"""Looks at a Ray cluster from inside: a process of its own, because who has connected to Ray keeps threads and files.

Reads one JSON object from its input and writes one to its output: `python -m fedllm_app.commands.cluster_probe`.
"""

import importlib.util
import json
import os
import sys
from typing import Any

_WAIT = 60.0  # seconds that the nodes have to answer; a worker of Ray starts in 2 to 10


def see(paths: list[str], tokens: list[str]) -> dict[str, Any]:
    """What a node is and has, as its workers find it. It runs there, and brings nothing along but itself.

    Parameters
    ----------
    paths : list[str]
        Files and directories that clients read.
    tokens : list[str]
        Files that were made for this look, in directories that all nodes must share.
    """
    import platform

    import psutil
    import ray

    found: dict[str, Any] = {"python": platform.python_version(), "ray": ray.__version__, "gpus": []}
    found["missing"] = [path for path in paths if not os.path.exists(path)]
    found["not_shared"] = [os.path.dirname(token) for token in tokens if not os.path.exists(token)]
    # Ray hides the GPUs from whoever asked for none. Its own process there knows which ones it may use.
    parent = psutil.Process().parent()
    seen = parent.environ().get("CUDA_VISIBLE_DEVICES") if parent else None
    if seen is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen
    try:
        from fedllm_app.commands.placement import this_machine
        from fedllm_app.federation.fingerprint import package_versions

        found["versions"] = package_versions()
        found["gpus"] = [[gpu.name, gpu.free, gpu.total] for gpu in this_machine().gpus]
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Connect, ask every node that would serve clients, and say what each answered, by the name of the node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # As Flower connects.
    environment = asked["environment"] | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ray.init(
            address=asked["address"],
            runtime_env={"env_vars": environment},
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except Exception as error:  # of several kinds; the caller knows what their words mean
        return {"error": f"{type(error).__name__}: {error}"}
    serving = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    task = ray.remote(num_cpus=0, max_retries=0)(see)
    answers = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(asked["paths"], asked["tokens"])
        for node in serving
    ]
    if answers:
        ray.wait(answers, num_returns=len(answers), timeout=_WAIT)
    nodes = []
    for node, answer in zip(serving, answers, strict=True):
        try:
            found = ray.get(answer, timeout=0.1)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        resources = {"cpus": int(node["Resources"]["CPU"]), "gpu_count": int(node["Resources"].get("GPU", 0))}
        name, address = node["NodeName"], node["NodeManagerAddress"]
        nodes.append(found | resources | {"name": name if name == address else f"{name} ({address})"})
    return {"address": ray.get_runtime_context().gcs_address, "nodes": nodes}


if __name__ == "__main__":
    if importlib.util.find_spec("ray") is None:
        print(json.dumps({"error": "ray is not installed here"}))
    else:
        print(json.dumps(look(json.load(sys.stdin))))
