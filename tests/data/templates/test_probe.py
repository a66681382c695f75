"""What is found out of a template when it is bound, in the manner of several model families; and what is refused."""

import pytest
from toy_tokenizers import (
    CHATML,
    DEEPSEEK_R1,
    GEMMA,
    GLM_4,
    HARMONY,
    LLAMA_2,
    LLAMA_3,
    PARTS,
    PHI_3,
    QWEN_3,
    byte_level,
)

from fedllm_app.data.encoding import encode_rows
from fedllm_app.data.templates import TemplateError, get_template

TURNS = [("user", "1"), ("assistant", "2"), ("user", "3")]
FAMILIES = {
    "Gemma": byte_level(
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        single="<bos> $A",
        begin="<bos>",
        end="<eos>",
        template=GEMMA,
    ),
    "Qwen's base": byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], end="<|endoftext|>", template=CHATML),
    "Phi-3": byte_level(["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"], end="<|endoftext|>", template=PHI_3),
    "Llama 3": byte_level(
        ["<b>", "<e>", "<|header|>", "<|/header|>", "<|eot|>"],
        single="<b> $A",
        begin="<b>",
        end="<e>",
        template=LLAMA_3,
    ),
    "Llama 2": byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>", template=LLAMA_2),
    "DeepSeek R1": byte_level(
        ["<s>", "</s>"],
        ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"],
        single="<s> $A",
        begin="<s>",
        template=DEEPSEEK_R1,
    ),
    "Qwen 3": byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ["<think>", "</think>"],
        end="<|endoftext|>",
        template=QWEN_3,
    ),
    "GLM 4": byte_level(
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
        single="[gMASK] <sop> $A",
        end="<|endoftext|>",
        template=GLM_4,
    ),
    "Harmony": byte_level(
        ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"], end="<|return|>", template=HARMONY
    ),
    "parts": byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>", template=PARTS),
}
WRITTEN = {
    "Gemma": (
        "<bos><start_of_turn>user\n1<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n<start_of_turn>user\n"
        "3<end_of_turn>\n<start_of_turn>model\n",
        "4<end_of_turn>",
    ),
    "Qwen's base": (
        "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n3<|im_end|>\n"
        "<|im_start|>assistant\n",
        "4<|im_end|>",
    ),
    "Phi-3": ("<|user|>\n1<|end|>\n<|assistant|>\n2<|end|>\n<|user|>\n3<|end|>\n<|assistant|>\n", "4<|end|>"),
    "Llama 3": (
        "<b><|header|>system<|/header|>\n\nToday Date: 26 Jul 2024\n\n<|eot|><|header|>user<|/header|>\n\n1<|eot|>"
        "<|header|>assistant<|/header|>\n\n2<|eot|><|header|>user<|/header|>\n\n3<|eot|>"
        "<|header|>assistant<|/header|>\n\n",
        "4<|eot|>",
    ),
    "Llama 2": ("<s>[INST] 1 [/INST] 2 </s><s>[INST] 3 [/INST]", " 4 </s>"),
    "DeepSeek R1": ("<s><｜User｜>1<｜Assistant｜>2</s><｜User｜>3<｜Assistant｜><think>\n", "\n</think>\n\n4</s>"),
    "Qwen 3": (
        "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n3<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<think>\n\n</think>\n\n4<|im_end|>",
    ),
    "GLM 4": ("[gMASK]<sop><|user|>\n1<|assistant|>\n2<|user|>\n3<|assistant|>\n", "4<|user|>"),
    "Harmony": (
        "<|start|>user<|message|>1<|end|><|start|>assistant<|channel|>final<|message|>2<|end|>"
        "<|start|>user<|message|>3<|end|><|start|>assistant",
        "<|channel|>final<|message|>4<|return|>",
    ),
    "parts": ("<s>[user]1[assistant]2</s>[user]3[assistant]", "4</s>"),
}
GLM_STOPS = (0, 3)  # <|endoftext|> and <|user|>, as its generation_config.json has them


