"""A connection in Flower's configuration, `$FLWR_HOME/config.toml`: added as a block of its own and removed again."""

import json
import re
import tomllib
from pathlib import Path

from fedllm_app.errors import UserError
from fedllm_app.paths import write_text

_BEGIN, _END = "# >>> fedllm federation {name} >>>", "# <<< fedllm federation {name} <<<"


def configuration_file() -> Path:
    """Where Flower reads its connections."""
    from flwr.cli.constant import FLOWER_CONFIG_FILE
    from flwr.supercore.utils import get_flwr_home

    return get_flwr_home() / FLOWER_CONFIG_FILE


def connection_names() -> list[str]:
    """The connections of Flower's configuration; without a file, those that Flower writes into a new one."""
    from flwr.cli.constant import DEFAULT_FLOWER_CONFIG_TOML

    try:
        connections = tomllib.loads(_text() or DEFAULT_FLOWER_CONFIG_TOML).get("superlink", {})
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"Flower's configuration {configuration_file()} cannot be read: {error}") from error
    return [name for name, value in connections.items() if isinstance(value, dict)]


def check_free(name: str) -> None:
    """Refuse a name of a connection that the user has made, and one that no connection can have."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"the connection {name!r}: a name must be letters, digits, - and _")
    text = _without(name, _text())
    if name in _parsed(text).get("superlink", {}):
        raise UserError(
            f"Flower's configuration {configuration_file()} has a connection {name!r} already; name the federation "
            "otherwise (--name)"
        )


def add_connection(name: str, address: str, authority: Path) -> None:
    """Add a connection with TLS; all else of the file stays as it is.

    `UserError` if the file is no TOML, or would not be any more.
    """
    text = _without(name, _text())
    if not text:
        from flwr.cli.constant import DEFAULT_FLOWER_CONFIG_TOML  # without a file Flower writes this one

        text = DEFAULT_FLOWER_CONFIG_TOML
    block = [
        _BEGIN.format(name=name),
        f"[superlink.{name}]",
        f"address = {json.dumps(address)}",
        f"root-certificates = {json.dumps(str(authority), ensure_ascii=False)}",
        _END.format(name=name),
    ]
    text = text.rstrip("\n") + "\n\n" + "\n".join(block) + "\n"
    _parsed(text)
    write_text(configuration_file(), text)


def remove_connection(name: str) -> None:
    """Remove what `add_connection` wrote; nothing if it is not there."""
    text = _text()
    without = _without(name, text)
    if without != text:
        write_text(configuration_file(), without)


def _text() -> str:
    file = configuration_file()
    try:
        return file.read_text(encoding="utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Flower's configuration {file} cannot be read: {error}") from error


def _without(name: str, text: str) -> str:
    begin, end = (re.escape(mark.format(name=name)) for mark in (_BEGIN, _END))
    return re.sub(rf"\n*^{begin}$.*?^{end}$\n?", "\n", text, flags=re.MULTILINE | re.DOTALL)


def _parsed(text: str) -> dict:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"a connection cannot be added to Flower's configuration {configuration_file()}: {error}"
        ) from error
