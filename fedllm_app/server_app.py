"""The ServerApp: parse, gather the clients, build the strategy, run the rounds, save."""

import time
from logging import INFO
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from fedllm_app.adapters.methods import adapter_layout, initial_adapter
from fedllm_app.adapters.peft_directory import load_peft_directory
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config
from fedllm_app.config.values import adapter_values, check_context, model_values
from fedllm_app.federation.fingerprint import code_hash
from fedllm_app.federation.holdings import report_holdings
from fedllm_app.federation.roster import assign_clients, describe_clients, gather_nodes
from fedllm_app.federation.rounds import Rounds, Schedule, Totals
from fedllm_app.messages import PEAK_GPU_MEMORY, PEAK_MEMORY
from fedllm_app.models.base import load_model, locate_model
from fedllm_app.paths import home
from fedllm_app.runs.directory import PromptRecord, RunDirectory, adapter_directory
from fedllm_app.strategies.centralized import Centralized
from fedllm_app.strategies.local import Local
from fedllm_app.strategies.registry import build_strategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one experiment from its configuration to its result file."""
    started = time.time()
    config = parse_run_config(context.run_config)
    prompt = PromptRecord.of(config.data.template, config.data.system_prompt, config.data.special_tokens_in_text)
    directory = RunDirectory(Path(config.run.directory or home() / "runs" / str(context.run_id)), prompt)
    directory.create(context.run_config)
    log(INFO, "run directory: %s", directory.path)
    directory.journal("started", run_id=context.run_id, rounds=config.train.rounds, strategy=config.strategy.name)
    try:
        _run(grid, config, directory, started)
    except Exception as error:
        directory.journal("failed", reason=f"{type(error).__name__}: {error}")
        raise


def _run(grid: Grid, config: Config, directory: RunDirectory, started: float) -> None:
    run = config.run
    nodes = gather_nodes(grid, config.clients.number, code_hash(), run.wait_timeout)
    clients = assign_clients(nodes, config.clients.number)
    # Before anything is loaded: a strategy that cannot work with so many clients, or an unknown class path.
    strategy = build_strategy(config.strategy.name, config.strategy.hyper, len(clients))
    location = locate_model(config.model.name, config.model.trust_remote_code)
    check_context(config, location)
    values = adapter_values(config)
    manifest, adapter = adapter_layout(location, values)
    if config.adapter.start:
        initial = load_peft_directory(adapter_directory(Path(config.adapter.start)), manifest)
    else:
        initial = initial_adapter(manifest, adapter, values, run.seed, lambda: load_model(model_values(config)))
    # DPO's reference policy is the model that the run starts from; a new adapter leaves the base as it is.
    reference = initial if config.adapter.start and config.train.task == "dpo" else None
    held = describe_clients(grid, clients, manifest.hash, run.round_timeout, isinstance(strategy, Centralized))
    report_holdings(held, directory)
    ready = time.time()
    rounds = Rounds(
        grid,
        strategy,
        clients,
        {client: str(what["name"]) for client, what in held.items()},
        manifest.hash,
        _schedule(config),
        directory,
        lambda number, vector, state, positions: directory.checkpoint(
            number, vector, manifest, adapter, state, positions
        ),
        reference,
    )
    directory.journal("ready", seconds=ready - started, parameters=manifest.size, clients=len(clients))
    final = rounds.run(initial)
    alone = strategy.client_arrays if isinstance(strategy, Local) else {}
    directory.finish(final, alone, manifest, adapter, _result(config, initial, final, rounds.totals, started, ready))
    log(INFO, "finished: %s", directory.path)


def _schedule(config: Config) -> Schedule:
    train = config.train
    return Schedule(
        rounds=train.rounds,
        per_round=config.clients.per_round,
        local_steps=train.local_steps,
        max_learning_rate=train.learning_rate,
        min_learning_rate=train.min_learning_rate,
        evaluate_every=config.evaluate.every,
        checkpoint_every=config.run.checkpoint_every,
        round_timeout=config.run.round_timeout,
        seed=config.run.seed,
    )


def _result(
    config: Config, initial: np.ndarray, final: np.ndarray, totals: Totals, started: float, ready: float
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
        "adapter_moved": float(np.linalg.norm(final - initial)),
        "adapter": "adapter",
    }
