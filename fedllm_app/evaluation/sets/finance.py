"""Sentiment of financial texts as FinGPT's benchmark asks it: FPB, FiQA-SA, TFNS and NWGI.

FPB: Malo et al. 2014, "Good debt or bad debt". FiQA-SA: Maia et al. 2018, "WWW'18 Open Challenge: Financial Opinion
Mining and Question Answering". TFNS: Twitter Financial News Sentiment. NWGI: News With GPT Instructions, whose labels a
model wrote. Protocol: FinGPT (Yang et al. 2023; Wang et al. 2023), which OpenFedLLM (Ye et al. 2024) takes over.

Prompt, plain: "Instruction: …", "Input: …" and "Answer: ", one a line. Decoding: greedy. FinGPT reads an answer up to
the next "Answer: ", and so it ends there.

Answer rule: a text with "positive" or "Positive" is positive; else one with "negative" or "Negative" is negative; else
it is neutral. So FinGPT takes an answer without any of the three words for neutral. Here such answers are counted as
well, and they are wrong in "strict accuracy"; "neutral" is found in capitals, too.

Test parts: FPB, of the sentences on which half the annotators agree, 25 %; FiQA, of its three splits one after the
other, 22.6 %; both drawn with seed 42 as `datasets.Dataset.train_test_split` does. TFNS: validation. NWGI: test.
The part is drawn if the rows have the published columns and are the complete set. As many as the test part has, or
fewer, are asked as they are; so are rows with instruction, input and output, FinGPT's own form. Any other number is
refused: training rows would be asked.

NWGI has seven answers. FinGPT folds the right ones into three, "mildly" being neutral, and asks for the three; so do
we, whatever instruction a row has. An answer that says "mildly positive" counts as positive by the rule above, though
such a right answer is neutral. Those answers are counted.

Where this differs: FinGPT lets an answer run on until it has 512 tokens with its prompt (in a later version of TFNS: 10
new ones). Here it has 32, enough for a sentence. A model that ends its answers, as a trained one does, gives the same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import (
    ACCURACY,
    UNREAD,
    field_of,
    is_whole,
    macro_f1,
    table_rows,
    text_of,
    weighted_f1,
)
from fedllm_app.evaluation.suite import (
    Answer,
    EvaluationTask,
    Generate,
    Grade,
    Metric,
    Question,
    TestRow,
    TestSet,
    each,
)

ANSWERS = ("positive", "negative", "neutral")

STOP = "Answer: "
"""Ends a prompt, and an answer."""

NEW_TOKENS = 32

SEED = 42
"""Of the drawn test parts."""

OF_NEWS = "What is the sentiment of this news? Please choose an answer from {negative/neutral/positive}."
OF_A_TWEET = "What is the sentiment of this tweet? Please choose an answer from {negative/neutral/positive}."

SEVEN_TO_THREE = {
    "strong negative": "negative",
    "moderately negative": "negative",
    "mildly negative": "neutral",
    "neutral": "neutral",
    "mildly positive": "neutral",
    "moderately positive": "positive",
    "strong positive": "positive",
}
"""NWGI's answers, and what FinGPT folds them into."""

_NO_LICENCE = "not stated"

Parts = tuple[str, str, str]
"""Instruction, input, right answer (one of `ANSWERS`)."""

PartsOf = Callable[[int, TestRow], Parts]
"""From the number of a row, from 1, and the row. DataError names what the row lacks."""


def sentiment(text: str) -> str:
    """What FinGPT's rule reads in an answer: "neutral" also if it says nothing."""
    if "positive" in text or "Positive" in text:
        return "positive"
    return "negative" if "negative" in text or "Negative" in text else "neutral"


def says_something(text: str) -> bool:
    """Whether `sentiment` has found a word: "neutral" counts only if it is there."""
    return sentiment(text) != "neutral" or "neutral" in text.lower()


def _grade(question: Question, answer: Answer) -> Grade:
    text = answer.texts[0]
    predicted, found = sentiment(text), says_something(text)
    correct = float(predicted == question.gold)
    values = {
        ACCURACY.key: correct,
        _STRICT.key: correct * found,
        UNREAD.key: float(not found),
        _MILD.key: float("mildly" in text.lower()),
    }
    labels = {"gold": question.gold, "predicted": predicted, "found": predicted if found else "none"}
    return Grade(values, labels)


@dataclass(frozen=True)
class DrawnPart:
    """The test part of a set that is published without one.

    Attributes
    ----------
    complete : int
        Rows of the complete set.
    share : float
        Of them that are in the test part.
    """

    complete: int
    share: float

    @property
    def size(self) -> int:
        """Rows of the test part."""
        return math.ceil(self.share * self.complete)

    def places(self) -> list[int]:
        """Where they are in the complete set, in the order in which they are asked.

        They are those of `datasets.Dataset.train_test_split(share, seed=42)`: the first of a permutation.
        """
        return np.random.default_rng(SEED).permutation(self.complete)[: self.size].tolist()


