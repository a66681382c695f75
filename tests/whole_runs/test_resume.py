"""A run that was killed goes on from its last checkpoint and ends with the bytes of one that was not."""

import json
import shutil

import pytest
from in_process import InProcessGrid, resume_in_process, run_in_process

from fedllm_app.config.sections import ConfigError
from fedllm_app.messages import CONFIG
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.runs import checkpoints
from fedllm_app.runs.directory import NotResumable, RunDirectory, read_journal, read_result

STATE = ("scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam")
STATELESS = ("fedavg", "fedprox", "local", "centralized")


class Killed(BaseException):
    """As kill -9: nothing of the app may catch it, and nothing is written any more."""


@pytest.fixture
def small(run_config):
    """Three of four clients a round, five rounds of one step, checkpoints after rounds 2 and 4."""
    return run_config | {
        "clients.number": 4,
        "clients.per-round": 3,
        "train.rounds": 5,
        "train.local-steps": 1,
        "run.checkpoint-every": 2,
        "data.examples-per-client": 6,
        "data.held-out-examples": 2,
        "evaluate.every": 0,
    }


def dying(server_round: int, client_number: int):
    """A grid whose server dies when the client of this place in this round has trained."""

    class Dying(InProcessGrid):
        trained = 0

        def push_messages(self, messages):
            ids = super().push_messages(messages)
            for message in messages:
                config = message.content.get(CONFIG, {})
                if message.metadata.message_type == "train" and config["server-round"] == server_round:
                    self.trained += 1
                    if self.trained == client_number:
                        raise Killed
            return ids

    return Dying


def killed(flat, directory, grid=InProcessGrid) -> None:
    with pytest.raises(Killed):
        run_in_process(flat, directory, grid)
    PROCESS_CACHE.clear("local client")


def assert_resumed_alike(flat, tmp_path, server_round: int = 4, client_number: int = 2) -> list[dict]:
    """Run undisturbed; run again, die, go on: the same bytes. Returns the journal of the second."""
    whole = run_in_process(flat, tmp_path / "whole")
    killed(flat, tmp_path / "broken", dying(server_round, client_number))
    assert resume_in_process(flat, tmp_path / "broken") == whole
    for adapter in (tmp_path / "whole").glob("adapters/*/adapter_model.safetensors"):
        again = tmp_path / "broken" / adapter.relative_to(tmp_path / "whole")
        assert again.read_bytes() == adapter.read_bytes()
    return read_journal(tmp_path / "broken")


@pytest.mark.parametrize("name", STATE + STATELESS)
def test_every_strategy(name, small, tmp_path):
    """Dies in round 4, before its last client has trained; goes on after round 2, so that round 3 is done again."""
    journal = assert_resumed_alike(small | {"strategy.name": name}, tmp_path, 4, 1 if name == "centralized" else 2)
    resumed = [event for event in journal if event["event"] == "resumed"]
    assert [(event["round"], event["again"]) for event in resumed] == [(2, 1)]
    assert [event["round"] for event in journal if event["event"] == "round"] == [1, 2, 3, 4, 5]
    resets = [event for event in journal if event.get("control_reset") or event.get("error_reset")]
    assert resets == []


@pytest.mark.parametrize(
    "given",
    [
        {"update.compress": "int8"},
        {"update.compress": "int8", "strategy.name": "scaffold"},
        {"train.task": "dpo"},
        {"train.task": "kto"},
        {"train.task": "text"},
        {"lora.aggregation": "ffa"},
        {"lora.dropout": 0.3},
        {"adapter.method": "p-tuning"},
    ],
    ids=str,
)
def test_tasks_updates_and_adapters(given, small, tmp_path):
    assert_resumed_alike(small | given, tmp_path)


