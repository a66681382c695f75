"""A site at the ClientApp's boundary: what the run names there is refused before it is opened, imported or executed."""

import json
import shutil
import sys

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedllm_app import client_app
from fedllm_app.messages import CONFIG
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.training import resident

_OPENED: list[str] = []
_WATCHING: list[bool] = []


def _note_opened(event: str, arguments: tuple) -> None:
    if event == "open" and _WATCHING and isinstance(arguments[0], str):
        _OPENED.append(arguments[0])


sys.addaudithook(_note_opened)  # for good, so it looks at a switch


@pytest.fixture
def opened():
    """The files that are opened during the test, by anybody in this process."""
    _OPENED.clear()
    _WATCHING.append(True)
    yield _OPENED
    _WATCHING.clear()


@pytest.fixture
def own(tmp_path):
    """The node configuration of a site with data of its own, without a model."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "answer": "a"}\n' * 20)
    yield {"site": "s", "data-path": str(rows)}
    PROCESS_CACHE.clear()
    resident.release()


def describe(run_config: dict, node_config: dict) -> str:
    """The reason of an error reply; "" where the client described its data."""
    content = RecordDict({CONFIG: ConfigRecord({"client": 0, "clients": 1})})
    message = Message(content, dst_node_id=11, message_type="query.describe")
    message.metadata._message_id = "asked"
    context = Context(run_id=3, node_id=11, node_config=node_config, state=RecordDict(), run_config=run_config)
    answer = client_app.app(message, context)
    return answer.error.reason if answer.has_error() else ""


def test_a_file_that_only_the_run_names_is_not_opened(run_config, own, tmp_path, opened, tiny_model):
    """A site that named no data does not read what the run names, and its answer is the same for what is not
    there."""
    site = {"site": "s", "models": str(tiny_model)}
    there = describe(run_config | {"data.name": own["data-path"]}, site)
    gone = describe(run_config | {"data.name": str(tmp_path / "gone.jsonl")}, site)
    assert "SiteRefuses: " in there
    assert "data.name = " in there
    assert there.replace(own["data-path"], "") == gone.replace(str(tmp_path / "gone.jsonl"), "")
    assert own["data-path"] not in opened


def test_a_model_that_the_site_did_not_name_is_not_opened(run_config, own, opened, tiny_model):
    assert "model.name = " in describe(run_config, own)
    assert not [path for path in opened if path.startswith(str(tiny_model))]
    assert describe(run_config, own | {"models": str(tiny_model)}) == ""


def test_code_of_a_model_is_not_run(run_config, own, tiny_model, tmp_path):
    """Though the site named the model, it did not allow its code; with the line that the refusal names, it runs."""
    evil, ran = tmp_path / "evil", tmp_path / "RAN"
    shutil.copytree(tiny_model, evil)
    settings = json.loads((evil / "config.json").read_text())
    settings |= {"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, "model_type": "evil"}
    (evil / "config.json").write_text(json.dumps(settings))
    (evil / "evil.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig):\n    model_type = 'evil'\nclass M(LlamaForCausalLM):\n    config_class = C\n"
    )
    run = run_config | {"model.name": str(evil), "model.trust-remote-code": True}
    policy = tmp_path / "policy.toml"
    policy.write_text(f"[models]\nallowed = [{json.dumps(str(evil))}]\n")
    assert "set trust-remote-code = true in [models]" in describe(run, own | {"policy": str(policy)})
    assert not ran.exists()
    policy.write_text(f"[models]\nallowed = [{json.dumps(str(evil))}]\ntrust-remote-code = true\n")
    describe(run, own | {"policy": str(policy)})
    assert ran.exists()


@pytest.mark.parametrize(
    "asked",
    [
        {"train.task": "sent_by_the_server.TASK"},
        {"train.corrections": "sent_by_the_server.Correction"},
        {"update.steps": "sent_by_the_server.Step"},
        {"update.steps": "sent_by_the_server.Step", "strategy.name": "sent_by_the_server.Strategy"},
        {"strategy.name": "sent_by_the_server.Strategy", "update.compress": "int8"},
        {"evaluate.suite": "{}/sent_by_the_server.py", "evaluate.suite-at": "clients"},
    ],
)
def test_no_module_is_imported_that_the_site_did_not_name(run_config, own, tiny_model, tmp_path, monkeypatch, asked):
    """Not even to find out that it holds nothing usable. A strategy's class is the server's, and is no
    reason to refuse."""
    (tmp_path / "sent_by_the_server.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = run_config | {key: value.format(tmp_path) for key, value in asked.items()}
    told = describe(run, own | {"models": str(tiny_model)})
    assert not (tmp_path / "RAN").exists()
    assert ("SiteRefuses" in told) == (set(asked) != {"strategy.name", "update.compress"})


def test_what_the_server_keeps_for_itself_is_not_opened_at_a_site(run_config, own, tiny_model, tmp_path, opened):
    """A run directory and a starting adapter of the server's machine are no reason to refuse a run, nor to look."""
    run = run_config | {"run.directory": str(tmp_path / "run"), "adapter.start": str(tmp_path / "start")}
    (tmp_path / "start").mkdir()
    assert describe(run, own | {"models": str(tiny_model)}) == ""
    assert not (tmp_path / "run").exists()
    assert not [path for path in opened if path.startswith((str(tmp_path / "run"), str(tmp_path / "start")))]


def test_nothing_is_downloaded_unless_the_site_allows_it(run_config, own, tmp_path, monkeypatch):
    """While a site without that permission works, the Hub's libraries are offline; afterwards they are as before."""
    from huggingface_hub import constants

    seen = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client_app, "_local_client", lambda *_: seen.append(constants.HF_HUB_OFFLINE))
    policy = tmp_path / "policy.toml"
    policy.write_text("[models]\ndownloads = true\n")
    for node_config in (own, own | {"policy": str(policy)}, {"partition-id": 0, "num-partitions": 1}):
        describe(run_config, node_config)
        assert constants.HF_HUB_OFFLINE is False
    assert seen == [True, False, False]


def test_a_changed_policy_holds_for_the_next_message(run_config, own, tiny_model, tmp_path):
    """Also in a process that has loaded the model before."""
    policy = tmp_path / "policy.toml"
    policy.write_text(f"[models]\nallowed = [{json.dumps(str(tiny_model))}]\n")
    site = own | {"policy": str(policy)}
    assert describe(run_config, site) == ""
    policy.write_text("[models]\nallowed = []\n")
    assert "model.name = " in describe(run_config, site)
    policy.write_text("[models\n")
    assert "PolicyError" in describe(run_config, site)