def _has_own_instruction(row: TestRow) -> bool:
    return row.get("instruction") is not None or row.get("output") is not None


def _asked(test: TestSet, parts: PartsOf, part: DrawnPart | None, rows: list[TestRow], _shots: list) -> list[Question]:
    found = [_question(*parts(number, row)) for number, row in enumerate(rows, 1)]
    if part is None or len(found) <= part.size or any(map(_has_own_instruction, rows)):
        return found
    if len(found) == part.complete:
        return [found[place] for place in part.places()]
    raise DataError(
        f"{test.name}: {len(found):,} rows are neither the complete set of {part.complete:,}, of which {part.size:,} "
        f"are the test part, nor such a part; take {', '.join(test.configs) or test.split} of {test.hub_id} whole"
    )


def _question(instruction: str, text: str, gold: str) -> Question:
    return Question(f"{instruction}\n\n{text}", f"Instruction: {instruction}\nInput: {text}\n{STOP}", gold=gold)


def _own_parts(test: TestSet, number: int, row: TestRow, golds: Sequence[str] = ANSWERS) -> Parts:
    """Of a row in FinGPT's form; the right answer, one of `golds`, is as it stands there, but for capitals."""
    instruction, text = (text_of(test, number, row, name) for name in ("instruction", "input"))
    return instruction, text, _word(test, number, row, "output", golds)


def _word(test: TestSet, number: int, row: TestRow, column: str, golds: Sequence[str]) -> str:
    value = field_of(test, number, row, column)
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in golds:
        raise DataError(f'{test.name}, row {number}, column "{column}": {value!r} is none of {", ".join(golds)}')
    return word


def _label(test: TestSet, number: int, row: TestRow, names: tuple[str, ...]) -> str:
    """The column "label": one of the names, or its number from 0."""
    value = field_of(test, number, row, "label")
    if is_whole(value):
        if 0 <= int(value) < len(names):
            return names[int(value)]
        numbered = ", ".join(f"{place} {name}" for place, name in enumerate(names))
        raise DataError(f'{test.name}, row {number}, column "label": {value!r} is none of {numbered}')
    return _word(test, number, row, "label", names)


