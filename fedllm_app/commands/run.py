"""`fedllm run`: submit a run, show its progress, and say truthfully how it ended."""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from rich.console import Console

from fedllm_app.class_paths import NotImportable
from fedllm_app.client.progress import keep_steps
from fedllm_app.commands.attach import follow_connection
from fedllm_app.commands.cluster import Cluster, add_ray, asked_cluster
from fedllm_app.commands.connections import connection_names
from fedllm_app.commands.flower import (
    LaunchError,
    LocalSuperLink,
    flower_environment,
    is_local,
    run_status,
    submit_run,
)
from fedllm_app.commands.follow import FileEvents, Outcome, end_of, exit_status, follow, say_end
from fedllm_app.commands.fork_server import fork_server_environment
from fedllm_app.commands.new_directory import check_home, new_directory
from fedllm_app.commands.options import add_app_parser, run_config, warn_of_unread
from fedllm_app.commands.placement import Machine, at_a_time, gives_no_gpu, place_on, this_machine
from fedllm_app.commands.resumed import resumed_config
from fedllm_app.commands.start_checks import check_resources, check_start
from fedllm_app.commands.watch import Watch
from fedllm_app.config.app_files import app_directory, is_app
from fedllm_app.config.parse import parse_run_config, toml_text
from fedllm_app.config.sections import Config
from fedllm_app.errors import UserError
from fedllm_app.models.quantization import prepare_bitsandbytes
from fedllm_app.paths import expanded, home
from fedllm_app.runs.checkpoints import newest_checkpoint
from fedllm_app.runs.directory import RunDirectory, is_run, keep_federation
from fedllm_app.tasks import task_spec


def add_parser(subparsers) -> None:
    """Add `fedllm run`."""
    parser = add_app_parser(subparsers, "run", _run, "run the app and wait: the options of `flwr run`")
    parser.add_argument("superlink", nargs="?", help="connection of Flower's configuration (default: local)")
    parser.add_argument("--federation-config", help="as `flwr run`: 'num-supernodes=4 client-resources-num-cpus=1'")
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help="go on with the run of this directory after its last checkpoint; -c may change train.rounds and time-outs",
    )
    parser.add_argument("--federation", help="as `flwr run`: @account/federation")
    add_ray(parser)


def _run(parsed: argparse.Namespace, console: Console) -> int:
    """What `flwr run` does, and then wait, show progress and report how the run ended."""
    parsed.app, parsed.superlink = app_and_connection(parsed.app, parsed.superlink)
    local = is_local(parsed.superlink)
    if parsed.ray and not local:
        raise UserError(f"--ray: is for a simulation; {parsed.superlink} is a connection to a federation of sites")
    cluster = asked_cluster(parsed) if local else None
    flat = resumed_config(parsed, local) if parsed.resume else run_config(parsed, local)
    warn_of_unread(parsed, flat, console)
    app = app_directory(parsed.app)
    makes_one = local and not flat["run.directory"]
    with new_directory(str(flat["strategy.name"])) if makes_one else nullcontext(flat["run.directory"]) as directory:
        flat["run.directory"] = str(directory)
        options = (parsed.superlink, parsed.federation_config, parsed.federation, cluster)
        with _told_how_to_go_on(Path(directory), console) if local else nullcontext():
            outcome = run_to_end(app, flat, console, *options)
    return exit_status(outcome)


