"""The protocol of Flower's FlowerTune leaderboard, general and medical, as its evaluation code fixes it.

Prompt, tokenized as plain text and not by a chat template: between the literal marks `BEGIN` and `BETWEEN` stand an
instruction, the question and "The answer is:". A question that ends with neither "?" nor "." gets a "?". Texts of the
sets stand as they are, blanks included.

Decoding: greedy, zero-shot. The protocol allows as many new tokens as the first right answer of each batch has. A
letter has one token in every common vocabulary, and so have yes, no and maybe in most; so here it is one token, for
every batch.

Answer rule, on the answer in small letters:

1. If it holds "\\n##", what follows the first of them, to the end of that line, counts instead.
2. All but ASCII letters and digits become blanks; blanks around it and repeated ones are dropped.
3. Letters: its first character is the answer.
   Yes or no: the first of yesyes -> yes, nono -> no, yesno -> yes, noyes -> no that occurs is replaced.
4. If that is none of a, b, c, d, e, yes, no, the answer is the whole text as generated. So "maybe" counts only if it
   stands alone, without a blank or a full stop.

Answers to which none of the set's own answers was found are counted.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets import careqa, medmcqa, medqa, mmlu, pubmedqa
from fedllm_app.evaluation.sets.letters import ACCURACY, UNREAD, lettered
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

BEGIN = "<|im_start|>question\n"
BETWEEN = "<|im_end|>\n<|im_start|>answer\n"

NEW_TOKENS = 1

_FOUND = frozenset(["a", "b", "c", "d", "e", "yes", "no"])
_REPAIRS = (("yesyes", "yes"), ("nono", "no"), ("yesno", "yes"), ("noyes", "no"))

_GENERAL = "Answer the following multiple choice question."
# The wording of the protocol, taken over from Meditron's evaluation; "A to E" stands there for four options too.
_KNOWLEDGE = "basic and clinical science, medical knowledge, and mechanisms underlying health, disease, patient care, "
_GUIDELINES = "Base your answer on the current and standard practices referenced in medical guidelines."
_MEDQA = (
    "You are a medical doctor taking the US Medical Licensing Examination. You need to demonstrate your understanding "
    f"of {_KNOWLEDGE}and modes of therapy. Show your ability to apply the knowledge essential for medical practice. "
    f"For the following multiple-choice question, select one correct answer from A to E. {_GUIDELINES}"
)
_ENTRANCE = (
    "You are a medical doctor answering realworld medical entrance exam questions. Based on your understanding of "
    f"{_KNOWLEDGE}and modes of therapy, answer the following multiple-choice question. Select one correct answer from "
    f"A to D. {_GUIDELINES}"
)
_PUBMEDQA = (
    "As an expert doctor in clinical science and medical knowledge, can you tell me if the following statement is "
    "correct? Answer yes, no, or maybe."
)

SCORED_GROUPS = (mmlu.STEM, mmlu.SOCIAL, mmlu.HUMANITIES)
"""MMLU's groups of subjects that count; those of "other" are not asked."""

Parts = tuple[str, tuple[str, ...], str]
"""Question, options, letter of the right one."""


def prompt(instruction: str, body: str) -> str:
    """The whole prompt of a question, up to the answer."""
    return f"{BEGIN}{instruction}\n{body}\nThe answer is:\n{BETWEEN}"


def with_options(question: str, options: Iterable[str]) -> str:
    """A question with its lettered options, as the protocol writes them."""
    mark = "" if question.endswith(("?", ".")) else "?"
    return f"Question: {question}{mark}\n\nOptions:\n{lettered(list(options))}"


def answer_of(text: str, yes_no: bool = False) -> str:
    """The answer that a generated text gives, in small letters (rule above); the whole text where none is found."""
    whole = text.lower()
    part = whole.split("\n##")[1].split("\n")[0].strip() if "\n##" in whole else whole
    part = " ".join(re.sub(r"[^a-z0-9]", " ", part).split())
    if yes_no:
        wrong, right = next(((wrong, right) for wrong, right in _REPAIRS if wrong in part), ("", ""))
        part = part.replace(wrong, right) if wrong else part
    else:
        part = part[:1]
    return part if part in _FOUND else whole


