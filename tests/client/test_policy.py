"""What a site's policy file says, and that nothing in it is guessed."""

import tomllib

import pytest

from fedllm_app.client.policy import (
    Policy,
    PolicyError,
    default_policy_text,
    is_simulated,
    read_policy,
    site_policy,
)


@pytest.fixture
def write(tmp_path):
    """A policy file of this text."""

    def written(text: str):
        file = tmp_path / "policy.toml"
        file.write_text(text)
        return file

    return written


def test_the_text_for_a_new_site_is_the_default(write):
    """What it says is what a site without a policy has, and it names every table and every key but the limits."""
    text = default_policy_text()
    file = write(text)
    assert read_policy(file) == Policy(file=str(file))
    parsed = tomllib.loads(text.replace("# rounds", "rounds").replace("# local", "local").replace("# max", "max"))
    for table, rules in Policy():
        if table not in ("file", "data_path", "limits"):
            assert parsed[table].keys() == {name.replace("_", "-") for name in type(rules).model_fields}
    assert {"rounds", "local-steps", "max-length"} <= parsed["limits"].keys()


def test_names_of_a_new_site_stand_in_the_file(write):
    policy = read_policy(write(default_policy_text(models=('/m/a "b"', "own/er"), data=("/d/ü",))))
    assert policy.models.allowed == ("smollm2-135m-instruct", '/m/a "b"', "own/er")
    assert policy.data.allowed == ("/d/ü",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[modells]\nx = 1", "modells: unknown key; did you mean models?"),
        ("[models]\nalowed = []", "models.alowed: unknown key; did you mean models.allowed?"),
        ('data-path = "/x"', "data-path: unknown key"),
        ('[models]\ndownloads = "yes"', "models.downloads = 'yes': must be true or false"),
        ("[models]\ntrust-remote-code = 1", "models.trust-remote-code = 1: must be true or false"),
        ('[data]\nallowed = "/d"', "data.allowed = '/d': must be a list"),
        ("[data]\nallowed = [3]", "data.allowed = 3: must be text"),
        ('[data]\nallowed = ["/"]', "data.allowed: '/' would allow every file"),
        ('[data]\nallowed = ["/tmp/.."]', "data.allowed: '/tmp/..' would allow every file"),
        ('[data]\nallowed = ["~/d"]', "data.allowed: '~/d' must be an absolute path"),
        ('[data]\nallowed = ["d/e/f"]', "data.allowed: 'd/e/f' must be an absolute path"),
        ('[models]\nallowed = ["llama"]', "models.allowed: 'llama' must be an absolute path, a Hub id"),
        ('[models]\nallowed = ["../llama"]', "models.allowed: '../llama' must be an absolute path"),
        ('[templates]\nallowed = ["chatml"]', "templates.allowed: 'chatml' must be an absolute path"),
        ("[limits]\nrounds = 0", "limits.rounds = 0: must be at least 1"),
        ("[limits]\nrounds = true", "limits.rounds = True: must be a whole number"),
        ("[models", "is no TOML"),
    ],
)
def test_what_is_wrong_is_named(write, text, told):
    with pytest.raises(PolicyError, match="the site's policy /") as caught:
        read_policy(write(text))
    assert told in str(caught.value)


def test_a_policy_that_is_not_there_allows_nothing(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read"):
        site_policy({"policy": str(tmp_path / "none.toml")})


def test_a_policy_that_everybody_can_write_allows_nothing(write):
    file = write("")
    file.chmod(0o666)
    with pytest.raises(PolicyError, match="can be written by everybody here: chmod o-w"):
        read_policy(file)


@pytest.mark.parametrize("node_config", [{"policy": "p.toml"}, {"policy": 3}, {"models": 3}, {"models": "/m, ../x"}])
def test_a_node_configuration_that_names_no_policy_allows_nothing(node_config):
    with pytest.raises(PolicyError, match="node-config"):
        site_policy(node_config)


def test_a_simulated_node_has_no_policy_and_every_other_one_has():
    virtual = {"partition-id": 0, "num-partitions": 2}
    assert is_simulated(virtual)
    assert site_policy(virtual) is None
    assert site_policy({}) == Policy()
    for own in ({"policy": "/p.toml"}, {"models": "/m"}, {"data-path": "/d"}, {"site": "s"}, {"anything": "else"}):
        assert not is_simulated(virtual | own)


def test_the_node_configuration_adds_models_and_its_data(write):
    file = write('[models]\nallowed = ["a/b"]\ndownloads = true')
    policy = site_policy({"policy": str(file), "models": '/m, c/d, "/with, comma"', "data-path": "/d/rows.csv"})
    assert policy.models.allowed == ("a/b", "/m", "c/d", "/with, comma")
    assert (policy.models.downloads, policy.data_path, policy.file) == (True, "/d/rows.csv", str(file))
