"""A strategy asks clients for something in its messages: whoever reads it honours it, and nobody is an error."""

import sys
from types import ModuleType

import pytest
from in_process import run_in_process

from fedllm_app.federation.rounds import RunFailed
from fedllm_app.runs.journal import read_journal
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.training.corrections import Correction


class Clipping(FedAvg):
    """FedAvg that expects its clients to clip."""

    def configure_train(self, server_round, arrays, config, grid):
        config["clipping-norm"] = 0.5
        return super().configure_train(server_round, arrays, config, grid)


class Clip(Correction):
    """Reads what `Clipping` asks for."""

    @classmethod
    def requested(cls, local_round):
        return cls() if local_round.config.get("clipping-norm") else None

    def apply(self, parameters):
        for parameter in parameters:
            parameter.grad.clamp_(-0.5, 0.5)


@pytest.fixture
def asking(small, monkeypatch) -> dict:
    module = ModuleType("clipping_code")
    module.Clipping, module.Clip = Clipping, Clip
    monkeypatch.setitem(sys.modules, "clipping_code", module)
    return small | {"strategy.name": "clipping_code.Clipping", "train.rounds": 1, "clients.retries": 0}


def test_what_no_client_reads_refuses_the_round(asking, tmp_path):
    with pytest.raises(RunFailed):
        run_in_process(asking, tmp_path / "run")
    refused = [event for event in read_journal(tmp_path / "run") if event["event"] == "refused"]
    assert [event["client"] for event in refused] == [0, 1, 2]
    assert all(
        "the strategy asks clients for clipping-norm = 0.5, and nothing here reads it" in e["reason"] for e in refused
    )


def test_a_correction_that_reads_it_honours_it(asking, tmp_path):
    run_in_process(asking | {"train.corrections": "clipping_code.Clip"}, tmp_path / "run")
    assert not [event for event in read_journal(tmp_path / "run") if event["event"] == "refused"]
