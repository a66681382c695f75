"""`fedllm site init` and `start`, without Flower's processes."""

import stat
import subprocess

import pytest

from fedllm_app.commands.main import main
from fedllm_app.commands.site import site_environment
from fedllm_app.sites.keys import make_authority
from fedllm_app.sites.site_file import read_site


def printed(capsys) -> str:
    """What was printed, wherever the terminal broke its lines."""
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def init(tmp_path):
    """The arguments of `fedllm site init` for a directory with a blank in its name."""
    make_authority(tmp_path, "trial")
    (tmp_path / "rows.csv").write_text("frage,antwort\na,b\n")
    options = {
        "--superlink": "fl.example.org:8000",
        "--ca": str(tmp_path / "ca.crt"),
        "--data": str(tmp_path / "rows.csv"),
        "--name": "berlin",
        "--prompt-column": "frage",
    }

    def arguments(**changed: str) -> list[str]:
        given = options | {f"--{key}": value for key, value in changed.items()}
        return ["site", "init", str(tmp_path / "the site"), *(part for pair in given.items() for part in pair)]

    return arguments


def test_init_writes_what_start_reads(init, tmp_path, capsys):
    assert main(init()) == 0
    directory = tmp_path / "the site"
    site = read_site(directory)
    assert site.node_config()["prompt-column"] == "frage"
    assert site.authority.read_bytes() == (tmp_path / "ca.crt").read_bytes()
    assert stat.S_IMODE(site.key.stat().st_mode) == 0o600
    assert "send to the operator" in printed(capsys)
    assert f'site start "{directory}"' in (directory / "fedllm-site.service").read_text()
    assert main(init()) == 2  # never over a site that is there


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("superlink", "fl.example.org", "must be host:port"),
        ("data", "/nowhere.csv", "no such file"),
        ("ca", "/nowhere.crt", "no such file"),
        ("name", " ", "site.name"),
        ("delimiter", "::", "delimiter"),
    ],
)
def test_a_wrong_option_is_said_and_leaves_no_site(init, tmp_path, capsys, option, value, said):
    assert main(init(**{option: value})) == 2
    assert said in printed(capsys)
    assert not (tmp_path / "the site" / "site.toml").exists()


def test_at_a_site_only_the_process_of_a_client_app_does_anything(init, tmp_path):
    """Flower starts these commands by name; a site's come first on the path."""
    assert main(init()) == 0
    environment = site_environment(read_site(tmp_path / "the site"))

    def call(command: str) -> tuple[int, str]:
        done = subprocess.run(command, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    status, said = call("flwr-agentapp --token x")
    assert (status, "runs ClientApps only" in said) == (1, True)
    status, said = call("flwr-clientapp --allow-runtime-dependency-installation")
    assert (status, "installs nothing that a run names" in said) == (1, True)


def test_start_says_what_is_missing(init, tmp_path, capsys):
    assert main(init()) == 0
    (tmp_path / "the site" / "node.key").unlink()
    assert main(["site", "start", str(tmp_path / "the site")]) == 2
    assert "node.key does not exist" in printed(capsys)
