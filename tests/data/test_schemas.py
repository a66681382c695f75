"""Recognising schemas and converting rows. The rows of public sets are written in each set's own columns."""

import json

import pytest
from schema_rows import convert, user

from fedllm_app.data.errors import BadRow, UnwantedRow
from fedllm_app.data.examples import Example, PreferencePair
from fedllm_app.data.schemas import (
    SCHEMAS,
    Columns,
    UnknownColumn,
    UnknownSchema,
    recognise,
)

SFT_ROWS = [
    ("prompt-completion", {"prompt": "Hi", "completion": "Hello"}, Example(user("Hi"), "Hello")),
    ("prompt-completion", {"inputs": "2+2?", "targets": "4", "task": "sums"}, Example(user("2+2?"), "4")),
    (  # alpaca
        "instruction",
        {"instruction": "Translate.", "input": "chien", "output": "dog", "text": "Below is ..."},
        Example(user("Translate.\n\nchien"), "dog"),
    ),
    ("instruction", {"instruction": "Count.", "input": "", "output": "1 2 3"}, Example(user("Count."), "1 2 3")),
    ("instruction", {"instruction": "Count.", "output": "1 2 3"}, Example(user("Count."), "1 2 3")),  # wizardlm
    (  # math-instruct
        "instruction",
        {"source": "data/cot/a.json", "output": "x = 2", "instruction": "Solve 2x = 4."},
        Example(user("Solve 2x = 4."), "x = 2"),
    ),
    (  # dolly
        "instruction",
        {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada", "category": "closed_qa"},
        Example(user("Who?\n\nAda wrote it."), "Ada"),
    ),
    ("question-answer", {"question": "1+1?", "answer": "#### 2"}, Example(user("1+1?"), "#### 2")),  # gsm8k
    (  # MATH: the worked solution, not the bare answer
        "problem-solution",
        {"problem": "Find x.", "level": "Level 1", "type": "Algebra", "solution": "x=$\\boxed{1}$", "answer": "1"},
        Example(user("Find x."), "x=$\\boxed{1}$"),
    ),
    (
        "chat",
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        Example(user("Hi"), "Hello"),
    ),
    (  # ShareGPT, several turns, the last user turn unanswered
        "chat",
        {
            "id": "x1",
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
                {"from": "human", "value": "Bye"},
                {"from": "gpt", "value": "See you"},
                {"from": "human", "value": "Still there?"},
            ],
        },
        Example((("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")), "See you"),
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), SFT_ROWS)
def test_instruction_rows(name, row, expected):
    assert recognise(row.keys(), "example").schema.name == name
    assert convert(row) == expected


def test_chat_in_a_csv_cell_and_in_parts():
    cell = '[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Yo"}]'
    assert convert({"messages": cell}) == Example(user("Hi"), "Yo")


def test_blank_system_message_counts_as_none():
    chat = [{"from": "system", "value": ""}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert convert({"conversations": chat}) == Example(user("a"), "b")


def ultrafeedback(**changes):
    asked = {"role": "user", "content": "Hi"}
    row = {
        "prompt": "Hi",
        "prompt_id": "00ff",
        "chosen": [asked, {"role": "assistant", "content": "Hello!"}],
        "rejected": [asked, {"role": "assistant", "content": "What?"}],
        "messages": [asked, {"role": "assistant", "content": "Hello!"}],
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    }
    return {**row, **changes}


@pytest.mark.parametrize(
    "row",
    [
        ultrafeedback(),
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Hello!"}],
            "rejected": [{"role": "assistant", "content": "What?"}],
        },
        {"chosen": ultrafeedback()["chosen"], "rejected": ultrafeedback()["rejected"]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"},
    ],
)
def test_preference_rows(row):
    assert convert(row, "pair") == PreferencePair(user("Hi"), "Hello!", "What?")


def test_hh_rlhf_keeps_the_shared_opening_of_the_answers():
    """Both answers open with "I can"; cutting at the first differing character would leave "help." and "not."."""
    before = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Help me\n\nAssistant: I can"
    pair = convert({"chosen": before + " help.", "rejected": before + " not."}, "pair")
    assert pair.prompt == (("user", "Hi"), ("assistant", "Hello"), ("user", "Help me"))
    assert (pair.chosen, pair.rejected) == ("I can help.", "I can not.")


def test_hh_rlhf_answer_that_is_the_beginning_of_the_other():
    before = "\n\nHuman: Hi\n\nAssistant:"
    pair = convert({"chosen": before + " Hello", "rejected": before + " Hello there"}, "pair")
    assert (pair.chosen, pair.rejected) == ("Hello", "Hello there")


BAD_DIALOGUES = [
    ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Ho\n\nAssistant: b", "share no 'Assistant:'"),
    ("\n\nHuman: Hi\n\nAssistant:", "\n\nHuman: Hi\n\nAssistant: b", "'chosen' is empty"),
    ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Hi\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "part before"),
    ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Hi\n\nAssistant: a", "are the same"),
    ("\n\nHuman: \n\nAssistant: a", "\n\nHuman: \n\nAssistant: b", "message 1 of column 'chosen' is empty"),
]


