"""The process of a site's SuperNode: Flower's own, except that the app of a run is checked before it is accepted.

Started by the site's supervisor as `python -m fedllm_app.sites.node DIRECTORY --port P --parent-pid N`. TLS and node
key are always on, and dependencies that a run names are never installed.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from logging import ERROR
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.supercore import log
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.constant import TaskType

from fedllm_app.sites.approval import CodeRefused, check_bundle
from fedllm_app.sites.site_file import Site, read_site

flower = import_module("flwr.supernode.start_client_internal")
command = import_module("flwr.supernode.cli.flower_supernode")  # its package has a function of the same name


def main(arguments: list[str] | None = None) -> None:
    """Run the SuperNode of a site until it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", required=True, help="local port of the node's own API")
    parser.add_argument("--parent-pid", type=int, required=True, help="end when this process has ended")
    parsed = parser.parse_args(arguments)
    site = read_site(parsed.directory)
    os.umask(0o077)  # what this process and its children write is for its user alone
    start_parent_process_monitor(parsed.parent_pid)
    flower._pull_and_store_message = checked(flower._pull_and_store_message, site)
    # Handed over as it is: Flower's own syntax of a node configuration cannot say every path and name.
    command.parse_config_args = lambda _text: dict(site.node_config())
    sys.argv = ["flower-supernode", *node_options(site, parsed.port)]
    command.flower_supernode()


def node_options(site: Site, port: str) -> list[str]:
    """The options of flower-supernode for a site."""
    options = ["--superlink", site.superlink, "--root-certificates", str(site.authority)]
    return [*options, "--auth-supernode-private-key", str(site.key), "--host", "127.0.0.1", "--port", port]


def checked(pull: Callable[..., int | None], site: Site) -> Callable[..., int | None]:
    """Flower's step that fetches a message and, of a new run, the app; a refused app is answered with an error.

    The app is checked when it arrives, before it is stored: a refused one never reaches the disk or a process.
    """

    @wraps(pull)
    def step(*, state: Any, object_store: Any, receive: Any, get_run: Any, get_fab: Any, **others: Any) -> int | None:
        received = []

        def remembered() -> Any:
            got = receive()
            received.extend(got[:1] if got else ())
            return got

        def ordinary_run(run_id: int) -> Any:
            run = get_run(run_id)
            if run.primary_task_type == TaskType.AGENT_APP:
                raise CodeRefused("this site refuses the run: it runs the ClientApp of this app only")
            return run

        def approved(fab_hash: str, run_id: int) -> Any:
            fab = get_fab(fab_hash, run_id)
            check_bundle(fab.content, fab.hash_str, site.code)
            return fab

        try:
            return pull(
                state=state,
                object_store=object_store,
                receive=remembered,
                get_run=ordinary_run,
                get_fab=approved,
                **others,
            )
        except CodeRefused as refusal:
            (message,) = received
            log(ERROR, "run %d: %s", message.metadata.run_id, refusal)
            reply = Message(Error(ErrorCode.INVALID_FAB, f"{site.name}: {refusal}"), reply_to=message)
            flower._insert_message(reply, state, object_store)
            return message.metadata.run_id

    return step


if __name__ == "__main__":
    main()
