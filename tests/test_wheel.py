"""The app from a wheel, without a checkout: defaults, presets and code are in it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

from fedllm_app.config.app_files import app_version
from fedllm_app.federation.fingerprint import code_hash

COMMAND = "import sys; from fedllm_app.commands.main import main; sys.exit(main(sys.argv[1:]))"
FINGERPRINT = """
import fedllm_app
from fedllm_app.federation.fingerprint import code_hash
print(fedllm_app.__file__, code_hash())
"""


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory) -> Path:
    """A directory with what a wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
def python(site_packages, tmp_path):
    """Run Python in an empty directory with an empty home, where the wheel's package is found first."""

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
        home = tmp_path / "user"
        home.mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(site_packages), "HOME": str(home), "COLUMNS": "160"}
        environment |= {"FEDLLM_HOME": str(home / "fedllm"), "FLWR_HOME": str(home / "flwr")}
        (tmp_path / "empty").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-P", "-c", program, *arguments],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_a_plan_from_an_empty_directory(python, tiny_model):
    """With the packaged defaults: FedAvg of six rounds and 1,280 generated rows; LoRA of rank 8 on the tiny model
    trains r (in + out) of each linear layer: 8 (64 + 48 + 48 + 64 + 3 · 96) = 4,096 in each of its two."""
    done = python(COMMAND, "plan", "-c", f"model.name={tiny_model}", "run.threads=1")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    figures = {row[1].strip(): row[2].strip() for row in rows}
    assert figures["parameters that are trained"] == "8,192"
    assert figures["parameters that stay frozen"] == "37,792"


def test_the_version_and_the_presets_come_along(python):
    assert python(COMMAND, "--version").stdout.startswith(f"fedllm {app_version()}\n")
    done = python(COMMAND, "plan", "-c", "nothing")
    assert done.returncode == 2
    assert "fedit-finance" in done.stdout


def test_it_is_the_same_code_to_a_server_and_its_sites(python, site_packages):
    assert python(FINGERPRINT).stdout.split() == [str(site_packages / "fedllm_app" / "__init__.py"), code_hash()]
    assert (site_packages / "fedllm_app" / "app.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
    packaged = site_packages / "fedllm_app" / "notebook.ipynb"
    assert packaged.read_bytes() == (ROOT / "examples" / "notebook.ipynb").read_bytes()
