"""BIG-Bench Hard (Suzgun et al. 2022): 27 tasks that older models failed at, answered without written reasoning.

Prompt: three worked examples, then "Q: " with the input and "A:", as in the published prompts; under a chat template
the examples are earlier turns. The published prompts' chains of thought are not in the files of the set, so the
examples are the first three rows of each task, which are then not asked: 6,511 rows give 6,430 questions. InstructEval
(Chia et al. 2023), probably the code behind the OpenFedLLM paper's figures, makes its examples the same way and reports
the mean over tasks. Greedy, at most 64 new tokens, up to the next "Q:"; in SmolLM2's tokens, 64 of the 250 sorted lists
of words do not fit in 32, and all fit in 50.

The answer is the first line that is not blank. It is right if it equals the target when both are normalised:

1. Blanks around them and one final period are removed; capitals do not count.
2. A lettered option is its letter. It is "A", "(A)", "A)", "A." or "A:", and all but the bare letter may have text
   behind them, such as the option's. "The answer is", "answer:" or "option" may stand before it. With any other words
   before it, or another letter in brackets behind it ("(A) or (B)"), the line is no lettered option.

InstructEval takes every answer that begins with the target, so its figures may be higher.
"""

import re
from collections import defaultdict

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import ACCURACY, field_of, macro_mean, text_of
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

SHOTS_PER_TASK = 3

TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)

_EMPTY = "empty answers"
_OPTION = re.compile(
    r"(?:(?:the )?(?:correct |right |final )?answer(?: is)?:? )?(?:option )?"
    r"(?:(?P<bare>[a-z])|\((?P<both>[a-z])\)[.:]?(?P<behind>.*)|(?P<one>[a-z])[).:](?P<rest>(?:\s.*)?))"
)
_BRACKETS = re.compile(r"\([a-z]\)")

TEST = TestSet(
    name="bbh",
    hub_id="SaylorTwift/bbh",
    configs=TASKS,
    split="test",
    size=6511,
    licence="MIT",
    files=("bbh/*.json",),
    url="https://github.com/suzgunmirac/BIG-Bench-Hard/tree/main/bbh",
)


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row of a task but its first three, which stand before it as worked examples.

    Raises
    ------
    DataError
        A row lacks a column; or a task has no more rows than its worked examples.
    """
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    asked = []
    for number, row in enumerate(rows, 1):
        task = str(field_of(TEST, number, row, "task", "subset")).strip()
        text, target = text_of(TEST, number, row, "input").strip(), _target(number, row)
        if len(examples[task]) < SHOTS_PER_TASK:
            examples[task].append((text, target))
        else:
            asked.append(_question(task, examples[task], text, target))
    for task in examples.keys() - {question.group for question in asked}:
        raise DataError(
            f'bbh: the task "{task}" has {len(examples[task])} rows; the first {SHOTS_PER_TASK} of each are worked '
            "examples, so it needs more. Take the task's file as it is published"
        )
    return asked


def _target(number: int, row: TestRow) -> str:
    value = field_of(TEST, number, row, "target")
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f'bbh, row {number}, column "target": a text is needed, not {value!r}')
    return str(value).strip()


def _question(task: str, examples: list[tuple[str, str]], text: str, target: str) -> Question:
    before = "".join(f"Q: {shown}\nA: {answer}\n\n" for shown, answer in examples)
    turns = tuple(turn for shown, answer in examples for turn in (("user", shown), ("assistant", answer)))
    return Question(text, f"{before}Q: {text}\nA:", gold=target, group=task, turns=turns)


def first_line(text: str) -> str:
    """The first line that is not blank; "" if there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def normalised(answer: str) -> str:
    """An answer as it is compared (rule above)."""
    plain = answer.strip().removesuffix(".").strip().casefold()
    option = _OPTION.fullmatch(plain)
    if not option or _BRACKETS.search(option["behind"] or option["rest"] or ""):
        return plain
    return option["bare"] or option["both"] or option["one"]


def grade(question: Question, answer: Answer) -> Grade:
    """Whether the first line is the target."""
    line = first_line(answer.texts[0])
    values = {"correct": float(normalised(line) == normalised(question.gold)), _EMPTY: float(not line)}
    return Grade(values, {"task": question.group, "gold": question.gold, "predicted": line})


TASK = EvaluationTask(
    name="bbh",
    test=TEST,
    questions=questions,
    ask=Generate(64, stops=("\nQ:",)),
    grade=each(grade),
    metrics=(
        ACCURACY,
        Metric("mean over tasks", "statistic", statistic=macro_mean("task")),
        Metric(_EMPTY, "count", _EMPTY, percent=False, lower_is_better=True),
    ),
    rule=(
        "The first three rows of each task are its worked examples and are not asked; greedy, 64 new tokens, without "
        'chain of thought. First line equal to the target ("A", "(A)" and "(A) its text" are the same; capitals and a '
        "final period do not count); "
        "accuracy over all questions, and its mean over the 27 tasks (Suzgun et al. 2022)."
    ),
    template="plain",
)
