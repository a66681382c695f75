"""A run's configuration held against the site's policy: what is refused, and what an allowed path becomes."""

import os

import pytest
from places import ROOT

from fedllm_app.client.admission import admitted, refused_keys
from fedllm_app.client.policy import Policy, SiteRefuses
from fedllm_app.config.parse import default_run_config
from fedllm_app.data.named_sets import set_names

DEFAULTS = default_run_config(ROOT)


def policy(**tables) -> Policy:
    return Policy.model_validate(tables)


@pytest.fixture
def site(tmp_path):
    """A directory that the site allows, one beside it that it does not, and links between them."""
    allowed, secret = tmp_path / "allowed", tmp_path / "allowed-not"
    for directory in (allowed / "inner", secret):
        directory.mkdir(parents=True)
        for name in ("rows.jsonl", "t.jinja", "config.json", "own.py"):
            (directory / name).write_text("{}")
    (allowed / "out").symlink_to(secret)
    (allowed / "rows.jsonl").symlink_to(secret / "rows.jsonl")
    (tmp_path / "in").symlink_to(allowed / "inner")
    return tmp_path


PATH_KEYS = {
    "model.name": "{}",
    "data.name": "{}",
    "data.test": "{}",
    "data.template": "{}",
    "evaluate.suite-data": "{}",
    "evaluate.suite": "file:{}",
}


def everything_in(directory) -> Policy:
    names = (str(directory),)
    return policy(
        models={"allowed": names}, data={"allowed": names}, templates={"allowed": names}, evaluation={"suites": names}
    )


def run_with(key: str, value: str) -> dict:
    base = {"model.name": None, "evaluate.suite": "", "evaluate.suite-at": "clients"}
    base |= {"evaluate.suite": "general"} if key == "evaluate.suite-data" else {}
    run = DEFAULTS | base | {key: value}
    return {name: given for name, given in run.items() if given is not None}


@pytest.mark.parametrize("key", PATH_KEYS)
@pytest.mark.parametrize(
    "attempt",
    [
        "{site}/allowed-not/rows.jsonl",
        "{site}/allowed-not",
        "{site}",
        "/",
        "/etc/passwd",
        "{site}/allowed/../allowed-not/rows.jsonl",
        "{site}/allowed/inner/../../allowed-not",
        "{site}/allowed/out/rows.jsonl",
        "{site}/allowed/out",
        "{site}/allowed/rows.jsonl",
        "{site}/allowed/inner/../../in/../../allowed-not",
        "{site}/in/../out",
        "//{site}/allowed-not",
        "file:{site}/allowed/inner/rows.jsonl",
        "file:///etc/passwd",
        "~/allowed",
        "~root/allowed",
        "$HOME/allowed",
        "${{HOME}}",
        "allowed/inner/rows.jsonl",
        "./allowed",
        "../allowed",
        "..",
        "C:\\allowed\\rows.jsonl",
        "\\\\server\\allowed",
        "{site}/allowed/inner/rows.jsonl\0",
        "{site}/allowed/inner/rows.jsonl\n",
        "{site}/allowed/\x1b[2J",
        "owner/name",
        "../name",
        "owner/..",
        "{site}/allowed/" + "x" * 5000 + "/../../../allowed-not",
    ],
)
def test_no_path_of_a_run_leads_out_of_what_is_allowed(site, key, attempt):
    value = PATH_KEYS[key].format(attempt.format(site=site))
    refused = refused_keys(run_with(key, value), everything_in(site / "allowed"))
    assert [line.partition(" = ")[0] for line in refused if not line.startswith("evaluate.suite = 'general'")] == [key]
    assert len(refused[0]) < 400


@pytest.mark.parametrize("key", PATH_KEYS)
@pytest.mark.parametrize(
    "given",
    [
        "{site}/allowed/inner/t.jinja",
        "{site}/allowed/./inner//x/../t.jinja",
        "{site}/in/t.jinja",
        "//{site}/in/t.jinja",
    ],
)
def test_an_allowed_path_is_resolved_once_and_handed_on(site, key, given):
    """The link `in` leads to an allowed directory; what is opened later is the path behind it, whatever `in` becomes
    meanwhile."""
    rules = everything_in(site / "allowed")
    if key == "evaluate.suite-data":
        rules = rules.model_copy(update={"evaluation": Policy().evaluation.model_copy(update={"suites": ("general",)})})
    flat = admitted(run_with(key, PATH_KEYS[key].format(given.format(site=site))), rules)
    assert flat[key] == PATH_KEYS[key].format(site / "allowed" / "inner" / "t.jinja")
    (site / "in").unlink()
    (site / "in").symlink_to(site / "allowed-not")
    assert os.path.realpath(flat[key].removeprefix("file:")).startswith(f"{site}/allowed/")


def test_an_allowed_link_allows_what_it_leads_to(site):
    rules = policy(models={"allowed": (str(site / "in"),)})
    flat = admitted(DEFAULTS | {"model.name": str(site / "in" / "m")}, rules)
    assert flat["model.name"] == str(site / "allowed" / "inner" / "m")


def test_a_refusal_does_not_tell_whether_a_file_exists(site):
    said = []
    for name in ("rows.jsonl", "nothing.jsonl"):
        with pytest.raises(SiteRefuses) as caught:
            admitted(DEFAULTS | {"data.name": f"{site}/allowed-not/{name}"}, everything_in(site / "allowed"))
        said.append(str(caught.value).replace(name, "NAME"))
    assert said[0] == said[1]


