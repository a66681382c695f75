"""Schemas of rated answers and documents, and the fields of each kind of rows."""

import pytest
from schema_rows import convert, user

from fedllm_app.data.errors import BadRow
from fedllm_app.data.examples import Document, RatedAnswer
from fedllm_app.data.schemas import (
    UnknownSchema,
    column_fields,
    recognise,
)


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


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("example", "data.prompt-column and data.completion-column, or data.messages-column"),
        ("pair", "data.prompt-column, data.chosen-column and data.rejected-column"),
        ("rated", "data.prompt-column, data.completion-column and data.label-column"),
        ("document", "data.text-column"),
    ],
)
def test_columns_that_fit_nothing_are_told_the_keys_that_name_them(kind, keys):
    with pytest.raises(UnknownSchema) as caught:
        recognise(["ticket", "desk"], kind)
    assert f"or name them in the configuration: {keys}." in str(caught.value)
