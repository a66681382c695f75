"""How clients share a machine: made-up machines, and what a run is started with."""

import subprocess
from types import SimpleNamespace

import pytest

from fedllm_app.commands import run
from fedllm_app.commands.costs import make_plan
from fedllm_app.commands.placement import Gpu, Machine, Placement, gives_no_gpu, place, place_on, this_machine
from fedllm_app.config.parse import parse_run_config
from fedllm_app.models import hardware

GB = 2**30


def gpus(count: int, gb: float) -> tuple[Gpu, ...]:
    return tuple(Gpu("GPU", int(gb * GB), int(gb * GB)) for _ in range(count))


@pytest.mark.parametrize(
    ("cores", "wanted", "cpus"), [(2, 4, 1), (8, 4, 2), (8, 3, 2), (8, 1, 8), (1, 4, 1), (64, 2, 32)]
)
def test_without_a_gpu_cores_are_shared(cores, wanted, cpus):
    """As many at a time as take part and cores allow: 8 cores for 3 clients are 2 each."""
    assert place(Machine(cores), wanted, GB) == Placement(cpus)


@pytest.mark.parametrize(
    ("count", "gb", "need", "wanted", "each", "at_once"),
    [
        (1, 8, 1.0, 4, 4, 4),  # 1.15 + 0.59 = 1.74 GB each: 4 fit into 8 GB
        (1, 8, 1.0, 10, 4, 4),
        (1, 24, 1.0, 4, 4, 4),  # 13 fit, 4 are there
        (1, 80, 0.1, 50, 8, 8),  # 110 fit, never more than 8
        (1, 24, 14.0, 4, 1, 1),  # 16.1 + 0.59 = 16.7 GB: one
        (8, 24, 14.0, 4, 1, 4),
        (8, 80, 14.0, 50, 4, 32),  # 80 / 16.7 = 4.8
        (8, 80, 14.0, 10, 2, 10),  # 10 clients on 8 GPUs: two on a GPU are enough
        (2, 80, 33.0, 3, 2, 3),  # 37.95 + 0.59 = 38.5 GB: two
    ],
)
def test_a_gpu_is_shared_by_those_that_fit(count, gb, need, wanted, each, at_once):
    placed = place(Machine(16, gpus(count, gb)), wanted, int(need * GB))
    assert placed.gpus == pytest.approx(1 / each, abs=0.01) and placed.gpus * each <= 1.0
    assert placed.cpus == max(1, 16 // at_once)
    assert placed.fits and f"{at_once} train at a time, {each} on a GPU" in placed.reason


@pytest.mark.parametrize(
    ("cores", "wanted", "cpus"),
    [
        ((8, 8), 4, 4),
        ((8, 8), 2, 8),
        ((8, 8), 3, 4),  # three of 5 cores would not fit: a client is on one node
        ((16, 2), 3, 5),  # 3 · 5 of the large node
        ((1, 1), 9, 1),
    ],
)
def test_the_cores_of_a_cluster_are_shared_node_by_node(cores, wanted, cpus):
    assert place_on([Machine(each) for each in cores], wanted, None) == Placement(cpus)


def test_the_gpus_of_a_cluster_are_shared():
    """2 · 4 GPUs for 16 clients are two on each; of a node without GPUs, or with few cores, the clients' cores count
    for nothing."""
    nodes = [Machine(32, gpus(4, 80)), Machine(16, gpus(4, 80)), Machine(64)]
    placed = place_on(nodes, 16, 14 * GB)
    assert (placed.gpus, placed.cpus) == (0.5, 2)
    assert "8 GPUs on 2 machines" in placed.reason and "16 train at a time, 2 on a GPU" in placed.reason
    smaller = place_on([*nodes, Machine(8, gpus(1, 16))], 16, 14 * GB)  # the smallest GPU decides: 16.7 GB do not fit
    assert (smaller.gpus, smaller.fits) == (1.0, False)


@pytest.mark.parametrize(("gb", "need"), [(8, 14.0), (24, 140.0), (80, 75.0)])
def test_a_client_that_does_not_fit_is_said(gb, need):
    """A 7B base in bfloat16 on 8 GB, a 70B one on 24 GB; 75 GB and a margin do not fit into 80 GB."""
    placed = place(Machine(8, gpus(2, gb)), 4, int(need * GB))
    assert (placed.gpus, placed.cpus, placed.fits) == (1.0, 4, False)
    assert "more than is free on one" in placed.reason and "model.quantization" in placed.reason


@pytest.mark.parametrize(
    ("count", "gb", "need", "each", "at_once", "cpus"),
    [
        (2, 24, 33.0, 2, 1, 16),  # 37.95 / 2 + 0.59 = 19.6 GB on each of two
        (8, 24, 33.0, 2, 4, 4),
        (8, 24, 140.0, 7, 1, 16),  # 161 / 7 + 0.59 = 23.6 GB; on six 27.4
        (8, 80, 140.0, 3, 2, 8),  # 161 / 3 + 0.59 = 54.3 GB; two GPUs are left over
    ],
)
def test_a_base_that_may_lie_on_several_gpus_gets_as_few_as_hold_it(count, gb, need, each, at_once, cpus):
    placed = place(Machine(16, gpus(count, gb)), 4, int(need * GB), spreads=True)
    assert (placed.gpus, placed.cpus, placed.fits) == (each, cpus, True)
    assert f"it gets {each} GPUs" in placed.reason and f"{at_once} train" in placed.reason
    assert f"client-resources-num-gpus={each}" in placed.federation_config(4)


def test_the_key_for_several_gpus_is_named_where_they_would_do():
    """And a base that not even all of them hold gets all, with a warning."""
    machine = Machine(16, gpus(2, 24))
    alone = place(machine, 4, 33 * GB)
    assert (alone.gpus, alone.fits) == (1.0, False)
    assert "2 GPUs would hold it with model.device-map = 'auto'" in alone.reason
    too_large = place(machine, 4, 140 * GB, spreads=True)
    assert (too_large.gpus, too_large.fits) == (2.0, False)
    assert "2 GPUs of its own and may run out of memory" in too_large.reason
    assert place(machine, 4, 2 * GB, spreads=True).gpus == 0.5  # what fits on one is shared as ever
    assert place(machine, 4, None, spreads=True).gpus == 2.0


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("each", range(1, 9))
def test_flower_starts_as_many_clients_as_have_room(count, each):
    """It divides a node's GPUs by a client's part; Ray puts no client on two GPUs. One too many would wait for ever."""
    placed = place(Machine(count * each, gpus(count, each * 2.0)), count * each, GB)  # 1.15 + 0.59 GB each
    assert int(count / placed.gpus) == count * each
    assert int(1 / placed.gpus) == each


def test_memory_that_others_use_counts(caplog):
    """Of two GPUs of 80 GB one has 10 GB free: a client of 8 GB fits once there, so one a GPU."""
    machine = Machine(8, (Gpu("GPU", 80 * GB, 80 * GB), Gpu("GPU", 10 * GB, 80 * GB)))
    assert place(machine, 4, 8 * GB).gpus == 1.0


def test_what_is_not_known_gets_a_gpu_of_its_own():
    placed = place(Machine(8, gpus(1, 80)), 4, None)
    assert (placed.gpus, placed.cpus) == (1.0, 8)
    assert "not known" in placed.reason


def test_the_federation_that_a_run_is_started_with():
    assert Placement(2).federation_config(4) == "num-supernodes=4 client-resources-num-cpus=2"
    text = Placement(2, 0.33, "…").federation_config(4)
    assert text == "num-supernodes=4 client-resources-num-cpus=2 client-resources-num-gpus=0.33"


def test_a_configuration_without_gpus_is_warned_of():
    machine = Machine(8, gpus(2, 80))
    assert "this machine has 2 GPUs" in gives_no_gpu("num-supernodes=4 client-resources-num-cpus=2", [machine])
    assert gives_no_gpu("num-supernodes=4 client-resources-num-gpus=0", [machine]) == ""  # said on purpose
    assert gives_no_gpu("num-supernodes=4", [Machine(8)]) == ""


def test_torch_is_asked_only_where_a_driver_is(monkeypatch, tmp_path):
    """And in another process, whose answer may follow warnings."""
    asked = []

    def answer(command, **_):
        asked.append(command)
        return SimpleNamespace(returncode=0, stdout='a warning\n[["GPU", 5, 9]]\n')

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(hardware, "_DRIVERS", (str(tmp_path / "nowhere"),))
    assert this_machine().gpus == () and asked == []
    monkeypatch.setattr(hardware, "_DRIVERS", (str(tmp_path),))
    assert this_machine().gpus == (Gpu("GPU", 5, 9),)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout=""))
    assert this_machine().gpus == ()


def test_a_run_uses_the_gpus_and_says_so(run_config, monkeypatch, console):
    """The need is that of `fedllm plan` for the tiny model, a few hundred MB with the context: four clients share."""
    config = run_config | {"clients.number": 4}
    text = run.default_federation(parse_run_config(config), config, console, [Machine(8, gpus(1, 8))])
    assert text == "num-supernodes=4 client-resources-num-cpus=2 client-resources-num-gpus=0.25"
    assert "1 GPU (GPU, 8.0 GB free): a client needs about 0." in console.export_text()


def test_the_need_of_a_gpu_is_the_plans(run_config):
    assert run.gpu_need(run_config) == make_plan(run_config).memory.held
