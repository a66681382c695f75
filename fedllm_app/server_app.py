"""The ServerApp: parse, gather the clients, build the strategy, run the rounds, save."""

import time
from collections.abc import Callable, Mapping
from logging import ERROR, INFO
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from fedllm_app.client import simulation_workers
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config
from fedllm_app.federation.attendance import Attendance
from fedllm_app.federation.bases import base_problem
from fedllm_app.federation.closing import Quorum
from fedllm_app.federation.ending import tell_ended
from fedllm_app.federation.exchange import PlainExchange
from fedllm_app.federation.fingerprint import code_hash
from fedllm_app.federation.holdings import Holdings, evaluating_clients, report_holdings, report_more_holdings
from fedllm_app.federation.ledger import Ledger, Totals
from fedllm_app.federation.notes import warn
from fedllm_app.federation.participation import Participation
from fedllm_app.federation.resume import begin, other_client
from fedllm_app.federation.roster import (
    Node,
    assign_clients,
    describe_clients,
    describe_some,
    gather_nodes,
    other_code,
    unused_gpus,
    unused_nodes,
)
from fedllm_app.federation.rounds import Rounds
from fedllm_app.federation.saver import Saver
from fedllm_app.federation.schedule import Schedule
from fedllm_app.federation.sent_once import SentOnce
from fedllm_app.federation.start import StartingPoint, check_updates
from fedllm_app.messages import PEAK_GPU_MEMORY, PEAK_MEMORY, ClientHolding
from fedllm_app.models.quantization import prepare_bitsandbytes
from fedllm_app.paths import home
from fedllm_app.runs.directory import PromptRecord, RunDirectory, read_run_config
from fedllm_app.runs.event_lines import EventWriter
from fedllm_app.runs.interruption import STOPPED
from fedllm_app.runs.outgoing import NotSent, send_run
from fedllm_app.runs.tracking import tracked
from fedllm_app.strategies.registry import build_strategy
from fedllm_app.strategies.round_strategy import RoundStrategy
from fedllm_app.tasks import task_spec
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.table import build_chain

app = ServerApp()


