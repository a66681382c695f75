"""Where the files of a test set are below `--data-dir`, and which subset each belongs to.

Names are compared without regard to capitals, "-" and "_" being the same. The first place that has files counts:

1. The patterns of `TestSet.files`, one after the other. A folder that one names is read as in 2.
2. A folder of the set's name: the files of the split, which their names or their folders' say (`readers.folders`:
   "test.jsonl", "anatomy_test.csv", "anatomy/test-00000-of-00001.parquet", "test/anatomy.csv", also as
   `datasets.save_to_disk` writes them); all data files, if none is named after any split.
3. A file of the set's name with an ending that is read.

Where files belong to configurations of the Hub (`TestSet.configs`), those are read in that order, and no others.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fedllm_app.data.errors import DataError
from fedllm_app.data.readers.base import UnreadableFile
from fedllm_app.data.readers.files import format_of
from fedllm_app.data.readers.folders import AmbiguousSplit, files_of
from fedllm_app.data.readers.text import COMPRESSIONS
from fedllm_app.evaluation.suite import TestSet

_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_SAME_SPLIT = (("test", "testing"), ("validation", "valid", "val", "dev"), ("train", "training"))
_NO_SUBSET = ("", "data")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SetFile:
    """A file of a test set, and the subset that its rows belong to; "" for none."""

    path: Path
    subset: str


def found_files(test: TestSet, data_dir: Path) -> list[SetFile]:
    """The files of a set in the order they are read; none if it is not there.

    Raises
    ------
    DataError
        Several splits or formats fit, and nothing says which one is meant; or a folder cannot be looked into.
    """
    for pattern in test.files:
        files = _matching(test, data_dir, pattern.split("/"))
        if files:
            return _chosen(test, files)
    for folder in _entries(data_dir, test.name):
        files = _in_folder(test, folder) if folder.is_dir() else []
        if files:
            return _chosen(test, files)
    named = [entry for entry in _entries(data_dir, "*") if plain_name(_stem(entry)) == plain_name(test.name)]
    return _chosen(test, [SetFile(path, "") for path in named if path.is_file() and (format_of(path) or test.read)])


def _matching(test: TestSet, data_dir: Path, parts: list[str]) -> list[SetFile]:
    """Files that a pattern names. Folders below its first wild card may say the subset."""
    fixed = next((place for place, part in enumerate(parts[:-1]) if _WILD.search(part)), len(parts) - 1)
    files = []
    for path in _glob(data_dir, parts):
        root = path.parents[len(parts) - 1 - fixed]
        files += _in_folder(test, path) if path.is_dir() else [SetFile(path, _subset(test, path, root))]
    return files


def _glob(folder: Path, parts: list[str]) -> list[Path]:
    if not parts:
        return [folder]
    return [path for entry in _entries(folder, parts[0]) for path in _glob(entry, parts[1:])]


def _entries(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder under a name that fits, sorted; hidden files are left out."""
    if not folder.is_dir():
        return []
    try:
        return sorted(
            entry
            for entry in folder.iterdir()
            if fnmatchcase(plain_name(entry.name), plain_name(pattern)) and not entry.name.startswith(".")
        )
    except OSError as error:
        raise UnreadableFile(f"{folder} cannot be looked into: {error.strerror or error}") from error


def _in_folder(test: TestSet, folder: Path) -> list[SetFile]:
    """The data files of the set's split in a folder; all of them if none says a split."""
    paths = [path for part in _splits(test) for path in _of_split(folder, part) or ()]
    if not paths and _of_split(folder, "train") is None:
        try:
            paths = _of_split(folder, "") or []
        except AmbiguousSplit:  # the names say other splits
            return []
    return [SetFile(path, _subset(test, path, folder)) for path in dict.fromkeys(paths)]


def _splits(test: TestSet) -> list[str]:
    return (test.split or "test").split("+")


def _of_split(folder: Path, split: str) -> list[Path] | None:
    """The files of a split; None if there are none."""
    try:
        return files_of(folder, split).read
    except UnreadableFile as error:
        if isinstance(error.__cause__, OSError):  # there may be files, and they cannot be seen
            raise
        return None


def other_splits(test: TestSet, data_dir: Path) -> str:
    """For messages: why a folder of the set's name gives no rows; "" if there is no such folder."""
    reasons = []
    for folder in _entries(data_dir, test.name):
        try:
            if folder.is_dir():
                files_of(folder, _splits(test)[0])
        except DataError as error:
            reasons.append(str(error))
    return "; ".join(reasons)


def _subset(test: TestSet, path: Path, root: Path) -> str:
    """What the name of a file, else that of a folder between `root` and it, says besides set and split."""
    words = {word for part in _splits(test) for same in (*_SAME_SPLIT, (part,)) if part in same for word in same}
    either = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    split = re.compile(rf"^(?:{either})(?:[-_. ]+|$)|[-_. ]+(?:{either})$", re.IGNORECASE)
    for name in (_SHARD.sub("", _stem(path)), *(parent.name for parent in _between(path, root))):
        rest = split.sub("", name)
        if rest.lower() not in _NO_SUBSET and plain_name(rest) != plain_name(test.name):
            return rest
    return ""


def _between(path: Path, root: Path) -> Iterable[Path]:
    """The folders that hold a file, from the inmost on, without `root`."""
    for parent in path.parents:
        if parent == root:
            return
        yield parent


def _chosen(test: TestSet, files: list[SetFile]) -> list[SetFile]:
    """The files of the set's configurations, if some are; one format of each."""
    order = {plain_name(config): place for place, config in enumerate(test.configs)}
    if any(plain_name(file.subset) in order for file in files):
        files = [file for file in files if plain_name(file.subset) in order]
        files.sort(key=lambda file: order[plain_name(file.subset)])
    names: dict[Path, Path] = {}
    for file in files:
        twin = names.setdefault(file.path.with_name(_stem(file.path)), file.path)
        if twin != file.path:
            raise DataError(
                f"{test.name}: {twin} and {file.path.name} look like the same rows in two formats; remove one of them"
            )
    return files


def plain_name(name: str) -> str:
    """A name as it is compared."""
    return name.casefold().replace("_", "-")


def _stem(path: Path) -> str:
    """The name without the ending of its format and of a compression."""
    lower = path.name.lower()
    packed = next((ending for ending in COMPRESSIONS if lower.endswith(ending)), "")
    return Path(path.name[: len(path.name) - len(packed)]).stem
