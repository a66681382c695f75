"""What `flwr run` makes a bundle of, and that it is the same app as the checkout's."""

import hashlib
import os
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from places import ROOT

from fedllm_app.commands.complete_app import complete_app
from fedllm_app.commands.init import write_project
from fedllm_app.config.app_files import PACKAGE, NoApp
from fedllm_app.config.sections import ConfigError
from fedllm_app.errors import UserError
from fedllm_app.sites.approval import SAME, check_bundle


def files(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def bundled(app) -> dict[str, bytes]:
    """What Flower sends of an app."""
    with complete_app(app) as directory:
        return files(build_fab_from_disk(directory))


def test_the_packaged_app_is_the_checkouts_app():
    """Its bundle has the checkout's code and pyproject.toml, byte by byte, and a site that approves the one approves
    the other. The directory is gone afterwards."""
    with complete_app(PACKAGE) as directory:
        packaged = build_fab_from_disk(directory)
    assert not directory.exists()
    check_bundle(packaged, hashlib.sha256(packaged).hexdigest(), SAME)
    checkout = bundled(ROOT)
    code = {name: content for name, content in checkout.items() if name.startswith("fedllm_app/")}
    assert len(code) > 100
    expected = code | {"pyproject.toml": checkout["pyproject.toml"]}
    assert {name: content for name, content in files(packaged).items() if name != ".info/CONTENT"} == expected


def test_a_checkout_travels_with_its_own_package(tmp_path):
    """Its code may differ from what is installed, and its data stays at home as that of any other project."""
    code = {"fedllm_app/__init__.py": "ours = True", "own.py": "", "examples/strategy.py": ""}
    for name, content in code.items() | {("rows.jsonl", "{}"), ("docs/page.md", "")}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    assert {name: content.decode() for name, content in bundled(tmp_path).items() if name.endswith(".py")} == code
    assert bundled(tmp_path).keys() == code.keys() | {"pyproject.toml", ".info/CONTENT"}


def test_environments_caches_and_links_are_not_entered(tmp_path, monkeypatch):
    """An environment has tens of thousands of files, and to look at each takes longer than the rest of a start."""
    write_project(tmp_path)
    for name in (
        ".venv/a.py",
        "py311/pyvenv.cfg",
        "py311/a.py",
        "conda/conda-meta/a",
        "conda/a.py",
        "__pycache__/a.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link.py").symlink_to(tmp_path / "my_strategy.py")
    seen, scan = [], os.scandir
    monkeypatch.setattr("os.scandir", lambda path: seen.append(path) or scan(path))
    with complete_app(tmp_path) as directory:
        assert {path.name for path in directory.iterdir()} == {"fedllm_app", "my_strategy.py", "pyproject.toml"}
    entered = [Path(path) for path in seen if isinstance(path, str | Path)]
    assert [path for path in entered if path.is_relative_to(tmp_path)] == [tmp_path, tmp_path / "conf"]


def own_files(app) -> set[str]:
    return {name for name in bundled(app) if not name.startswith("fedllm_app/")} - {"pyproject.toml", ".info/CONTENT"}


def add(app, *names: str) -> None:
    for name in names:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text("")


def test_what_git_ignores_stays_at_home_and_the_package_travels(tmp_path):
    """Names that a project ignores are those of rooms of the package, too, which a site must find whole."""
    write_project(tmp_path)
    add(tmp_path, "data/load.py", "secret/key.py", "deep/data/load.py")
    (tmp_path / ".gitignore").write_text("/secret/\ndata/\nruns/\n*.toml\n")
    with complete_app(tmp_path) as directory:
        bundle = build_fab_from_disk(directory)
    check_bundle(bundle, hashlib.sha256(bundle).hexdigest(), SAME)
    assert own_files(tmp_path) == {"my_strategy.py"}


@pytest.mark.parametrize(
    ("patterns", "travels"),
    [
        ('fab-exclude = ["old/*"]', {"my_strategy.py", "LICENSE"}),
        ('fab-exclude = ["py311/**", ".cache/**"]', {"my_strategy.py", "old/strategy.py", "LICENSE"}),
        (
            'fab-include = ["*.py", "lib/**", "tests/**", ".cache/a.json"]',
            {"my_strategy.py", "old/strategy.py", ".cache/a.json"},
        ),
    ],
    ids=["exclude", "exclude-what-is-not-entered", "include"],
)
def test_patterns_are_those_of_flower(tmp_path, patterns, travels):
    """Also one for what is not entered otherwise. What Flower leaves out itself, `lib` and tests, needs no error."""
    write_project(tmp_path)
    add(tmp_path, "old/strategy.py", "lib/a.py", "tests/test_a.py", ".cache/a.json", "py311/pyvenv.cfg")
    add(tmp_path, "py311/a.py", "LICENSE", "rows.jsonl")
    file = tmp_path / "pyproject.toml"
    file.write_text(file.read_text().replace('fab-include = ["**/*.py"]', ""))
    file.write_text(pattern_in(file, patterns))
    assert own_files(tmp_path) == travels


def test_a_linked_package_is_that_of_the_installation(tmp_path):
    write_project(tmp_path)
    (tmp_path / "fedllm_app").symlink_to(PACKAGE)
    code = {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in PACKAGE.rglob("*.py")}
    assert {name: content for name, content in bundled(tmp_path).items() if name.startswith("fedllm_app/")} == code


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_project(tmp_path)

    def closed(source, _target):
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr("shutil.copyfile", closed)
    with pytest.raises(UserError, match="cannot be copied for the run .*Permission denied"), complete_app(tmp_path):
        pass


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
