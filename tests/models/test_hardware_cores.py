"""How many cores a process may use: of the machine, under `taskset`, in a container."""

import os

import pytest

from fedllm_app.models import hardware
from fedllm_app.models.hardware import cores


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """One with 64 cores, all of them usable, and no container."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)))
    monkeypatch.setattr(hardware, "_CGROUP_2", tmp_path / "cpu.max")
    monkeypatch.setattr(hardware, "_CGROUP_1", (tmp_path / "quota", tmp_path / "period"))
    return tmp_path


def test_of_a_machine(machine, monkeypatch):
    assert cores() == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5})
    assert cores() == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("400000 100000\n", 4), ("250000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 64), ("nonsense\n", 64)],
)
def test_of_a_container(machine, text, expected):
    """Microseconds of a period: 400,000 of 100,000 are four cores; parts are dropped, but one is left."""
    (machine / "cpu.max").write_text(text)
    assert cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("800000\n", 8), ("-1\n", 64)])
def test_of_an_older_container(machine, quota, expected):
    (machine / "quota").write_text(quota)
    (machine / "period").write_text("100000\n")
    assert cores() == expected
