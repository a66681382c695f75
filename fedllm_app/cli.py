"""The `fedllm` command: what a user does before, around and after a run."""

import argparse
import math
import os
import signal
import sys
import tempfile
import time
import tomllib
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from rich.console import Console

from fedllm_app.adapters import AdapterError
from fedllm_app.config import Config, ConfigError, default_run_config, flatten, parse_run_config
from fedllm_app.data.partition import PartitionError
from fedllm_app.data.schemas import DataError
from fedllm_app.data.shards import EmptyShard
from fedllm_app.data.templates import TemplateError
from fedllm_app.evaluation.generation import ContextTooLong
from fedllm_app.launch import LaunchError, LocalSuperLink, flower_environment, run_status, submit_run, tail
from fedllm_app.models import ModelNotFound, QuantizationError, prepare_bitsandbytes
from fedllm_app.progress import Tail, progress_file
from fedllm_app.run_directory import RunDirectory, read_result
from fedllm_app.strategies.class_path import ClassPathError, NotImportable, check_class_path
from fedllm_app.watch import Watch, summary

_LOOK_EVERY = 0.3  # seconds between looks at the journal
_ASK_FLOWER_EVERY = 20.0  # seconds of silence after which Flower is asked whether the run is alive
_UNANSWERED = 15  # times in a row that Flower may fail to answer
_MISTAKES = (
    ConfigError,
    LaunchError,
    DataError,
    PartitionError,
    EmptyShard,
    ModelNotFound,
    QuantizationError,
    AdapterError,
    ClassPathError,
    TemplateError,
    ContextTooLong,
)
"""What a user can put right: shown as a sentence."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `fedllm`; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    console = Console()
    # Ended by another process (a job scheduler, a time limit), it must take Flower's processes along as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return parsed.command(parsed, console)
    except _MISTAKES as error:
        console.print(str(error), style="red", markup=False, highlight=False, emoji=False)
        return 2
    except KeyboardInterrupt:
        console.print("stopped", style="red")
        return 130


def _interrupt(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not stop the taking down
    raise KeyboardInterrupt


def run(parsed: argparse.Namespace, console: Console) -> int:
    """`fedllm run`: what `flwr run` does, and then wait, show progress and tell the truth about the end."""
    app = Path(parsed.app).resolve()
    flat = default_run_config(app) | read_overrides(parsed.run_config or [])
    if not flat["run.directory"] and is_local(parsed.superlink):
        flat["run.directory"] = str(_new_directory(str(flat["strategy.name"])))
    return 0 if run_to_end(app, flat, console, parsed.superlink, parsed.federation_config, parsed.federation) else 1


def demo(parsed: argparse.Namespace, console: Console) -> int:
    """`fedllm demo`: the main job; see `fedllm_app.demo`."""
    from fedllm_app.demo import demo as run_demo

    app = Path(parsed.app).resolve()
    flat = default_run_config(app) | read_overrides(parsed.run_config or [])
    directory = Path(flat["run.directory"] or _new_directory("demo"))

    def run_one(overrides: dict) -> None:
        if not run_to_end(app, flat | overrides, console):
            raise LaunchError("the demo stops here, because a run of it failed")

    run_demo(parse_run_config(flat), directory, run_one, console)
    return 0


def plan(parsed: argparse.Namespace, console: Console) -> int:
    """`fedllm plan`: what a run would cost; see `fedllm_app.plan`."""
    flat = default_run_config(Path(parsed.app).resolve()) | read_overrides(parsed.run_config or [])
    prepare_bitsandbytes(parse_run_config(flat).model.quantization)
    from fedllm_app.plan import make_plan, show_plan

    show_plan(make_plan(flat), console)
    return 0


def partition(parsed: argparse.Namespace, console: Console) -> int:
    """`fedllm partition`: who would hold which rows; see `fedllm_app.partition_report`."""
    from fedllm_app.partition_report import report_partition

    flat = default_run_config(Path(parsed.app).resolve()) | read_overrides(parsed.run_config or [])
    report_partition(parse_run_config(flat), console, Path(parsed.plot).resolve() if parsed.plot else None)
    return 0


def chat(parsed: argparse.Namespace, console: Console) -> int:
    """`fedllm chat`: answers of a finished run's model; see `fedllm_app.chat`."""
    from fedllm_app.chat import Chat, converse, find_source

    source = find_source(
        Path(parsed.directory),
        parsed.client,
        parsed.model,
        parsed.template,
        parsed.system_prompt,
        parsed.trust_remote_code,
        parsed.quantization,
    )
    opened = Chat(source, parsed.base, parsed.max_new_tokens, parsed.temperature)
    if parsed.prompt is None:
        converse(opened, console)
    else:
        print(opened.answer([("user", parsed.prompt)]))
    return 0


