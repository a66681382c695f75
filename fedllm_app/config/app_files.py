"""Where an app is: a directory with a pyproject.toml of Flower's, or the installed package where there is none.

The wheel carries the project's pyproject.toml as `app.toml`, its presets as `conf/` and the example notebook, so that
the package alone is an app. In a checkout they are read where they lie.
"""

import tomllib
from pathlib import Path
from typing import Any

import fedllm_app
from fedllm_app.config.sections import ConfigError
from fedllm_app.errors import UserError
from fedllm_app.paths import expanded

PACKAGE = Path(fedllm_app.__file__).resolve().parent
"""Stands for the packaged app wherever the directory of an app is asked for."""


class NoApp(UserError):
    """What was named is not the directory of an app."""


def app_directory(given: str | Path) -> Path:
    """The absolute directory of an app. `PACKAGE` where the working directory is meant and is no app.

    Raises
    ------
    NoApp
        Another directory that is no app.
    """
    directory = expanded(given).resolve()
    if directory == PACKAGE or is_app(directory):
        return directory
    if directory == Path.cwd():
        return PACKAGE
    if not directory.exists():
        wrong = "there is no such directory"
    elif not directory.is_dir():
        wrong = "is a file, not the directory of an app; a configuration file comes after -c"
    else:
        wrong = "holds no app: a pyproject.toml with [tool.flwr.app]"
    raise NoApp(
        f"{given}: {wrong}. Without a directory the installed app is used; `fedllm init DIR` writes an app of your own"
    )


def is_app(directory: Path) -> bool:
    """Whether a directory has a pyproject.toml of a Flower app. `ConfigError` if that file cannot be read."""
    file = directory / "pyproject.toml"
    return file.is_file() and "app" in read_toml(file).get("tool", {}).get("flwr", {})


def pyproject(app: Path) -> Path:
    """The file with the defaults of an app that `app_directory` has found."""
    if app != PACKAGE:
        return app / "pyproject.toml"
    packaged = PACKAGE / "app.toml"
    return packaged if packaged.is_file() else PACKAGE.parent / "pyproject.toml"


def app_version() -> str:
    """The version of this package."""
    return str(read_toml(pyproject(PACKAGE))["project"]["version"])


def presets() -> dict[str, Path]:
    """The packaged files for `--run-config`, by name."""
    packaged = PACKAGE / "conf"
    directory = packaged if packaged.is_dir() else PACKAGE.parent / "conf"
    return {path.stem: path for path in sorted(directory.glob("*.toml"))}


def notebook() -> Path:
    """The example notebook."""
    packaged = PACKAGE / "notebook.ipynb"
    return packaged if packaged.is_file() else PACKAGE.parent / "examples" / "notebook.ipynb"


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file. `ConfigError` if it cannot be read, with the place of what is wrong."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{file} cannot be read as TOML: {error}"]) from error
