"""`fedllm merge`: a directory that transformers loads by itself, written whole or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedllm_app.adapters import merging
from fedllm_app.commands import merge as merge_module
from fedllm_app.commands import published
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


@pytest.mark.parametrize(
    ("template", "system_prompt"),
    [
        ("vicuna", ""),
        ("alpaca", "Be brief."),
        ("llama-2", "Be brief."),
        ("chatml", "Be brief."),
        ("none", ""),
        ("tokenizer", "Be brief."),
        ("own.jinja", ""),
        ("own.jinja", "Be brief."),
    ],
)
def test_what_transformers_loads_reads_and_says_what_the_run_does(save_run, tmp_path, template, system_prompt):
    """The same tokens of a question, the same likeliest answer, and the same end tokens. The Jinja file has gone."""
    if template.endswith(".jinja"):
        template = str(tmp_path / template)
        (tmp_path / "own.jinja").write_text(JINJA)
    run = save_run(template, system_prompt, spread=0.3)
    (tmp_path / "own.jinja").unlink(missing_ok=True)
    assert merged(run, tmp_path / "merged") == 0
    model, tokenizer = loaded(tmp_path / "merged")
    chat = Chat(find_source(run), max_new_tokens=12)
    (expected,) = encode_prompts([HI], chat.template, chat.tokenizer, system_prompt or None)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert inputs["input_ids"][0].tolist() == expected
    output = model.generate(**inputs, max_new_tokens=12)[0, len(expected) :]
    prefix = chat.template.completion_prefix
    assert tokenizer.decode(output, skip_special_tokens=True).removeprefix(prefix) == chat.answer(HI)


def copied(model: Path, to: Path, **settings) -> Path:
    """A copy of a model directory with other entries in config.json."""
    shutil.copytree(model, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | settings))
    return to


def test_generation_ends_where_the_run_learnt_that_it_ends(save_run, tiny_model, tmp_path):
    """The end token of the tokenizer (1), and those that the base's files name; its sampling settings stay behind.

    What training switched off, the cache, is on again.
    """
    base = copied(tiny_model, tmp_path / "model")
    (base / "generation_config.json").write_text(
        '{"repetition_penalty": 9.0, "temperature": 0.1, "eos_token_id": [40, 41]}'
    )
    assert merged(save_run(model=base), tmp_path / "merged") == 0
    settings = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    del settings["transformers_version"]
    assert settings == {"bos_token_id": 0, "eos_token_id": [1, 40, 41], "pad_token_id": 2}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["use_cache"] is True


@pytest.mark.parametrize(
    ("recorded", "stored", "option", "expected"),
    [
        ("float32", "bfloat16", (), "float32"),
        ("auto", "bfloat16", (), "bfloat16"),
        ("auto", "float16", (), "float16"),
        ("auto", None, (), "float32"),
        ("float32", "bfloat16", ("--dtype", "float16"), "float16"),
    ],
)
def test_the_type_of_the_weights(save_run, tiny_model, tmp_path, recorded, stored, option, expected):
    """As asked for, else that of the run, else ("auto") that of the base's files, which may not say."""
    base = copied(tiny_model, tmp_path / "model", dtype=stored)
    run = save_run(model=base, model__dtype=recorded, spread=0.1)
    assert merged(run, tmp_path / "merged", *option) == 0
    model, _ = loaded(tmp_path / "merged")
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{expected}"}


def test_an_adapter_over_a_quantized_base_is_merged_in_full_precision(save_run, tmp_path, capsys):
    """int8 in the run: the float32 weights of the base's files, and a word on the difference."""
    run = save_run(model__quantization="int8")
    assert merged(run, tmp_path / "merged") == 0
    printed = capsys.readouterr().out
    assert "trained over weights in int8 and is merged into the same weights in float32" in printed
    assert (
        "the merged model agrees with base and adapter within what rounding to float32 can cause: logits differ"
        in printed
    )
    assert merged(save_run(), tmp_path / "plain") == 0
    one, other = (loaded(tmp_path / name)[0].state_dict() for name in ("merged", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert "stored as int8" in (tmp_path / "merged" / "README.md").read_text()


def test_a_difference_that_rounding_does_not_explain_is_told(save_run, tmp_path, capsys, monkeypatch):
    """In 16 bits, where it is no error."""
    monkeypatch.setattr(merging.Merged, "is_rounding", False)
    assert merged(save_run(spread=0.1), tmp_path / "merged", "--dtype", "bfloat16") == 0
    printed = capsys.readouterr().out
    assert "differs by more than what rounding to bfloat16 can cause" in printed
    assert "warning: compare both with fedllm evaluate" in printed


def test_an_adapter_that_rounding_hides_is_told(save_run, tmp_path, capsys, monkeypatch):
    """It changes logits by no more than rounding does: the merged model may have lost it."""
    merge = merging.merge
    monkeypatch.setattr(merging, "merge", lambda *given: replace(merge(*given), effect=1e-9))
    assert merged(save_run(spread=0.1), tmp_path / "merged", "--dtype", "bfloat16") == 0
    assert "rounding to bfloat16 changes the model as much as the adapter does" in capsys.readouterr().out


def stored_quantized(save_run, tiny_model, tmp_path):
    stored = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    base = copied(tiny_model, tmp_path / "stored", quantization_config=stored)
    run = save_run()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"model.name": str(base), "model.quantization": "int8"}))
    return run, ()


def method(name):
    return lambda save_run, *_: (save_run(method=name), ())


