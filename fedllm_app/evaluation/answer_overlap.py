"""How much an answer that was generated has in common with the right one: exact match, token F1, ROUGE-L.

Each is between 0 and 1. Their normalisations differ, so an exact match of 0 may stand beside an F1 of 1:

- exact match: blanks and line breaks around both are removed; nothing else. Letters count as they are written.
- token F1 (Rajpurkar et al. 2016, SQuAD): small letters, without ASCII punctuation and the words "a", "an", "the";
  tokens are what stands between blanks. So "-5" and "5" are the same.
- ROUGE-L (Lin 2004): F-measure of the longest common subsequence of words, small letters, without stemming. Words are
  runs of letters and digits of any script, and every Chinese or Japanese character by itself; for text in ASCII they
  are those of rouge_score's own tokenizer, which drops all other letters.

Where normalisation leaves no word of the right answer ("+", "a"), F1 and ROUGE-L are the exact match: of two signs that
are both dropped, nothing says that they are the same one.
"""

import functools
import re
import string
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BY_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # scripts written without blanks: kana and Han
_WORD = re.compile(rf"[{_BY_CHARACTER}]|[^\W_{_BY_CHARACTER}]+")


def exact_match(text: str, gold: str) -> float:
    """1 if both are equal but for white space around them, else 0."""
    return float(text.strip() == gold.strip())


def squad_tokens(text: str) -> list[str]:
    """The tokens that F1 compares."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def token_f1(text: str, gold: str) -> float:
    """The harmonic mean of precision and recall of the tokens; one that stands twice counts twice."""
    given, right = squad_tokens(text), squad_tokens(gold)
    if not right:
        return exact_match(text, gold)
    common = (Counter(given) & Counter(right)).total()
    return 2 * common / (len(given) + len(right))


def rouge_l(text: str, gold: str) -> float:
    """The F-measure of ROUGE-L."""
    if not _Words().tokenize(gold):
        return exact_match(text, gold)
    return _scorer().score(gold, text)["rougeL"].fmeasure


class _Words:
    """The tokenizer that `rouge_score` is given."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@functools.cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
