"""A site's node and its ClientApp process: which app is accepted, and which is run."""

import hashlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import ErrorCode
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.nodestate import NodeStateFactory
from places import ROOT

from fedllm_app import client_app
from fedllm_app.commands.complete_app import complete_app
from fedllm_app.sites import client_process
from fedllm_app.sites.node import checked, node_options
from fedllm_app.sites.site_file import Site

flower = import_module("flwr.supernode.start_client_internal")
SITE = Site(Path("/s"), "fl.example.org:8000", Path("/s/ca.crt"), Path("/s/node.key"), "berlin", Path("/h"), Path("/p"))


@pytest.fixture(scope="module")
def ours() -> bytes:
    with complete_app(ROOT) as directory:
        return build_fab_from_disk(directory)


def pulled(content: bytes, run: Run, site: Site = SITE):
    """Flower's own step with one message of a run that is new: what the node's state then holds of run and replies."""
    store = ObjectStoreFactory()
    factory = NodeStateFactory(objectstore_factory=store)
    state = factory.state()
    state.set_node_id(11)
    message = Message(RecordDict({"config": ConfigRecord({})}), dst_node_id=11, message_type="query")
    message.metadata._run_id = run.run_id
    message.metadata._message_id = message.object_id
    got = checked(flower._pull_and_store_message, site)(
        state=state,
        object_store=store.store(),
        node_config={},
        receive=lambda: (message, get_object_tree(message)),
        get_run=lambda _run_id: run,
        get_fab=lambda fab_hash, _run_id: Fab(fab_hash, content, {}),
        pull_object=lambda _run_id, _object_id: pytest.fail("content of the message was fetched"),
        confirm_message_received=lambda *_ids: None,
        trusted_entities=None,
    )
    return got, state.get_run(run.run_id), state.get_messages_legacy(is_reply=True)


def run_of(content: bytes, kind: str = TaskType.SERVER_APP) -> Run:
    made = Run.create_empty(run_id=7)
    return replace(
        made, fab_hash=hashlib.sha256(content).hexdigest(), fab_id="a/b", fab_version="1", primary_task_type=kind
    )


def test_foreign_code_is_answered_with_the_reason_and_not_kept():
    got, kept, replies = pulled(b"PK", run_of(b"PK"))
    assert (got, kept) == (7, None)
    assert [reply.error.code for reply in replies] == [ErrorCode.INVALID_FAB]
    assert replies[0].error.reason.startswith("berlin: this site refuses the app of the run: not a readable bundle")


def test_a_bundle_under_the_hash_of_another_is_refused(ours):
    _, kept, (reply,) = pulled(ours, run_of(b"other"), replace(SITE, code="own"))
    assert kept is None
    assert "not that of its hash" in reply.error.reason


def test_other_kinds_of_app_are_refused(ours):
    """Flower's agents run at nodes as well, with code of the bundle."""
    _, kept, (reply,) = pulled(ours, run_of(ours, TaskType.AGENT_APP))
    assert kept is None
    assert "runs the ClientApp of this app only" in reply.error.reason


def test_the_apps_own_bundle_is_accepted(ours):
    with pytest.raises(BaseException, match="content of the message was fetched"):  # the step after the approval
        pulled(ours, run_of(ours))


def test_nothing_of_a_bundle_is_unpacked_or_loaded(monkeypatch):
    """Whatever names and paths a server gives."""
    process = client_process.flower
    for name in ("install_from_fab", "get_load_client_app_fn"):
        monkeypatch.setattr(process, name, getattr(process, name))  # put back afterwards; there must be such a name
    client_process.use_installed_app()
    assert process.install_from_fab(b"no archive", skip_prompt=True) is None
    load = process.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    assert load("x/y", "1/../../../../tmp/evil", "0") is client_app.app


def test_a_node_always_has_tls_and_its_key():
    assert node_options(SITE, "9")[:6] == [
        "--superlink",
        "fl.example.org:8000",
        "--root-certificates",
        "/s/ca.crt",
        "--auth-supernode-private-key",
        "/s/node.key",
    ]
    assert "--insecure" not in node_options(SITE, "9")
