"""The formats as chat templates in Jinja: what transformers renders with them is what the formats render."""

import pytest
from conftest import byte_tokenizer

from fedllm_app.data.templates import get_template
from fedllm_app.data.templates.formats import FORMATS
from fedllm_app.data.templates.jinja import jinja_format

ONE = [("user", "Hi ")]
CONVERSATIONS = [
    ONE,
    [*ONE, ("assistant", "Yo"), ("user", " {{ 1 }} 'quoted'\n")],
    [("system", 'Be "brief".\n'), *ONE],
    [("system", ""), *ONE],
    [("system", "é {% x %}"), *ONE, ("assistant", "Yo\n"), ("user", "Bye"), ("assistant", "Ah"), ("user", "?")],
]


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_in_jinja_writes_what_the_format_writes(name, begins):
    """Prompts after one and after several turns; a system message of their own, and an empty one; with and without a
    begin token."""
    tokenizer = byte_tokenizer()
    if not begins:
        tokenizer.backend_tokenizer.post_processor = None
    template = get_template(name, tokenizer)
    assert template.source == jinja_format(name, begins)
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        rendered = tokenizer.apply_chat_template(
            messages, chat_template=template.source, add_generation_prompt=True, tokenize=False
        )
        assert rendered == template.render_prompt(turns, None)
        assert rendered.startswith("<|begin|>") is begins


@pytest.mark.parametrize("name", FORMATS)
def test_a_conversation_that_is_over_opens_no_answer(name):
    """Without `add_generation_prompt`, what comes behind an answer is not opened, and a question is not answered."""
    tokenizer = byte_tokenizer()
    source = jinja_format(name, True)
    asked = [{"role": "user", "content": "Hi"}]
    closed, opened = (
        tokenizer.apply_chat_template(asked, chat_template=source, add_generation_prompt=opens, tokenize=False)
        for opens in (False, True)
    )
    over = tokenizer.apply_chat_template(
        [*asked, {"role": "assistant", "content": "Yo"}], chat_template=source, tokenize=False
    )
    assert opened.startswith(closed)
    assert over.startswith(opened) and "Yo" in over
