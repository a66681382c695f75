"""What can be known before Flower starts: a model, a file or code of the user's that is not there."""

import re
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from fedllm_app.adapters.peft_directory import weights_file
from fedllm_app.class_paths import NotImportable, class_paths, import_class, is_class_path
from fedllm_app.config.sections import Config
from fedllm_app.config.values import data_selection
from fedllm_app.data.client_rows import check_rows
from fedllm_app.data.named_sets import BUILT_IN, set_names
from fedllm_app.data.origins import DataNotFound, check_absolute
from fedllm_app.data.templates import template_source
from fedllm_app.errors import UserError
from fedllm_app.evaluation.extra import check_extra
from fedllm_app.federation.start import checked_start
from fedllm_app.models.base import locate_model
from fedllm_app.models.hardware import cores
from fedllm_app.models.quantization import prepare_bitsandbytes
from fedllm_app.paths import did_you_mean, expanded
from fedllm_app.runs.directory import adapter_directory
from fedllm_app.runs.tracking import check_tracking
from fedllm_app.strategies.class_path import check_class_path
from fedllm_app.tasks import task_spec
from fedllm_app.updates.table import build_chain


def check_start(config: Config, local: bool, console: Console | None = None) -> None:
    """Refuse a run that cannot begin.

    Parameters
    ----------
    local : bool
        The run takes place on this machine. Over a connection, files and packages of other machines are left to them:
        only code that can be imported here is checked, and a model whose directory is here as well.
    console : Console
        A terminal says that the data is read: a large set that nobody has opened before takes its time.

    Raises
    ------
    UserError
        Of the part that is missing; each says what to do.
    """
    try:
        _check_code(config)
    except NotImportable:
        if local:
            raise
    if local:
        with console.status("reading the data") if console and console.is_terminal else nullcontext():
            _check_data(config)  # before the model, which may first have to be unpacked or fetched
    if local or _starts_from_here(config):
        _check_model(config)
    if not local:
        return
    if config.evaluate.suite:
        check_extra(f"evaluate.suite = {config.evaluate.suite!r}", [config.evaluate.suite])
    check_tracking(config.tracking)


def _check_data(config: Config) -> None:
    """Read the rows of this machine, which the clients then find read; what is fetched is left to them."""
    template_source(config.data.template)
    names = [*set_names(config.data.name), *filter(None, [config.data.test])]
    for name in names:
        if name == BUILT_IN:
            continue
        check_absolute(name)
        if Path(name).is_absolute() and not Path(name).exists():
            key = "data.test" if name == config.data.test else "data.name"
            near = did_you_mean(Path(name)) or "; give the path of the data"
            raise DataNotFound(f"{key} = {name!r}: there is no such file or folder{near}")
    if all(name == BUILT_IN or Path(name).is_absolute() for name in names):
        check_rows(data_selection(config, config.clients.number, task_spec(config.train.task).rows))


def check_resources(federation_config: str) -> None:
    """Refuse clients of a simulation that need more than this machine has: Ray would wait for it and give no reason.

    Parameters
    ----------
    federation_config : str
        As `flwr run --federation-config`. Where it tells Ray what the machine has (`init-args-...`), that is believed.
    """
    for kind, here in (("cpus", cores()), ("gpus", _gpus())):
        asked = re.search(rf"\bclient-resources-num-{kind}\s*=\s*([\d.]+)", federation_config)
        if asked and f"init-args-num-{kind}" not in federation_config and float(asked[1]) > here:
            raise UserError(
                f"--federation-config client-resources-num-{kind}={asked[1]}: this machine has {here}; give at most "
                f"{here}"
            )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _starts_from_here(config: Config) -> bool:
    """Whether the model's directory, and that of `adapter.start`, are on this machine as well."""
    paths = [expanded(path) for path in (config.model.name, config.adapter.start) if path]
    return all(path.is_absolute() and path.exists() for path in paths)


def _check_model(config: Config) -> None:
    """Hold the model's files and the starting adapter against the run; of a Hub id, the server fetches the first
    file."""
    location = locate_model(config.model.name, config.model.trust_remote_code)
    if location.directory is not None:
        prepare_bitsandbytes(config.model.quantization, config.train.optimizer)
        checked_start(config)
    elif config.adapter.start:
        weights_file(adapter_directory(Path(config.adapter.start)), f"adapter.start = {config.adapter.start!r}")


def _check_code(config: Config) -> None:
    if is_class_path(config.strategy.name):
        check_class_path(config.strategy.name, config.strategy.hyper)
    task_spec(config.train.task)
    build_chain(config.update.steps, config.update.compress)
    if class_paths(config.train.corrections):
        from fedllm_app.training.corrections import Correction  # imports torch

        for path in class_paths(config.train.corrections):
            import_class(path, Correction, "The correction")
