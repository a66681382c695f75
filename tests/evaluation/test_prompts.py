"""Questions as token ids. A token is a byte, and <|begin|> (0) stands before every text."""

import pytest

from fedllm_app.data.encoding import encode_prompts
from fedllm_app.data.templates import TemplateError, get_template
from fedllm_app.evaluation.prompts import PlainPrompts, TemplatePrompts
from fedllm_app.evaluation.suite import Question
from fedllm_app.models.base import load_tokenizer, locate_model


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(locate_model(str(tiny_model)))


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_a_plain_prompt_is_the_protocols_text_and_nothing_else(tokenizer):
    prompts = PlainPrompts(tokenizer).prompts([Question("Hi", plain="Q: Hi\nA:"), Question("Hi")])
    assert [text_of(tokenizer, ids) for ids in prompts] == ["<|begin|>Q: Hi\nA:", "<|begin|>Hi"]


def test_a_choice_follows_a_blank_and_takes_the_blanks_at_the_end_of_the_prompt(tokenizer):
    """ "A:" gets the separator; of "A:  " the two blanks are the choice's, as in a text that is tokenized whole."""
    asked = [Question("", plain=plain, choices=("yes", "no")) for plain in ("A:", "A:  ")]
    (first, options), (second, spaced) = PlainPrompts(tokenizer).choices(asked, " ")
    assert text_of(tokenizer, first) == text_of(tokenizer, second) == "<|begin|>A:"
    assert [text_of(tokenizer, ids) for ids in options] == [" yes", " no"]
    assert [text_of(tokenizer, ids) for ids in spaced] == ["  yes", "  no"]


def test_a_template_asks_as_training_did(tokenizer):
    """Worked examples are earlier turns; the answer to score has what stands before it and, whole, the end token."""
    template = get_template("vicuna", tokenizer)
    question = Question("Q2", turns=(("user", "Q1"), ("assistant", "A1")), choices=("B", "C"))
    prompts = TemplatePrompts(tokenizer, template, None)
    conversation = [("user", "Q1"), ("assistant", "A1"), ("user", "Q2")]
    expected = encode_prompts([conversation], template, tokenizer, None)
    assert prompts.prompts([question]) == expected
    ((prompt, options),) = prompts.choices([question], " ")
    assert prompt == expected[0]
    assert [text_of(tokenizer, ids) for ids in options] == [" B", " C"]
    ((_, (answer,)),) = prompts.answers([question], [("B",)])
    assert text_of(tokenizer, answer) == " B<|end|>"


def test_an_answer_is_read_without_what_the_template_puts_around_it(tokenizer):
    prompts = TemplatePrompts(tokenizer, get_template("vicuna", tokenizer), None)
    assert prompts.read(tokenizer(" Paris", add_special_tokens=False)["input_ids"]) == "Paris"
    assert prompts.stops() == {1}


def test_a_question_that_cannot_be_written_is_named(tokenizer):
    prompts = TemplatePrompts(tokenizer, get_template("vicuna", tokenizer), None)
    with pytest.raises(TemplateError, match="question 2"):
        prompts.answers([Question("Hi"), Question("Hi")], [("a",), ("<|end|>",)])
