"""What `flwr run` makes a bundle of, and that it is the same app as the checkout's."""

import hashlib
import zipfile
from io import BytesIO

import pytest
from flwr.cli.build import build_fab_from_disk
from places import ROOT

from fedllm_app.commands.complete_app import complete_app
from fedllm_app.commands.init import write_project
from fedllm_app.config.app_files import PACKAGE, NoApp
from fedllm_app.config.sections import ConfigError
from fedllm_app.sites.approval import SAME, check_bundle


def files(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_packaged_app_is_the_checkouts_app():
    """Its bundle has the checkout's code and pyproject.toml, byte by byte, and a site that approves the one approves
    the other. The directory is gone afterwards."""
    with complete_app(PACKAGE) as directory:
        packaged = build_fab_from_disk(directory)
    assert not directory.exists()
    check_bundle(packaged, hashlib.sha256(packaged).hexdigest(), SAME)
    checkout = files(build_fab_from_disk(ROOT))
    code = {name: content for name, content in checkout.items() if name.startswith("fedllm_app/")}
    assert len(code) > 100
    expected = code | {"pyproject.toml": checkout["pyproject.toml"]}
    assert {name: content for name, content in files(packaged).items() if name != ".info/CONTENT"} == expected


def test_a_checkout_is_taken_as_it_is():
    with complete_app(ROOT) as directory:
        assert directory == ROOT


def test_a_project_travels_with_the_package_and_without_its_data(tmp_path):
    """Sites approve it; rows, runs and other files of the directory stay at home."""
    write_project(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "result.json").write_text("{}")
    with complete_app(tmp_path) as directory:
        bundle = build_fab_from_disk(directory)
    check_bundle(bundle, hashlib.sha256(bundle).hexdigest(), SAME)
    own = {name for name in files(bundle) if not name.startswith("fedllm_app/")}
    assert own == {"pyproject.toml", "my_strategy.py", ".info/CONTENT"}


def test_data_stays_at_home_without_patterns_too_and_travels_where_a_pattern_names_it(tmp_path):
    write_project(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "pyproject.toml"
    line = 'fab-include = ["**/*.py"]'
    assert line in file.read_text()
    for pattern, travels in (("", False), ('fab-include = ["**/*.py", "rows.jsonl"]', True)):
        file.write_text(file.read_text().replace(line, pattern) if pattern == "" else pattern_in(file, pattern))
        with complete_app(tmp_path) as directory:
            assert (directory / "rows.jsonl").exists() == travels
            assert (directory / "my_strategy.py").exists()


def pattern_in(file, pattern: str) -> str:
    return file.read_text().replace('publisher = "own"', f'publisher = "own"\n{pattern}')


def test_a_pattern_that_matches_nothing_is_an_error_of_that_file(tmp_path):
    write_project(tmp_path)
    file = tmp_path / "pyproject.toml"
    file.write_text(file.read_text().replace('"**/*.py"]', '"data/*.json"]'))
    with (
        pytest.raises(ConfigError, match=r"pyproject.toml: Pattern in .* did not match any files"),
        complete_app(tmp_path),
    ):
        pass


def test_a_directory_that_is_no_app_is_none(tmp_path):
    with pytest.raises(NoApp, match="holds no app"), complete_app(tmp_path):
        pass
