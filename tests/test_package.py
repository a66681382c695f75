"""What importing the package does to the process."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_wait_in_a_short_loop_unless_told_otherwise(given, expected):
    plain = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    code = "import fedllm_app, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain | given, check=True)
    assert done.stdout.split() == [expected, "False"]
