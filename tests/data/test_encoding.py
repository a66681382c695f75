"""From rows to token ids. A token is a byte, except with the packaged model's tokenizer."""

import functools
import importlib.metadata

import pytest
from conftest import CHAT_TEMPLATE, byte_tokenizer
from toy_tokenizers import CHATML, DEEPSEEK_R1, GEMMA, LLAMA_2, PHI_3, byte_level

from fedllm_app.data.encoding import Encoded, Refused, encode_prompts, encode_rows
from fedllm_app.data.templates import TEMPLATES, TemplateError, get_template
from fedllm_app.models.base import load_tokenizer, locate_model
from fedllm_app.models.packaged import PACKAGED_MODELS

BEGIN, END = 0, 1
CODE = "def f(x):\n    return x  # naïve"
TURNS = [("user", "What is 2 + 3?\n"), ("assistant", "It is 5. 👍"), ("user", CODE)]
PACKAGED = "smollm2-135m-instruct"


@functools.cache  # converting the model takes some 15 s
def packaged():
    try:
        importlib.metadata.version(PACKAGED_MODELS[PACKAGED].distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {PACKAGED_MODELS[PACKAGED].distribution} is not installed")
    return load_tokenizer(locate_model(PACKAGED))


TOKENIZERS = {"bytes": byte_tokenizer, "packaged": packaged}
KINDS = ["bytes", pytest.param("packaged", marks=pytest.mark.slow)]


def encode(template, turns, answer, system_prompt=None, learn_turns="last") -> Encoded | Refused:
    return encode_rows([(turns, (answer,))], template, system_prompt, learn_turns)[0]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system_prompt", [None, "Be kind."])
@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_row_is_the_tokens_of_the_whole_conversation(kind, name, system_prompt):
    """The rendered conversation goes on with the answer and its end, and is tokenized in one piece.

    Of two templates it goes on otherwise: Llama 2 has a space before its end token, which is not learnt, and chatml, to
    a tokenizer that does not have its token, ends turns with a word, where the tokenizer's end token is learnt.
    """
    tokenizer = TOKENIZERS[kind]()
    template = get_template(name, tokenizer)
    row = encode(template, TURNS, "It is x", system_prompt)
    ends = {("llama-2", "bytes"): " <|end|>", ("llama-2", "packaged"): " <|im_end|>", ("chatml", "bytes"): "<|im_end|>"}
    learnt = tokenizer.decode(row.completions[0]).removesuffix(template.end)
    more = [*TURNS, ("assistant", "It is x"), ("user", "Thanks")]
    rendered = template.render_prompt(more, system_prompt)
    end = ends.get((name, kind), template.end)
    assert name == "none" or learnt + end in rendered
    whole = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    prompt = row.prompt + row.completions[0][:-1]
    assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizers_own_template_is_what_transformers_renders(kind):
    tokenizer = TOKENIZERS[kind]()
    messages = [{"role": role, "content": content} for role, content in TURNS]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert encode(get_template("tokenizer", tokenizer), TURNS, "a").prompt == expected


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_like_a_control_token_is_text(kind, name):
    """In system message, question, earlier answer and answer: its control tokens are those of a neutral row."""
    tokenizer = TOKENIZERS[kind]()
    template = get_template(name, tokenizer)
    text = f"5{tokenizer.eos_token}4{tokenizer.bos_token} 3"
    rows = []
    for said in (text, "5 4 3"):
        turns = [("system", f"s {said}"), ("user", f"u {said}"), ("assistant", f"a {said}"), ("user", f"{said} w")]
        rows.append(encode(template, turns, f"{said}."))
    written, neutral = rows
    control = set(template.controls.ids.values())
    for ids, expected in ((written.prompt, neutral.prompt), (written.completions[0], neutral.completions[0])):
        assert [token for token in ids if token in control] == [token for token in expected if token in control]
    assert tokenizer.decode(written.prompt).count(text) == 4
    assert tokenizer.decode(written.completions[0]).count(text) == 1


def test_control_tokens_in_text_are_tokens_where_they_are_meant():
    template = get_template("none", byte_tokenizer(), special_tokens_in_text=True)
    row = encode(template, [("user", "a<|end|>b")], "c<|begin|>d")
    assert row.prompt.count(END) == 1
    assert row.completions[0].count(BEGIN) == 1
    assert row.completions[0].count(END) == 1


def test_turn_markers_that_are_not_marked_as_special_are_text_too():
    """DeepSeek's `<｜Assistant｜>`: as a token, a question would answer itself. Its <think> is a part of answers."""
    tokenizer = byte_level(
        ["<s>", "</s>"],
        ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"],
        single="<s> $A",
        begin="<s>",
        template=DEEPSEEK_R1,
    )
    marker, thought = tokenizer.convert_tokens_to_ids(["<｜Assistant｜>", "<think>"])
    row = encode(get_template("tokenizer", tokenizer), [("user", "a<｜Assistant｜>b<think>")], "c")
    assert (row.prompt.count(marker), row.prompt.count(thought)) == (1, 2)


@pytest.mark.parametrize("answer", ["yo", "yo<|end|>", "yo <|end|>\n", "yo<|end|><|end|>"])
def test_an_answer_has_one_end_token(answer):
    """Data that was formatted before has one already; the white space before it is no part of what was said there."""
    template = get_template("alpaca", byte_tokenizer())
    ids = encode(template, [("user", "a"), ("assistant", answer), ("user", "b")], answer)
    assert template.controls.tokenizer.decode(ids.completions[0]) in ("yo<|end|>", "yo <|end|>")
    assert ids.completions[0].count(END) == 1
    assert ids.prompt.count(END) == 1
    assert "<|end|><|end|>" not in template.controls.tokenizer.decode(ids.prompt)


def test_the_end_of_text_behind_an_answer_makes_way_for_the_end_of_the_turn():
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], end="<|endoftext|>", template=CHATML)
    for answer in ("yo<|endoftext|>", "yo<|im_end|>\n<|endoftext|>"):
        row = encode(get_template("tokenizer", tokenizer), [("user", "a")], answer)
        assert tokenizer.decode(row.completions[0]) == "yo<|im_end|>"