def bound(family, **options):
    stops = GLM_STOPS if family == "GLM 4" else ()
    return get_template("tokenizer", FAMILIES[family], stops=stops, **options)


def written(template, turns, answer):
    (row,) = encode_rows([(turns, (answer,))], template, None)
    decode = template.controls.tokenizer.decode
    return decode(row.prompt), decode(row.completions[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_and_what_is_learnt(family):
    """The begin token once; the answer with what the template puts around it, up to the token that ends its turn."""
    template = bound(family)
    assert written(template, TURNS, "4") == WRITTEN[family]
    control = FAMILIES[family].convert_tokens_to_ids(template.end)
    (row,) = encode_rows([(TURNS, ("4",))], template, None)
    assert row.completions[0].count(control) == 1
    assert row.completions[0][-1] == control


def test_without_the_models_stops_the_end_of_text_ends_a_turn_that_has_no_end():
    template = get_template("tokenizer", FAMILIES["GLM 4"])
    assert written(template, TURNS, "4")[1] == "4<|endoftext|>"


def test_a_named_format_ends_turns_with_its_own_token_where_the_tokenizer_has_it():
    """chatml on Qwen's base, whose end token is <|endoftext|>; generation stops at both."""
    template = get_template("chatml", FAMILIES["Qwen's base"])
    assert (template.end, template.stops) == ("<|im_end|>", (0,))
    assert written(template, TURNS, "4") == WRITTEN["Qwen's base"]
    assert get_template("vicuna", FAMILIES["Qwen's base"]).end == "<|endoftext|>"


@pytest.mark.parametrize(
    ("family", "answer", "learnt"),
    [
        ("DeepSeek R1", "<think>\nEasy.\n</think>\n\n4", "Easy.\n</think>\n\n4</s>"),
        ("DeepSeek R1", "<think>Easy.</think>4", "Easy.</think>4</s>"),
        ("DeepSeek R1", "I think <think> is a tag", "\n</think>\n\nI think <think> is a tag</s>"),
        ("Qwen 3", "<think>\nEasy.\n</think>\n\n4", "<think>\nEasy.\n</think>\n\n4<|im_end|>"),
    ],
)
def test_an_answer_with_a_thought_of_its_own(family, answer, learnt):
    """The thought that the prompt has opened is not opened twice, an empty one is not put before it."""
    assert written(bound(family), TURNS, answer)[1] == learnt


def test_a_prompt_that_opens_a_thought_in_answers_too():
    """As of Qwen 3's thinking models: the conversation shows the closed thought, so nothing has to be made up."""
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    )
    checked = get_template("tokenizer", byte_level(["</s>"], template=template))
    assert written(checked, [("user", "1")], "4") == ("<|user|>1</s><|assistant|><think>\n", "\n</think>\n\n4</s>")


def test_an_opening_that_the_template_leaves_out_of_prompts_is_added_to_them():
    """A template that does not know add_generation_prompt: who answers is no part of what the model says."""
    template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    checked = get_template("tokenizer", byte_level(["</s>"], template=template))
    assert written(checked, [("user", "1")], "4") == ("<|user|>\n1</s>\n<|assistant|>\n", "4</s>")
    spaced = get_template("tokenizer", byte_level(["</s>"], template=template.replace("\n{{", " {{")))
    assert written(spaced, [("user", "1")], "4") == ("<|user|> 1</s>\n<|assistant|>", " 4</s>")


def test_text_before_the_token_that_ends_a_turn_is_learnt():
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}></s>{% endfor %}"
    checked = get_template("tokenizer", byte_level(["</s>"], template=template))
    assert (checked.closing, checked.end) == ("</assistant>", "</s>")
    assert written(checked, [("user", "1")], "4")[1] == "4</assistant></s>"


