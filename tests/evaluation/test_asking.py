"""Log-likelihoods and answers in batches: what is read in parts equals what transformers gives for whole rows."""

import numpy as np
import pytest
import torch

from fedllm_app.evaluation.asking import Asker, Decoding, _families
from fedllm_app.evaluation.reading import SharedReader
from fedllm_app.models.base import ModelValues, load_model, load_tokenizer, locate_model
from fedllm_app.training.head import install_head

END = 1


@pytest.fixture(scope="module")
def base(tiny_model):
    loaded = load_model(ModelValues(str(tiny_model), "float32"))
    install_head(loaded, "completion")
    return loaded.eval()


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(locate_model(str(tiny_model)))


def askers(base, tokenizer, **options):
    """One that reads common beginnings once, and one that reads whole rows."""
    return [Asker(base, tokenizer, reader, **options) for reader in (SharedReader(base), None)]


def ids_of(text: str) -> list[int]:
    return [3 + letter % 250 for letter in text.encode()]


SHARED = "The following questions are about words. "
REQUESTS = [
    (ids_of(SHARED + question), [ids_of(option) for option in options])
    for question, options in [
        ("First?", ["a", "bc", "def"]),
        ("And the second one, which is longer?", ["x", "yz"]),
        ("3?", ["longer than others", "s"]),
    ]
] + [(ids_of("Alone"), [ids_of("no"), ids_of("y")])]


def by_logits(base, context, option) -> float:
    """The log-likelihood from the model's own logits of one whole row."""
    with torch.no_grad():
        logits = base(input_ids=torch.tensor([context + option])).logits[0].log_softmax(-1)
    return float(sum(logits[len(context) - 1 + place, token] for place, token in enumerate(option)))


@pytest.mark.parametrize("batch_rows", [0, 1, 2])
def test_log_likelihoods_equal_those_of_whole_rows(base, tokenizer, batch_rows):
    for asker in askers(base, tokenizer, batch_rows=batch_rows):
        for (context, options), scores in zip(REQUESTS, asker.log_likelihoods(REQUESTS), strict=True):
            expected = [by_logits(base, context, option) for option in options]
            np.testing.assert_allclose([score.log_likelihood for score in scores], expected, atol=1e-4)
            assert [score.tokens for score in scores] == [len(option) for option in options]


def test_a_continuation_is_greedy_if_every_token_is_the_most_likely(base, tokenizer):
    """The most likely two tokens after a context, and the same with another last one."""
    context = ids_of("Say")
    best = []
    for _ in range(2):
        with torch.no_grad():
            best.append(int(base(input_ids=torch.tensor([context + best])).logits[0, -1].argmax()))
    options = [best, [best[0], (best[1] + 1) % 250], [(best[0] + 1) % 250, best[1]]]
    for asker in askers(base, tokenizer):
        assert [score.greedy for score in asker.log_likelihoods([(context, options)])[0]] == [True, False, False]


def transformers_answer(base, prompt, new_tokens):
    output = base.generate(
        input_ids=torch.tensor([prompt]), max_new_tokens=new_tokens, do_sample=False, eos_token_id=END, pad_token_id=2
    )[0, len(prompt) :].tolist()
    return output[: output.index(END)] if END in output else output


@pytest.mark.parametrize("batch_rows", [0, 2])
def test_greedy_answers_equal_those_of_transformers(base, tokenizer, batch_rows):
    prompts = [context for context, _ in REQUESTS]
    for asker in askers(base, tokenizer, batch_rows=batch_rows):
        answers = asker.generate(prompts, Decoding(12, frozenset([END])))
        assert answers == [transformers_answer(base, prompt, 12) for prompt in prompts]


