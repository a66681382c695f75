"""`fedllm chat`: what the model reads is what it was trained on, what it says is what the adapter makes of it."""

import io
import json
import shutil
from dataclasses import replace

import pytest
import torch
from in_process import run_in_process
from rich.console import Console

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.methods import METHODS
from fedllm_app.client.build import local_client
from fedllm_app.commands.chat import converse
from fedllm_app.commands.main import main
from fedllm_app.data.encoding import encode_prompts
from fedllm_app.evaluation import conversation as chat_module
from fedllm_app.evaluation.conversation import Chat, find_source
from fedllm_app.evaluation.generation import ContextTooLong, generate

JINJA = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
HI = [("user", "Hi")]


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    """Weights must not be loaded."""
    monkeypatch.setattr(chat_module, "load_model", lambda *_: pytest.fail("weights were loaded"))


def opened(directory, client=None, base=False, tokens=8, temperature=0.0, **options) -> Chat:
    return Chat(find_source(directory, client, **options), base, tokens, temperature)


def what_is_read(chat: Chat, turns) -> list[int]:
    """The token ids that the model is given for a conversation, seen at its embedding."""
    read = []
    embedding = chat.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0][0].tolist()))
    chat.answer(turns)
    handle.remove()
    return read[0]


@pytest.mark.parametrize("template", ["vicuna", "alpaca", "tokenizer", "own.jinja"])
@pytest.mark.parametrize("system_prompt", ["", "Be brief."])
def test_a_trained_row_is_read_as_it_was_trained(run_config, tmp_path, template, system_prompt):
    """A whole run on a file of conversations. The prompt of a row is what a client's shard holds before the completion.

    The Jinja file has gone since, or says something else; a prompt of three turns has an answer in it.
    """
    rows = [[*HI, ("assistant", "Yo"), ("user", f"And {number}?"), ("assistant", "No")] for number in range(8)]
    messages = [[{"role": role, "content": content} for role, content in row] for row in rows]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in messages))
    file = tmp_path / template
    if template.endswith(".jinja"):
        file.write_text(JINJA)
        template = str(file)
    flat = run_config | {
        "data.name": str(data),
        "data.template": template,
        "data.system-prompt": system_prompt,
        "clients.number": 1,
        "data.held-out-examples": 1,
        "train.rounds": 1,
        "train.local-steps": 1,
        "evaluate.every": 0,
        "train.max-length": 256,
    }
    run_in_process(flat, tmp_path / "run")
    shard = local_client(6, tuple(sorted(flat.items())), 1).shards(0).train
    trained = {tuple(ids[:start].tolist()) for ids, start in map(shard.example, range(len(shard)))}
    if system_prompt:
        file.write_text("other text") if file.exists() else None
    else:
        file.unlink(missing_ok=True)
    chat = opened(tmp_path / "run")
    read = {tuple(what_is_read(chat, row[:3])) for row in rows}
    assert len(trained) == 7  # one of eight is held out
    assert trained < read