def test_the_date_is_always_the_same():
    """Whatever its format: prompts of two days are the same tokens. 26 July 2024 was a Friday."""
    formats = ["%d %b %Y", "%Y-%m-%d", "%A, %B %-d, %y", "%H:%M"]
    dates = "".join(f"{{{{ strftime_now('{text}') }}}}|" for text in formats)
    template = dates + "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    checked = get_template("tokenizer", byte_level(["</s>"], template=template))
    assert checked.render_prompt([("user", "1")], None) == "26 Jul 2024|2024-07-26|Friday, July 26, 24|12:00|1</s>"


def test_the_line_breaks_of_a_template_with_a_date_stay():
    """What is put before the template adds nothing to its text and takes nothing away."""
    template = "\n  {% if true %}x{% endif %} {% for m in messages %}{{ m.content }}</s>{% endfor %}"
    dated = template + "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    plain, other = (get_template("tokenizer", byte_level(["</s>"], template=text)) for text in (template, dated))
    assert plain.render_prompt([("user", "1")], None) == other.render_prompt([("user", "1")], None)


LOOP = "{% for m in messages %}"
REFUSED = {
    "drops the answer": (
        LOOP + "{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        "leaves out the assistant's message",
    ),
    "keeps the last turn alone": ("{{ messages[-1].content }}", "leaves out the user's message"),
    "wants other keys": (LOOP + "{{ m.text }}{% endfor %}", "leaves out the user's message"),
    "changes letters": (LOOP + "{{ m.content | upper }}{% endfor %}", "or writes it in other letters"),
    "asks twice": (LOOP + "{{ m.content }}{% endfor %} {{ messages[0].content }}", "the user's message 2 times"),
    "turns the order round": (
        "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",
        "the assistant's message before the user's",
    ),
    "draws a word": (
        LOOP + "{{ m.content }}{% endfor %}{{ range(1000) | random }}",
        "does not write the same text every time",
    ),
    "asks for a date it cannot have": (
        "{{ strftime_now('%s') }}" + LOOP + "{{ m.content }}{% endfor %}",
        "date format %s is not known",
    ),
    "breaks": (LOOP + "{{ m.content // 2 }}{% endfor %}", "cannot render a conversation of user"),
    "opens a prompt in its own way": (
        LOOP
        + "[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant][draft]{% endif %}",
        r"ends a prompt with '\[draft\]', which it does not write before the answers",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_template_that_does_not_write_what_it_is_given_is_refused(fault):
    template, reason = REFUSED[fault]
    with pytest.raises(TemplateError, match=reason):
        get_template("tokenizer", byte_level(["</s>"], template=template))


def test_the_refusal_says_what_to_do():
    with pytest.raises(TemplateError, match=r"choose another data.template, such as chatml, .* a .jinja file"):
        get_template("tokenizer", byte_level(["</s>"], template="{{ messages[-1].content }}"))


def test_a_template_of_single_questions_refuses_conversations():
    """It writes the first question and the last answer; a conversation would lose what stands between them."""
    template = (
        "{{ messages[0].content }}{% if messages[-1].role == 'assistant' %}{{ messages[-1].content }}</s>{% endif %}"
    )
    checked = get_template("tokenizer", byte_level(["</s>"], template=template))
    assert checked.render_prompt(TURNS[:1], None) == "1"
    with pytest.raises(TemplateError, match="leaves out or repeats the earlier turns"):
        checked.render_prompt(TURNS, None)


def test_a_template_that_drops_the_system_message_refuses_one():
    """From the row or from data.system-prompt; an empty one asks for nothing."""
    template = LOOP + "{% if m.role != 'system' %}{{ m.content }}</s>{% endif %}{% endfor %}"
    checked = get_template("tokenizer", byte_level(["</s>"], template=template))
    for turns, system_prompt in (([("system", "Be kind."), *TURNS], None), (TURNS, "Be kind.")):
        with pytest.raises(TemplateError, match="leaves out the system message"):
            checked.render_prompt(turns, system_prompt)
    assert checked.render_prompt(TURNS, "") == checked.render_prompt(TURNS, None) == "1</s>2</s>3</s>"
