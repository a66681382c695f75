"""The parser of a subcommand, with an example below its `--help`; and `fedllm --version`."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

from fedllm_app.commands.examples import EXAMPLES

_TOLD = ("flwr", "torch", "transformers", "peft", "trl")


class CommandParser(argparse.ArgumentParser):
    """A parser whose help ends with the lines of `EXAMPLES` for its command, as they stand there."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options, formatter_class=argparse.RawDescriptionHelpFormatter)
        examples = EXAMPLES.get(self.prog.removeprefix("fedllm").strip(), ())
        if examples:
            self.epilog = "\n".join(["examples:" if len(examples) > 1 else "example:", *(f"  {e}" for e in examples)])


class Version(argparse.Action):
    """Prints the versions and ends; no library is imported for that."""

    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> None:
        """Print a line each."""
        from fedllm_app.config.app_files import app_version  # imports Flower, which no help needs

        lines = [f"fedllm {app_version()}", *(f"{name} {_version(name)}" for name in _TOLD)]
        print("\n".join([*lines, f"Python {platform.python_version()}"]))
        parser.exit()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"
