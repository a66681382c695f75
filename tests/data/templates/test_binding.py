"""Rendering prompts. Tokenizers are built here: byte-level BPE or with Llama 2's spaces, over single characters."""

import pytest

from fedllm_app.data.templates import TEMPLATES, TemplateError, get_template

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ONE = [("user", "Hi")]
THREE = [("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")]


def build(spaces="bytes", bos=True, **special):
    """A tokenizer of single characters that adds <s>, as Llama 2's does; `spaces` is how it treats them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁"})
    vocabulary = {letter: number for number, letter in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    if spaces == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Metaspace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>", "eos_token": "</s>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


ALPACA = (
    "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nHi\n\n### Response:\n"
)
VICUNA = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful,"
    " detailed, and polite answers to the user's questions. USER: Hi ASSISTANT:"
)


@pytest.mark.parametrize(
    ("name", "one", "three"),
    [
        ("alpaca", ALPACA, ALPACA + "Yo</s>\n\n### Instruction:\nBye\n\n### Response:\n"),
        ("vicuna", VICUNA, VICUNA + " Yo</s>USER: Bye ASSISTANT:"),
        ("llama-2", "<s>[INST] Hi [/INST]", "<s>[INST] Hi [/INST] Yo </s><s>[INST] Bye [/INST]"),
        (
            "chatml",
            "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        ("none", "<s>Hi\n", "<s>Hi\nYo\nBye\n"),
    ],
)
def test_formats(name, one, three):
    template = get_template(name, build())
    assert template.render_prompt(ONE, None) == one
    assert template.render_prompt(THREE, None) == three
    assert template.end == "</s>"


@pytest.mark.parametrize(
    ("name", "given", "empty"),
    [
        (
            "alpaca",
            "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\n",
            "<s>### Instruction:\nHi\n\n### Response:\n",
        ),
        ("vicuna", "<s>Be brief. USER: Hi ASSISTANT:", "<s>USER: Hi ASSISTANT:"),
        ("llama-2", "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]", "<s>[INST] Hi [/INST]"),
        (
            "chatml",
            "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("none", "<s>Be brief.\nHi\n", "<s>Hi\n"),
    ],
)
def test_system_prompts(name, given, empty):
    template = get_template(name, build())
    assert template.render_prompt(ONE, "Be brief.") == given
    assert template.render_prompt([("system", "Be brief."), *ONE], "Not this one.") == given
    assert template.render_prompt(ONE, "") == empty


def test_llama_2_says_the_system_prompt_once():
    prompt = get_template("llama-2", build()).render_prompt(THREE, "Be brief.")
    assert prompt == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Yo </s><s>[INST] Bye [/INST]"


def test_tokenizer_template_and_its_default_system_prompt():
    template = get_template("tokenizer", build(chat_template=CHATML))
    rest = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert template.render_prompt(ONE, None) == "<|im_start|>system\nBe kind.<|im_end|>\n" + rest
    assert template.render_prompt(ONE, "Be brief.") == "<|im_start|>system\nBe brief.<|im_end|>\n" + rest
    assert template.render_prompt(ONE, "") == "<|im_start|>system\n<|im_end|>\n" + rest
    assert "assistant\nYo<|im_end|>\n" in template.render_prompt(THREE, None)


def test_jinja_file(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}[assistant]"
    )
    assert get_template(str(path), build()).render_prompt(ONE, None) == "<s>[user] Hi</s>[assistant]"
    path.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    template = get_template(str(path), build())
    assert template.render_prompt(ONE, None) == "user: Hi\nassistant:"
    assert template.completion_prefix == " "


def test_a_given_text_stands_in_for_the_file(tmp_path):
    """Whether the file is there with another text or not at all; and in the same sandbox."""
    path = tmp_path / "own.jinja"
    for _ in range(2):
        template = get_template(str(path), build(), "{% for m in messages %}{{ m.content }} -> {% endfor %}")
        assert (template.name, template.render_prompt(ONE, None)) == (str(path), "Hi -> ")
        path.write_text("another text")
    with pytest.raises(TemplateError, match="cannot render a conversation of user"):
        get_template(str(path), build(), "{{ ''.__class__.__mro__[1].__subclasses__() }}")


def test_jinja_file_cannot_leave_the_sandbox(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(TemplateError, match="cannot render a conversation of user"):
        get_template(str(path), build())


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("alpaca", ""), ("vicuna", " "), ("llama-2", " "), ("chatml", ""), ("none", "")],
)
def test_completion_prefix_is_what_the_format_puts_before_an_answer(name, prefix):
    template = get_template(name, build())
    assert template.completion_prefix == prefix
    first, last = template.render_prompt(ONE, None), template.render_prompt(THREE, None)
    assert last.startswith(first + prefix + "Yo")


@pytest.mark.parametrize("name", ["vicuna", "llama-2"])
@pytest.mark.parametrize("spaces", ["bytes", "metaspace"])
def test_prompt_and_completion_tokenized_apart_are_the_tokens_of_the_whole(name, spaces):
    """Where the tokenizer puts a space before every text itself, a prefix would make it two."""
    tokenizer = build(spaces, bos=False)
    template = get_template(name, tokenizer)
    prompt = template.render_prompt(ONE, None)
    apart = tokenizer(prompt)["input_ids"] + tokenizer(template.completion_prefix + "Yo")["input_ids"]
    assert apart == tokenizer(prompt + " Yo")["input_ids"]
    assert template.completion_prefix == (" " if spaces == "bytes" else "")


def test_begin_token_stands_once_and_only_where_the_tokenizer_adds_it():
    tokenizer = build()
    prompt = get_template("vicuna", tokenizer).render_prompt(ONE, None)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert get_template("vicuna", build(bos=False)).render_prompt(ONE, None) == VICUNA.removeprefix("<s>")


def test_errors(tmp_path):
    tokenizer = build()
    for name, reason in [
        ("tokenizer", "no chat template; choose another"),
        ("vicunia", "unknown template 'vicunia'; it must be one of tokenizer, alpaca"),
        ("own.jinja", "is relative"),
        (str(tmp_path / "missing.jinja"), "cannot be read"),
    ]:
        with pytest.raises(TemplateError, match=reason):
            get_template(name, tokenizer)
    with pytest.raises(TemplateError, match="no end token"):
        get_template("none", build(eos_token=None))


def test_conversations_that_are_no_prompt():
    template = get_template("chatml", build())
    for turns in ([], [("user", "Hi"), ("assistant", "Yo")], [("system", "Be brief.")]):
        with pytest.raises(TemplateError, match="must end with a user turn"):
            template.render_prompt(turns, None)


def test_template_that_refuses_a_system_prompt():
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    template = get_template("tokenizer", build(chat_template=refusing))
    with pytest.raises(TemplateError, match="conversation of system, user: no system role"):
        template.render_prompt(ONE, "Be brief.")


def test_every_name_renders():
    for name in TEMPLATES:
        assert "Hi" in get_template(name, build(chat_template=CHATML)).render_prompt(ONE, None)