def test_a_reference_whose_origin_is_gone(small, tmp_path):
    """Value alignment compares with the adapter that the run started from, which the run directory keeps."""
    run_in_process(small | {"train.rounds": 1}, tmp_path / "first")
    flat = small | {"train.task": "dpo", "adapter.start": str(tmp_path / "first"), "clients.per-round": 2}
    whole = run_in_process(flat, tmp_path / "whole")
    killed(flat, tmp_path / "broken", dying(4, 1))
    shutil.rmtree(tmp_path / "first")
    assert resume_in_process(flat, tmp_path / "broken") == whole


@pytest.mark.parametrize("server_round", [1, 2, 3, 5])
def test_other_moments(server_round, small, tmp_path):
    """In round 1 and 2 no checkpoint is there, and the run begins anew; in round 5 after that of round 4."""
    journal = assert_resumed_alike(
        small | {"strategy.name": "scaffold", "evaluate.every": 1}, tmp_path, server_round, 1
    )
    [resumed] = [event for event in journal if event["event"] == "resumed"]
    assert resumed["round"] == {1: 0, 2: 0, 3: 2, 5: 4}[server_round]
    assert [event["round"] for event in journal if event["event"] == "evaluation"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("moment", ["before", "sums", "renamed"])
def test_a_server_that_dies_while_it_writes_a_checkpoint(moment, small, tmp_path, monkeypatch):
    """Before, within, and right after the checkpoint of round 4 took its place."""
    flat = small | {"strategy.name": "fedadam", "update.compress": "int8"}
    whole = run_in_process(flat, tmp_path / "whole")
    write, sums = checkpoints.write_checkpoint, checkpoints._sums

    def dies(run, checkpoint, save_adapter):
        if checkpoint.server_round == 4 and moment == "before":
            raise Killed
        write(run, checkpoint, save_adapter)
        if checkpoint.server_round == 4 and moment == "renamed":
            raise Killed

    def dies_within(directory):
        if directory.name == "round-4" and moment == "sums":
            # What a killed process leaves, since it cannot clean up.
            shutil.copytree(directory, directory.parent.parent / ".round-4-left" / "round-4")
            raise Killed
        return sums(directory)

    with monkeypatch.context() as patched:
        patched.setattr("fedllm_app.runs.directory.write_checkpoint", dies)
        patched.setattr(checkpoints, "_sums", dies_within)
        killed(flat, tmp_path / "broken")
    assert resume_in_process(flat, tmp_path / "broken") == whole
    [resumed] = [event for event in read_journal(tmp_path / "broken") if event["event"] == "resumed"]
    assert resumed["round"] == (4 if moment == "renamed" else 2)


def test_a_server_that_dies_while_it_finishes(small, tmp_path, monkeypatch):
    """All rounds are done: nothing is trained again."""
    whole = run_in_process(small, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "finish", lambda *_arguments: (_ for _ in ()).throw(Killed))
        killed(small, tmp_path / "broken")
    assert read_result(tmp_path / "broken") is None
    assert resume_in_process(small, tmp_path / "broken", dying(5, 1)) == whole
    assert read_result(tmp_path / "broken")["bytes_up"] == read_result(tmp_path / "whole")["bytes_up"]


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(small, tmp_path):
    """One byte of the strategy's state of round 4 is another; the clients still have the versions of round 2."""
    flat = small | {"strategy.name": "scaffold"}
    whole = run_in_process(flat, tmp_path / "whole")
    killed(flat, tmp_path / "broken", dying(5, 3))
    file = tmp_path / "broken" / "checkpoints" / "round-4" / "strategy.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert resume_in_process(flat, tmp_path / "broken") == whole
    warnings = [event["reason"] for event in read_journal(tmp_path / "broken") if event["event"] == "warning"]
    assert "the checkpoint round-4 is not used: strategy.npz is not what was written" in warnings


def test_a_checkpoint_that_is_damaged_after_a_first_resumption(small, tmp_path):
    """The clients still keep the versions of the checkpoint before the one from which the run went on."""
    flat = small | {"strategy.name": "scaffold", "train.rounds": 7}
    whole = run_in_process(flat, tmp_path / "whole")
    killed(flat, tmp_path / "broken", dying(5, 3))
    with pytest.raises(Killed):
        resume_in_process(flat, tmp_path / "broken", dying(6, 3))
    (tmp_path / "broken" / "checkpoints" / "round-4" / "state.json").unlink()
    assert resume_in_process(flat, tmp_path / "broken") == whole


def test_killed_twice(small, tmp_path):
    flat = small | {"strategy.name": "scaffold"}
    whole = run_in_process(flat, tmp_path / "whole")
    killed(flat, tmp_path / "broken", dying(3, 2))
    with pytest.raises(Killed):
        resume_in_process(flat, tmp_path / "broken", dying(4, 2))
    assert resume_in_process(flat, tmp_path / "broken") == whole
    events = read_journal(tmp_path / "broken", everything=True)
    assert [event["event"] for event in events].count("resumed") == 2


def test_the_sums_of_the_result_are_those_of_an_undisturbed_run(small, tmp_path):
    """Bytes and participation are those until the checkpoint and since; what was lost in between is not counted."""
    assert_resumed_alike(small | {"strategy.name": "fedavgm"}, tmp_path)
    whole, broken = read_result(tmp_path / "whole"), read_result(tmp_path / "broken")
    for name in ("bytes_down", "bytes_up", "refused_replies", "participation", "rounds"):
        assert broken[name] == whole[name]


def test_a_finished_run_goes_on_with_more_rounds(small, tmp_path):
    """Two rounds more, under the schedule of seven; the results of the five are kept beside."""
    run_in_process(small, tmp_path / "run")
    with pytest.raises(NotResumable, match="has finished its 5 rounds; to go on, set train.rounds above that"):
        resume_in_process(small, tmp_path / "run")
    resume_in_process(small | {"train.rounds": 7}, tmp_path / "run")
    rounds = [event["round"] for event in read_journal(tmp_path / "run") if event["event"] == "round"]
    assert rounds == [1, 2, 3, 4, 5, 6, 7]
    assert read_result(tmp_path / "run")["rounds"] == 7
    assert json.loads((tmp_path / "run" / "result-after-round-5.json").read_text())["rounds"] == 5


def test_what_must_not_change_is_refused(small, tmp_path):
    """Nothing of the directory is touched. More rounds and time-outs may change."""
    killed(small, tmp_path / "run", dying(3, 1))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(ConfigError) as caught:
        resume_in_process(small | {"lora.r": 4, "train.learning-rate": 1e-4}, tmp_path / "run")
    assert "lora.r = 4: the run that is resumed has 8" in str(caught.value)
    assert "train.learning-rate = 0.0001: the run that is resumed has 0.003" in str(caught.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before
    resume_in_process(small | {"train.rounds": 6, "run.round-timeout": 9.0}, tmp_path / "run")


def test_no_run_is_there(small, tmp_path):
    with pytest.raises(NotResumable, match="holds no run"):
        resume_in_process(small, tmp_path)


def test_a_lost_site_is_noticed_in_a_resumed_run(small, tmp_path, app_home):
    """Client 0's disk was wiped meanwhile: its control variate starts at zero, and the journal says so."""
    flat = small | {"strategy.name": "scaffold", "clients.per-round": 0}
    killed(flat, tmp_path / "run", dying(3, 1))
    [lost] = app_home.glob("clients/*/client-0")
    shutil.rmtree(lost)
    resume_in_process(flat, tmp_path / "run")
    resets = [
        (event["round"], event["client"]) for event in read_journal(tmp_path / "run") if event.get("control_reset")
    ]
    assert resets == [(3, 0)]


def test_a_torn_line_of_the_journal_is_cut(small, tmp_path):
    killed(small, tmp_path / "run", dying(3, 1))
    with open(tmp_path / "run" / "journal.jsonl", "a") as file:
        file.write('{"event": "client", "rou')
    resume_in_process(small, tmp_path / "run")
    reasons = [event["reason"] for event in read_journal(tmp_path / "run") if event["event"] == "warning"]
    assert "the last line of the journal had no end, and was cut" in reasons
