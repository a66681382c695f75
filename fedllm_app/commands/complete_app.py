"""The directory that `flwr run` makes a bundle of: always with this package in it, and with an app's own code."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedllm_app.config.app_files import PACKAGE, app_directory, pyproject, read_toml
from fedllm_app.config.sections import ConfigError


@contextmanager
def complete_app(app: Path) -> Iterator[Path]:
    """A directory with all that a bundle of an app holds; one made for it is gone after the block.

    A project with the package in it, such as a checkout, is taken as it is. Another one gets the installed package
    beside its own files, so that sites find in the bundle the code that they have approved (`sites/approval.py`).
    Of its own files only Python's travel, and what `fab-include` of its pyproject.toml names, so that data and runs in
    the same directory stay at home.

    Raises
    ------
    NoApp
        The directory is no app.
    ConfigError
        Flower does not accept the patterns of its pyproject.toml.
    """
    app = app_directory(app)
    if app != PACKAGE and (app / PACKAGE.name / "__init__.py").is_file():
        yield app
        return
    with tempfile.TemporaryDirectory(prefix="fedllm-app-") as scratch:
        directory = Path(scratch)
        for path in PACKAGE.rglob("*.py"):
            _copy(path, directory / PACKAGE.name / path.relative_to(PACKAGE))
        if app != PACKAGE:
            for name in _own_files(app):
                _copy(app / name, directory / name)
        _copy(pyproject(app), directory / "pyproject.toml")
        yield directory


def _own_files(app: Path) -> list[str]:
    """What Flower would take of a project; without `fab-include`, of that only the Python files."""
    from flwr.cli.build import get_filtered_fab_paths, get_user_fab_patterns
    from flwr.cli.utils import collect_files, filter_paths_for_publish

    config = read_toml(pyproject(app))
    try:
        names = get_filtered_fab_paths(filter_paths_for_publish(collect_files(app)), config)
        chosen = get_user_fab_patterns(config)[0] is not None
    except ValueError as error:
        raise ConfigError([f"{pyproject(app)}: {error}"]) from error
    return [name for name in names if chosen or name.endswith(".py")]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
