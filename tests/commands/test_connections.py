"""Connections in Flower's configuration."""

import tomllib

import pytest
from flwr.cli.flower_config import read_superlink_connection

from fedllm_app.commands.connections import add_connection, check_free, remove_connection
from fedllm_app.errors import UserError

OWN = '# mine\n[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = ":local:"\n'


def test_a_connection_comes_and_goes_and_the_rest_stays(flower_home, tmp_path):
    file = flower_home / "config.toml"
    file.write_text(OWN)
    add_connection("a", "127.0.0.1:1", tmp_path / "with 'blank' /ca.crt")
    add_connection("b", "127.0.0.1:2", tmp_path / "ca.crt")
    add_connection("a", "127.0.0.1:3", tmp_path / "with 'blank' /ca.crt")  # again: replaced
    assert read_superlink_connection("a").address == "127.0.0.1:3"
    assert read_superlink_connection("a").root_certificates == str(tmp_path / "with 'blank' /ca.crt")
    remove_connection("a")
    assert set(tomllib.loads(file.read_text())["superlink"]) == {"default", "local", "b"}
    remove_connection("b")
    assert file.read_text() == OWN


def test_without_a_configuration_local_runs_keep_working(flower_home, tmp_path):
    add_connection("a", "127.0.0.1:1", tmp_path / "ca.crt")
    assert read_superlink_connection(None).address == ":local:"


def test_a_connection_of_the_user_is_not_overwritten(flower_home, tmp_path):
    (flower_home / "config.toml").write_text(OWN + '[superlink.a]\naddress = "x:1"\n')
    with pytest.raises(UserError, match="has a connection 'a' already"):
        check_free("a")


@pytest.mark.parametrize("text", ["[superlink", 'superlink = {default = "local"}\n'])
def test_a_file_that_cannot_take_one_is_left_alone(flower_home, tmp_path, text):
    (flower_home / "config.toml").write_text(text)
    with pytest.raises(UserError, match="cannot be added"):
        add_connection("a", "127.0.0.1:1", tmp_path / "ca.crt")
    assert (flower_home / "config.toml").read_text() == text
