"""The directory that `flwr run` makes a bundle of: this package, an app's own code, and nothing else."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedllm_app.config.app_files import PACKAGE, app_directory, pyproject, read_toml
from fedllm_app.config.sections import ConfigError

_MARKS_OF_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")
_PATTERNS = ("fab-include", "fab-exclude")  # the keys of pyproject.toml by which an app chooses its files
_IGNORED = ".gitignore"  # Flower leaves out what it names


@contextmanager
def complete_app(app: Path) -> Iterator[Path]:
    """A directory with all that a bundle of an app holds, and nothing else; it is gone after the block.

    Flower looks at every file of the directory that it is given before it chooses. A checkout with its environment has
    90,000 of them, and they would take longer than all the rest of a start. So it gets a directory of its own:

    - the app's own package, or where the app has none, such as a project that `fedllm init` wrote, the installed one,
      so that sites find in the bundle the code that they have approved (`sites/approval.py`);
    - of the app's other files Python's alone, and what `fab-include` of its pyproject.toml names, so that data and runs
      in the same directory stay at home.

    Raises
    ------
    NoApp
        The directory is no app.
    ConfigError
        Flower does not accept the patterns of its pyproject.toml.
    """
    app = app_directory(app)
    with tempfile.TemporaryDirectory(prefix="fedllm-app-") as scratch:
        directory = Path(scratch)
        if app == PACKAGE or not (app / PACKAGE.name / "__init__.py").is_file():
            for path in PACKAGE.rglob("*.py"):
                _copy(path, directory / PACKAGE.name / path.relative_to(PACKAGE))
        if app != PACKAGE:
            _copy_own_files(app, directory)
        _copy(pyproject(app), directory / "pyproject.toml")
        yield directory


def _copy_own_files(app: Path, directory: Path) -> None:
    files = _files(app)
    names, left_out = _chosen(app, files)
    for name in names:
        _copy(files[name], directory / name)
    for name in left_out:  # Flower refuses a pattern that matches no file, and so finds the name of each
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    if _IGNORED in files:
        _copy(files[_IGNORED], directory / _IGNORED)


def _files(app: Path) -> dict[str, Path]:
    """The files of an app by their names in it, without links, hidden directories, caches and environments."""
    found = {}
    for folder, directories, names in os.walk(app):
        directories[:] = [name for name in directories if _may_hold_code(Path(folder, name))]
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                found[path.relative_to(app).as_posix()] = path
    return found


def _may_hold_code(directory: Path) -> bool:
    if directory.name.startswith(".") or directory.name == "__pycache__":
        return False
    return not any((directory / mark).exists() for mark in _MARKS_OF_ENVIRONMENTS)


def _chosen(app: Path, files: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """The names that may travel, of which Flower leaves out some more, and those that `fab-exclude` matches."""
    config = read_toml(pyproject(app))
    python = [name for name in files if name.endswith(".py")]
    if not any(key in config["tool"]["flwr"]["app"] for key in _PATTERNS):
        return python, []

    from flwr.cli.build import get_filtered_fab_paths, get_user_fab_patterns
    from flwr.cli.utils import build_pathspec, filter_paths_for_publish

    try:
        names = get_filtered_fab_paths(filter_paths_for_publish(files), config)
        include, exclude = get_user_fab_patterns(config)
    except ValueError as error:
        raise ConfigError([f"{pyproject(app)}: {error}"]) from error
    left_out = set(build_pathspec(exclude).match_files(files)) if exclude else set()
    return [name for name in names if include is not None or name.endswith(".py")], sorted(left_out)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
