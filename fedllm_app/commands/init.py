"""`fedllm init`: writes a project of one's own: the defaults of every key, a strategy to change, a notebook."""

import argparse
import re
import shlex
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.new_directory import NoPlace
from fedllm_app.config.app_files import PACKAGE, app_version, notebook, pyproject
from fedllm_app.errors import UserError
from fedllm_app.paths import expanded, write_text

_LONGEST = 32  # letters that Flower allows in the name of an app

_PROJECT = """\
# An app of your own on top of fedllm_app. Flower reads this file, and so do `fedllm run` and `fedllm plan` here.

[project]
name = "{name}"
version = "0.1.0"
description = "Federated fine-tuning of a language model"
license = "Apache-2.0"
dependencies = ["fedllm-app=={version}"]

[tool.flwr.app]
publisher = "own"
fab-include = ["**/*.py"]  # what travels to the server with a run; data and runs stay here

[tool.flwr.app.components]
serverapp = "fedllm_app.server_app:app"
clientapp = "fedllm_app.client_app:app"

# The defaults of every key, as fedllm_app {version} has them; strategy.name is the one of my_strategy.py. Flower takes
# a value from -c only if the key stands here, so change values and remove nothing.

"""

_STRATEGY = '''\
"""A strategy of your own: FedAvg that goes only a part of the way to the mean of the replies."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedllm_app.strategies.fedavg import FedAvg


class Mine(FedAvg):
    """``x ← x + η (mean − x)``. With η = 1 it is FedAvg.

    Parameters
    ----------
    eta : float
        η; `-c "strategy.arguments='eta=0.5'"` sets it.
    """

    def __init__(self, eta: float = 1.0) -> None:
        super().__init__()
        self.eta = eta

    def _coordinate_step(
        self, x: NDArray[np.float64], means: Mapping[str, NDArray[np.float64]], state: dict[str, NDArray]
    ) -> NDArray[np.float64]:
        """Some coordinates of the next global adapter, from this round's and the mean of what the clients sent."""
        return x + self.eta * (means["adapter"] - x)
'''

_PRESET = """\
# A short run, to see that everything works: fedllm run -c conf/short.toml

[train]
rounds = 2
local-steps = 2
"""

_README = """\
# {name}

Made by `fedllm init`. In this directory:

```sh
fedllm run -c conf/short.toml                       # a short run, to see that everything works
fedllm plan                                         # what the whole run would cost
fedllm run -c "data.name='/data/tickets.csv'"       # your data
fedllm run -c "strategy.arguments='eta=0.5'"        # your strategy with another value
fedllm run . sites                                  # over the connection `sites` of Flower's configuration
```

- `pyproject.toml` has the default of every key.
- `my_strategy.py` is the strategy. `_coordinate_step` makes the next adapter; change it there. It runs on the server,
  and travels there with each run. Sites run the code that is installed there; they need no file of this directory.
- `notebook.ipynb` trains and looks at a run from Python. Open it in Jupyter or an editor; its kernel needs
  `pip install ipykernel`.
- `conf/` is for files that `-c` takes.

`strategy.name` in `pyproject.toml` chooses the strategy: `my_strategy.Mine`, or a name such as `fedavg`.
"""


def add_parser(subparsers) -> None:
    """Add `fedllm init`."""
    parser = subparsers.add_parser("init", help="write a project of your own: configuration, a strategy, a notebook")
    parser.add_argument("directory", type=Path, metavar="DIR", help="a new or an empty directory")
    parser.set_defaults(command=_init)


def _init(parsed: argparse.Namespace, console: Console) -> int:
    directory = expanded(parsed.directory).resolve()
    write_project(directory)
    console.print(
        f"{directory}: change my_strategy.py and pyproject.toml there, then: "
        f"cd {shlex.quote(str(parsed.directory))} && fedllm run -c conf/short.toml",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def write_project(directory: Path) -> None:
    """Write a project into a new or empty directory.

    Raises
    ------
    UserError
        It is a file, holds something, or cannot be written. Nothing is written then.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; name a new or an empty directory")
    try:
        if directory.is_dir() and any(directory.iterdir()):
            raise UserError(f"{directory} is not empty; name a new or an empty directory")
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in project_files(project_name(directory)).items():
            write_text(directory / name, text)
    except OSError as error:
        raise NoPlace(f"{directory} cannot be written: {error.strerror}; name another directory") from error


def project_files(name: str) -> dict[str, str]:
    """The text of each file of a new project, the one that makes it an app last."""
    values = {"name": name, "version": app_version()}
    return {
        "my_strategy.py": _STRATEGY,
        "notebook.ipynb": notebook().read_text(encoding="utf-8"),
        "conf/short.toml": _PRESET,
        "README.md": _README.format(**values),
        "pyproject.toml": _PROJECT.format(**values) + _defaults_with("my_strategy.Mine"),
    }


def project_name(directory: Path) -> str:
    """A name that Flower allows, made from that of a directory: letters, digits and hyphens, a letter first."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", directory.name)[:_LONGEST].strip("-")
    return name if re.match("[A-Za-z]", name) else "my-app"


def _defaults_with(strategy: str) -> str:
    """The tables of the packaged pyproject.toml with the app's configuration, as they are written there, comments too,
    with another strategy."""
    text = pyproject(PACKAGE).read_text(encoding="utf-8")
    tables = re.findall(r"^\[tool\.flwr\.app\.config\..*?(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    key = re.compile(r'^(\[tool\.flwr\.app\.config\.strategy\]\n(?:.*\n)*?name = )"[^"]*"', re.MULTILINE)
    return key.sub(rf'\1"{strategy}"', "".join(tables)).rstrip("\n") + "\n"
