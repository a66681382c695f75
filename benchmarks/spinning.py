"""Small matrix products with two threads while a second process does the same, for some settings of OpenMP's waiting.

Prints a JSON line a setting: seconds alone, and with two processes at once. `python benchmarks/spinning.py`.
"""

import json
import os
import subprocess
import sys

SETTINGS = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}, "spin 1000": {"GOMP_SPINCOUNT": "1000"}}

WORK = """
import time, torch
from torch.nn.functional import linear
torch.set_num_threads(2)
rows, up, down = (torch.randn(*shape).bfloat16() for shape in ((16, 576), (1536, 576), (576, 1536)))
began = time.perf_counter()
for _ in range(500):
    linear(linear(rows, up).relu(), down)
print(time.perf_counter() - began)
"""


def seconds(setting: dict[str, str], processes: int) -> float:
    """The mean over the processes."""
    plain = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    running = [
        subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, text=True, env=plain | setting)
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in running) / processes


if __name__ == "__main__":
    for name, setting in SETTINGS.items():
        alone, shared = (round(seconds(setting, processes), 2) for processes in (1, 2))
        print(
            json.dumps({"benchmark": "spinning", "setting": name, "alone": alone, "two_processes": shared}), flush=True
        )
