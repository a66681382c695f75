"""Documents cut into windows for continued pretraining, without losing a token."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.data.control_tokens import ControlTokens, Text
from fedllm_app.data.shards import Shard
from fedllm_app.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1 << 20  # characters tokenized at a time: as Python lists, tokens take ten times the room of their array


class NoEndToken(UserError):
    """The tokenizer has no token that ends a document."""

    shareable = True


def document_windows(
    texts: Iterable[str],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    packing: bool,
    special_tokens_in_text: bool = False,
) -> Shard:
    """Tokenize documents and cut them into windows in which every position but the first is predicted.

    A document is its text between what the tokenizer puts before a text, if anything, and its end token. The next
    window begins with the last token of the one before, so that each token of a document is predicted once, from the
    tokens before it in its window.

    Parameters
    ----------
    max_length : int
        Tokens of a window at most; the last window of a document (with `packing`: of all documents) may be shorter.
    packing : bool
        Lay documents end to end and cut the whole: windows are full, and a window may hold the end of one document and
        the beginning of the next, with the end token between them. Otherwise every window is of one document.
    special_tokens_in_text : bool
        Whether control tokens that are spelled out in a document are meant as such; otherwise they are text.

    Returns
    -------
    Shard
        With `starts` of 1; `dropped` counts documents of whose text the tokenizer leaves nothing.

    Raises
    ------
    NoEndToken
        The tokenizer has none.
    """
    controls = ControlTokens(tokenizer)
    if tokenizer.eos_token_id is None:
        raise NoEndToken("the tokenizer has no end token (eos_token), so no document could end")
    documents, dropped = [], 0
    for ids in _tokenized(texts, controls, special_tokens_in_text):
        dropped += not ids
        if ids:
            documents.append(np.asarray([*controls.begin, *ids, tokenizer.eos_token_id], np.int32))
    if packing and documents:
        documents = [np.concatenate(documents)]
    pieces = [window for document in documents for window in _cut(document, max_length)]
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return Shard(tokens, offsets, np.ones(len(pieces), np.int32), dropped)


def _tokenized(texts: Iterable[str], controls: ControlTokens, special_tokens_in_text: bool) -> Iterator[list[int]]:
    for chunk in _chunks(texts):
        written = [Text(text) if special_tokens_in_text else controls.as_text(text) for text in chunk]
        for tokens in controls.encode(written):
            yield list(tokens.ids)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk, characters = [], 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if characters >= _CHUNK:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _cut(tokens: np.ndarray, max_length: int) -> list[np.ndarray]:
    """Windows of at most `max_length` tokens that overlap by one."""
    return [tokens[start : start + max_length] for start in range(0, len(tokens) - 1, max_length - 1)]