def read_sentences(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of FPB: of Sentences_50Agree.txt as published (a sentence, "@", its label), or of a table.

    Raises
    ------
    DataError
        A line is not of that form; or the table cannot be read.
    """
    if path.suffix.lower() != ".txt":
        return table_rows("fpb", path)
    rows = []
    for number, line in enumerate(path.read_text(encoding="iso-8859-1").split("\n"), 1):
        sentence, _, label = line.rpartition("@")
        if line.strip() and (label.strip() not in ANSWERS or not sentence):
            raise DataError(f'fpb, {path}, line {number}: a sentence, "@" and one of {", ".join(ANSWERS)} are needed')
        if line.strip():
            rows.append({"sentence": sentence, "label": label.strip()})
    return rows


FPB_PART = DrawnPart(4846, 0.25)
FIQA_PART = DrawnPart(1213, 0.226)

FPB_TEST = TestSet(
    name="fpb",
    hub_id="takala/financial_phrasebank",
    configs=("sentences_50agree",),
    split="train",
    size=FPB_PART.size,
    licence="CC-BY-NC-SA-3.0",
    files=("finance/fpb", "finance/fpb.*", "finance/Sentences_50Agree.txt", "fpb/Sentences_50Agree.txt"),
    read=read_sentences,
    # The Hub's copy needs code of its own, which new versions of `datasets` do not run.
    url="https://huggingface.co/datasets/takala/financial_phrasebank/resolve/main/data/FinancialPhraseBank-v1.0.zip",
)
FIQA_TEST = TestSet(
    name="fiqa",
    hub_id="pauri32/fiqa-2018",
    split="train+validation+test",
    size=FIQA_PART.size,
    licence=_NO_LICENCE,
    files=("finance/fiqa", "finance/fiqa.*"),
)
TFNS_TEST = TestSet(
    name="tfns",
    hub_id="zeroshot/twitter-financial-news-sentiment",
    split="validation",
    size=2388,
    licence="MIT",
    files=("finance/tfns", "finance/tfns.*", "tfns/sent_valid.csv"),
)
NWGI_TEST = TestSet(
    name="nwgi",
    hub_id="oliverwang15/news_with_gpt_instructions",
    split="test",
    size=4047,
    licence=_NO_LICENCE,
    files=("finance/nwgi", "finance/nwgi.*"),
)


_FPB_LABELS = ("negative", "neutral", "positive")
_TFNS_LABELS = ("negative", "positive", "neutral")


def fpb_parts(number: int, row: TestRow) -> Parts:
    """Of a row with sentence and label (0 negative, 1 neutral, 2 positive), or in FinGPT's form."""
    if _has_own_instruction(row):
        return _own_parts(FPB_TEST, number, row)
    text = text_of(FPB_TEST, number, row, "sentence", "text")
    return OF_NEWS, text, _label(FPB_TEST, number, row, _FPB_LABELS)


def fiqa_parts(number: int, row: TestRow) -> Parts:
    """Of a row with sentence, sentiment_score and format ("post" is a tweet, all else news), or in FinGPT's form.

    A score below -0.1 is negative, one from 0.1 on positive.
    """
    if _has_own_instruction(row):
        return _own_parts(FIQA_TEST, number, row)
    text = text_of(FIQA_TEST, number, row, "sentence")
    score = _score(number, row)
    gold = "negative" if score < -0.1 else "neutral" if score < 0.1 else "positive"
    return OF_A_TWEET if text_of(FIQA_TEST, number, row, "format") == "post" else OF_NEWS, text, gold


def _score(number: int, row: TestRow) -> float:
    value = field_of(FIQA_TEST, number, row, "sentiment_score")
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not -1 <= score <= 1:
        raise DataError(f'fiqa, row {number}, column "sentiment_score": {value!r} is no number from -1 to 1')
    return score


def tfns_parts(number: int, row: TestRow) -> Parts:
    """Of a row with text and label (0 bearish, 1 bullish, 2 neutral), or in FinGPT's form."""
    if _has_own_instruction(row):
        return _own_parts(TFNS_TEST, number, row)
    return OF_A_TWEET, text_of(TFNS_TEST, number, row, "text"), _label(TFNS_TEST, number, row, _TFNS_LABELS)


def nwgi_parts(number: int, row: TestRow) -> Parts:
    """Of a row with news and label, one of the seven answers, or in FinGPT's form."""
    if _has_own_instruction(row):
        _, text, gold = _own_parts(NWGI_TEST, number, row, tuple(SEVEN_TO_THREE))
    else:
        text = text_of(NWGI_TEST, number, row, "news")
        gold = _word(NWGI_TEST, number, row, "label", tuple(SEVEN_TO_THREE))
    return OF_NEWS, text, SEVEN_TO_THREE[gold]


_ASK = Generate(NEW_TOKENS, stops=(STOP,))

_STRICT = Metric("strict accuracy", "share", key="strict")
_MILD = Metric('answers with "mildly"', "count", key="mildly")

METRICS = (
    ACCURACY,
    Metric("weighted F1", "statistic", statistic=weighted_f1(ANSWERS)),
    Metric("macro F1", "statistic", statistic=macro_f1(ANSWERS)),
    _STRICT,
    UNREAD,
)


def task(
    test: TestSet,
    parts: PartsOf,
    rule: str,
    part: DrawnPart | None = None,
    ask: Generate = _ASK,
    metrics: tuple[Metric, ...] = METRICS,
) -> EvaluationTask:
    """A set asked and graded by FinGPT's prompt and answer rule.

    Parameters
    ----------
    part : DrawnPart | None
        The test part that is drawn where the rows are the complete set; None for a set that is asked whole.
    """
    return EvaluationTask(
        name=test.name,
        test=test,
        questions=partial(_asked, test, parts, part),
        ask=ask,
        grade=each(_grade),
        metrics=metrics,
        rule=rule,
        template="plain",
    )


_RULE = (
    f'FinGPT: "Instruction: … Input: … Answer: ", greedy, {NEW_TOKENS} new tokens; contains positive, else negative, '
    "else neutral; strict: wrong if it has none of these words."
)
_WHOLE = "fewer rows, and rows with instructions of their own, whole"

FPB = task(FPB_TEST, fpb_parts, f"{_RULE} Of all 4,846 rows (50agree) 25 % drawn with seed 42; {_WHOLE}.", FPB_PART)
FIQA = task(
    FIQA_TEST, fiqa_parts, f"{_RULE} Scores cut at ±0.1; of all 1,213 rows 22.6 %, seed 42; {_WHOLE}.", FIQA_PART
)
TFNS = task(TFNS_TEST, tfns_parts, f"{_RULE} Validation; bearish is negative, bullish positive.")
NWGI = task(
    NWGI_TEST,
    nwgi_parts,
    f"{_RULE} Test; the seven right answers folded into three (mildly is neutral), the three asked for.",
    metrics=(*METRICS, _MILD),
)
