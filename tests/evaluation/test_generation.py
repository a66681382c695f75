"""Answers as text: where they stop, and what of a template's is no part of them. A token is a byte."""

import pytest
import torch
from toy_tokenizers import DEEPSEEK_R1, HARMONY, LLAMA_2, PHI_3, QWEN_3, byte_level

from fedllm_app.data.encoding import encode_prompts
from fedllm_app.data.templates import get_template
from fedllm_app.evaluation.generation import generate

HI = [("user", "Hi")]


class Speaker:
    """A model that says what it is told to, as transformers' `generate` gives it: padded, streamed token by token."""

    device = torch.device("cpu")

    def __init__(self, *answers: list[int]) -> None:
        self.answers = answers
        self.options: dict = {}

    def eval(self) -> None:
        pass

    def generate(self, input_ids, streamer, **options):
        self.options = options
        longest = max(map(len, self.answers))
        padding = options["pad_token_id"]
        said = torch.tensor([[*answer, *[padding] * (longest - len(answer))] for answer in self.answers])
        if streamer:
            streamer.put(input_ids)
            for token in self.answers[0]:
                streamer.put(torch.tensor([token]))
            streamer.end()
        return torch.cat([input_ids, said], 1)


def spoken(tokenizer, *answers, stops=(), stream=False):
    """The answers to texts that a model generates, its options, and the pieces that are shown."""
    template = get_template("tokenizer", tokenizer, stops=stops)
    model = Speaker(*(tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers))
    prompts = encode_prompts([HI] * len(answers), template, tokenizer, None)
    pieces = []
    show = pieces.append if stream else None
    return (
        generate(model, tokenizer, template, prompts, 99, show=show),
        model.options,
        [piece for piece in pieces if piece],
    )


PHI = byte_level(["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"], end="<|endoftext|>", template=PHI_3)


def test_generation_stops_at_the_end_of_a_turn_and_where_the_models_files_say():
    """<|end|> is 3, the end of the text 0; <|user|>, 1, is what generation_config.json names."""
    _, options, _ = spoken(PHI, "yo<|end|>", stops=(0, 1))
    assert sorted(options["eos_token_id"]) == [0, 1, 3]


@pytest.mark.parametrize("end", ["<|end|>", "<|endoftext|>", "<|user|>"])
def test_an_answer_ends_at_the_first_stop(end):
    """What a batch's other answers need is padding; what a model says behind a stop is not shown."""
    answers, _, pieces = spoken(PHI, f"yo{end}more", "longer than that<|end|>", stops=(1,), stream=True)
    assert answers == ["yo", "longer than that"]
    assert "".join(pieces) == "yo"


FAMILIES = {
    "Llama 2": (byte_level(["<s>", "</s>"], single="<s> $A", begin="<s>", template=LLAMA_2), " yo </s>"),
    "Harmony": (
        byte_level(
            ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"], end="<|return|>", template=HARMONY
        ),
        "<|channel|>final<|message|>yo<|return|>",
    ),
    "Qwen 3": (
        byte_level(["<|im_start|>", "<|im_end|>"], ["<think>", "</think>"], end="<|im_end|>", template=QWEN_3),
        "<think>\n\n</think>\n\nyo<|im_end|>",
    ),
    "DeepSeek R1": (
        byte_level(["<s>", "</s>"], ["<think>", "</think>"], single="<s> $A", begin="<s>", template=DEEPSEEK_R1),
        "\n</think>\n\nyo</s>",
    ),
    "closed by text": (
        byte_level(
            ["</s>"], template="{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}></s>{% endfor %}"
        ),
        "yo</assistant></s>",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_template_puts_around_an_answer_is_no_part_of_it(family):
    """As learnt: `encode_rows` makes these texts of the answer. Shown piece by piece, it is the same answer."""
    tokenizer, text = FAMILIES[family]
    template = get_template("tokenizer", tokenizer)
    assert template.completion("yo") == text
    answers, _, pieces = spoken(tokenizer, text, stream=True)
    assert answers == ["yo"]
    assert "".join(pieces) == "yo"


def test_an_answer_that_is_not_finished_keeps_all_of_its_text():
    """Without the end token, "yo</" is what was said."""
    tokenizer, _ = FAMILIES["closed by text"]
    answers, _, pieces = spoken(tokenizer, "yo</assistant>", stream=True)
    assert answers == ["yo</assistant>"]
    assert "".join(pieces) == "yo</assistant>"


def test_a_thought_of_the_models_own_is_shown():
    tokenizer, _ = FAMILIES["Qwen 3"]
    answers, _, _ = spoken(tokenizer, "<think>\nhm\n</think>\n\nyo<|im_end|>")
    assert answers == ["<think>\nhm\n</think>\n\nyo"]