def run_to_end(
    app: Path,
    flat: dict,
    console: Console,
    connection: str | None = None,
    federation_config: str | None = None,
    federation: str | None = None,
) -> bool:
    """Run `app` under the flat configuration, show its progress, and say whether it finished.

    Over a connection the run directory is one of the SuperLink's machine. Only where it can be seen from here as well is
    progress shown; else Flower alone knows how the run ends.
    """
    config = parse_run_config(flat)
    local = is_local(connection)
    if not local and not config.run.directory:
        raise LaunchError(
            "run.directory = '': accepted over a connection is an absolute path on the SuperLink's machine, such as "
            "'/runs/first'"
        )
    directory = RunDirectory(Path(config.run.directory))
    if directory.journal_file.exists():
        raise LaunchError(f"run.directory = {config.run.directory!r} holds another run; name a new directory")
    if "." in config.strategy.name:
        try:
            check_class_path(config.strategy.name, config.strategy.hyper)
        except NotImportable:
            pass  # it need not be installed here, only where the ServerApp runs, which refuses it if it is not
    log_file = directory.path / "flower.log"
    with tempfile.TemporaryDirectory() as scratch:
        overrides = Path(scratch) / "run.toml"
        overrides.write_text("".join(f'"{key}" = {_toml(value)}\n' for key, value in flat.items()), encoding="utf-8")
        options = ["--run-config", str(overrides)]
        if local or federation_config:
            options += ["--federation-config", federation_config or default_federation(config)]
        options += ["--federation", federation] if federation else []
        with LocalSuperLink(log_file) if local else nullcontext() as superlink:
            environment = superlink.environment if superlink else flower_environment()
            run_id = submit_run(app, connection, options, environment)
            if not local:
                told = (
                    f"what the server says: flwr log {run_id} {connection or ''}; the run goes on if this command ends"
                )
                console.print(told, markup=False, highlight=False)
            finished = _follow(run_id, directory, config, console, connection, environment)
    result = read_result(directory.path)
    where = "its files" if directory.journal_file.exists() else "its files, on the SuperLink's machine"
    if result is not None:
        console.print(summary(result, str(directory.path)))
    elif finished:
        console.print(f"the run finished; {where}: {directory.path}", markup=False, highlight=False)
    else:
        journal = Tail(directory.journal_file).new()
        if local and not any(event["event"] == "failed" for event in journal):  # else its reason was shown
            console.print(f"the end of {log_file}:\n{tail(log_file)}", markup=False, highlight=False)
        console.print(f"the run failed; {where}: {directory.path}", style="red", markup=False, highlight=False)
    return finished


def _new_directory(name: str) -> Path:
    return Path("runs").resolve() / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"


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
                raise ConfigError([f"--run-config {value}: accepted is 'key=value key=value', text in double quotes"])
            merged |= pairs
    return merged


