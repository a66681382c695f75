"""CRASS (Frohberg and Binder 2022): what would have happened if, with three or four answers to choose from.

Prompt and worked examples are those of InstructEval (Chia et al. 2023), probably the code behind the OpenFedLLM paper's
figures: premise and question, lettered answers, "Answer:", behind the three examples of the CRASS paper. The published
file has the right answer first; the answers are shuffled with Python's generator, seed 0, row after row, as
InstructEval does. The letter with the highest likelihood counts, whereas InstructEval generates it. An example is left
out where it is the question itself.
"""

import random

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import ACCURACY, LETTERS, by_likelihood, field_of, lettered, text_of
from fedllm_app.evaluation.suite import Choose, EvaluationTask, Question, TestRow, TestSet

TEST = TestSet(
    name="crass",
    hub_id="",
    split="test",
    size=274,
    licence="Apache-2.0",
    files=("crass/CRASS_FTM_main_data_set.csv", "CRASS_FTM_main_data_set.csv", "crass/*.json", "crass/*.jsonl"),
    url="https://github.com/apergo-ai/CRASS-data-set/blob/main/CRASS_FTM_main_data_set.csv",
)

_WRONG = ("Answer1", "Answer2", "PossibleAnswer3")

EXAMPLES = (
    (
        "A feather falls from a skyscraper. What would have happened if a computer had fallen from the skyscraper?",
        (
            "The computer would have remained intact.",
            "That is not possible.",
            "The computer would have been crushed.",
        ),
        "C",
    ),
    (
        "A lightning hits a tree. What would have happened if a marble would have hit the tree?",
        (
            "It would have burned down.",
            "Nothing special would have happened.",
            "The tree would have kissed the lightning.",
        ),
        "B",
    ),
    (
        "A man drinks a beer. What would have happened if the man had drunk a rainbow?",
        ("It would have been tasty.", "It would have been awful.", "That is not possible."),
        "C",
    ),
)
"""Question, answers and the right letter of the worked examples."""


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row, in the published file's columns or in BIG-bench's (`input`, `target_scores`).

    DataError names a row that lacks a column, or that has not one right answer and two or three others.
    """
    shuffle = random.Random(0).shuffle
    asked = []
    for number, row in enumerate(rows, 1):
        text, right, wrong = _bigbench(number, row) if "target_scores" in row else _published(number, row)
        options = [right, *wrong]
        if len(set(options)) != len(options) or len(options) not in (3, 4):
            raise DataError(
                f"crass, row {number}: three or four different answers are needed, not {len(options)} "
                f"({len(set(options))} different); take the set as it is published"
            )
        shuffle(options)
        asked.append(_question(text, options, LETTERS[options.index(right)]))
    return asked


def _published(number: int, row: TestRow) -> tuple[str, str, list[str]]:
    premise, question, right = (
        text_of(TEST, number, row, name).strip() for name in ("Premise", "QCC", "CorrectAnswer")
    )
    return f"{premise} {question}", right, [wrong for column in _WRONG if (wrong := str(row.get(column) or "").strip())]


def _bigbench(number: int, row: TestRow) -> tuple[str, str, list[str]]:
    text, scores = text_of(TEST, number, row, "input").strip(), field_of(TEST, number, row, "target_scores")
    # A table gives every row the keys of all rows; those of other rows hold None.
    scores = {str(option).strip(): score for option, score in dict(scores).items() if score is not None}
    right = [option for option, score in scores.items() if score == 1]
    if len(right) != 1:
        raise DataError(f'crass, row {number}, column "target_scores": one answer with score 1 is needed')
    return text, right[0], [option for option in scores if option != right[0]]


def _question(text: str, options: list[str], gold: str) -> Question:
    shown = f"{text}\n{lettered(options)}\nAnswer:"
    blocks = [(f"{own}\n{lettered(answers)}\nAnswer:", letter) for own, answers, letter in EXAMPLES if own != text]
    return Question(
        text=shown,
        plain="".join(f"{block} {letter}\n\n" for block, letter in blocks) + shown,
        gold=gold,
        choices=tuple(LETTERS[: len(options)]),
        turns=tuple(turn for block, letter in blocks for turn in (("user", block), ("assistant", letter))),
    )


TASK = EvaluationTask(
    name="crass",
    test=TEST,
    questions=questions,
    ask=Choose(),
    grade=by_likelihood(),
    metrics=(ACCURACY,),
    rule=(
        "The CRASS paper's three worked examples; premise, question and three or four lettered answers, shuffled with "
        'seed 0; the likeliest letter after "Answer:"; accuracy (Frohberg and Binder 2022; InstructEval\'s prompt).'
    ),
    template="plain",
)
