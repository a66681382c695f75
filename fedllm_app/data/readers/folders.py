"""Which files of a folder are read: those of one split, found by the words in their names and their folders' names.

The words are those of the Hub (train, training, validation, valid, dev, val, test, testing, eval, evaluation) and a few
like them (testset, holdout), in small letters or capitals, anywhere between characters that are not letters. Where a
name says two things, nothing is guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.data.errors import DataError, listed
from fedllm_app.data.readers.base import UnreadableFile
from fedllm_app.data.readers.files import DOCUMENT_ENDINGS, ENDINGS, format_of, is_document

_TRAIN, _VALIDATION, _TEST = "train", "validation", "test"
_KINDS = {
    **dict.fromkeys(("train", "training"), _TRAIN),
    **dict.fromkeys(("validation", "valid", "dev", "val"), _VALIDATION),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout", "heldout"), _TEST),
}
_SPLIT = re.compile(rf"({'|'.join(sorted(_KINDS, key=len, reverse=True))})(_\w+)?", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_]+")
_SET = re.compile(r"(?<=.)(set|data|split)$")  # testset, traindata
# Of a document's name, a part that says a split: train.txt, wiki.test.txt, train-00000-of-00002.txt; not test-plan.md.
_DOCUMENT_SPLIT = re.compile(rf"({'|'.join(sorted(_KINDS, key=len, reverse=True))})([-_]?\d[\w-]*)?", re.IGNORECASE)
_NO_DOCUMENT = re.compile(r"(readme|licen[cs]e)(\..*)?", re.IGNORECASE)  # beside tables
_NO_ROWS = re.compile(
    r"(readme|licen[cs]e)(\..*)?|(dataset_infos?|dataset_dict|state|config)\.json|.*\.(md|py|lock)", re.IGNORECASE
)


class AmbiguousSplit(DataError):
    """A folder holds several splits and the configuration does not say which one to read."""

    public = "the data folder holds several splits, or files of none beside them: name the one to read (data-split)"


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder that are read, and the names below it of those that may hold rows and are not."""

    read: list[Path]
    left_out: list[str]


def files_of(folder: Path, split: str) -> FolderFiles:
    """Choose the data files of one split below a folder, sorted.

    A file belongs to the split that its name begins with, up to the first `-` or `.` (`train_prefs-00000-of-00001`);
    else to the one whose word stands in its name (`my_train.jsonl`), else to that of the folder it is in. Without a
    given split, files of a training split are preferred to all others, so that a test split lying beside it is never
    trained on.

    Raises
    ------
    AmbiguousSplit
        The files belong to several splits, none or several of them for training.
    UnreadableFile
        There is no data file (of that split), or a folder cannot be looked into.
    """
    found: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in _files_below(folder):
        relative = path.relative_to(folder)
        if format_of(path) and not _NO_ROWS.fullmatch(path.name):
            found.setdefault(_split_of(relative, split), []).append(path)
        elif not _NO_ROWS.fullmatch(path.name):
            others.append(path)
    if not found:
        raise UnreadableFile(f"{folder} holds no data file; readable are {ENDINGS}{_beside(others, folder)}")
    chosen = _chosen(found, folder, split)
    left_out = [path for name, paths in found.items() if name != chosen for path in paths]
    return FolderFiles(found[chosen], sorted(str(path.relative_to(folder)) for path in (*left_out, *others)))