def _grade(answers: frozenset[str], yes_no: bool, question: Question, answer: Answer) -> Grade:
    """`answers`: the set's own, in small letters."""
    gold, predicted = question.gold.lower(), answer_of(answer.texts[0], yes_no)
    found = predicted in answers
    return Grade(
        {"correct": float(predicted == gold), UNREAD.key: float(not found)},
        {"gold": gold, "predicted": predicted if found else "none"},
    )


def _lettered_question(instruction: str, those: Parts, group: str = "") -> Question:
    question, options, gold = those
    return _question(instruction, with_options(question, options), gold, group)


def _question(instruction: str, body: str, gold: str, group: str = "") -> Question:
    return Question(f"{instruction}\n{body}\nThe answer is:", prompt(instruction, body), gold=gold, group=group)


def mmlu_questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row of a subject that counts. DataError if there is none, or a row lacks something."""
    asked = []
    for number, row in enumerate(rows, 1):
        group = mmlu.GROUP_OF[mmlu.subject_of(number, row)]
        if group in SCORED_GROUPS:
            asked.append(_lettered_question(_GENERAL, mmlu.parts(number, row), group))
    if not asked:
        raise DataError(f"mmlu: none of {len(rows)} rows is of {', '.join(SCORED_GROUPS)}")
    return asked


def pubmedqa_questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row of the test part. DataError if there are more rows, or one lacks something."""
    if len(rows) > pubmedqa.TEST_SIZE:
        raise DataError(
            f"pubmedqa: {len(rows)} rows, and the protocol asks the {pubmedqa.TEST_SIZE} of the test part only; put "
            "the published test_ground_truth.json beside ori_pqal.json in the data folder's pubmedqa"
        )
    asked = []
    for number, row in enumerate(rows, 1):
        abstract, question, gold = pubmedqa.parts(number, row)
        asked.append(_question(_PUBMEDQA, f"{abstract}\n{question}", gold))
    return asked


def medqa_questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row; DataError names one that lacks something."""
    return [_lettered_question(_MEDQA, medqa.parts(number, row)) for number, row in enumerate(rows, 1)]


def medmcqa_questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row; DataError names one that lacks something."""
    return [_lettered_question(_ENTRANCE, those) for those in medmcqa.parts(rows)]


def careqa_questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row that has one; DataError names a row that lacks something else."""
    return [_lettered_question(_ENTRANCE, those) for those in careqa.parts(rows)]


def _task(
    test: TestSet, questions: Callable, part: str, metrics: tuple[Metric, ...] = (), yes_no: bool = False
) -> EvaluationTask:
    answers = frozenset(pubmedqa.ANSWERS if yes_no else "abcd")
    rule = (
        'yesyes, nono, yesno, noyes repaired, then "yes" or "no" alone, "maybe" only if exact'
        if yes_no
        else "the first letter or digit is the answer"
    )
    return EvaluationTask(
        name=test.name,
        test=test,
        questions=questions,
        ask=Generate(NEW_TOKENS),
        grade=each(partial(_grade, answers, yes_no)),
        metrics=(ACCURACY, *metrics, UNREAD),
        rule=(
            f'FlowerTune: {part}; instruction, question, "The answer is:" between literal im_start marks, zero-shot, '
            f"greedy, {NEW_TOKENS} new token; {rule}; accuracy."
        ),
        template="plain",
    )


MMLU = _task(
    mmlu.TEST,
    mmlu_questions,
    "19 STEM, 12 social, 13 humanities subjects",
    tuple(Metric(group, "share", key="correct", group=group) for group in SCORED_GROUPS),
)
PUBMEDQA = _task(pubmedqa.TEST, pubmedqa_questions, "the 500 of the test part (fold 0)", yes_no=True)
MEDMCQA = _task(medmcqa.TEST, medmcqa_questions, "validation")
MEDQA = _task(medqa.TEST, medqa_questions, "test, four options")
CAREQA = _task(careqa.TEST, careqa_questions, "test, English")