def test_an_answer_of_nothing_but_an_end_is_refused():
    row = encode(get_template("alpaca", byte_tokenizer()), [("user", "a")], " <|end|>")
    assert row == Refused("its answer is nothing but the token that ends a turn")


def test_the_begin_token_is_looked_for_in_every_row():
    """A template that writes it before a system message alone: whichever row comes first, each begins with it once."""
    tokenizer = byte_tokenizer()
    begin = "{% if messages[0].role == 'system' %}{{ bos_token }}{% endif %}"
    tokenizer.chat_template = begin + "{% for m in messages %}{{ m.content }}{% endfor %}"
    template = get_template("tokenizer", tokenizer)
    conversations = [[("system", "s"), ("user", "u")], [("user", "u")], [("user", "<|begin|>u")]]
    for order in (conversations, conversations[::-1]):
        for ids in encode_prompts(order, template, tokenizer, None):
            assert (ids[0], ids.count(BEGIN)) == (BEGIN, 1)


@pytest.mark.parametrize("single", ["<s> $A </s>", "$A </s>", "$A"])
@pytest.mark.parametrize("name", ["chatml", "alpaca", "none"])
def test_no_end_token_stands_before_the_answer(single, name):
    """Of a tokenizer that puts one behind every text; the begin token stands where it puts one."""
    tokenizer = byte_level(["<s>", "</s>"], single=single, begin="<s>")
    row = encode(get_template(name, tokenizer), [("user", "a")], "b")
    assert 1 not in row.prompt
    assert (row.prompt[0] == 0) is single.startswith("<s>")
    assert row.completions[0] == tokenizer("b", add_special_tokens=False)["input_ids"] + [1]


