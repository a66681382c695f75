"""The ClientApp at its boundary: what goes wrong in a client comes back as a reply that names it."""

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from in_process import InProcessGrid

from fedllm_app import client_app, server_app
from fedllm_app.config.parse import parse_run_config
from fedllm_app.federation.fingerprint import code_hash
from fedllm_app.federation.participation import Participation
from fedllm_app.federation.roster import RosterError
from fedllm_app.messages import ARRAYS, CONFIG, METRICS, Assignment, adapter_record
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.runs.directory import RunDirectory, read_journal
from fedllm_app.training import resident


@pytest.fixture
def context(run_config):
    """A simulated node, second of four."""
    PROCESS_CACHE.clear()
    resident.release()
    yield Context(
        run_id=3,
        node_id=11,
        node_config={"partition-id": 1, "num-partitions": 4},
        state=RecordDict(),
        run_config=run_config,
    )
    PROCESS_CACHE.clear()
    resident.release()


def ask(context, kind: str, **config) -> Message:
    message = Message(RecordDict({CONFIG: ConfigRecord(config)}), dst_node_id=11, message_type=kind)
    message.metadata._message_id = "asked"
    return client_app.app(message, context)


def test_identify_says_partition_and_code_without_loading(context):
    answer = ask(context, "query.identify").content[CONFIG]
    assert (answer["partition"], answer["partitions"], answer["code"]) == (1, 4, code_hash())
    assert not PROCESS_CACHE.holds("resident model")


def test_describe_says_what_a_client_holds(context):
    """Any node can act for any client of a simulation: node 1 describes client 3, finance."""
    answer = ask(context, "query.describe", client=3, clients=4).content[CONFIG]
    assert answer["name"] == "finance"
    assert answer["examples"] + answer["held-out"] + answer["dropped"] == 16 + 4
    assert answer["examples"] > 0
    assert answer["tokens"] > answer["examples"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no such thing"), "client 2: RuntimeError: no such thing"),
        (MemoryError(), "client 2: out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "lower train.batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "train.gradient-checkpointing"),
        (torch.OutOfMemoryError("CUDA out of memory"), "model.quantization"),
    ],
)
def test_an_exception_becomes_an_error_reply(context, monkeypatch, error, told):
    """The process survives, the reply names client and cause; out of memory says what helps and lets the model go."""
    ask(context, "query.describe", client=2, clients=4)
    assert PROCESS_CACHE.holds("resident model")

    def fail(*_args):
        raise error

    monkeypatch.setattr(client_app, "_local_client", fail)
    answer = ask(context, "query.describe", client=2, clients=4)
    assert answer.has_error()
    assert told in answer.error.reason
    assert PROCESS_CACHE.holds("resident model") != ("out of memory" in answer.error.reason.lower())


def test_a_site_is_named(context, monkeypatch):
    context.node_config["site"] = "north"
    answer = ask(context, "query.describe", client=0)
    assert answer.has_error()
    assert answer.error.reason.startswith("client 0 (north): ")


@pytest.fixture
def sites(tmp_path, context):
    """Two sites with files of their own: columns that are recognised in one, and named by the node in the other."""
    (tmp_path / "rome.jsonl").write_text('{"instruction": "a", "output": "bc"}\n' * 6)
    (tmp_path / "oslo.csv").write_text("frage,antwort,prompt\n" + "d,efg,no\n" * 9 + "d,,no\n")
    configs = {
        "rome": {"data-path": str(tmp_path / "rome.jsonl")},
        "oslo": {"data-path": str(tmp_path / "oslo.csv"), "prompt-column": "frage", "completion-column": "antwort"},
    }

    def at(name: str) -> Context:
        config = {"site": name, "models": context.run_config["model.name"], **configs[name]}
        return Context(run_id=3, node_id=11, node_config=config, state=RecordDict(), run_config=context.run_config)

    context.run_config["data.max-bad-share"] = 0.2
    context.run_config["clients.number"] = 2
    context.run_config["data.held-out-share"] = 0.25
    context.run_config["data.held-out-examples"] = 0
    return at


