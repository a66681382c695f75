"""The chat template of a published model: transformers gives the tokens that training read, or it is refused."""

import pytest
from conftest import CHAT_TEMPLATE, byte_tokenizer

from fedllm_app.data.chat_template import ChatTemplate, chat_template, prompt_ids
from fedllm_app.data.encoding import encode_prompts
from fedllm_app.data.templates import TEMPLATES, TemplateError, get_template

HI = [("user", "Hi")]
CONVERSATIONS = (HI, [("system", "Sing."), *HI], [*HI, ("assistant", "Yo"), ("user", "Bye")])
SQUARE = (
    "\n  {% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DEAF = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
"""It cannot be asked to open an answer."""
DATED = "{{ strftime_now('%d %b %Y') }}" + SQUARE
PARTS = CHAT_TEMPLATE.replace("{{ message.content }}", "{{ message.content[0]['text'] }}")


@pytest.mark.parametrize("system_prompt", [None, "", "Be 'brief', {{ é }} \"\\n\".\n"])
@pytest.mark.parametrize("name", [*TEMPLATES, SQUARE, DEAF, DATED, PARTS])
def test_transformers_gives_the_tokens_of_training(name, system_prompt):
    """Of templates by name and of Jinja files. The byte tokenizer puts its begin token before every text, and no Jinja
    file here writes it."""
    tokenizer = byte_tokenizer()
    source = None if name in TEMPLATES else name
    template = get_template(name if source is None else "/own.jinja", tokenizer, source)
    found = chat_template(template, tokenizer, system_prompt)
    for turns in CONVERSATIONS:
        assert prompt_ids(tokenizer, found, turns) == encode_prompts([turns], template, tokenizer, system_prompt)[0]
    assert found.parts is (name == PARTS)


def test_a_template_that_needs_nothing_is_left_as_it_is():
    tokenizer = byte_tokenizer()
    assert chat_template(get_template("tokenizer", tokenizer), tokenizer, None) == ChatTemplate(CHAT_TEMPLATE)


def test_the_date_stays_that_of_training():
    tokenizer = byte_tokenizer()
    found = chat_template(get_template("/own.jinja", tokenizer, DATED), tokenizer, None)
    assert tokenizer.decode(prompt_ids(tokenizer, found, HI)).startswith("<|begin|>26 Jul 2024")


def test_a_system_prompt_with_a_control_token_is_refused():
    """Training reads it as text, and transformers as the token."""
    tokenizer = byte_tokenizer()
    with pytest.raises(TemplateError, match="other tokens than those it was trained with; the system prompt holds a"):
        chat_template(get_template("vicuna", tokenizer), tokenizer, "Never say <|end|>.")
