"""GSM8K (Cobbe et al. 2021): 1,319 word problems whose answer is a number.

Two tasks. `TASK` is asked without examples, in the run's template, with a request to reason and to end with "#### " and
the number. `FEW_SHOT_TASK` is the usual protocol for models without instruction tuning: five worked examples, the first
rows of the training split, as "Question: ... Answer: ...", with the calculator marks << >> removed. Both are greedy and
at most 256 new tokens long.

The answer is the number right behind the first "####" that has one there (a heading has not), else the last number of
the text. "$", commas between groups of three digits and a final ".0" do not count; numbers are compared exactly. An
answer without a number is wrong, and such answers are counted.
"""

import re
from decimal import Decimal

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import ACCURACY, text_of
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

SHOTS = 5
NO_NUMBER = "answers without a number"

_REQUEST = 'Solve the problem step by step. End with a line that holds "#### " and the answer as a number.'
_HUB = "openai/gsm8k"
_NUMBER = re.compile(r"(?P<minus>(?<![\w.)])-)?(?P<amount>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_ANSWER = re.compile(rf"####\s*{_NUMBER.pattern}")
_CALCULATOR = re.compile(r"<<[^<>]*>>")

TEST = TestSet("gsm8k", _HUB, "test", 1319, "MIT", configs=("main",), files=("gsm8k/test*", "gsm8k/main/test*"))
TRAIN = TestSet(
    "gsm8k-train", _HUB, "train", 7473, "MIT", configs=("main",), files=("gsm8k/train*", "gsm8k/main/train*")
)


def answer_of(text: str) -> Decimal | None:
    """The number that a text gives as its answer (rule above); None if it has no number."""
    # Behind a digit "$" closes a formula: without a blank, "$3$ $4$" would be 34.
    plain = re.sub(r"(?<=\d)\\?\$", " ", text.replace("\u2212", "-"))
    plain = re.sub(r"\\?\$\s?", "", plain)
    marked = _ANSWER.search(plain)
    if marked:
        return _value(marked)
    found = list(_NUMBER.finditer(plain))
    return _value(found[-1]) if found else None


def _value(match: re.Match[str]) -> Decimal:
    amount = Decimal(match["amount"].replace(",", ""))
    return -amount if match["minus"] else amount


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row, without examples. DataError names a row without question or number."""
    asked = []
    for number, row in enumerate(rows, 1):
        problem, gold = text_of(TEST, number, row, "question").strip(), _gold(TEST, number, row)
        asked.append(
            Question(f"{problem}\n\n{_REQUEST}", f"{_REQUEST}\n\nQuestion: {problem}\nAnswer:", gold=str(gold))
        )
    return asked


def few_shot_questions(rows: list[TestRow], shots: list[TestRow]) -> list[Question]:
    """A question for each row, behind the first five rows of `shots`. DataError names a row that lacks something."""
    examples = []
    for number, row in enumerate(shots[:SHOTS], 1):
        _gold(TRAIN, number, row)
        solution = _CALCULATOR.sub("", text_of(TRAIN, number, row, "answer")).strip()
        examples.append((text_of(TRAIN, number, row, "question").strip(), solution))
    before = "".join(f"Question: {asked}\nAnswer: {solution}\n\n" for asked, solution in examples)
    turns = tuple(turn for asked, solution in examples for turn in (("user", asked), ("assistant", solution)))
    questions = []
    for number, row in enumerate(rows, 1):
        text = text_of(TEST, number, row, "question").strip()
        questions.append(
            Question(text, f"{before}Question: {text}\nAnswer:", gold=str(_gold(TEST, number, row)), turns=turns)
        )
    return questions


def _gold(test: TestSet, number: int, row: TestRow) -> Decimal:
    text = text_of(test, number, row, "answer")
    found = answer_of(text) if "####" in text else None
    if found is None:
        raise DataError(
            f'{test.name}, row {number}, column "answer": no "####" with a number behind it; take the set as it is '
            "published"
        )
    return found


def grade(question: Question, answer: Answer) -> Grade:
    """Whether the number is the right one."""
    found = answer_of(answer.texts[0])
    values = {"correct": float(found == Decimal(question.gold)), NO_NUMBER: float(found is None)}
    return Grade(values, {"gold": question.gold, "predicted": "" if found is None else str(found)})


METRICS = (ACCURACY, Metric(NO_NUMBER, "count", NO_NUMBER, percent=False, lower_is_better=True))

_RULE = (
    'greedy, {tokens} new tokens; the number behind "####", else the last one ("$", commas and ".0" do not count); '
    "accuracy (Cobbe et al. 2021)."
)

TASK = EvaluationTask(
    name="gsm8k",
    test=TEST,
    questions=questions,
    ask=Generate(256, stops=("\nQuestion:",)),
    grade=each(grade),
    metrics=METRICS,
    rule=f'No examples, a request to reason and to end with "####" and the number; {_RULE.format(tokens=256)}',
)

FEW_SHOT_TASK = EvaluationTask(
    name="gsm8k-5-shot",
    test=TEST,
    questions=few_shot_questions,
    ask=Generate(256, stops=("\nQuestion:",)),
    grade=each(grade),
    metrics=METRICS,
    rule=f"The first five rows of the training split as worked examples; {_RULE.format(tokens=256)}",
    template="plain",
    shots=TRAIN,
)