def greedy(model, prompt: list[int], tokens: int, end: int) -> list[int]:
    """The likeliest token each time, by a whole forward pass for each, until `end`."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + tokens and ids[-1] != end:
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_the_answer_is_the_likeliest_token_each_time_up_to_the_end_token(save_run):
    """No more tokens than asked for; the pieces that are shown are the answer."""
    chat = opened(save_run(), tokens=12)
    prompt = what_is_read(chat, HI)
    expected = greedy(chat.model, prompt, 12, chat.tokenizer.eos_token_id)
    assert len(set(expected)) > 6
    pieces = []
    answer = chat.answer(HI, pieces.append)
    assert answer == chat.tokenizer.decode(expected, skip_special_tokens=True).removeprefix(" ")
    assert "".join(pieces) == answer
    assert len(pieces) > 3
    # Were its fourth token the end token, the answer would end there.
    chat.template = replace(chat.template, end=chat.tokenizer.convert_ids_to_tokens(expected[3]))
    first = expected[: expected.index(expected[3])]
    assert chat.answer(HI) == chat.tokenizer.decode(first, skip_special_tokens=True).removeprefix(" ")


def test_a_penalty_in_the_models_files_does_not_bend_answers(save_run, tiny_model, tmp_path):
    other = tmp_path / "model"
    shutil.copytree(tiny_model, other)
    (other / "generation_config.json").write_text('{"repetition_penalty": 9.0, "top_k": 3, "eos_token_id": [40, 41]}')
    run = save_run()
    assert opened(run, tokens=20, model=str(other)).answer(HI) == opened(run, tokens=20).answer(HI)


def test_what_a_template_puts_before_an_answer_is_no_part_of_it(save_run, monkeypatch):
    """Vicuna's space, and the bytes of a letter that arrive one by one: é is two tokens of this tokenizer."""
    chat = opened(save_run("vicuna"))
    said = chat.tokenizer(" né né", add_special_tokens=False)["input_ids"]

    def speak(input_ids, streamer, **_options):
        streamer.put(input_ids)
        for token in said:
            streamer.put(torch.tensor([token]))
        streamer.end()
        return torch.cat([input_ids, torch.tensor([said])], 1)

    monkeypatch.setattr(chat.model, "generate", speak)
    pieces = []
    assert chat.answer(HI, pieces.append) == "né né"
    assert [piece for piece in pieces if piece] == ["n", "é", " ", "n", "é"]


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_answers_as_it_computes(save_run, method):
    """Generation keeps a cache of keys and values; full forward passes say the same. The base says something else."""
    run = save_run(method=method)
    chat, base = opened(run), opened(run, base=True)
    prompt = what_is_read(base, HI)
    ids = [greedy(model, prompt, 8, chat.tokenizer.eos_token_id) for model in (chat.model, base.model)]
    answers = [text.removeprefix(" ") for text in chat.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert [chat.answer(HI), base.answer(HI)] == answers
    assert answers[0] != answers[1]
    with chat.model.disable_adapter():
        assert chat.answer(HI) == answers[1]


def test_quantization_is_that_of_the_run(save_run):
    chat = opened(save_run(model__quantization="int8"))
    assert "Linear8bitLt" in {type(module).__name__ for module in chat.model.modules()}
    assert chat.answer(HI)


def test_temperature_draws_from_the_whole_vocabulary(save_run):
    """At a high temperature all 300 tokens are about as likely: of the 128 letters of ASCII, a share 1 / e is in none
    of 300 draws, which leaves 81. The fifty likeliest alone would be 50. At zero there is one.
    """
    chat = opened(save_run())
    prompts = encode_prompts([HI] * 300, chat.template, chat.tokenizer, None)
    torch.manual_seed(0)
    kinds = [set(generate(chat.model, chat.tokenizer, chat.template, prompts, 1, t)) for t in (1e6, 0.0)]
    assert len(kinds[0]) > 60
    assert len(kinds[1]) == 1
    assert opened(chat.source.adapter, temperature=1e6).answer(HI) != opened(chat.source.adapter).answer(HI)


def test_one_shot_prints_the_answer_and_nothing_else(save_run, capsys, monkeypatch):
    """As it is: neither wrapped nor read as markup."""
    run = save_run()
    expected = opened(run).answer([("user", "[bold]Hi[/]")])
    assert main(["chat", str(run), "--prompt", "[bold]Hi[/]", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out == expected + "\n"
    without = opened(run, base=True).answer(HI)
    assert main(["chat", str(run), "--prompt", "Hi", "--max-new-tokens", "8", "--base"]) == 0
    assert capsys.readouterr().out == without + "\n"
    written = "[red]1[/red] " + "a long line " * 30
    monkeypatch.setattr(chat_module, "generate", lambda *given: given[-1](written) or [written])
    assert main(["chat", str(run), "--prompt", "Hi"]) == 0
    assert capsys.readouterr().out == written + "\n"


def typed(monkeypatch, lines: list[str]) -> tuple[Console, io.StringIO]:
    """A console at which these lines are typed, and then Ctrl-D."""
    waiting = iter(lines)

    def read(*_prompt):
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    shown = io.StringIO()
    return Console(file=shown, width=40), shown


def test_a_conversation(save_run, monkeypatch):
    """Turns add up, with the model's own answers in them; /reset forgets; an empty line ends."""
    chat, asked = opened(save_run(), tokens=4), []
    answer = chat.answer

    def listen(turns, show):
        asked.append(list(turns))
        return answer(turns, show)

    chat.answer = listen
    console, shown = typed(monkeypatch, ["One?", "Two?", "/reset", "Three?", "", "Four?"])
    converse(chat, console)
    first = answer(asked[0])
    assert asked == [
        [("user", "One?")],
        [("user", "One?"), ("assistant", first), ("user", "Two?")],
        [("user", "Three?")],
    ]
    assert first in shown.getvalue()


def test_ctrl_d_ends(save_run, monkeypatch):
    """After what was typed before it has been answered, and nothing else."""
    chat, asked = opened(save_run()), []
    monkeypatch.setattr(chat, "answer", lambda turns, _show: asked.append(list(turns)) or "Yo")
    console, _ = typed(monkeypatch, ["Hi"])
    converse(chat, console)
    assert asked == [[("user", "Hi")]]


def test_a_turn_that_does_not_fit_is_refused_and_forgotten(save_run, monkeypatch):
    """The tiny model reads 512 tokens, one a byte; the conversation goes on without the long turn."""
    chat, read = opened(save_run("none"), tokens=4), []
    monkeypatch.setattr(chat_module, "generate", lambda model, tokenizer, template, ids, *_: read.extend(ids) or ["Yo"])
    console, shown = typed(monkeypatch, ["Hi", "x" * 600, "Bye"])
    converse(chat, console)
    assert "the model reads 512 at most" in " ".join(shown.getvalue().split())
    assert chat.tokenizer.batch_decode(read) == ["<|begin|>Hi\n", "<|begin|>Hi\nYo\nBye\n"]


def test_room_for_an_answer_is_counted_with_the_virtual_tokens(save_run, nothing_is_loaded, monkeypatch):
    """A prompt of n tokens, 5 virtual ones, and an answer of 512 - 5 - n: one more is too many. The base has no 5."""
    monkeypatch.setattr(chat_module, "generate", lambda *_: ["Yo"])
    monkeypatch.setattr(Chat, "model", None)
    run = save_run(method="prompt-tuning")
    chat = opened(run)
    prompt = len(chat.tokenizer(chat.template.render_prompt(HI, None), add_special_tokens=False)["input_ids"])
    assert opened(run, tokens=507 - prompt).answer(HI) == "Yo"
    assert opened(run, tokens=512 - prompt, base=True).answer(HI) == "Yo"
    with pytest.raises(ContextTooLong, match=f"takes {prompt + 5} tokens and an answer up to {508 - prompt}, and"):
        opened(run, tokens=508 - prompt).answer(HI)


def without_a_template(save_run):
    run = save_run()
    (run / "adapter" / "prompt.json").unlink()
    return [str(run)]


def without_a_base(save_run):
    run = save_run()
    (run / "journal.jsonl").unlink()
    settings = json.loads((run / "adapter" / "adapter_config.json").read_text())
    (run / "adapter" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    return [str(run)]


def without_weights(save_run):
    run = save_run()
    (run / "adapter" / "adapter_model.safetensors").unlink()
    return [str(run)]


def of_an_older_version(save_run):
    run = save_run()
    config = json.loads((run / "config.json").read_text())
    del config["model.quantization"]
    (run / "config.json").write_text(json.dumps(config))
    return [str(run)]


def with_a_strange_record(save_run):
    run = save_run()
    (run / "adapter" / "prompt.json").write_text('{"form": "vicuna"}')
    return [str(run)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda save: [str(save().parent)], "holds no adapter (adapter_config.json)"),
        (lambda save: [str(save()), "--client", "1"], "--client 1"),
        (lambda save: [str(save(clients=3, strategy__name="local")), "--client", "7"], "that have one: 0, 1, 2"),
        (lambda save: [str(save(clients=2, strategy__name="local"))], "no common model: add --client K to"),
        (
            lambda save: [str(save(clients=2, strategy__name="local") / "checkpoints" / "round-1")],
            "clients that have one: 0, 1",
        ),
        (lambda save: [str(save()), "--model", "/no/model"], "/no/model/config.json does not exist"),
        (lambda save: [str(save(model__name="/gone"))], "/gone/config.json does not exist; --model names another"),
        (without_a_base, "names no base model: name it with --model"),
        (without_weights, "holds no weights"),
        (of_an_older_version, "its config.json has no model.quantization"),
        (with_a_strange_record, "cannot be read as the record of a template"),
        (without_a_template, "does not say how its prompts were written: name its template with --template"),
        (lambda save: [str(save()), "--template", "vicunia"], "unknown template 'vicunia'"),
        (lambda save: [str(save("/not/here.jinja"))], "/not/here.jinja cannot be read"),
        (lambda save: [str(save()), "--prompt", "x" * 600], "and the model reads 512 at most"),
    ],
)
def test_errors_come_before_weights_are_loaded_and_end_with_2(
    save_run, nothing_is_loaded, capsys, arguments, said, monkeypatch
):
    typed(monkeypatch, [])
    assert main(["chat", *arguments(save_run)]) == 2
    assert said in " ".join(capsys.readouterr().out.split())


def test_dora_on_8_bit_weights_is_refused_here_too(save_run, nothing_is_loaded):
    """Without a GPU, as in training; with other weights, or without the adapter, there is nothing to refuse."""
    run = save_run(dora=True)
    with pytest.raises(AdapterError, match="lora.dora with model.quantization = 'int8' needs a GPU"):
        _ = opened(run, quantization="int8").model
    assert find_source(run).dora
    assert not find_source(save_run()).dora


def test_one_shot_streams(save_run, monkeypatch):
    """Each piece is on the terminal before the next one is generated."""
    seen = []

    def speak(*given):
        for piece in ("Yo", " you"):
            given[-1](piece)
            seen.append(shown.getvalue())
        return ["Yo you"]

    monkeypatch.setattr(chat_module, "generate", speak)
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    assert main(["chat", str(save_run()), "--prompt", "Hi"]) == 0
    assert [*seen, shown.getvalue()] == ["Yo", "Yo you", "Yo you\n"]


@pytest.mark.parametrize("method", list(METHODS))
def test_base_and_adapter_answer_over_one_base(save_run, method, monkeypatch):
    """`--compare` says what `--base` and the plain command say, and loads the weights once."""
    run = save_run(method=method)
    own, base = opened(run).answer(HI), opened(run, base=True).answer(HI)
    assert own != base
    loads = []
    load = chat_module.load_model
    monkeypatch.setattr(chat_module, "load_model", lambda values: loads.append(values) or load(values))
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    assert main(["chat", str(run), "--prompt", "Hi", "--max-new-tokens", "8", "--compare"]) == 0
    assert shown.getvalue() == f"base model:\n{base}\n\nwith the adapter:\n{own}\n"
    assert len(loads) == 1


def test_each_of_both_sees_its_own_answers(save_run, monkeypatch):
    """And after /reset none; a turn that does not fit is forgotten by both."""
    chat, asked = opened(save_run()), []

    def answer(turns, show, without_adapter=False):
        asked.append((without_adapter, list(turns)))
        if turns[-1] == ("user", "long") and not without_adapter:
            raise ContextTooLong("too long")
        said = f"{'base' if without_adapter else 'own'} {len(turns)}"
        show(said)
        return said

    chat.answer = answer
    console, shown = typed(monkeypatch, ["One?", "long", "Two?", "/reset", "Three?"])
    converse(chat, console, compare=True)
    one, two, three, long = (("user", text) for text in ("One?", "Two?", "Three?", "long"))
    histories = {
        True: [[one], [one, ("assistant", "base 1"), long], [one, ("assistant", "base 1"), two], [three]],
        False: [[one], [one, ("assistant", "own 1"), long], [one, ("assistant", "own 1"), two], [three]],
    }
    for base, expected in histories.items():
        assert [turns for without, turns in asked if without is base] == expected
    assert "base model:\nbase 3\n\nwith the adapter:\nown 3\n" in shown.getvalue()
    assert "too long" in shown.getvalue()


def test_the_base_alone_is_not_compared(save_run, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["chat", "anywhere", "--base", "--compare"])
    assert ended.value.code == 2
    assert "--compare: not allowed with argument --base" in capsys.readouterr().err
