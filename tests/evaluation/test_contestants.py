"""What is evaluated side by side: found before anything is loaded, over one base that is afterwards as it was."""

import numpy as np
import pytest
import torch

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.methods import AdapterValues, adapter_layout, draw_adapter
from fedllm_app.data.templates import TemplateError
from fedllm_app.evaluation.contestants import BASE, Contestant, Stage, find_contestants, prompt_of
from fedllm_app.models.base import ModelValues, locate_model
from fedllm_app.runs.directory import PromptRecord, RunDirectory


@pytest.fixture
def save_run(run_config, tiny_model, tmp_path):
    """A finished run directory of the tiny model: an adapter, and those of clients that trained alone."""

    def save(name, clients=0, template="vicuna", strategy="fedavg", method="lora", **config):
        directory = RunDirectory(tmp_path / name, PromptRecord.of(template, ""))
        overrides = {key.replace("__", ".").replace("_", "-"): value for key, value in config.items()}
        directory.create(run_config | {"model.name": str(tiny_model), "strategy.name": strategy} | overrides)
        directory.journal("started")
        values = AdapterValues(4, 8, 0.0, ("q_proj", "v_proj"), method=method, virtual_tokens=3)
        layout = adapter_layout(locate_model(str(tiny_model)), values)
        vectors = [
            draw_adapter(layout.manifest, 0)
            + np.random.default_rng(number).normal(0, 0.5, layout.size).astype(np.float32)
            for number in range(clients + 1)
        ]
        directory.finish(vectors[0], dict(enumerate(vectors[1:])), layout, {})
        return directory.path

    return save


def names(contestants):
    return [contestant.name for contestant in contestants]


def test_a_run_is_its_adapter_and_one_of_clients_alone_is_theirs(save_run):
    together, alone = save_run("together"), save_run("alone", 2, strategy="local")
    assert names(find_contestants([together, alone], base=True)) == [BASE, "together", "client-0", "client-1"]
    assert names(find_contestants([alone], clients=True)) == ["client-0", "client-1"]
    with pytest.raises(AdapterError, match="none of these directories"):
        find_contestants([together], clients=True)


def test_models_of_the_same_name_are_told_apart(save_run):
    """Two runs of clients alone have the same clients; the same directory twice gets a number."""
    first, second = save_run("first", 1, strategy="local"), save_run("second", 1, strategy="local")
    parent = first.parent.name
    assert names(find_contestants([first, second])) == [f"{parent}/first/client-0", f"{parent}/second/client-0"]
    found = names(find_contestants([first, first]))
    assert found[1] == f"{found[0]} (2)"


def test_adapters_on_different_bases_are_refused(save_run):
    """Before anything is loaded; the message names both."""
    other = save_run("other", model__quantization="int8")
    with pytest.raises(AdapterError, match=r"(?s)one.*other.*int8"):
        find_contestants([save_run("one"), other])


def test_nothing_to_evaluate_is_said():
    with pytest.raises(AdapterError, match="nothing to evaluate"):
        find_contestants([])


def test_one_template_asks_all(save_run):
    """The recorded one; adapters with different ones need one by name."""
    vicuna, alpaca = save_run("v"), save_run("a", template="alpaca")
    assert prompt_of(find_contestants([vicuna], base=True), None, None).template == "vicuna"
    both = find_contestants([vicuna, alpaca])
    with pytest.raises(TemplateError, match="'vicuna' and a with 'alpaca'"):
        prompt_of(both, None, None)
    assert prompt_of(both, "llama-2", "Be brief.") == PromptRecord("llama-2", "Be brief.", None)
    assert prompt_of([Contestant(BASE, None)], None, None) is None


@pytest.mark.parametrize("method", ["lora", "ia3", "prefix-tuning", "prompt-tuning"])
def test_the_base_is_as_it_was_after_every_adapter(save_run, tiny_model, method):
    """Its logits before, under the adapter and after; weights are loaded once."""
    stage = Stage(ModelValues(str(tiny_model), "float32"))
    (contestant,) = find_contestants([save_run("run", method=method)])
    request = [(list(range(10, 20)), [[30, 31]])]

    def score(of):
        with stage.asker(of) as asker:
            return asker.log_likelihoods(request)[0][0].log_likelihood

    base = Contestant(BASE, None)
    before, loaded = score(base), stage.base
    adapted = score(contestant)
    assert (score(base), stage.base) == (before, loaded)
    assert score(contestant) == adapted != before


def test_an_adapter_is_asked_as_peft_has_it(save_run, tiny_model):
    """The log-likelihood of a whole row from PEFT's own model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = save_run("run")
    (contestant,) = find_contestants([run])
    with Stage(ModelValues(str(tiny_model), "float32")).asker(contestant) as asker:
        ((score,),) = asker.log_likelihoods([(list(range(10, 20)), [[30, 31]])])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), run / "adapter").eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*range(10, 20), 30, 31]])).logits[0].log_softmax(-1)
    assert score.log_likelihood == pytest.approx(float(logits[9, 30] + logits[10, 31]), abs=1e-4)
