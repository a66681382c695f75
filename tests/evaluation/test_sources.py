"""Where an adapter is found, which base and prompts it gets, and that it fits them."""

import shutil

import pytest

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.evaluation.conversation import Chat, find_source
from fedllm_app.runs.directory import PromptRecord

HI = [("user", "Hi")]


def test_where_an_adapter_is_found(save_run, tmp_path, run_config):
    run = save_run()
    for given in (run, run / "adapter"):
        assert find_source(given).adapter == run / "adapter"
    checkpoint = run / "checkpoints" / "round-1"
    for given in (checkpoint, checkpoint / "adapter"):
        source = find_source(given)
        assert source.adapter == checkpoint / "adapter"
        assert (source.model.dtype, source.model.name) == ("float32", run_config["model.name"])
    local = save_run(clients=2, strategy__name="local")
    assert find_source(local, 1).adapter == local / "adapters" / "client-1"
    assert Chat(find_source(local, 0), max_new_tokens=8).answer(HI) != Chat(
        find_source(local, 1), max_new_tokens=8
    ).answer(HI)


def test_an_adapter_without_its_run(save_run, tmp_path, tiny_model):
    """The base that PEFT's settings name, as the configuration named it, in what suits the machine."""
    shutil.move(save_run() / "adapter", tmp_path / "alone")
    source = find_source(tmp_path / "alone")
    assert (source.model.name, source.model.dtype, source.model.quantization) == (str(tiny_model), "auto", "none")


def test_what_is_given_comes_before_what_is_recorded(save_run, tmp_path, tiny_model, monkeypatch):
    run = save_run("vicuna", "Be brief.")
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    monkeypatch.chdir(tmp_path)
    source = find_source(run, template="own.jinja")
    assert source.prompt == PromptRecord(str(tmp_path / "own.jinja"), "Be brief.", None)
    assert find_source(run, system_prompt="").prompt == PromptRecord("vicuna", "", None)
    monkeypatch.chdir(tiny_model.parent)
    assert find_source(run, model=tiny_model.name).model.name == str(tiny_model)


def test_code_of_a_model_is_run_only_if_the_user_says_so(save_run):
    run = save_run(model__trust_remote_code=True)
    assert not find_source(run).model.trust_remote_code
    assert find_source(run, trust_remote_code=True).model.trust_remote_code


def test_an_adapter_of_another_model_is_refused(save_run, wide_model, tiny_model, tmp_path):
    """Of other shapes; and of a model with a layer less, which PEFT would load with a warning."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with pytest.raises(AdapterError, match="does not fit the model .*size mismatch"):
        _ = Chat(find_source(save_run(), model=str(wide_model))).model
    config = AutoConfig.from_pretrained(tiny_model)
    config.num_hidden_layers, config.layer_types = 3, None
    shutil.copytree(tiny_model, tmp_path / "deeper")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "deeper")
    with pytest.raises(AdapterError, match="does not fit the model .*missing adapter keys"):
        _ = Chat(find_source(save_run(), model=str(tmp_path / "deeper"))).model
