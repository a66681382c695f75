"""The directory that `flwr run` makes a bundle of: this package and an app's own code."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedllm_app.config.app_files import PACKAGE, app_directory, pyproject, read_toml
from fedllm_app.config.sections import ConfigError
from fedllm_app.errors import UserError

_MARKS_OF_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")
_PATTERNS = ("fab-include", "fab-exclude")  # the keys of pyproject.toml by which an app chooses its files
_IGNORED = ".gitignore"
_LICENCES = ("LICENSE", "LICENSE.md")  # Flower asks for one where a pyproject.toml names it


@contextmanager
def complete_app(app: Path) -> Iterator[Path]:
    """A directory with what a bundle of an app is made of; it is gone after the block.

    Flower looks at every file of the directory that it is given before it chooses. A checkout with its environment has
    90,000 of them, and they would take longer than all the rest of a start. So it gets a directory of its own:

    - the app's own package, or where the app has none, such as a project that `fedllm init` wrote, the installed one,
      so that sites find in the bundle the code that they have approved (`sites/approval.py`);
    - of the app's other files Python's and its licence, and what `fab-include` of its pyproject.toml names, so that
      data and runs in the same directory stay at home. What `fab-exclude` or its `.gitignore` names stays, too.

    Raises
    ------
    NoApp
        The directory is no app.
    ConfigError
        Flower does not accept the patterns of its pyproject.toml.
    UserError
        A file cannot be read.
    """
    app = app_directory(app)
    with tempfile.TemporaryDirectory(prefix="fedllm-app-") as scratch:
        directory = Path(scratch)
        if app == PACKAGE or not _has_package(app):
            for path in PACKAGE.rglob("*.py"):
                _copy(path, directory / PACKAGE.name / path.relative_to(PACKAGE))
        if app != PACKAGE and any(key in _settings(read_toml(pyproject(app))) for key in _PATTERNS):
            names = _by_patterns(app)
            _copy_without_patterns(pyproject(app), directory / "pyproject.toml")
        else:
            names = [] if app == PACKAGE else _without_patterns(app)
            _copy(pyproject(app), directory / "pyproject.toml")
        for name in names:
            _copy(app / name, directory / name)
        yield directory


def _settings(config: Mapping) -> dict:
    return config["tool"]["flwr"]["app"]


def _has_package(app: Path) -> bool:
    """Links are not followed, as Flower follows none."""
    package = app / PACKAGE.name
    return (package / "__init__.py").is_file() and not package.is_symlink()


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
    hidden = directory.name.startswith(".") or directory.name == "__pycache__"
    return not hidden and not _is_environment(directory)


def _is_environment(directory: Path) -> bool:
    return any(os.path.exists(directory / mark) for mark in _MARKS_OF_ENVIRONMENTS)  # False where it may not be entered


def _without_patterns(app: Path) -> list[str]:
    """Python files and licences that the app's .gitignore does not name."""
    from pathspec import GitIgnoreSpec

    names = [name for name in _files(app) if name.endswith(".py") or name in _LICENCES]
    ignored = app / _IGNORED
    try:
        lines = ignored.read_text("utf-8").splitlines() if ignored.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{ignored}: cannot be read ({error}); it says which files stay at home") from error
    return list(GitIgnoreSpec.from_lines(lines).match_files(names, negate=True))


def _by_patterns(app: Path) -> list[str]:
    """What Flower would take, without files of data unless `fab-include` is there to name them."""
    from flwr.cli.build import get_filtered_fab_paths
    from flwr.cli.utils import collect_files, filter_paths_for_publish

    config = read_toml(pyproject(app))

    def chosen(all_files: Mapping[str, Path]) -> list[str]:
        return get_filtered_fab_paths(filter_paths_for_publish(all_files), config)

    try:
        names = chosen(_files(app))
    except ValueError:  # a pattern may be for a directory that was not entered; what is nowhere is an error
        try:
            names = chosen(collect_files(app))
        except ValueError as error:
            raise ConfigError([f"{pyproject(app)}: {error}"]) from error
        parents = {parent for name in names for parent in Path(name).parents if parent != Path()}
        environments = {parent for parent in parents if _is_environment(app / parent)}
        names = [name for name in names if environments.isdisjoint(Path(name).parents)]
    included = _PATTERNS[0] in _settings(config)
    return [name for name in names if included or name.endswith(".py") or name in _LICENCES]


def _copy_without_patterns(source: Path, target: Path) -> None:
    """They have been followed: Flower would refuse one for what was left behind."""
    import tomli_w

    config = read_toml(source)
    for key in _PATTERNS:
        _settings(config).pop(key, None)
    target.write_text(tomli_w.dumps(config), "utf-8")


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"{source}: cannot be copied for the run ({error})") from error