def without_template(save_run, *_):
    run = save_run()
    (run / "adapter" / "prompt.json").unlink()
    return run, ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            stored_quantized,
            "is stored quantized, and a sum of its rounded weights and the adapter would be rounded again",
        ),
        (method("prefix-tuning"), "adapter.method = 'prefix-tuning', which cannot be merged"),
        (method("p-tuning"), "adapter.method = 'p-tuning', which cannot be merged"),
        (method("prompt-tuning"), "adapter.method = 'prompt-tuning', which cannot be merged"),
        (lambda save_run, *_: (save_run(clients=2, strategy__name="local"), ()), "clients that have one: 0, 1"),
        (lambda save_run, *_: (save_run(clients=2, strategy__name="local"), ("--client", "5")), "have one: 0, 1"),
        (lambda _save, _model, tmp_path: (tmp_path / "nowhere", ()), "there is no directory"),
        (without_template, "name its template with --template"),
        (lambda save_run, *_: (save_run(model__name="/gone"), ()), "/gone/config.json does not exist"),
        (lambda save_run, *_: (save_run(), ("--evaluation", "/gone")), "--evaluation /gone: holds no report"),
        (
            lambda save_run, *_: (save_run(), ("--system-prompt", "Say <|end|>")),
            "the system prompt holds a control token",
        ),
    ],
)
def test_refused_before_weights_are_loaded_and_anything_is_written(
    save_run, tiny_model, tmp_path, nothing_is_loaded, capsys, given, said
):
    run, options = given(save_run, tiny_model, tmp_path)
    assert merged(run, tmp_path / "merged", *options) == 2
    assert said in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "merged").exists()


def test_the_model_of_a_client_that_trained_alone(save_run, tmp_path):
    run = save_run(clients=2, strategy__name="local")
    assert merged(run, tmp_path / "one", "--client", "1") == 0
    expected = Chat(find_source(run, 1)).model.eval()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.allclose(loaded(tmp_path / "one")[0](ids).logits, expected(input_ids=ids).logits, atol=1e-3)
    assert "Client 1 of the run trained it alone" in (tmp_path / "one" / "README.md").read_text()


@pytest.mark.parametrize("place", ["checkpoints/round-1", "adapter"])
def test_a_checkpoint_and_an_adapter_are_merged_as_their_run(save_run, tmp_path, place):
    run = save_run()
    assert merged(run / place, tmp_path / "one") == 0
    assert merged(run, tmp_path / "other") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert weights[0] == weights[1]


def test_weights_are_split_into_files(save_run, tmp_path, monkeypatch):
    """Of 100 kB here: embedding and head alone are 2 · 300 · 32 numbers of 4 bytes."""
    monkeypatch.setattr(merge_module, "_LARGEST_FILE", "100KB")
    assert merged(save_run(), tmp_path / "merged") == 0
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 1
    assert loaded(tmp_path / "merged")[0].num_parameters() == 37_792


def test_no_path_of_this_machine_is_published(save_run, tiny_model, tmp_path):
    """In none of the files, the Jinja file's and the data's among them; the licence comes along, readable for all."""
    base = copied(tiny_model, tmp_path / "some base")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    (base / "LICENSE").write_text("MIT License")
    (tmp_path / "own.jinja").write_text(JINJA)
    run = save_run(str(tmp_path / "own.jinja"), model=base, data__name=f"{tmp_path}/tickets.csv,alpaca")
    assert merged(run, tmp_path / "merged") == 0
    files = [file for file in (tmp_path / "merged").rglob("*") if file.is_file()]
    assert (tmp_path / "merged" / "LICENSE").read_text() == "MIT License"
    card = (tmp_path / "merged" / "README.md").read_text()
    assert all(name in card for name in ("`some base`", "`own.jinja`", "`tickets.csv`"))
    for file in files:
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask(), file.name


def umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_tokenizer_that_changes_when_it_is_saved_is_refused(save_run, tmp_path, monkeypatch, capsys):
    """A published model that reads other tokens than the trained one would be silently worse."""
    from transformers import AutoTokenizer

    load = AutoTokenizer.from_pretrained

    def other(name, **options):
        tokenizer = load(name, **options)
        if Path(name).name == "merged":
            tokenizer.chat_template = "{{ messages[0].content }}"
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", other)
    assert merged(save_run(), tmp_path / "merged") == 2
    assert "does not give the prompts of training any more" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_stops_it_leaves_nothing(save_run, tmp_path, monkeypatch, capsys, stop):
    """After the weights were written, before the card is."""
    run = save_run()
    before = sorted(tmp_path.iterdir())

    def fail(*_):
        assert list(tmp_path.glob(".merged-*/merged/*.safetensors"))
        raise stop

    monkeypatch.setattr(merge_module, "copy_licences", fail)
    assert merged(run, tmp_path / "merged") == (130 if stop is KeyboardInterrupt else 2)
    assert sorted(tmp_path.iterdir()) == before
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("stopped" if stop is KeyboardInterrupt else "No space left on device; nothing was left there")


def test_a_disk_without_room_is_told_before_weights_are_loaded(
    save_run, tmp_path, nothing_is_loaded, monkeypatch, capsys
):
    """37,792 parameters of 2 bytes are 0.08 MB."""
    monkeypatch.setattr(published.shutil, "disk_usage", lambda _: SimpleNamespace(free=75_000))
    assert merged(save_run(), tmp_path / "merged", "--dtype", "bfloat16") == 2
    assert "the model takes 0.1 MB, and the disk has 0.1 MB free" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(published.shutil, "disk_usage", lambda _: SimpleNamespace(free=75_584))
    monkeypatch.setattr(conversation, "load_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert merged(save_run(), tmp_path / "merged", "--dtype", "bfloat16") == 130


def test_a_gpu_that_is_too_small_is_told(save_run, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(merging, "merge", full)
    assert merged(save_run(), tmp_path / "merged") == 2
    assert "CUDA_VISIBLE_DEVICES=''" in capsys.readouterr().out