def test_a_refused_row_is_told_and_the_others_are_encoded():
    """The reason is the template's, of contents that say nothing: it may quote the row."""
    template = (
        CHAT_TEMPLATE + "{% if 'secret' in messages[0].content %}{{ raise_exception(messages[0].content) }}{% endif %}"
    )
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + template
    )
    rows = [
        ([("user", "a")], ("b",)),
        ([("system", "my secret"), ("user", "a")], ("b",)),
        ([("user", "my secret")], ("b",)),
        ([("user", "c")], ("d",)),
    ]
    first, system, content, last = encode_rows(rows, get_template("tokenizer", tokenizer), None)
    assert "no system" in system.reason
    assert content == Refused("the template tokenizer cannot render what one of the turns says")
    assert "secret" not in system.reason + content.reason
    assert [tokenizer.decode(row.completions[0]) for row in (first, last)] == ["b<|end|>", "d<|end|>"]
    with pytest.raises(TemplateError, match="no system"):
        encode_prompts([rows[1][0]], get_template("tokenizer", tokenizer), tokenizer, None)


LONG = [
    ("system", "s"),
    ("user", "1"),
    ("assistant", "Yes </s> or so.\n"),
    ("user", "2"),
    ("assistant", "  no"),
    ("user", "3"),
]
ALL_TURNS = {
    "vicuna": byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>"),
    "alpaca": byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>", merges=100),
    "tokenizer": byte_level(
        ["<|endoftext|>", "</s>", "<|im_start|>", "<|im_end|>"], end="<|endoftext|>", template=CHATML
    ),
    "chatml": byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], end="<|endoftext|>", merges=100),
}


@pytest.mark.parametrize("name", ALL_TURNS)
def test_all_turns_are_learnt_in_the_tokens_of_the_last(name):
    """The tokens are those of learn_turns = "last". The spans of the earlier answers are what is learnt of them where
    they are the last themselves: prefix, answer, end.
    """
    tokenizer = ALL_TURNS[name]
    template = get_template(name, tokenizer)
    last, row = (encode(template, LONG, "maybe", learn_turns=which) for which in ("last", "all"))
    assert (row.prompt, row.completions) == (last.prompt, last.completions)
    assert (last.learnt, len(row.learnt)) == ([], 2)
    for (first, end), place in zip(row.learnt, (2, 4), strict=True):
        shorter = encode(template, LONG[:place], LONG[place][1])
        assert row.prompt[:first] == shorter.prompt
        assert row.prompt[first:end] == shorter.completions[0]


@pytest.mark.slow
def test_all_turns_of_the_packaged_models_template():
    tokenizer = packaged()
    row = encode(
        get_template("tokenizer", tokenizer), [*LONG[:4], ("assistant", "no"), LONG[5]], "maybe", learn_turns="all"
    )
    learnt = [tokenizer.decode(row.prompt[first:end]) for first, end in row.learnt]
    assert learnt == ["Yes </s> or so.\n<|im_end|>", "no<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "special", "learnt"),
    [
        (GEMMA, ["<end_of_turn>", "<start_of_turn>"], ["Yes </s> or so.<end_of_turn>", "no<end_of_turn>"]),
        (LLAMA_2, ["[INST]"], [" Yes </s> or so.\n </s>", "   no </s>"]),
        (PHI_3, ["<|end|>", "<|user|>"], ["Yes </s> or so.\n<|end|>", "  no<|end|>"]),
    ],
    ids=["trims", "spaces", "another end"],
)
def test_all_turns_as_a_template_writes_them(template, special, learnt):
    """White space that a template trims is not there to be learnt; what it adds before an end token is."""
    tokenizer = byte_level(["</s>", "<s>", *special], begin="<s>", template=template)
    row = encode(get_template("tokenizer", tokenizer), LONG[1:], "maybe", learn_turns="all")
    assert [tokenizer.decode(row.prompt[first:end]) for first, end in row.learnt] == learnt


def test_an_earlier_answer_that_the_template_changes_cannot_be_learnt():
    """DeepSeek's template leaves the thoughts of earlier answers out."""
    tokenizer = byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>", template=DEEPSEEK_R1)
    template = get_template("tokenizer", tokenizer)
    turns = [("user", "1"), ("assistant", "<think>\nhm\n</think>\n\n2"), ("user", "3")]
    refused = encode(template, turns, "4", learn_turns="all")
    assert "changes an earlier answer" in refused.reason
    assert tokenizer.decode(encode(template, turns, "4").prompt).count("hm") == 0
