"""MMLU (Hendrycks et al. 2021, "Measuring Massive Multitask Language Understanding"): 57 subjects, four options each.

Prompt, as in the paper: "The following are multiple choice questions (with answers) about <subject>.", the subject's
five worked examples of the development set if they are there, and the question; each with lettered options and
"Answer:". The letter with the highest likelihood is the answer. Under a chat template the examples are earlier turns.

Read are the Hub's columns (question, choices, answer as number from 0 or letter, subject), those of lukaemon/mmlu
(input, A, B, C, D, target), and the published CSV files without header (question, four options, letter), which take
their subject from the file's name.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import (
    ACCURACY,
    LETTERS,
    by_likelihood,
    field_of,
    letter_of,
    lettered,
    macro_mean,
    options_of,
    table_rows,
    text_of,
)
from fedllm_app.evaluation.suite import Choose, EvaluationTask, Metric, Question, TestRow, TestSet

STEM, SOCIAL, HUMANITIES, OTHER = "STEM", "social sciences", "humanities", "other"

_GROUPS = {
    STEM: (
        "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
        "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
        "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
        "high_school_mathematics high_school_physics high_school_statistics machine_learning"
    ),
    SOCIAL: (
        "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
        "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations "
        "security_studies sociology us_foreign_policy"
    ),
    HUMANITIES: (
        "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law "
        "jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law "
        "world_religions"
    ),
    OTHER: (
        "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
        "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology"
    ),
}

GROUP_OF = {subject: group for group, subjects in _GROUPS.items() for subject in subjects.split()}
"""The group of each of the 57 subjects, as in the paper's appendix."""

SUBJECTS = tuple(sorted(GROUP_OF))

SHOTS_PER_SUBJECT = 5