def documents_of(folder: Path, split: str) -> FolderFiles:
    """Choose the documents of one split below a folder, sorted; where it holds tables, those, as `files_of` does.

    A document belongs to a split where a part of its name between dots, or a folder that it is in, is called like one.

    Raises
    ------
    AmbiguousSplit
        There are several splits, none or several of them for training, or documents that belong to none beside them:
        a note may be called like a split.
    UnreadableFile
        There is no document (of that split) and no table, or a folder cannot be looked into.
    """
    paths = list(_files_below(folder))
    documents = [path for path in paths if is_document(path)]
    if any(format_of(path) and not _NO_ROWS.fullmatch(path.name) for path in paths):
        tables = files_of(folder, split)
        beside = {str(path.relative_to(folder)) for path in documents if not _NO_DOCUMENT.fullmatch(path.name)}
        return FolderFiles(tables.read, sorted({*tables.left_out, *beside}))
    others = [path for path in paths if path not in documents]
    if not documents:
        raise UnreadableFile(
            f"{folder} holds no document ({DOCUMENT_ENDINGS}) and no table ({ENDINGS}){_beside(others, folder)}"
        )
    found: dict[str, list[Path]] = {}
    for path in documents:
        found.setdefault(_document_split(path.relative_to(folder), split), []).append(path)
    named = sorted(name for name in found if name)
    if named and "" in found and not split:
        raise AmbiguousSplit(
            f"{folder} holds documents of the splits {', '.join(named)} and {len(found[''])} of none: name the split "
            "to read (data.split), or put all files to train on into a folder of their own"
        )
    chosen = _chosen(found, folder, split)
    left_out = [path for name, group in found.items() if name != chosen for path in group]
    return FolderFiles(found[chosen], sorted(str(path.relative_to(folder)) for path in (*left_out, *others)))


def _document_split(relative: Path, wanted: str) -> str:
    """The split that a document belongs to; "" for none. A name that says two things is a split of its own."""
    parts = [*relative.parts[:-1], *relative.name.split(".")[:-1]]
    if wanted and wanted in parts:
        return wanted
    said = [match[1].lower() for part in parts if (match := _DOCUMENT_SPLIT.fullmatch(part))]
    return str(relative) if len({_KINDS[word] for word in said}) > 1 else next(iter(said), "")


def _beside(others: list[Path], folder: Path) -> str:
    return f"; it holds {listed([str(path.relative_to(folder)) for path in others])}" if others else ""


def _files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, sorted."""

    def refuse(error: OSError) -> None:
        raise UnreadableFile(f"{error.filename} cannot be looked into: {error.strerror}") from error

    paths, visited = [], set()
    for directory, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        visited.add(os.path.realpath(directory))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(directory, name)) not in visited
        ]
        paths += [Path(directory) / name for name in names if not name.startswith(".")]
    for path in sorted(paths):
        # Beside the rows that it has loaded, datasets keeps what was computed from them.
        if not (path.suffix == ".arrow" and path.name.startswith("cache-")):
            yield path


def _chosen(found: dict[str, list[Path]], folder: Path, split: str) -> str:
    """The name of the split to read."""
    names = sorted(name for name in found if name)
    if split:
        same = [name for name in names if name == split] or [name for name in names if _kind(name) == _kind(split)]
        if len(same) == 1:
            return same[0]
        if same:
            raise AmbiguousSplit(f"{folder} holds several splits like '{split}': {', '.join(same)}: name one of them")
        raise UnreadableFile(f"{folder} holds no files of split '{split}', only of: {', '.join(names) or 'none'}")
    if not names:
        return ""
    training = [name for name in names if _kind(name) == _TRAIN]
    if len(training) != 1:
        rest = f" and {len(found[''])} files of none" if "" in found else ""
        raise AmbiguousSplit(
            f"{folder} holds the splits {', '.join(names)}{rest}: name the one to read (data.split), or the file "
            "itself (data.name)"
        )
    return training[0]


def _kind(split: str) -> str:
    """Train, validation or test, where the name of a split says one of them; else the name."""
    kinds = {_KINDS[word] for word in _words(split)}
    return kinds.pop() if len(kinds) == 1 else split


def _words(name: str) -> list[str]:
    """The words in a name that name a split, in small letters."""
    words = (_SET.sub("", word.lower()) for word in _WORDS.findall(name))
    return [word for word in words if word in _KINDS]


def _split_of(relative: Path, wanted: str) -> str:
    """The split that a file belongs to; "" for none. A name that says two things is a split of its own."""
    stem = re.split(r"[-.]", relative.name, maxsplit=1)[0]
    names = [relative.name, *reversed(relative.parts[:-1])]
    if wanted and wanted in (stem, *relative.parts[:-1]):
        return wanted
    kinds = {_KINDS[word] for name in names for word in _words(name)}
    if len(kinds) > 1:
        return str(relative)
    for name in (stem, *relative.parts[:-1][::-1]):
        if _SPLIT.fullmatch(name):
            return name.lower()
    return next((_words(name)[0] for name in names if _words(name)), "")
