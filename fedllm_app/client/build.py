"""The local client of a run, built from its configuration once a process."""

import numpy as np

from fedllm_app.adapters.methods import adapter_layout, draw_adapter
from fedllm_app.class_paths import class_paths, import_class
from fedllm_app.client.admission import admitted
from fedllm_app.client.local_client import LocalClient
from fedllm_app.client.policy import Policy
from fedllm_app.client.shards import ShardStore
from fedllm_app.client.site import SiteItems, at_site
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config, ConfigError
from fedllm_app.config.values import adapter_values, data_selection, model_values, tokenization
from fedllm_app.evaluation.during import suite_watch
from fedllm_app.models.base import locate_model
from fedllm_app.models.quantization import prepare_bitsandbytes
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.tasks import task_spec
from fedllm_app.training.corrections import Correction
from fedllm_app.training.resident import ResidentKey, set_threads
from fedllm_app.training.task import Task
from fedllm_app.updates.parts import home_part
from fedllm_app.updates.table import build_chain


def local_client(
    run_id: int, run_config: tuple, clients: int, site: SiteItems = (), policy: Policy | None = None
) -> LocalClient:
    """The local client of a run in this process.

    Parameters
    ----------
    run_config : tuple
        The flat configuration as sorted items, so that it can be a key.
    site : SiteItems
        What the node's own configuration says of its data (`site_items`).
    policy : Policy | None
        What the site allows to runs (`site_policy`); None in a simulation.

    Raises
    ------
    SiteRefuses
        The policy does not allow the run. That is looked at for every message, and nothing is loaded before.
    """
    flat = admitted(dict(run_config), policy)
    key = (run_id, tuple(sorted(flat.items())), clients, site, policy)

    def build() -> LocalClient:
        return _build(run_id, _parsed(flat, dict(run_config)), clients, site, policy)

    return PROCESS_CACHE.get("local client", key, build)


def resident_key(config: Config) -> ResidentKey:
    """What this configuration's resident model is known by."""
    return ResidentKey(config.train.task, model_values(config), adapter_values(config), config.lora.aggregation)


def _parsed(flat: dict, run_config: dict) -> Config:
    """The configuration as the site follows it. Errors quote the values of the run, not the paths that they lead to."""
    try:
        return parse_run_config(flat)
    except ConfigError as error:
        problems = error.problems
        for key, value in run_config.items():
            if isinstance(value, str) and flat[key] and flat[key] != value:
                problems = [problem.replace(repr(flat[key]), repr(value)) for problem in problems]
        raise ConfigError(problems) from None


def _build(run_id: int, config: Config, clients: int, site: SiteItems, policy: Policy | None) -> LocalClient:
    prepare_bitsandbytes(config.model.quantization, config.train.optimizer)
    set_threads(config.run.threads)
    spec = task_spec(config.train.task)
    selection = at_site(data_selection(config, clients, spec.rows), site)
    own = class_paths(config.train.corrections)
    return LocalClient(
        run_id=run_id,
        key=resident_key(config),
        store=ShardStore(selection, tokenization(config)),
        train_config=config.train,
        task=import_class(spec.implementation, Task, "The task")(config),
        chain=build_chain(config.update.steps, config.update.compress),
        corrections=tuple(import_class(path, Correction, "The correction") for path in own),
        seed=config.run.seed,
        evaluate_examples=config.evaluate.examples,
        draw_home=lambda: _drawn_home(config),
        suite=suite_watch(config, "clients"),
        discreet=policy is not None,
    )


def _drawn_home(config: Config) -> np.ndarray:
    """The part of a newly drawn adapter that stays at home, as the server draws it from the same seed."""
    location = locate_model(config.model.name, config.model.trust_remote_code)
    layout = adapter_layout(location, adapter_values(config))
    return draw_adapter(layout.manifest, config.run.seed)[layout.slots(home_part(layout, config.lora.aggregation))]
