"""Unit files for systemd."""

import getpass
import sys
from pathlib import Path


def unit_text(kind: str, directory: Path, options: str = "") -> str:
    """A unit that runs `fedllm site start` or `fedllm federation serve` on a directory.

    Parameters
    ----------
    kind : str
        "site" or "federation".
    options : str
        What follows the directory on the command line.
    """
    command = {"site": "site start", "federation": "federation serve"}[kind]
    program = Path(sys.executable).parent / "fedllm"
    lines = [
        f"# Copy to /etc/systemd/system/, then: systemctl daemon-reload; systemctl enable --now fedllm-{kind}",
        "[Unit]",
        f"Description=fedllm {kind} in {_escaped(directory)}",
        "Wants=network-online.target",
        "After=network-online.target time-sync.target",
        "",
        "[Service]",
        f"User={getpass.getuser()}",
        f'ExecStart="{_escaped(program)}" {command} "{_escaped(directory)}"{options}',
        "# The command restarts its Flower process itself; this is for the command.",
        "Restart=always",
        "RestartSec=10",
        "SuccessExitStatus=130",
        "TimeoutStopSec=60",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "ProtectSystem=full",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