_LAST_LINES = 1.0  # seconds that Flower gets to send the last lines of the log: it sends none once the app has ended


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment from its configuration to its result file."""
    config = parse_run_config(context.run_config)
    if config.run.fetch:
        _send_files(config)
        return
    prompt = PromptRecord.of(config.data.template, config.data.system_prompt, config.data.special_tokens_in_text)
    path = config.run.resume or config.run.directory or home() / "runs" / str(context.run_id)
    directory = RunDirectory(Path(path), prompt, EventWriter())
    try:
        with directory.held():
            if config.run.resume:
                directory.resume(context.run_config)
            else:
                directory.create(context.run_config)
            directory.tell(_settings(config, directory))
            log(INFO, "run directory: %s", directory.path)
            run_experiment(grid, config, directory, context.run_id)
    finally:
        time.sleep(_LAST_LINES)


def _send_files(config: Config) -> None:
    tell = EventWriter()
    try:
        send_run(Path(config.run.fetch), tell, config.run.fetch_checkpoints)
    except (NotSent, OSError) as error:
        tell({"event": "failed", "reason": str(error)})
        raise
    finally:
        time.sleep(_LAST_LINES)


def run_experiment(grid: Grid, config: Config, directory: RunDirectory, run_id: int) -> None:
    """Run `config` over the nodes of a grid into a run directory; what ends it early is journaled and raised."""
    started = time.time()
    participation = Participation()
    try:
        with tracked(directory, config.tracking, read_run_config(directory.path)):
            _run(grid, config, directory, run_id, started, participation)
    except Exception as error:
        _journal_end(directory, f"{type(error).__name__}: {error}", participation)
        raise
    except (KeyboardInterrupt, SystemExit):  # Flower turns signals into the latter
        _journal_end(directory, STOPPED, participation)
        raise


def _journal_end(directory: RunDirectory, reason: str, participation: Participation) -> None:
    try:
        directory.journal("failed", reason=reason, participation=participation.lines())
    except OSError as full:  # nobody can read it there, but in Flower's log
        log(ERROR, "the journal of %s cannot be written (%s): %s", directory.path, full, reason)


def _run(
    grid: Grid, config: Config, directory: RunDirectory, run_id: int, started: float, participation: Participation
) -> None:
    run = config.run
    where = begin(config, directory, run_id, code_hash())
    began = time.time()
    connected = gather_nodes(grid, config.clients.number, code_hash(), run.wait_timeout, _connecting(directory))
    seconds = {"connect_seconds": time.time() - began}
    nodes = assign_clients(connected, config.clients.number)
    # Before anything is loaded: a strategy that cannot work with so many clients, or an unknown class path.
    strategy = build_strategy(config.strategy.name, config.strategy.hyper, len(nodes))
    chain = build_chain(config.update.steps, config.update.compress)
    check_updates(config, chain, strategy)
    prepare_bitsandbytes(config.model.quantization, config.train.optimizer)
    start = where.starting_point(config, directory)
    ask_suite = _suite_asker(config, directory, start)
    warn(directory, other_code(connected, code_hash()), unused_nodes(connected, nodes.values()), unused_gpus(connected))
    warn(directory, *simulation_workers.notes, *start.notes, where.state_note(config, strategy))
    strategy.bind(start.travelling)
    schedule = Schedule.of(config, len(nodes))
    first = schedule.described_first(config.clients.describe, bool(connected[0].partitions), where.server_round)
    began = time.time()
    asked = {client: nodes[client] for client in first}
    holdings = _described(grid, config, directory, asked, len(nodes), start.travelling.hash, strategy.pooled)
    seconds["describe_seconds"] = time.time() - began
    held = {client: holding for client, (holding, _) in holdings.items()}
    ledger = Ledger(directory, len(nodes), participation)
    ledger.know({client: holding.name for client, holding in held.items()})
    where.restore(strategy, chain, ledger)
    once = start.sent_once(nodes)
    exchange = _exchange(grid, config, nodes, start, strategy, ledger, chain, once, held)
    evaluating = set(evaluating_clients(held))
    saver = Saver(directory, start, schedule, where.server_round)
    warn(directory, saver.check(len(strategy.sent_arrays)))
    attendance = _attendance(grid, config, directory, connected, nodes, holdings, exchange, strategy.pooled, evaluating)
    rounds = Rounds(
        strategy,
        schedule,
        exchange,
        ledger,
        chain,
        once,
        start.travelling.hash,
        saver.save,
        evaluating,
        ask_suite,
        Quorum.of(config.clients),
        attendance,
        where.key,
        run.round_timeout,
    )
    ready = time.time()
    size = start.travelling.size
    directory.journal("ready", seconds=ready - started, **seconds, parameters=size, clients=sorted(nodes))
    final = rounds.run(where.adapter(start), where.server_round)
    own = {client: start.merge(adapter) for client, adapter in strategy.own_adapters().items()}
    warn(directory, tell_ended(grid, nodes, where.key, ledger.totals.versions, not connected[0].partitions))
    result = _result(config, start, final, ledger.totals, started, ready) | {"participation": participation.lines()}
    directory.finish(start.merge(final), own, start.layout, result)
    log(INFO, "finished: %s", directory.path)


def _connecting(directory: RunDirectory) -> Callable[[int, int, bool], None]:
    def tell(connected: int, needed: int, simulation: bool) -> None:
        directory.journal("connecting", connected=connected, needed=needed, simulation=simulation)

    return tell


def _described(
    grid: Grid,
    config: Config,
    directory: RunDirectory,
    nodes: Mapping[int, int],
    clients: int,
    manifest: str,
    pooled: bool,
) -> Holdings:
    directory.journal("describing", clients=sorted(nodes))
    holdings = describe_clients(grid, nodes, clients, manifest, config.run.describe_timeout, pooled)
    report_holdings(holdings, directory)
    return holdings


def _attendance(
    grid: Grid,
    config: Config,
    directory: RunDirectory,
    connected: list[Node],
    nodes: dict[int, int],
    holdings: Holdings,
    exchange: PlainExchange,
    pooled: bool,
    evaluating: set[int],
) -> Attendance:
    """Keeps up to date who is there, what replies may claim, and who can evaluate."""

    def describe(some: Mapping[int, int]) -> tuple[Holdings, dict[int, str]]:
        found, problems = describe_some(grid, some, len(nodes), exchange.manifest, config.run.describe_timeout, pooled)
        held = {client: holding for client, (holding, _) in holdings.items()}
        names = exchange.ledger.known_names()
        alike = base_problem(held | {client: holding for client, (holding, _) in found.items()}) is None
        for client in list(found):  # its base must be that of the others, and one that comes back must have the same
            name, known = found[client][0].name, names.get(client)
            if client not in held and known not in (None, name):
                problems[client] = other_client(client, known, name)
            elif not alike and (different := base_problem(held | {client: found[client][0]})):
                problems[client] = f"client {client}: {different}"
            if client in problems:
                del found[client]
        return found, problems

    def introduced(new: Holdings) -> None:
        report_more_holdings(new, holdings, directory)
        holdings.update(new)
        exchange.ledger.know({client: holding.name for client, (holding, _) in new.items()})
        for client, (holding, _) in new.items():
            has(client, holding)

    def returned(client: int, holding: ClientHolding) -> None:
        exchange.once.refused(client)  # it may have lost what it was sent
        has(client, holding)

    def has(client: int, holding: ClientHolding) -> None:
        if not pooled:
            exchange.examples[client] = holding.examples
        exchange.held_out[client] = holding.held_out
        (evaluating.add if holding.held_out else evaluating.discard)(client)

    return Attendance(
        grid,
        nodes,
        connected,
        holdings={client: holding for client, (holding, _) in holdings.items()},
        code=code_hash(),
        describe=describe,
        introduced=introduced,
        returned=returned,
        journal=directory.journal,
        wait_timeout=config.run.wait_timeout,
    )


def _exchange(
    grid: Grid,
    config: Config,
    nodes: dict[int, int],
    start: StartingPoint,
    strategy: RoundStrategy,
    ledger: Ledger,
    chain: UpdateChain,
    once: SentOnce,
    held: Mapping[int, ClientHolding],
) -> PlainExchange:
    return PlainExchange(
        grid,
        nodes,
        manifest=start.travelling.hash,
        required=strategy.reply_arrays,
        timeout=config.run.round_timeout,
        grace=config.clients.grace,
        ledger=ledger,
        chain=chain,
        once=once,
        examples=None if strategy.pooled else {client: holding.examples for client, holding in held.items()},
        held_out={client: holding.held_out for client, holding in held.items()},
    )


def _settings(config: Config, directory: RunDirectory) -> dict[str, object]:
    """What a terminal that does not know the configuration needs to show the run."""
    return {
        "event": "settings",
        "directory": str(directory.path),
        "rounds": config.train.rounds,
        "per_round": config.clients.per_round,
        "local_steps": config.train.local_steps,
        "metrics": dict(task_spec(config.train.task).metrics),
    }


def _suite_asker(
    config: Config, directory: RunDirectory, start: StartingPoint
) -> Callable[[int, np.ndarray], None] | None:
    if not config.evaluate.suite:
        return None
    from fedllm_app.evaluation.during import on_server  # a server without a suite needs none of it

    return on_server(config, directory, start.merge)


def _result(
    config: Config, start: StartingPoint, final: np.ndarray, totals: Totals, started: float, ready: float
) -> dict[str, object]:
    ended = time.time()
    return {
        "strategy": config.strategy.name,
        "rounds": config.train.rounds,
        "seconds": ended - started,
        "seconds_of_rounds": ended - ready,
        "bytes_down": totals.down,
        "bytes_up": totals.up,
        "peak_client_memory_mb": totals.peak[PEAK_MEMORY],
        "peak_client_gpu_memory_mb": totals.peak[PEAK_GPU_MEMORY],
        "refused_replies": totals.refused,
        "adapter_moved": float(np.linalg.norm(final - start.adapter)),
        "adapter": "adapter",
    }
