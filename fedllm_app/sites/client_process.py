"""The process that answers one message at a site: Flower's flwr-clientapp, with the app that is installed here.

Flower would unpack the bundle of the run, put it first on the import path and load the app that it names. Here the
bundle is neither unpacked nor imported; what it configures has reached the message's context already.
"""

import sys
from typing import Any

from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp as flower

FORBIDDEN = "--allow-runtime-dependency-installation"


def main() -> None:
    """Run Flower's command with the installed app."""
    if FORBIDDEN in sys.argv:
        raise SystemExit(f"{FORBIDDEN}: a site installs nothing that a run names")
    use_installed_app()
    flwr_clientapp()


def use_installed_app() -> None:
    """Make this process's Flower load `fedllm_app.client_app` of this environment, whatever a run's bundle says."""
    flower.install_from_fab = _not_unpacked
    flower.get_load_client_app_fn = _installed


def _not_unpacked(_bundle: bytes, **_options: Any) -> None:
    return


def _installed(**_options: Any) -> Any:
    def load(_fab_id: str, _fab_version: str, _fab_hash: str) -> Any:
        from fedllm_app.client_app import app

        return app

    return load


if __name__ == "__main__":
    main()
