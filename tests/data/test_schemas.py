"""Recognising schemas and converting rows. The rows of public sets are written in each set's own columns."""

import pytest

from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer
from fedllm_app.data.schemas import (
    SCHEMAS,
    BadRow,
    Columns,
    UnknownColumn,
    UnknownSchema,
    column_fields,
    recognise,
)


def convert(row, rows="example", **columns):
    return recognise(row.keys(), rows, Columns(**columns)).convert(row)


def user(text):
    return (("user", text),)


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
    ({"messages": [{"role": "tool", "content": "a"}]}, "has the role 'tool'"),
    ({"messages": [{"role": "user", "content": "a"}] * 2}, "second user turn in a row"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts that are not text"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "message 2 .* is empty"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_bad_rows(row, reason):
    with pytest.raises(BadRow, match=reason):
        convert(row)


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


@pytest.mark.parametrize(
    ("prompt", "completion", "label"),
    [
        ("prompt", "completion", "label"),
        ("instruction", "output", "desirable"),
        ("question", "answer", "thumb"),
        ("prompt", "response", "label"),
    ],
)
def test_rated_rows(prompt, completion, label):
    """The names that the other schemas know, and one of the label."""
    row = {prompt: "2 + 2?", completion: "5", label: False}
    assert convert(row, "rated") == RatedAnswer(user("2 + 2?"), "5", desirable=False)


def test_rated_messages_and_an_input():
    """TRL's conversational form; the input of an instruction is part of the prompt, as in instruction tuning."""
    asked, told = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "hello"}]
    row = {"prompt": asked, "completion": told, "label": True}
    assert convert(row, "rated") == RatedAnswer(user("hi"), "hello", desirable=True)
    row = {"instruction": "Translate.", "input": "chat", "output": "cat", "label": True}
    assert convert(row, "rated") == RatedAnswer(user("Translate.\n\nchat"), "cat", desirable=True)


@pytest.mark.parametrize(
    ("label", "up"),
    [
        *[
            (value, True)
            for value in (True, 1, 1.0, "1", "true", " True ", "yes", "UP", "thumbs_up", "Thumbs-Up", "👍", "👍🏽")
        ],
        *[
            (value, False)
            for value in (False, 0, 0.0, "0", "FALSE", "no", "down", "thumb down", "thumbs_down", "👎️", "bad")
        ],
    ],
)
def test_labels(label, up):
    assert convert({"prompt": "a", "completion": "b", "label": label}, "rated").desirable is up


@pytest.mark.parametrize("label", [None, "", "  ", "maybe", -1, 2, "-1", "_1", 0.5, float("nan"), 5, [True], {"up": 1}])
def test_bad_labels_are_named_without_their_value(label):
    """A missing label is no thumb down, stars are no thumbs; what the label says does not travel."""
    with pytest.raises(BadRow) as told:
        convert({"prompt": "a", "completion": "b", "label": label}, "rated")
    assert "column 'label' is" in str(told.value)
    assert "maybe" not in str(told.value)


def test_a_rating_is_no_label_unless_it_is_named():
    """Stars from 1 to 5 are not taken for thumbs."""
    with pytest.raises(UnknownSchema, match="rated-answer"):
        convert({"prompt": "a", "completion": "b", "rating": 1}, "rated")
    named = convert({"prompt": "a", "completion": "b", "rating": 1}, "rated", label="rating")
    assert named == RatedAnswer(user("a"), "b", desirable=True)


def test_documents():
    assert convert({"text": " a\nb ", "id": 3}, "document") == Document(" a\nb ")
    assert convert({"body": "a", "text": "b"}, "document", text="body") == Document("a")
    with pytest.raises(BadRow, match="column 'text' is empty"):
        convert({"text": " \n"}, "document")
    with pytest.raises(BadRow, match="holds int, not text"):
        convert({"text": 5}, "document")


def test_fields_that_a_kind_of_rows_reads():
    assert column_fields("document") == {"text"}
    assert column_fields("rated") == {"prompt", "completion", "label", "input"}
