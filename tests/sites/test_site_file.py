"""What a site says of itself, and what is refused in it."""

import pytest
from flwr.app import Context, RecordDict

from fedllm_app.client.policy import site_policy
from fedllm_app.client.site import site_items
from fedllm_app.sites.site_file import FILE, SiteFileError, read_site, site_text


def write(directory, text: str):
    (directory / FILE).write_text(text)
    return directory


def test_what_is_written_is_read_again(tmp_path):
    """Names and paths with every kind of quote; relative paths are those of the file."""
    data = {"data-path": "rows d'or.csv", "prompt-column": 'the "question"'}
    site = read_site(write(tmp_path, site_text("[::1]:8000", "köln 'süd'", data, models=("/m,1", "owner/name"))))
    assert (site.host, site.port, site.name) == ("::1", 8000, "köln 'süd'")
    assert (site.key, site.home) == (tmp_path / "node.key", tmp_path / "home")
    config = site.node_config()
    assert config["data-path"] == str(tmp_path / "rows d'or.csv")
    assert dict(site_items(config))["prompt-column"] == 'the "question"'
    (tmp_path / "policy.toml").write_text("")
    assert {"/m,1", "owner/name"} <= set(site_policy(config).models.allowed)
    Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})


GOOD = site_text("fl.example.org:8000", "berlin", {"data-path": "/d.csv"})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("superlink =", "superlnik =", "did you mean connection.superlink?"),
        ("[site]", "[sites]", "did you mean site?"),
        ('"berlin"', '""', "site.name"),
        ('"berlin"', "7", "must be text"),
        ("org:8000", "org", "must be host:port"),
        ("fl.example", "https://fl.example", "without https"),
        ('code = "same"', 'code = "any"', "must be one of same, own"),
        ("data-path =", "data-pth =", "did you mean data-path?"),
        ('data-path = "/d.csv"', "", "must name the data"),
        ("allowed = []", 'allowed = "m"', "must be a list"),
        ("[connection]", "[connection", "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, said):
    assert old in GOOD
    with pytest.raises(SiteFileError) as error:
        read_site(write(tmp_path, GOOD.replace(old, new)))
    assert said in str(error.value)


def test_a_directory_without_the_file(tmp_path):
    with pytest.raises(SiteFileError, match="fedllm site init"):
        read_site(tmp_path)
