"""`fedllm merge`: a directory that transformers loads by itself, written whole or not at all."""

import pytest
import torch

from fedllm_app.commands.main import main
from fedllm_app.data.encoding import encode_prompts
from fedllm_app.evaluation import conversation
from fedllm_app.evaluation.conversation import Chat, find_source

HI = [("user", "Hi")]
JINJA = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    """Weights must not be loaded."""
    monkeypatch.setattr(conversation, "load_model", lambda *_: pytest.fail("weights were loaded"))


def loaded(directory):
    """What a program that does not know this app loads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


def merged(run, out, *options) -> int:
    return main(["merge", str(run), "--out", str(out), *options])


@pytest.mark.parametrize("system_prompt", ["", "Be brief."])
@pytest.mark.parametrize("template", ["vicuna", "alpaca", "llama-2", "chatml", "none", "tokenizer", "own.jinja"])
def test_what_transformers_loads_reads_and_says_what_the_run_does(save_run, tmp_path, template, system_prompt):
    """The same tokens of a question, the same likeliest answer, and the same end tokens. The Jinja file has gone."""
    if template.endswith(".jinja"):
        template = str(tmp_path / template)
        (tmp_path / "own.jinja").write_text(JINJA)
    run = save_run(template, system_prompt, spread=0.3)
    (tmp_path / "own.jinja").unlink(missing_ok=True)
    assert merged(run, tmp_path / "merged") == 0
    model, tokenizer = loaded(tmp_path / "merged")
    assert model.dtype == torch.float32
    chat = Chat(find_source(run), max_new_tokens=12)
    (expected,) = encode_prompts([HI], chat.template, chat.tokenizer, system_prompt or None)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert inputs["input_ids"][0].tolist() == expected
    output = model.generate(**inputs, max_new_tokens=12)[0, len(expected) :]
    prefix = chat.template.completion_prefix
    assert tokenizer.decode(output, skip_special_tokens=True).removeprefix(prefix) == chat.answer(HI)
