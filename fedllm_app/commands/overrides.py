"""What `--run-config` gives: TOML files and key=value pairs."""

import tomllib
from pathlib import Path

from fedllm_app.config.parse import flatten
from fedllm_app.config.sections import ConfigError


def read_overrides(given: list[str]) -> dict[str, bool | int | float | str]:
    """Merge `--run-config` values: TOML files and "key=value key=value" strings, later ones win."""
    import click
    from flwr.common.config import parse_config_args

    merged: dict[str, bool | int | float | str] = {}
    for value in given:
        path = Path(value).expanduser()
        if value.endswith(".toml"):
            if not path.is_file():
                raise ConfigError([f"--run-config {value}: there is no such file"])
            try:
                merged |= flatten(tomllib.loads(path.read_text(encoding="utf-8")))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise ConfigError([f"--run-config {value}: {error}"]) from error
        else:
            try:
                pairs = parse_config_args([value])
            except click.ClickException:
                pairs = {}
            if not pairs:
                raise ConfigError(
                    [f"--run-config {value}: must be a .toml file or 'key=value key=value' with text in double quotes"]
                )
            merged |= pairs
    return merged