def test_a_site_without_a_policy_allows_what_comes_with_the_app():
    flat = admitted(DEFAULTS, Policy())
    assert flat == DEFAULTS
    assert refused_keys(DEFAULTS | {"data.name": "gsm8k", "model.name": "a/b"}, Policy()) == [
        "model.name = 'a/b': to allow it, add it to allowed in [models] (or to models in node-config)",
        "data.name = 'gsm8k': to allow it, add it to allowed in [data], or name the site's own data with data-path in "
        "node-config",
    ]


def test_a_simulation_is_not_restricted():
    run = DEFAULTS | {"data.name": "/x", "run.directory": "/y", "model.trust-remote-code": True}
    assert admitted(run, None) == run
    assert refused_keys(run, None) == []


def test_the_sites_own_data_replaces_what_the_run_names():
    flat = admitted(DEFAULTS | {"data.name": "/etc/passwd"}, policy(**{"data-path": "/d/rows.csv"}))
    assert flat["data.name"] == "/etc/passwd"  # at_site replaces it; nothing opens it


def test_several_sets_are_each_allowed_and_stay_several(site):
    rules = policy(data={"allowed": (str(site / "allowed"), "gsm8k", str(site / "a, b"))})
    run = {"data.partition": "by-domain", "data.name": f'gsm8k, {site}/in/rows.jsonl, "{site}/a, b"'}
    names = set_names(admitted(DEFAULTS | run, rules)["data.name"])
    assert names == ["gsm8k", f"{site}/allowed/inner/rows.jsonl", f"{site}/a, b"]
    run["data.name"] += ", alpaca, /etc/hosts"
    assert [line.split()[2] for line in refused_keys(DEFAULTS | run, rules)] == ["'alpaca':", "'/etc/hosts':"]


def test_what_is_the_servers_never_reaches_the_site():
    """Run directory and starting adapter are not in the configuration that the site works with, and the strategy's
    class is not imported there."""
    run = {"run.directory": "/r", "adapter.start": "/a", "strategy.name": "os.path", "strategy.arguments": "a=1"}
    flat = admitted(DEFAULTS | run, Policy())
    assert (flat["run.directory"], flat["adapter.start"]) == ("", "")
    assert (flat["strategy.name"], flat["strategy.arguments"]) == ("fedavg", "")


@pytest.mark.parametrize("key", ["train.task", "train.corrections", "update.steps"])
def test_class_paths_are_those_of_the_policy(key):
    run = DEFAULTS | {key: "antigravity.fly"}
    assert refused_keys(run, Policy()) == [f"{key} = 'antigravity.fly': to allow it, add it to class-paths in [code]"]
    for entry in ("antigravity.fly", "antigravity.*"):
        assert refused_keys(run, policy(code={"class-paths": [entry]})) == []
    for entry in ("antigravity", "antigravity.flying", "anti.*", "grav.*"):
        assert len(refused_keys(run, policy(code={"class-paths": [entry]}))) == 1


def test_each_class_path_of_a_list_counts():
    run = DEFAULTS | {"train.corrections": "a.B, os", "update.steps": "a.C,b.D"}
    refused = refused_keys(run, policy(code={"class-paths": ["a.*"]}))
    assert [line.partition(": ")[0] for line in refused] == ["train.corrections = 'os'", "update.steps = 'b.D'"]


def test_a_models_code_runs_only_where_the_site_says_so():
    run = DEFAULTS | {"model.trust-remote-code": True}
    assert refused_keys(run, Policy()) == [
        "model.trust-remote-code = True: to allow it, set trust-remote-code = true in [models]"
    ]
    assert refused_keys(run, policy(models={"trust-remote-code": True})) == []


def test_suites_at_the_clients_are_those_of_the_policy(site):
    run = DEFAULTS | {"evaluate.suite-at": "clients"}
    assert refused_keys(run | {"evaluate.suite": "builtin"}, Policy()) == []
    assert len(refused_keys(run | {"evaluate.suite": "code"}, Policy())) == 1
    assert refused_keys(run | {"evaluate.suite": "code"}, policy(evaluation={"suites": ["code"]})) == []
    own = str(site / "allowed-not" / "own.py")
    everything_but_suites = policy(data={"allowed": [str(site)]})
    assert len(refused_keys(run | {"evaluate.suite": own}, everything_but_suites)) == 1
    assert refused_keys(run | {"evaluate.suite": own}, policy(evaluation={"suites": [own]})) == []
    assert refused_keys(run | {"evaluate.suite": own, "evaluate.suite-at": "server"}, Policy()) == []


def test_limits():
    limits = policy(limits={"rounds": 5, "local-steps": 10, "max-length": 256})
    asked = {"train.rounds": 6, "train.local-steps": 10, "train.max-length": 257}
    assert [line.partition(":")[0] for line in refused_keys(DEFAULTS | asked, limits)] == [
        "train.rounds = 6",
        "train.max-length = 257",
    ]


def test_values_of_another_type_are_left_to_the_configurations_own_checks():
    wrong = {"model.name": 3, "data.name": True, "evaluate.suite": 7, "train.task": 1, "strategy.name": 2}
    assert refused_keys(DEFAULTS | wrong, Policy()) == []
    assert refused_keys({}, Policy()) == []


def test_all_refusals_are_told_at_once_and_the_file_only_at_the_site():
    rules = Policy(file="/site/policy.toml")
    with pytest.raises(SiteRefuses, match="does not allow 2 keys of the run") as caught:
        admitted(DEFAULTS | {"data.name": "/a", "model.trust-remote-code": True}, rules)
    assert "/site/policy.toml" in str(caught.value)
    assert "/site/policy.toml" not in caught.value.public
    assert "data.name = '/a'" in caught.value.public
