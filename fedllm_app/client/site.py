"""What a site says of its own data in its node configuration, over what the run configuration says for all.

flower-supernode --node-config "data-path='/data/notes.csv' prompt-column='question' site='berlin'"
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from fedllm_app.client.policy import FLOWERS_OWN
from fedllm_app.data.client_rows import DataSelection
from fedllm_app.data.errors import DataError
from fedllm_app.data.named_sets import BUILT_IN
from fedllm_app.data.readers.base import TextFormat
from fedllm_app.data.schemas import Columns

NodeConfig = Mapping[str, bool | int | float | str]
SiteItems = tuple[tuple[str, str], ...]

_COLUMNS = {f"{field.name}-column": field.name for field in fields(Columns)}
_TEXT_FORMAT = ("delimiter", "encoding")
DATA_OPTIONS = (*_COLUMNS, "data-split", *_TEXT_FORMAT)
"""Keys of a node configuration that say how the data at `data-path` is read."""

_KEYS = ("data-path", "site", "policy", "models", "worker", *DATA_OPTIONS)


class SiteConfigError(DataError):
    """The node configuration of a site is wrong; the message names the key, its value and what is accepted."""

    public = "the node configuration is wrong"


def site_items(node_config: NodeConfig) -> SiteItems:
    """What a node's configuration says of its data, sorted, so that it can be a key.

    The virtual nodes of a simulation, which differ in Flower's own keys only, all give the same.

    Raises
    ------
    SiteConfigError
        A value is not text, the path is not absolute, or a key looks like a misspelt one.
    """
    items = []
    for key, value in node_config.items():
        if key in _KEYS:
            if not isinstance(value, str):
                raise _wrong(key, value, "must be text in single quotes")
            items.append((key, value))
        elif key not in FLOWERS_OWN and (near := difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)):
            # Left unnoticed, the site would train on other data than its own.
            told = f"unknown key; did you mean {near[0]}?"
            raise SiteConfigError(f"node-config {key}: {told}", public=f"a key of the node configuration is an {told}")
    text_format = TextFormat(**{key: value for key, value in items if key in _TEXT_FORMAT})
    for key, problem in text_format.problems().items():
        raise _wrong(key, getattr(text_format, key), problem)
    path = dict(items).get("data-path", "/")
    if not Path(path).is_absolute():
        raise _wrong("data-path", path, "must be an absolute path on the node's machine")
    return tuple(sorted(items))


def _wrong(key: str, value: object, problem: str) -> SiteConfigError:
    return SiteConfigError(f"node-config {key} = {value!r}: {problem}", public=f"node-config {key}: {problem}")


def at_site(selection: DataSelection, items: SiteItems) -> DataSelection:
    """The selection with the site's own path, columns, split and text format; a site that names a path owns all of
    it.

    Raises
    ------
    SiteConfigError
        The site has a configuration without data, and the run names none either: it would train on generated rows.
    """
    settings = dict(items)
    if settings and "data-path" not in settings and selection.name == BUILT_IN:
        told = (
            f"has no data-path, and data.name = '{BUILT_IN}' is a generated set; give data-path='/absolute/path', or "
            "set data.name to data that every site has"
        )
        name = settings.get("site", "")
        raise SiteConfigError(f"node-config of site {name!r}: {told}", public=f"the node configuration {told}")
    columns = {field: settings[key] for key, field in _COLUMNS.items() if key in settings}
    changes: dict[str, object] = {
        "site": settings.get("site", ""),
        "split": settings.get("data-split", selection.split),
    }
    if "data-path" in settings:
        changes |= {"name": settings["data-path"], "whole": True}
    text_format = {key: settings[key] for key in _TEXT_FORMAT if key in settings}
    changes["text_format"] = replace(selection.text_format, **text_format)
    return replace(selection, columns=replace(selection.columns, **columns), **changes)