def default_federation(config: Config) -> str:
    """Simulated nodes and their CPUs: one node a client, and as many at a time as take part and cores allow."""
    clients = config.clients.number or 2
    at_once = min(config.clients.per_round or clients, os.cpu_count() or 1)
    cpus = max(1, (os.cpu_count() or 1) // at_once)
    return f"num-supernodes={clients} client-resources-num-cpus={cpus}"


def is_local(connection: str | None) -> bool:
    """Whether a connection of Flower's configuration is its local simulation. `LaunchError` if there is none."""
    import click
    from flwr.cli.flower_config import read_superlink_connection

    try:
        address = read_superlink_connection(connection).address
    except click.ClickException as error:
        raise LaunchError(error.message) from error
    return address is None or address.startswith(":local")


def _follow(run_id, directory: RunDirectory, config: Config, console: Console, connection, environment) -> bool:
    """Show the run until it ends; whether it finished. Of a server whose files are elsewhere, Flower alone knows."""
    journal = Tail(directory.journal_file)
    steps = Tail(progress_file(run_id))
    train = config.train
    heard, unanswered = time.monotonic(), 0
    with Watch(console, train.rounds, config.clients.per_round, train.local_steps) as watch:
        while True:
            result = read_result(directory.path)
            events, lines = journal.new(), steps.new()
            for event in events:
                watch.event(event)
            for line in lines:
                watch.step(line)
            if result is not None:
                return True
            if any(event["event"] == "failed" for event in events):
                return False
            if events or lines:
                heard = time.monotonic()
            elif time.monotonic() - heard > _ASK_FLOWER_EVERY:
                heard = time.monotonic()
                try:
                    status, details = run_status(run_id, connection, environment)
                except LaunchError:
                    unanswered += 1  # a network has its moments, and the run goes on without this command
                    if unanswered == _UNANSWERED:
                        raise
                    continue
                unanswered = 0
                if status.startswith("finished") and not journal.path.exists():
                    if status != "finished:completed":
                        console.print(f"{status}: {details}", markup=False, highlight=False)
                    return status == "finished:completed"
                if status.startswith("finished"):
                    return read_result(directory.path) is not None
            time.sleep(_LOOK_EVERY)


def _toml(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedllm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    run_parser = _command(commands, run, "run the app and wait: the options of `flwr run`")
    run_parser.add_argument("superlink", nargs="?", help="connection of Flower's configuration (default: local)")
    run_parser.add_argument("--federation-config", help="as `flwr run`: 'num-supernodes=4 client-resources-num-cpus=1'")
    run_parser.add_argument("--federation", help="as `flwr run`: @account/federation")
    _command(commands, demo, "the main job: federate four domains and compare")
    _command(commands, plan, "what a run would cost: parameters, bytes, memory, steps, tokens, examples")
    partition_parser = _command(commands, partition, "who would hold which rows, without loading a model")
    partition_parser.add_argument("--plot", metavar="FILE.png", help="draw a bar a client, stacked by label")
    _chat_parser(commands)
    return parser


def _chat_parser(commands) -> None:
    parser = commands.add_parser(chat.__name__, help="talk to the model that a run has trained")
    parser.add_argument("directory", help="a run directory, a checkpoint of one, or any PEFT directory")
    parser.add_argument("--client", type=int, metavar="K", help="with strategy.name='local': whose model")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this, and print nothing else")
    parser.add_argument("--base", action="store_true", help="the base model alone, without the adapter")
    parser.add_argument("--template", help="instead of the recorded one: a name or a .jinja file")
    parser.add_argument("--system-prompt", metavar="TEXT", help="instead of the recorded one; '' = the template's own")
    parser.add_argument("--model", help="instead of the recorded base: a built-in name, a directory or a Hub id")
    parser.add_argument(
        "--quantization", choices=("none", "int8", "nf4"), help="of the base, instead of the recorded one"
    )
    parser.add_argument("--max-new-tokens", type=_tokens, default=256, metavar="N", help="of an answer (default: 256)")
    parser.add_argument("--temperature", type=_temperature, default=0.0, help="0 = greedy (default)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base model")
    parser.set_defaults(command=chat)


def _tokens(text: str) -> int:
    if not text.isdecimal() or (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: accepted is a whole number, at least 1")
    return number


def _temperature(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: accepted is a number, 0 or more")
    return number


def _command(commands, function, summary: str) -> argparse.ArgumentParser:
    """A command of the name of its function, with what all have: the app and its configuration."""
    parser = commands.add_parser(function.__name__, help=summary)
    parser.add_argument("app", nargs="?", default=".", help="directory of the app (default: this one)")
    parser.add_argument("--run-config", "-c", action="append", help="a TOML file, or 'key=value key=value'")
    parser.set_defaults(command=function)
    return parser


if __name__ == "__main__":
    sys.exit(main())