_COLUMNS = ("question", "A", "B", "C", "D", "answer")  # of the published files, which have no header
_HEADER = {"answer", "target", "cop"}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file: of a CSV file without header by the published order of columns, of any other as it is.

    Raises
    ------
    DataError
        A line of a CSV file without header has not six cells; or the file cannot be read.
    """
    if path.suffix.lower() != ".csv":
        return table_rows("mmlu", path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file) if line]
    if lines and _HEADER & {cell.strip().lower() for cell in lines[0]}:
        return table_rows("mmlu", path)
    for number, line in enumerate(lines, 1):
        if len(line) != len(_COLUMNS):
            raise DataError(
                f"mmlu, {path}, row {number}: {len(line)} cells instead of {len(_COLUMNS)} (question, four options, "
                "letter of the answer)"
            )
    return [dict(zip(_COLUMNS, line, strict=True)) for line in lines]


def mmlu_set(name: str, split: str, size: int, subjects: Sequence[str] = SUBJECTS) -> TestSet:
    """The rows of a split ("test" or "dev"), looked for in the folder "mmlu" whatever the set is called here."""
    places = [f"mmlu/{split}", f"mmlu/*_{split}.*", f"mmlu/*/{split}*", f"mmlu/{split}.*"]
    if split == "test":
        places += ["mmlu", "mmlu.*"]
    return TestSet(
        name=name,
        hub_id="cais/mmlu",
        configs=tuple(subjects),
        split=split,
        size=size,
        licence="MIT",
        files=tuple(places),
        read=read,
    )


TEST = mmlu_set("mmlu", "test", 14042)
SHOTS = mmlu_set("mmlu-dev", "dev", 285)


def subject_of(number: int, row: TestRow) -> str:
    """The subject of a row: column "subject", else the name of its file. DataError if it is none of the 57."""
    name = field_of(TEST, number, row, "subject", "subset") if row.get("subject") or row.get("subset") else ""
    subject = str(name).strip().lower().replace(" ", "_").replace("-", "_")
    if subject not in GROUP_OF:
        raise DataError(
            f'mmlu, row {number}, column "subject": {name!r} is none of the 57 subjects; a file without that column '
            "must be named after its subject, such as anatomy_test.csv"
        )
    return subject


def parts(number: int, row: TestRow) -> tuple[str, tuple[str, ...], str]:
    """Question, four options and the right letter, as they stand in the row. DataError names what it lacks."""
    question = text_of(TEST, number, row, "question", "input")
    if row.get("choices") is not None:
        options = row["choices"]
        if isinstance(options, str) or not isinstance(options, Sequence) or len(options) != 4:
            raise DataError(f'mmlu, row {number}, column "choices": a list of four options is needed')
        options = tuple(map(str, options))
    else:
        options = options_of(TEST, number, row, LETTERS[:4])
    column = "target" if row.get("answer") is None and row.get("target") is not None else "answer"
    return question, options, letter_of(TEST, number, row, column, options)


def questions(
    rows: list[TestRow],
    shots: list[TestRow],
    subjects: Sequence[str] = SUBJECTS,
    group: Callable[[str], str] = GROUP_OF.__getitem__,
) -> list[Question]:
    """A question for each row of these subjects, behind up to five worked examples of its subject.

    Parameters
    ----------
    group : Callable[[str], str]
        From subject to `Question.group`.

    Raises
    ------
    DataError
        A row lacks a column, or its subject is unknown; or no row is of these subjects.
    """
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for number, row in enumerate(shots, 1):
        of_subject = examples[subject_of(number, row)]
        if len(of_subject) < SHOTS_PER_SUBJECT:
            text, letter = _block(number, row)
            of_subject.append((text, letter))
    asked = []
    for number, row in enumerate(rows, 1):
        subject = subject_of(number, row)
        if subject in subjects:
            asked.append(_question(subject, group(subject), examples[subject], *_block(number, row)))
    if not asked:
        raise DataError(f"mmlu: none of {len(rows)} rows is of {', '.join(subjects)}")
    return asked


def _question(subject: str, group: str, examples: list[tuple[str, str]], text: str, gold: str) -> Question:
    head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    before = "".join(f"{example} {letter}\n\n" for example, letter in examples)
    turns = [turn for example, letter in examples for turn in (("user", example), ("assistant", letter))]
    if turns:
        turns[0] = ("user", head + turns[0][1])
    return Question(
        text=text if turns else head + text,
        plain=f"{head}{before}{text}",
        gold=gold,
        choices=tuple(LETTERS[:4]),
        group=group,
        turns=tuple(turns),
        row={"subject": subject},
    )


def _block(number: int, row: TestRow) -> tuple[str, str]:
    question, options, letter = parts(number, row)
    return f"{question.strip()}\n{lettered([option.strip() for option in options])}\nAnswer:", letter


def task(name: str, test: TestSet, shots: TestSet, asked: Callable, metrics: tuple[Metric, ...]) -> EvaluationTask:
    """MMLU, or subjects of it, asked as in the paper; the mean over subjects comes last."""
    return EvaluationTask(
        name=name,
        test=test,
        shots=shots,
        questions=asked,
        ask=Choose(),
        grade=by_likelihood("subject"),
        metrics=(ACCURACY, *metrics, Metric("mean over subjects", "statistic", statistic=macro_mean("subject"))),
        rule=(
            "Five worked examples of the subject where its development rows are in the data, else none; the letter "
            'with the highest likelihood after "Answer:"; accuracy over all questions (Hendrycks et al. 2021).'
        ),
        template="plain",
    )


TASK = task(
    "mmlu", TEST, SHOTS, questions, tuple(Metric(group, "share", key="correct", group=group) for group in _GROUPS)
)

MEDICAL = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
"""The six subjects that evaluations of medical models use."""

MEDICAL_TASK = task(
    "mmlu-medical",
    mmlu_set("mmlu-medical", "test", 1089, MEDICAL),
    mmlu_set("mmlu-medical-dev", "dev", 30, MEDICAL),
    partial(questions, subjects=MEDICAL, group=str),
    tuple(Metric(subject.replace("_", " "), "share", key="correct", group=subject) for subject in MEDICAL),
)
