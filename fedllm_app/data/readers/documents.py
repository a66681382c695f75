"""Text files as documents for continued pretraining: each file is one row, with its content in the column `text`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.base import Located, UnreadableFile
from fedllm_app.data.readers.files import ENDINGS, format_of
from fedllm_app.data.readers.folders import AmbiguousSplit, split_of

TEXT_SUFFIXES = (".txt", ".md")
"""Endings of the files that are read as documents, in capitals too."""

COLUMN = "text"
_BOM = b"\xef\xbb\xbf"
_NOT_DOCUMENTS = ("readme", "license", "licence")  # beside tables


def is_text_file(path: Path) -> bool:
    """Whether the name of a file says that it holds a document."""
    return path.name.lower().endswith(TEXT_SUFFIXES)


def text_files(path: Path, split: str) -> list[Path]:
    """The documents that `path` names: itself, or the text files below a folder; none where it names tables.

    A document belongs to a split as a table does: by its name (`train.txt`) or by a folder above it. Without a given
    split, those of a training split are read, so that a test split beside them is never trained on.

    Raises
    ------
    UnreadableFile
        A folder holds tables and documents, or neither, or no document of the split; or a file is to have splits.
    AmbiguousSplit
        There are several splits, none or several of them for training, or files that belong to none beside them.
    """
    if not path.is_dir():
        if split and is_text_file(path):
            raise UnreadableFile(f"{path} is one file, so '{split}' cannot be chosen from it; leave data.split empty")
        return [path] if is_text_file(path) and path.is_file() else []
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file.relative_to(path))]
    tables, texts = [file for file in files if format_of(file)], [file for file in files if is_text_file(file)]
    if tables:
        _check_beside_tables(path, texts)
        return []
    if not texts:
        raise UnreadableFile(
            f"{path} holds no document and no table; readable are {', '.join(TEXT_SUFFIXES)}, and, with a column of "
            f"text, {ENDINGS}"
        )
    return _of_split(path, texts, split)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _check_beside_tables(folder: Path, texts: Iterable[Path]) -> None:
    documents = [file.name for file in texts if file.stem.lower() not in _NOT_DOCUMENTS]
    if documents:
        raise UnreadableFile(
            f"{folder} holds tables and {len(documents)} text files, the first is {documents[0]}: put the files to "
            "train on into a folder of their own and name that (data.name)"
        )


def _of_split(folder: Path, texts: Iterable[Path], split: str) -> list[Path]:
    found: dict[str, list[Path]] = {}
    for file in texts:
        found.setdefault(split_of(file.relative_to(folder), split), []).append(file)
    named = sorted(name for name in found if name)
    if split:
        if split not in found:
            raise UnreadableFile(
                f"{folder} holds no document of split '{split}', only of: {', '.join(named) or 'none'}"
            )
        return found[split]
    if not named:
        return found[""]
    training = [name for name in named if name.startswith("train")]
    if "" in found or len(training) != 1:
        others = f", and {len(found[''])} files of none" if "" in found else ""
        raise AmbiguousSplit(
            f"{folder} holds documents of the splits {', '.join(named)}{others}: name the split to read (data.split), "
            "or put all files to train on into a folder of their own"
        )
    return found[training[0]]


def read_text_files(paths: Sequence[Path]) -> Located:
    r"""Yield each file as one row, with `\n` for the ends of lines, and without a byte order mark.

    Raises
    ------
    UnreadableFile
        A file cannot be opened.
    """
    for path in paths:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read: {error}") from error
        try:
            yield path.name, {COLUMN: _lines(raw.removeprefix(_BOM).decode())}
        except UnicodeDecodeError as error:
            yield path.name, BadRow(f"broken UTF-8 in line {raw.count(10, 0, error.start) + 1}; save it as UTF-8")


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