def test_an_answer_ends_at_a_stop_at_a_text_and_at_its_own_limit(base, tokenizer):
    """Without stops the answer is `free`, 8 tokens. Its third token as a stop leaves the two before it; `ends` at four
    tokens leaves four; a limit of 5 five. Rows that have ended leave the batch, and the others go on as before."""
    prompts = [context for context, _ in REQUESTS]
    reader = askers(base, tokenizer)[0]
    free = reader.generate(prompts, Decoding(8, frozenset()))
    assert all(len(answer) == 8 for answer in free)
    for asker in askers(base, tokenizer):
        stop = free[0][2]
        stopped = asker.generate(prompts, Decoding(8, frozenset([stop])))
        assert stopped == [answer[: answer.index(stop)] if stop in answer else answer for answer in free]
        assert asker.generate(prompts, Decoding(8, frozenset()), [1, 2, 5, 8]) == [
            answer[:limit] for answer, limit in zip(free, [1, 2, 5, 8], strict=True)
        ]
    assert reader.generate(prompts, Decoding(8, frozenset(), lambda ids: len(ids) == 4)) == [a[:4] for a in free]


def test_drawn_answers_depend_on_the_seed_alone(base, tokenizer):
    prompts = [context for context, _ in REQUESTS]
    asker = askers(base, tokenizer)[0]
    first, again, other = (
        asker.generate(prompts, Decoding(8, frozenset(), temperature=1.0, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_prompt_that_is_too_long_loses_its_beginning_and_is_counted(base, tokenizer):
    """The model reads 20 tokens: a prompt of 30 and an answer of 4 leave the last 16 of the prompt; of a
    continuation of 2 one is read, which leaves 19."""
    long, short = list(range(5, 35)), [7, 8]
    for asker in askers(base, tokenizer, context=20):
        answers = asker.generate([long, short], Decoding(4, frozenset()))
        assert asker.cut == 1
        assert answers[0] == asker.generate([long[-16:]], Decoding(4, frozenset()))[0]
        ((score,),) = asker.log_likelihoods([(long, [[9, 9]])])
        assert score.log_likelihood == pytest.approx(by_logits(base, long[-19:], [9, 9]), abs=1e-4)
        assert asker.cut == 2


@pytest.mark.parametrize("batch_rows", [0, 1, 2])
def test_each_prompt_is_told_once_when_it_is_done(base, tokenizer, batch_rows):
    """However they are read and batched; an answer that ends early is told before the others of its batch."""
    for asker in askers(base, tokenizer, batch_rows=batch_rows):
        told = []
        asker.done = told.append
        asker.log_likelihoods(REQUESTS)
        assert sum(told) == len(REQUESTS)
        told.clear()
        prompts = [context for context, _ in REQUESTS]
        asker.generate(prompts, Decoding(6, frozenset()), [1, 6, 2, 6])
        assert sum(told) == len(prompts)
        if asker.reader is not None and batch_rows == 0:
            assert told[0] == 1


def test_what_prompts_have_in_common_is_one_family():
    """20 equal tokens before two prompts; a third begins otherwise, a fourth is too short to tell."""
    shared = list(range(20))
    prompts = [[*shared, 1, 2], [9] * 30, [*shared, 1, 3, 4], [0, 1]]
    assert _families(prompts) == [([*shared, 1], [0, 2]), ([], [1, 3])]


def test_equal_prompts_keep_a_token_of_their_own():
    """Nothing would be left to read otherwise."""
    prompt = list(range(20))
    assert _families([prompt, prompt]) == [(prompt[:-1], [0, 1])]


def save_model(config, directory):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return AutoModelForCausalLM.from_pretrained(directory).eval()


def test_models_that_can_be_read_in_parts_are_told_from_others(tmp_path, base):
    """Learnt positions (GPT-2) and rotary ones (Llama) can; a window of attention and a recurrent state cannot."""
    from transformers import GPT2Config, MambaConfig, MistralConfig

    small = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    gpt = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
    window = MistralConfig(
        **small, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, sliding_window=4
    )
    assert SharedReader(base).agrees() == ""
    assert SharedReader(save_model(gpt, tmp_path / "gpt")).agrees() == ""
    assert "layers of other kinds" in SharedReader(save_model(window, tmp_path / "window")).agrees()
    assert SharedReader(save_model(MambaConfig(**small, state_size=4), tmp_path / "mamba")).agrees() != ""
