"""The licence of a base model, as far as its files tell: a merged model and an adapter come under it, too."""

import re
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.models.location import ModelLocation, file_of
from fedllm_app.models.packaged import PACKAGED_MODELS

_FILE = re.compile(r"(licen[cs]e|notice|copying|use_policy)(\.(txt|md))?", re.IGNORECASE)
_ON_THE_HUB = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "USE_POLICY.md")


@dataclass(frozen=True)
class Licence:
    """A licence by the Hub's short name ("" where it is not known), with what a model card adds to "other".

    `files` are the texts that come with the model.
    """

    name: str = ""
    full_name: str = ""
    link: str = ""
    files: tuple[Path, ...] = ()

    @property
    def shown(self) -> str:
        """For a sentence; "" where it is not known."""
        named = self.full_name or self.name
        return f"{named} ({self.link})" if named and self.link else named


def licence_of(location: ModelLocation) -> Licence:
    """What the table of packaged models says, or the model card among the model's files."""
    if location.name in PACKAGED_MODELS:
        return Licence(PACKAGED_MODELS[location.name].licence)
    card = file_of(location, "README.md")
    said = _metadata(card) if card else {}
    texts = {key: str(said[key]) if isinstance(said.get(key), str) else "" for key in ("license", "license_name")}
    link = said.get("license_link")
    # A link to a file of the model's own is not one from elsewhere.
    link = link if isinstance(link, str) and link.startswith("https://") else ""
    return Licence(texts["license"], texts["license_name"], link, _files(location))


def _metadata(card: Path) -> dict:
    """What stands between the lines of hyphens at the top of a model card; nothing where that cannot be read."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        return metadata_load(card) or {}
    except (YAMLError, ValueError):
        return {}


def _files(location: ModelLocation) -> tuple[Path, ...]:
    if location.directory is not None:
        return tuple(sorted(file for file in location.directory.iterdir() if _FILE.fullmatch(file.name)))
    return tuple(file for name in _ON_THE_HUB if (file := file_of(location, name)))
