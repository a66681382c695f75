"""HumanEval (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"): 164 functions to complete.

Prompt: the beginning of a file up to the function's docstring, as published; under a chat template, a request to
complete it with that text in a code block. Greedy, at most 512 new tokens; the answer ends at the paper's five stops.

The program that is tested, by the first of these that applies:

1. The first line of the answer that is not blank is indented: it goes on with the function's body. Cut at the first
   stop, and at a line that begins with ```, and appended to the prompt.
2. There is a code block (the last may be open): its contents, without common indentation.
3. Otherwise the text from the first line that begins with "def ", "class ", "@", "import " or "from … import" on, up to
   the first stop behind the function's own "def" line; if it does not have that line, the text up to the first stop.

What 2 and 3 find stands alone, behind all that the prompt holds before the function (imports, helpers), if it defines
the function; else it is appended to the prompt. Then the tests run: `check(function)`, as published.
"""

import re
from collections.abc import Mapping
from typing import Any

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.graders.code import METRICS, code_block, code_grader, cut
from fedllm_app.evaluation.suite import EvaluationTask, Generate, Question, TestRow, TestSet

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Chen et al. 2021, section 3.2."""

_COLUMNS = ("task_id", "prompt", "entry_point", "test")
_CODE_LINE = re.compile(r"^(?:def |class |@|import |from \S+ import)", re.MULTILINE)

TEST = TestSet(
    name="humaneval",
    hub_id="openai/openai_humaneval",
    split="test",
    size=164,
    licence="MIT",
    files=("humaneval/human_eval.jsonl", "human_eval.jsonl", "HumanEval.jsonl", "HumanEval.jsonl.gz"),
)


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row. DataError names a row that lacks a column, or does not define its function."""
    asked = []
    for number, row in enumerate(rows, 1):
        require_columns("HumanEval", number, row, _COLUMNS)
        if not _definition(row["entry_point"]).search(row["prompt"]):
            raise DataError(
                f'HumanEval, row {number}, column "prompt": no line begins with "def {row["entry_point"]}(", the '
                'function of column "entry_point"; take the set as it is published'
            )
        request = (
            f"Complete the Python function `{row['entry_point']}`. Answer with the whole function, its imports "
            f"included, in one code block.\n\n```python\n{row['prompt'].rstrip()}\n```"
        )
        kept = {column: row[column] for column in _COLUMNS}
        asked.append(Question(request, row["prompt"], gold=row.get("canonical_solution"), row=kept))
    return asked


def program(question: Question, text: str) -> tuple[str, str]:
    """The program that an answer makes, and its tests (rule above)."""
    prompt, name = question.row["prompt"], question.row["entry_point"]
    return solution(prompt, name, text), f"{question.row['test']}\n\ncheck({name})\n"


def solution(prompt: str, name: str, text: str) -> str:
    """The program that a text makes of a prompt which begins the function of this name (rule above)."""
    text = text.replace("\r\n", "\n")
    first = next((line for line in text.split("\n") if line.strip()), "")
    if first[:1] in (" ", "\t") and not first.lstrip().startswith("```"):
        return prompt + cut(text, (*STOPS, "\n```"))
    code = code_block(text)
    if code is None:
        code = _bare_code(name, text)
    if not _definition(name).search(code):
        return prompt + code
    before = prompt[: _definition(name).search(prompt).start()]
    return f"{before}\n{code}"


def require_columns(name: str, number: int, row: Mapping[str, Any], columns: tuple[str, ...]) -> None:
    """DataError, with the number of the row (from 1), if one of these columns is absent or holds no text."""
    for column in columns:
        if column not in row:
            raise DataError(
                f'{name}, row {number}: there is no column "{column}" (needed: {", ".join(columns)}); take the set as '
                "it is published"
            )
        if not isinstance(row[column], str):
            raise DataError(f'{name}, row {number}, column "{column}": a text is needed')


def _bare_code(name: str, text: str) -> str:
    own = _definition(name).search(text)
    if not own:
        return cut(text, STOPS)
    begin = _CODE_LINE.search(text).start()
    return text[begin : own.end()] + cut(text[own.end() :], STOPS)


def _definition(name: str) -> re.Pattern:
    return re.compile(rf"^(?:async )?def {re.escape(name)}\(", re.MULTILINE)


TASK = EvaluationTask(
    name="humaneval",
    test=TEST,
    questions=questions,
    ask=Generate(512, stops=STOPS),
    grade=code_grader(program),
    metrics=METRICS,
    rule=(
        "The published prompt, greedy, 512 new tokens, cut at a new class, def, comment, if or print; the function's "
        "body, or a whole function in a code block, run against the published tests; pass@1 (Chen et al. 2021)."
    ),
    template="plain",
)