@contextmanager
def _told_how_to_go_on(run: Path, console: Console) -> Iterator[None]:
    """Say where a run is that is stopped by Ctrl-C, and what goes on with it."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_run(run):  # it had not begun
            raise
        checkpoint, _ = newest_checkpoint(run)
        goes_on = f"goes on with: fedllm run --resume {run}"
        if checkpoint is None:
            goes_on = f"has no checkpoint yet (run.checkpoint-every); fedllm run --resume {run} begins again"
        with suppress(OSError):  # the terminal may be gone
            console.print(f"the run in {run} {goes_on}", markup=False, highlight=False, soft_wrap=True)
        raise


def app_and_connection(app: str, connection: str | None) -> tuple[str, str | None]:
    """What the two places of `fedllm run APP CONNECTION` mean: `fedllm run sites` is a connection without an app.

    Raises
    ------
    UserError
        One word that is neither the directory of an app nor a connection, or a directory and a connection.
    """
    here = expanded(app)
    if connection is not None or here.resolve() == Path.cwd() or (here.is_dir() and is_app(here)):
        return app, connection
    known = connection_names()
    if app in known and here.exists():
        raise UserError(
            f"{app}: is a connection of Flower's configuration and also here, though no app: for the connection write "
            f"`fedllm run . {app}`"
        )
    if app in known:
        return ".", app
    if not here.exists():
        raise UserError(
            f"{app}: there is no such directory, and no such connection of Flower's configuration; connections: "
            f"{', '.join(known)}. Without a directory the installed app is used"
        )
    return app, connection  # a file, or a directory without an app: the app's own error says so


def run_to_end(
    app: Path,
    flat: dict,
    console: Console,
    connection: str | None = None,
    federation_config: str | None = None,
    federation: str | None = None,
    cluster: Cluster | None = None,
    told: set[str] | None = None,
) -> Outcome:
    """Run `app` under the flat configuration, show its progress, and say how it ended.

    Over a connection the run directory is one of the SuperLink's machine, and what happens is read from Flower's log.
    A run among many is told briefly; `told` is what those before it have said.
    """
    config = parse_run_config(flat)
    local = is_local(connection)
    if local and not cluster:
        fork_server_environment(flower_environment())  # it imports while all else is checked and started
    watch = watch_of(config, console, told)
    directory = prepare(config, local, console, federation_config, cluster)
    if cluster:
        cluster.tell(console)
    with tempfile.TemporaryDirectory() as scratch:
        overrides = Path(scratch) / "run.toml"
        overrides.write_text(toml_text(flat), encoding="utf-8")
        if local:
            keep_federation(directory.path, federation_config, bool(config.run.resume))
            federation_config = _federation_here(federation_config, config, flat, console, cluster)
        options = ["--run-config", str(overrides)]
        options += ["--federation-config", federation_config] if federation_config else []
        options += ["--federation", federation] if federation else []
        if local:
            return _run_here(app, connection, options, directory, watch, cluster.address if cluster else "")
        run_id = submit_run(app, connection, options, flower_environment())
        return follow_connection(run_id, connection, directory, watch)


def _federation_here(given: str | None, config: Config, flat: dict, console: Console, cluster: Cluster | None) -> str:
    """What the nodes of a simulation have: as the user says, or as the machines allow."""
    machines = cluster.machines if cluster else [this_machine()]
    if given and (warning := gives_no_gpu(given, machines)):
        console.print(warning, style="bold yellow", markup=False, highlight=False, soft_wrap=True)
    return given or default_federation(config, flat, console, machines)


def _run_here(
    app: Path,
    connection: str | None,
    options: Sequence[str],
    directory: RunDirectory,
    watch: Watch,
    ray: str,
) -> Outcome:
    """A simulation, with a SuperLink of its own."""
    console, brief = watch.console, watch.told is not None
    with LocalSuperLink(_log_file(directory), directory.path, ray) as superlink:
        run_id = submit_run(app, connection, options, superlink.environment)
        outcome = _follow_local(run_id, directory, watch, superlink)
        if outcome:
            superlink.close()  # that takes seconds, in which the figure is drawn
            say_end(outcome, console, lambda: "", True, time.monotonic() - watch.began, brief)
            draw_figure(directory.path, console, brief)
    if not outcome:  # the log's last lines are there now
        say_end(outcome, console, lambda: end_of(_log_file(directory)), here=True)
        draw_figure(directory.path, console)
    return outcome


def draw_figure(run: Path, console: Console, brief: bool = False) -> None:
    """Draw the figure of a run into its directory and say where it is, unless `brief`.

    A run is what it is without it, too.
    """
    from fedllm_app.runs.figures import FIGURE_FILE, NothingToDraw, plot_run
    from fedllm_app.runs.overview import alone_beside

    try:
        plot_run(run, run / FIGURE_FILE, alone=alone_beside(run))
    except NothingToDraw:  # it failed before its first round, and has said so
        return
    except Exception as error:  # a font, a full disk, a journal that somebody has changed
        text = f"the figure of the run could not be drawn: {type(error).__name__}: {error}"
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        return
    if not brief:
        console.print(f"figure: {run / FIGURE_FILE}", markup=False, highlight=False, soft_wrap=True)


def prepare(
    config: Config,
    local: bool,
    console: Console,
    federation_config: str | None = None,
    cluster: Cluster | None = None,
) -> RunDirectory | None:
    """Refuse a run that cannot begin; its directory, which is None where the server chooses it."""
    directory = RunDirectory(Path(config.run.directory)) if config.run.directory else None
    if local:
        check_home(home())
    check_start(config, local, console)
    if cluster:
        cluster.look(config)
        cluster.check_resources(federation_config or "")
    elif local:
        check_resources(federation_config or "")
    if local:
        with directory.held():
            if not config.run.resume:
                _refuse_used(directory)
                directory.put_failed_start_aside()
    elif directory and not config.run.resume and _visible(directory):
        _refuse_used(directory)
    return directory


def _log_file(directory: RunDirectory) -> Path:
    return directory.path / "flower.log"


def _follow_local(run_id: int, directory: RunDirectory, watch: Watch, superlink: LocalSuperLink) -> Outcome:
    try:
        return follow(
            run_id,
            [FileEvents(directory, run_id)],
            watch,
            lambda: run_status(run_id, None, superlink.environment),
            superlink.ended,
            str(directory.path),
        )
    finally:
        keep_steps(run_id, directory.path)


def watch_of(config: Config, console: Console, told: set[str] | None = None) -> Watch:
    """What a terminal shows of a run of this configuration; `told` as in `Watch`."""
    train = config.train
    try:
        metrics = task_spec(train.task).metrics
    except NotImportable:  # a task that only the SuperLink's machine has, which tells them
        metrics = {}
    return Watch(console, train.rounds, train.local_steps, metrics, told)


def _visible(directory: RunDirectory) -> bool:
    """Whether a run directory of the SuperLink's machine, with a journal, can be seen from here."""
    try:
        return directory.journal_file.exists()
    except OSError:  # a name that this machine does not allow
        return False


def _refuse_used(directory: RunDirectory) -> None:
    if directory.began():
        raise LaunchError(f"run.directory = {str(directory.path)!r} holds another run; name a new directory")


def default_federation(config: Config, flat: dict, console: Console, machines: Sequence[Machine]) -> str:
    """Simulated nodes, one a client, and what each has of the machines, which is told where there is a GPU."""
    need = gpu_need(flat) if any(machine.gpus for machine in machines) else None
    placed = place_on(machines, at_a_time(config), need, config.model.device_map == "auto")
    if placed.reason:
        style = None if placed.fits else "yellow"
        said = f"{placed.reason}; --federation-config overrides this"
        console.print(said, style=style, markup=False, highlight=False, soft_wrap=True)
    return placed.federation_config(config.clients.simulated)


def gpu_need(flat: dict) -> int | None:
    """The bytes that a client needs on a GPU, as `fedllm plan` says; None if they cannot be known."""
    prepare_bitsandbytes(str(flat["model.quantization"]))
    from fedllm_app.commands.costs import make_plan  # imports torch

    memory = make_plan(flat).memory
    return None if memory is None else memory.held
