r"""MATH (Hendrycks et al. 2021): 5,000 problems of mathematics competitions in seven subjects and five levels.

Asked without examples, with a request to put the final answer in \boxed{}. The answer is the content of the last
\boxed{...} or \fbox{...} whose braces are closed ("\boxed 5" counts, too); else what follows the last "answer is",
between dollar signs if they follow, up to the end of the sentence. It is right if it equals the boxed content of the
published solution under lm-evaluation-harness's normalisation of LaTeX, which is the set's own (\frac12 is
\frac{1}{2}, \left and \right, units, dollar and percent signs do not count). Values that are equal and written in
another way, such as 0.25 and \frac{1}{4}, are not.
"""

import re

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import ACCURACY, field_of, text_of
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

NO_ANSWER = "answers without a final answer"

SUBJECTS = (
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
)

LEVELS = ("1", "2", "3", "4", "5")

_REQUEST = "Solve the problem step by step. Put the final answer in \\boxed{}."
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_ANSWER_IS = re.compile(r"answer\s+is:?\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")

TEST = TestSet(
    name="math",
    hub_id="EleutherAI/hendrycks_math",
    configs=(
        "algebra",
        "counting_and_probability",
        "geometry",
        "intermediate_algebra",
        "number_theory",
        "prealgebra",
        "precalculus",
    ),
    split="test",
    size=5000,
    licence="MIT",
    files=("math/test", "MATH/test"),
)


def final_answer(text: str) -> str | None:
    """The answer that a text gives (rule above), as LaTeX; None if it gives none."""
    for box in reversed(list(_BOX.finditer(text))):
        content = _content(text, box.end())
        if content is not None:
            return content.strip()
    said = list(_ANSWER_IS.finditer(text))
    if not said:
        return None
    rest = text[said[-1].end() :]
    if rest.startswith("$") and "$" in rest[1:]:
        return rest[1:].lstrip("$").partition("$")[0].strip() or None
    return _SENTENCE_END.split(rest, maxsplit=1)[0].strip(" $*:") or None


def _content(text: str, start: int) -> str | None:
    """What a box holds whose content begins here; None if its braces are not closed."""
    if not text.startswith("{", start):
        word = re.match(r"[^\s$]+", text[start:])
        return word[0] if word else None
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if not depth:
                return text[start + 1 : place]
    return None


def equivalent(one: str | None, other: str) -> bool:
    """Whether two answers in LaTeX are the same once normalised; None, no answer, equals none."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return bool(is_equiv(one, other))


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row, in the published columns or MATH-500's; DataError names a row that lacks something."""
    asked = []
    for number, row in enumerate(rows, 1):
        problem = text_of(TEST, number, row, "problem").strip()
        asked.append(
            Question(
                f"{problem}\n\n{_REQUEST}",
                f"{_REQUEST}\n\nProblem:\n{problem}\n\nSolution:\n",
                gold=_gold(number, row),
                group=_subject(number, row),
                row={"level": _level(number, row)},
            )
        )
    return asked


def _gold(number: int, row: TestRow) -> str:
    if row.get("solution") is not None:
        found = final_answer(text_of(TEST, number, row, "solution"))
        if found is not None:
            return found
    if row.get("answer") is not None:
        return str(row["answer"]).strip()
    raise DataError(
        f'math, row {number}, column "solution": no \\boxed{{}} in it, and no column "answer"; take the set as it is '
        "published"
    )


def _subject(number: int, row: TestRow) -> str:
    value = str(field_of(TEST, number, row, "type", "subject", "subset"))
    plain = {subject.casefold(): subject for subject in SUBJECTS}
    found = plain.get(value.strip().casefold().replace("_", " ").replace(" and ", " & "))
    if found is None:
        raise DataError(f'math, row {number}, column "type": {value!r} is none of {", ".join(SUBJECTS)}')
    return found


def _level(number: int, row: TestRow) -> str:
    """The level as a digit; "?" as two published rows have it."""
    value = str(field_of(TEST, number, row, "level")).strip().removeprefix("Level").strip()
    if value not in (*LEVELS, "?"):
        raise DataError(f'math, row {number}, column "level": {value!r} is none of Level 1 to Level 5')
    return value


def grade(question: Question, answer: Answer) -> Grade:
    """Whether the final answer is the right one; the value of its level, too."""
    found = final_answer(answer.texts[0])
    correct = float(equivalent(found, question.gold))
    values = {"correct": correct, NO_ANSWER: float(found is None)}
    if question.row["level"] in LEVELS:
        values[f"level {question.row['level']}"] = correct
    return Grade(values, {"gold": question.gold, "predicted": found or ""})


TASK = EvaluationTask(
    name="math",
    needs=("lm_eval", "sympy"),
    test=TEST,
    questions=questions,
    ask=Generate(512, stops=("\nProblem:",)),
    grade=each(grade),
    metrics=(
        ACCURACY,
        *(Metric(subject, "share", "correct", group=subject) for subject in SUBJECTS),
        *(Metric(f"level {level}", "share", f"level {level}") for level in LEVELS),
        Metric(NO_ANSWER, "count", NO_ANSWER, percent=False, lower_is_better=True),
    ),
    rule=(
        "No examples, a request to reason and to box the answer; greedy, 512 new tokens; the last closed \\boxed{}, "
        'else what follows "answer is", equal to the published one once its LaTeX is normalised; accuracy, also by '
        "subject and level (Hendrycks et al. 2021)."
    ),
)
