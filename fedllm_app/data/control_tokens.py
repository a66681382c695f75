"""The tokens of a tokenizer that steer a model, kept apart from text that only looks like them.

A tokenizer matches control tokens, such as `<s>` or `<|im_end|>`, wherever their spelling occurs: in what a template
writes, where they are meant, and in what a user wrote, where they are text. To tell the two apart, contents are
rendered with their matches hidden (`hide`), and then the control tokens that the template wrote get another spelling
(`respell`), under which a copy of the tokenizer knows them. To that copy, `<s>` is three letters.

Only rows with such a match take this way. All others are tokenized as they are.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Letters and digits pass through templates unchanged; no row holds these, because every process draws others.
_NONCE = f"k{secrets.token_hex(8)}"
_HIDDEN = re.compile(rf"{_NONCE}h(\d+)h")

# An added token that is not marked as special but written like one, as DeepSeek's `<｜User｜>` is. Not one that closes
# something: `</think>` and the like are parts of answers.
_DELIMITER = re.compile(r"[<\[{｜][^/].*[>\]}｜]", re.DOTALL)


class TokenizerError(UserError):
    """The tokenizer cannot do what the configuration asks for."""

    shareable = True


@dataclass(frozen=True)
class Text:
    """Text to tokenize. `respelled` says that its control tokens have the spelling of `ControlTokens.respell`."""

    text: str
    respelled: bool = False


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, and for each the characters it stands for as (first, end); empty if not asked for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class ControlTokens:
    """The control tokens of a tokenizer: those it marks as special, and `markers` among its other added tokens.

    Attributes
    ----------
    ids : dict[str, int]
        Id of every control token by its spelling.
    begin : list[int]
        What the tokenizer puts before every text. What it puts behind one is of no use here: a completion follows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Iterable[str] = ()) -> None:
        self.tokenizer = tokenizer
        wanted = set(markers)
        added = {token.content: (number, token.special) for number, token in tokenizer.added_tokens_decoder.items()}
        self.ids = {name: number for name, (number, special) in added.items() if special or name in wanted}
        self.begin = _begin(tokenizer)
        self._pattern = _any_of(self.ids)
        self._delimiters = _any_of(
            name for name, (_, special) in added.items() if special or _DELIMITER.fullmatch(name)
        )
        self._numbers = {name: number for number, name in enumerate(self.ids)}
        self._names = list(self.ids)

    def delimiters(self, text: str) -> list[str]:
        """Spellings in a template's text of special tokens and of added tokens that are written like special ones."""
        return self._delimiters.findall(text)

    def remove(self, text: str) -> str:
        """The text without control tokens."""
        return self._pattern.sub("", text)

    def in_text(self, text: str) -> bool:
        """Whether the tokenizer would read a part of the text as a control token."""
        if self._pattern.search(text):
            return True
        return self._normalizer is not None and bool(self._pattern.search(self._normalizer.normalize_str(text)))

    def hide(self, text: str) -> str:
        """The text with words of letters and digits in place of what looks like control tokens."""
        return self._pattern.sub(lambda match: f"{_NONCE}h{self._numbers[match.group()]}h", text)

    def respell(self, text: str) -> Text:
        """Text rendered from hidden contents: the template's control tokens respelled, the contents as they were."""
        respelled = self._pattern.sub(lambda match: self._spelling(match.group()), text)
        return Text(_HIDDEN.sub(lambda match: self._names[int(match.group(1))], respelled), respelled=True)

    def as_text(self, text: str) -> Text:
        """Text of a user's alone: what looks like a control token in it stays text."""
        return self.respell(self.hide(text)) if self.in_text(text) else Text(text)

    def encode(self, texts: Sequence[Text], offsets: bool = False) -> list[Tokens]:
        """Tokenize texts as they are: nothing is put before or behind them.

        Raises
        ------
        TokenizerError
            The tokenizer has no fast implementation, and offsets or a respelled text need one.
        """
        if offsets and not self.tokenizer.is_fast:
            raise TokenizerError(
                f"{type(self.tokenizer).__name__} does not say which characters a token stands for, so "
                "data.learn-turns must be 'last' with it"
            )
        encoded: list[Tokens | None] = [None] * len(texts)
        plain = [place for place, text in enumerate(texts) if not text.respelled]
        if plain:
            given = self.tokenizer(
                [texts[place].text for place in plain],
                add_special_tokens=False,
                return_attention_mask=False,
                return_offsets_mapping=offsets,
                verbose=False,  # a text may be longer than what the model reads: it is cut later
            )
            spans = given["offset_mapping"] if offsets else [[]] * len(plain)
            for place, ids, characters in zip(plain, given["input_ids"], spans, strict=True):
                encoded[place] = Tokens(ids, characters)
        respelled = [place for place, text in enumerate(texts) if text.respelled]
        if respelled:
            given = self._copy.encode_batch([texts[place].text for place in respelled], add_special_tokens=False)
            for place, tokens in zip(respelled, given, strict=True):
                encoded[place] = Tokens(tokens.ids, tokens.offsets if offsets else [])
        return encoded

    @cached_property
    def _normalizer(self):
        """What may turn other characters, such as full-width ones, into the spelling of a control token."""
        return self.tokenizer.backend_tokenizer.normalizer if self.tokenizer.is_fast else None

    def _spelling(self, name: str) -> str:
        return f"<{_NONCE}c{self._numbers[name]}c>"

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with other spellings of its control tokens, their ids and all its rules unchanged."""
        from tokenizers import Tokenizer

        if not self.tokenizer.is_fast:
            raise TokenizerError(
                f"{type(self.tokenizer).__name__} cannot keep the spelling of a control token as text, because it has "
                "no fast implementation; if such text means the tokens, set data.special-tokens-in-text = true"
            )
        copy = Tokenizer.from_str(json.dumps(self._respelled(json.loads(self.tokenizer.backend_tokenizer.to_str()))))
        copy.no_truncation()
        copy.no_padding()
        sample = "".join(f"{name} a " for name in self.ids)
        expected = self.tokenizer(sample, add_special_tokens=False)["input_ids"]
        if copy.encode(self.respell(sample).text, add_special_tokens=False).ids != expected:
            raise TokenizerError(
                f"{type(self.tokenizer).__name__} cannot keep the spelling of a control token as text; if such text "
                "means the tokens, set data.special-tokens-in-text = true"
            )
        return copy

    def _respelled(self, state: dict) -> dict:
        """The state of a fast tokenizer, as its JSON file has it, with the other spellings."""
        spelling = {name: self._spelling(name) for name in self.ids}
        for token in state["added_tokens"]:
            token["content"] = spelling.get(token["content"], token["content"])
        model = state["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {spelling.get(piece, piece): number for piece, number in model["vocab"].items()}
        else:  # Unigram: a list of pieces with their scores
            model["vocab"] = [[spelling.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") in spelling:
            model["unk_token"] = spelling[model["unk_token"]]
        if "merges" in model:
            pairs = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & spelling.keys()]
        return state


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the names, the longest first as tokenizers do; of no names, nothing."""
    longest_first = sorted((name for name in names if name), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    whole = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return whole[:place]
    raise TokenizerError(
        f"{type(tokenizer).__name__} changes a text when it adds its special tokens, so prompt and completion cannot "
        "be told apart; choose a model with another tokenizer"
    )