def test_two_sites_with_files_and_columns_of_their_own(sites):
    """Both own their whole file though the run has two clients: of 6 rows 2 are held out (1.5 rounded to even), of 9
    usable ones 2. What they train on is their own file."""
    expected = {"rome": ("instruction", 4, 2, 0, "bc"), "oslo": ("prompt-completion", 7, 2, 1, "efg")}
    for client, (name, (schema, examples, held_out, bad, answer)) in enumerate(expected.items()):
        held = ask(sites(name), "query.describe", client=client, clients=2).content[CONFIG]
        assert (held["name"], held["schema"]) == (name, schema)
        assert (held["examples"], held["held-out"], held["bad"]) == (examples, held_out, bad)
        local = client_app._local_client(sites(name), 2)
        ids, start = local.shards(client).train.example(0)
        assert answer in local.model.tokenizer.decode(ids[start:])


def test_sites_train_in_one_run(sites):
    """The same message, at either site, trains and answers for its own rows."""
    for client, name in enumerate(("rome", "oslo")):
        context = sites(name)
        manifest = ask(context, "query.describe", client=client, clients=2).content[CONFIG]["manifest"]
        view = client_app._local_client(context, 2).model.manifest
        assignment = Assignment(
            client=client, clients=2, server_round=1, position=0, learning_rate=1e-3, manifest=manifest
        )
        content = RecordDict({CONFIG: ConfigRecord(assignment.to_config())})
        content[ARRAYS] = adapter_record(np.full(view.size, 0.01, np.float32))
        message = Message(content, dst_node_id=11, message_type="train")
        message.metadata._message_id = "asked"
        answer = client_app.app(message, context)
        assert not answer.has_error(), answer.error
        assert answer.content[METRICS]["num-examples"] == (4, 7)[client]


def test_centralized_at_sites_is_refused_before_the_first_round(sites, tmp_path):
    """By each site, with the same sentence; FedAvg on the same sites goes on to its rounds."""
    grid, flat = InProcessGrid({}, 0), sites("rome").run_config
    grid.contexts = {100: sites("rome"), 101: sites("oslo")}

    def begin(name: str) -> None:
        flat.update({"strategy.name": name, "train.rounds": 1, "run.directory": str(tmp_path / name)})
        run = RunDirectory(tmp_path / name)
        run.create(flat)
        server_app._run(grid, parse_run_config(flat), run, 5, 0.0, Participation())

    with pytest.raises(RosterError) as caught:
        begin("centralized")
    first, *lines = str(caught.value).splitlines()
    assert first == "2 of 2 clients cannot take part:"
    for site, line in zip(("oslo", "rome"), lines, strict=True):
        assert f"({site}): SiteRefuses: strategy.name = 'centralized' trains one client on" in line
    events = [event["event"] for event in read_journal(tmp_path / "centralized")]
    assert events == ["started", "environment", "describing"]
    begin("fedavg")
    assert "round" in [event["event"] for event in read_journal(tmp_path / "fedavg")]


def test_a_site_whose_file_is_not_there_says_so(sites, app_home):
    """Which file, it says in its own log only."""
    context = sites("oslo")
    context.node_config["data-path"] = "/no/such.csv"
    answer = ask(context, "query.describe", client=1, clients=2)
    assert answer.error.reason == (
        "client 1 (oslo): DataNotFound: there is no such file, folder, split or set; the site's log says more"
    )
    assert "there is no file or folder /no/such.csv" in (app_home / "site.log").read_text()


def test_nodes_of_a_simulation_share_one_local_client(context):
    """Only what a node says of its data is part of the key: else a process would begin anew for every virtual node."""
    first = client_app._local_client(context, 4)
    context.node_config["partition-id"] = 2
    assert client_app._local_client(context, 4) is first


def test_describe_says_which_versions_run(context):
    versions = ask(context, "query.describe", client=0, clients=4).content[CONFIG]["versions"]
    assert [entry.split()[0] for entry in versions] == ["fedllm_app", "flwr", "torch", "transformers", "peft", "trl"]
    assert versions[0] == f"fedllm_app {code_hash()[:12]}"
    assert versions[2].startswith(f"torch {torch.__version__.partition('+')[0]}")