@pytest.mark.parametrize(("chosen", "rejected", "reason"), BAD_DIALOGUES)
def test_bad_dialogues(chosen, rejected, reason):
    with pytest.raises(BadRow, match=reason):
        convert({"chosen": chosen, "rejected": rejected}, "pair")


def test_preference_whose_messages_answer_another_prompt():
    with pytest.raises(BadRow, match="'prompt' differs"):
        convert(ultrafeedback(prompt="Something else"), "pair")


def test_preference_whose_answers_follow_different_turns():
    asked = [{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "What?"}]
    with pytest.raises(BadRow, match="answer different prompts"):
        convert(ultrafeedback(rejected=asked), "pair")


CHAT_TURNS = (("user", "q"), ("assistant", "a"))
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

BAD_ROWS = [
    ({"instruction": "a", "output": ""}, "column 'output' is empty"),
    ({"instruction": " \n", "output": "b"}, "column 'instruction' is empty"),
    ({"instruction": "a", "output": None}, "column 'output' is empty \\(null\\)"),
    ({"question": "a", "answer": 72}, "column 'answer' holds int, not text"),
    ({"instruction": "a", "input": 3, "output": "b"}, "column 'input' holds int"),
    ({"prompt": "a", "completion": "\ud83d"}, "half a surrogate pair"),
    ({"messages": "hello"}, "holds str, not a list"),
    ({"messages": "[{"}, "broken JSON"),
    ({"messages": []}, "no assistant turn"),
    ({"messages": ["Hi"]}, "message 1 of column 'messages' is str"),
    ({"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "no user turn before"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "has an unknown role"),
    ({"messages": [{"content": "a"}]}, "has no role"),
    ({"messages": [{"role": "user", "content": [{"type": "thinking", "text": "hm"}]}]}, "parts that are not text"),
    ({"messages": '[{"role": ' + "[" * 100_000}, "nested too deeply"),
    ({"messages": {"role": ["user", "assistant"], "content": ["q"]}}, "lists that differ in length"),
    ({"prompt": '[{"role": "user", oops', "completion": "a"}, "'prompt' holds broken JSON where messages are meant"),
    (
        {"prompt": "q", "completion": "a", "history": [["q"]]},
        "list of \\[user, assistant\\] pairs, which part 1 is not",
    ),
    ({"prompt": "q", "completion": "a", "history": [["q", None]]}, "assistant's part of pair 1 .* is empty"),
    ({"prompt": "q", "completion": "a", "history": [{"role": "user", "content": "x"}]}, "does not lead to the prompt"),
    ({"prompt": "q", "completion": "a", "system": 3}, "column 'system' holds int"),
    ({"prompt": "q", "completion": "a", "label": None}, "'label' is neither true nor false"),
    (
        {"system": "Be kind.", "messages": [{"role": "system", "content": "Be brief."}, *CHAT]},
        "'system' differs from the system message",
    ),
    ({"messages": [{"role": "user", "content": "a"}] * 2}, "second user turn in a row"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts that are not text"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "message 2 .* is empty"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_bad_rows(row, reason):
    with pytest.raises(BadRow, match=reason):
        convert(row)


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_reasons_hold_no_values(row, reason):
    """They may leave the site. The values are put where every text of the row is; what remains is names."""
    secret = json.loads(json.dumps(row).replace('"a"', '"Mrs Dalloway"').replace("tool", "Mrs Dalloway"))
    with pytest.raises(BadRow) as caught:
        convert(secret)
    assert "Dalloway" not in str(caught.value)


SYSTEM = ("system", "Answer in French.")

CONTEXT_ROWS = [
    ({"system": SYSTEM[1], "messages": CHAT}, Example((SYSTEM, ("user", "q")), "a")),
    ({"System Prompt": SYSTEM[1], "question": "q", "answer": "a"}, Example((SYSTEM, ("user", "q")), "a")),
    ({"system_message": " ", "question": "q", "answer": "a"}, Example(user("q"), "a")),
    (  # the conversation says the same
        {"system": SYSTEM[1], "messages": [{"role": "system", "content": SYSTEM[1] + "\n"}, *CHAT]},
        Example((("system", SYSTEM[1] + "\n"), ("user", "q")), "a"),
    ),
    (
        {"system": SYSTEM[1], "instruction": "r", "input": "x", "output": "b", "history": [["q", "a"]]},
        Example((SYSTEM, ("user", "q"), ("assistant", "a"), ("user", "r\n\nx")), "b"),
    ),
    (
        {"prompt": "r", "completion": "b", "history": '[["q", "a"]]'},
        Example((("user", "q"), ("assistant", "a"), ("user", "r")), "b"),
    ),
    ({"prompt": "r", "completion": "b", "history": CHAT}, Example((*CHAT_TURNS, ("user", "r")), "b")),
    ({"prompt": "r", "completion": "b", "history": []}, Example(user("r"), "b")),
    ({"question": "q", "context": "c", "answer": "a"}, Example(user("q\n\nc"), "a")),
    ({"Instruction": "q", " OUTPUT ": "a"}, Example(user("q"), "a")),
    ({"prompt": "q", "completion": "a", "label": "True"}, Example(user("q"), "a")),
]


@pytest.mark.parametrize(("row", "expected"), CONTEXT_ROWS)
def test_columns_beside_the_conversation_are_read(row, expected):
    assert convert(row) == expected


def test_columns_beside_preference_pairs_are_read():
    row = {"system": SYSTEM[1], "question": "r", "input": "x", "chosen": "b", "rejected": "c", "history": [["q", "a"]]}
    turns = (SYSTEM, ("user", "q"), ("assistant", "a"), ("user", "r\n\nx"))
    assert convert(row, "pair") == PreferencePair(turns, "b", "c")
    assert convert(ultrafeedback(system="Be kind."), "pair").prompt == (("system", "Be kind."), ("user", "Hi"))
    pair = {"system": "Be kind.", "chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    assert convert(pair, "pair").prompt == (("system", "Be kind."), ("user", "q"))


def test_a_history_that_the_answers_repeat_is_read_once():
    before = [*CHAT, {"role": "user", "content": "r"}]
    row = {"prompt": "r", "history": [["q", "a"]]}
    row |= {side: [*before, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    assert convert(row, "pair").prompt == (*CHAT_TURNS, ("user", "r"))


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize(
    ("row", "task", "expected"),
    [
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "example", Example(user("q"), "a")),
        ({"prompt": CHAT[0], "completion": CHAT[1]}, "example", Example(user("q"), "a")),
        ({"messages": CHAT}, "example", Example(user("q"), "a")),
        ({"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}}, "example", Example(user("q"), "a")),
        (
            {"prompt": "q", "chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "b"}]},
            "pair",
            PreferencePair(user("q"), "a", "b"),
        ),
        (
            {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "b"}]},
            "pair",
            PreferencePair(user("q"), "a", "b"),
        ),
    ],
)
def test_messages_in_csv_cells_are_messages_in_every_column(row, task, expected, write):
    """As JSON, and as Python writes lists; and as they are, in a JSON file."""
    cells = {column: value if isinstance(value, str) else write(value) for column, value in row.items()}
    assert convert(cells, task) == convert(row, task) == expected


@pytest.mark.parametrize("text", ["[1, 2] is a list", '[{"a": 1}]', "{}", "{'a': 1}", "[INST] hi", ' ["x"]', "{{x}}"])
def test_text_that_only_looks_like_messages_is_text(text):
    assert convert({"prompt": text, "completion": text}) == Example(user(text), text)


NULLS = dict.fromkeys(("role", "content", "from", "value", "weight", "name"))


def test_keys_that_are_null_are_not_there():
    """Arrow gives every message all keys."""
    for keys in (("role", "content"), ("from", "value")):
        chat = [NULLS | dict(zip(keys, turn, strict=True)) for turn in (("user", "q"), ("assistant", "a"))]
        assert convert({"conversations": chat}) == Example(user("q"), "a")


@pytest.mark.parametrize("key", ["weight", "train", "loss"])
def test_the_last_answer_that_may_be_learnt_is(key):
    """Four turns, the last answer marked: the one before is learnt."""
    chat = [*CHAT, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b", key: 0}]
    assert convert({"messages": chat}) == Example(user("q"), "a")
    chat[3][key] = 1
    assert convert({"messages": chat}).completion == "b"
    with pytest.raises(UnwantedRow):
        convert({"messages": [CHAT[0], CHAT[1] | {key: False}]})
    with pytest.raises(UnwantedRow):
        convert({"prompt": "q", "completion": [CHAT[1] | {key: 0.0}]})
    with pytest.raises(UnwantedRow):
        convert({"prompt": "q", "chosen": [CHAT[1] | {key: 0}], "rejected": "b"}, "pair")


@pytest.mark.parametrize("label", [False, "false", "FALSE "])
def test_answers_labelled_false_are_not_learnt(label):
    for row in ({"prompt": "q", "completion": "a"}, {"messages": CHAT}, {"question": "q", "answer": "a"}):
        with pytest.raises(UnwantedRow):
            convert(row | {"label": label})


def test_columns_that_differ_in_capitals_only_are_not_guessed_between():
    with pytest.raises(UnknownSchema):
        recognise(["Prompt", "PROMPT", "completion"], "example")
    assert recognise(["Prompt", "prompt", "completion"], "example").columns["prompt"] == "prompt"


def test_names_that_may_be_values_are_not_shown():
    """The first line of a table without a header."""
    with pytest.raises(UnknownSchema, match="a name of 60 characters.*needs a line of column names"):
        recognise(["x" * 60, "yes"], "example")


def test_row_without_a_column_that_other_rows_have():
    binding = recognise(["instruction", "output"], "example")
    with pytest.raises(BadRow, match="column 'output' is missing"):
        binding.convert({"instruction": "a"})


def test_named_columns_choose_the_schema():
    row = {"headline": "Shares rose.", "mood": "positive", "instruction": "x", "output": "y"}
    assert convert(row, prompt="headline", completion="mood") == Example(user("Shares rose."), "positive")
    assert convert(row, input="headline") == Example(user("x\n\nShares rose."), "y")


def test_unknown_named_column_lists_the_columns_and_the_nearest():
    with pytest.raises(UnknownColumn, match="'summry'.*headline, summary.*Did you mean 'summary'"):
        recognise(["headline", "summary"], "example", Columns(prompt="headline", completion="summry"))


def test_no_schema_fits():
    with pytest.raises(UnknownSchema, match="headline, mood.*prompt-completion.*chat"):
        recognise(["headline", "mood"], "example")
    with pytest.raises(UnknownSchema, match="pair rows"):
        recognise(["instruction", "output"], "pair")


def test_the_table_decides_between_several_schemas():
    columns = ["messages", "answer", "question", "output", "instruction", "completion", "prompt"]
    assert recognise(columns, "example").schema.name == "prompt-completion"
    assert recognise(columns[:5], "example").schema.name == "instruction"
    assert recognise(columns[:3], "example").schema.name == "question-answer"
    assert len({schema.name for schema in SCHEMAS}) == len(SCHEMAS)
