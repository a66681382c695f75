"""What is refused before Flower starts."""

import io
import shutil

import pytest
import torch
from places import ROOT
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import T5Config

from fedllm_app.adapters.methods import AdapterValues, adapter_layout, draw_adapter
from fedllm_app.adapters.peft_directory import save_peft_directory
from fedllm_app.class_paths import ClassPathError
from fedllm_app.commands import start_checks
from fedllm_app.commands.main import main
from fedllm_app.commands.start_checks import check_resources, check_start
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.values import data_selection
from fedllm_app.data import client_rows, sources
from fedllm_app.data.client_rows import client_share
from fedllm_app.data.origins import DataNotFound
from fedllm_app.errors import UserError
from fedllm_app.models.location import locate_model
from fedllm_app.process_cache import PROCESS_CACHE


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ({"model.name": "/no/model"}, "/no/model/config.json does not exist"),
        ({"data.name": "/no/rows.csv"}, "data.name = '/no/rows.csv': there is no such file or folder"),
        ({"adapter.start": "/no/run"}, "adapter.start = '/no/run' holds no adapter_model.safetensors"),
        ({"data.template": "/no/own.jinja"}, "/no/own.jinja cannot be read"),
        ({"strategy.name": "no_package.Own"}, "The strategy no_package.Own cannot be imported"),
        ({"train.task": "no_package.OWN"}, "The task no_package.OWN cannot be imported"),
        ({"update.steps": "no_package.Own"}, "The update step no_package.Own cannot be imported"),
        ({"train.corrections": "no_package.Own"}, "The correction no_package.Own cannot be imported"),
    ],
)
def test_a_run_that_cannot_begin_is_refused(overrides, remedy, run_config):
    with pytest.raises(UserError) as caught:
        check_start(parse_run_config(run_config | overrides), local=True)
    assert remedy in str(caught.value)


def test_clients_that_need_more_than_the_machine_has_are_refused(monkeypatch):
    """Unless Ray is told what the machine has."""
    monkeypatch.setattr(start_checks, "cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"client-resources-num-gpus=0\.5: this machine has 0"):
        check_resources("num-supernodes=4 client-resources-num-gpus=0.5")
    with pytest.raises(UserError, match="client-resources-num-cpus=8: this machine has 2"):
        check_resources("num-supernodes=4 client-resources-num-cpus=8")
    check_resources("client-resources-num-cpus=2 client-resources-num-gpus=0")
    check_resources("client-resources-num-cpus=8 init-args-num-cpus=8")
    check_resources("")


def test_what_is_there_passes(run_config, monkeypatch):
    """After the model was held against the run, and the tracker was looked for."""
    looked = []
    monkeypatch.setattr(start_checks, "checked_start", lambda config: looked.append(config.model.name))
    monkeypatch.setattr(start_checks, "check_tracking", lambda tracking: looked.append(tracking.backend))
    check_start(parse_run_config(run_config), local=True)
    assert looked == [run_config["model.name"], "none"]


def test_over_a_connection_files_and_packages_may_be_elsewhere(run_config):
    """Code that can be imported here is checked all the same."""
    elsewhere = {"model.name": "/no/model", "data.name": "/no/rows.csv", "strategy.name": "no_package.Own"}
    check_start(parse_run_config(run_config | elsewhere), local=False)
    with pytest.raises(ClassPathError, match="no subclass"):
        check_start(parse_run_config(run_config | {"strategy.name": "flwr.app.Message"}), local=False)


def test_code_that_fails_while_it_is_imported_is_one_sentence(tmp_path, monkeypatch, capsys):
    """A module of the user's that raises ends `fedllm run` with status 2 and no traceback."""
    (tmp_path / "broken_strategy.py").write_text("raise RuntimeError('half an edit')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(ROOT), "-c", "strategy.name=broken_strategy.Own"]) == 2
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "RuntimeError: half an edit" in shown
    assert "Traceback" not in shown


class TestModels:
    """What the model's files, its kind and the starting adapter forbid is said before Flower starts."""

    @pytest.fixture
    def damaged(self, tiny_model, tmp_path):
        """A copy of the tiny model without one of its weights."""
        copy = shutil.copytree(tiny_model, tmp_path / "copy")
        tensors = load_file(copy / "model.safetensors")
        del tensors["model.norm.weight"]
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        return str(copy)

    @pytest.mark.parametrize("local", [True, False])
    def test_a_damaged_model_that_is_here(self, run_config, damaged, local):
        """Over a connection too, if the directory is on this machine as well."""
        with pytest.raises(UserError, match="would be drawn at random: model.norm.weight"):
            check_start(parse_run_config(run_config | {"model.name": damaged}), local=local)

    @pytest.mark.parametrize(
        ("overrides", "remedy"),
        [
            ({"lora.target-modules": "q_proj,v_porj"}, "'v_porj' is no module of this model"),
            ({"train.max-length": 4000}, "train.max-length = 4000: must be at most 512"),
            ({"model.quantization": "none", "adapter.start": "STORED"}, "lora.r = 4 here: set lora.r = 8"),
        ],
    )
    def test_what_does_not_fit_the_model(self, run_config, tiny_model, tmp_path, overrides, remedy):
        values = AdapterValues(8, 16, 0.0, "all-linear")
        layout = adapter_layout(locate_model(str(tiny_model)), values)
        save_peft_directory(tmp_path / "stored", draw_adapter(layout.manifest, 0), layout)
        named = {key: str(tmp_path / "stored") if value == "STORED" else value for key, value in overrides.items()}
        with pytest.raises(UserError) as caught:
            check_start(parse_run_config(run_config | {"lora.r": 4} | named), local=True)
        assert remedy in str(caught.value)

    def test_a_run_of_it_never_starts_flower(self, damaged, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("fedllm_app.commands.run.LocalSuperLink", lambda *_: pytest.fail("Flower was started"))
        assert main(["run", str(ROOT), "-c", f"model.name={damaged}"]) == 2
        assert "model.norm.weight" in capsys.readouterr().out

    def test_a_plan_says_it_in_the_same_words(self, damaged, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["plan", str(ROOT), "-c", f"model.name={damaged}"]) == 2
        assert "model.norm.weight" in capsys.readouterr().out

    def test_an_encoder_decoder_model_is_one_sentence(self, tmp_path, monkeypatch, capsys):
        T5Config(d_model=32, num_layers=1, num_heads=2, d_ff=32, vocab_size=300).save_pretrained(tmp_path / "t5")
        save_file({"shared.weight": torch.zeros(300, 32)}, tmp_path / "t5" / "model.safetensors")
        monkeypatch.chdir(tmp_path)
        assert main(["plan", str(ROOT), "-c", f"model.name={tmp_path / 't5'}"]) == 2
        shown = capsys.readouterr().out
        assert "is an encoder-decoder model (t5)" in " ".join(shown.split())
        assert len(shown) < 600


def test_a_relative_path_of_data_is_refused_before_flower_starts(run_config):
    config = parse_run_config(run_config | {"data.name": "data/tickets.csv"})
    with pytest.raises(DataNotFound, match=r"'data/tickets\.csv' is a relative path; give an absolute one"):
        check_start(config, local=True)
    check_start(config, local=False)  # sites say themselves where their data is


class TestRows:
    """What the rows of this machine forbid is said before Flower starts, in the words of the clients."""

    @pytest.fixture
    def rows(self, tmp_path):
        """Eight rows of questions and answers."""
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f'{{"question": "What is {n}?", "answer": "{n}"}}\n' for n in range(8)))
        return path

    @pytest.mark.parametrize(
        ("overrides", "remedy"),
        [
            ({"data.prompt-column": "qestion"}, "data has no column 'qestion' (given for prompt)"),
            ({"train.task": "dpo"}, "the columns (answer, question) fit no schema of pair rows"),
            ({"clients.number": 9}, "8 rows cannot be divided among 9 clients"),
            ({"clients.number": 3, "data.minimum-rows": 2}, "would train on 1 rows, fewer than data.minimum-rows = 2"),
            ({"data.partition": "natural-id", "data.partition-column": "site"}, "the data has no column 'site'"),
            ({"data.test": "/no/rows.jsonl"}, "data.test = '/no/rows.jsonl': there is no such file or folder"),
            ({"data.test": "EMPTY"}, "holds no readable row"),
            ({"data.name": "ROWS,EMPTY", "data.partition": "by-domain"}, "holds no readable row"),
        ],
    )
    def test_what_the_rows_forbid(self, overrides, remedy, rows, run_config, tmp_path):
        """Three clients of eight rows have 3, 3 and 2: of two rows, one is held out."""
        (tmp_path / "empty.jsonl").write_text("\n")
        places = {"ROWS": str(rows), "EMPTY": str(tmp_path / "empty.jsonl")}
        named = {"data.name": "ROWS", "clients.number": 2} | overrides
        for key in ("data.name", "data.test"):
            if key in named:
                named[key] = ",".join(places.get(name, name) for name in named[key].split(","))
        with pytest.raises(UserError) as caught:
            check_start(parse_run_config(run_config | named), local=True)
        assert remedy in str(caught.value)

    def test_an_unreadable_row_is_named(self, rows, run_config):
        rows.write_text(rows.read_text() + '{"question": "no answer"}\n')
        with pytest.raises(UserError, match=r"1 of 9 rows \(11\.11%\) cannot be used"):
            check_start(parse_run_config(run_config | {"data.name": str(rows)}), local=True)

    def test_the_clients_find_the_rows_read(self, rows, run_config, monkeypatch):
        """What was converted and divided here is not converted or divided again."""
        config = parse_run_config(run_config | {"data.name": str(rows), "clients.number": 2})
        check_start(config, local=True)
        monkeypatch.setattr(sources, "_build", lambda *_: pytest.fail("converted again"))
        monkeypatch.setattr(client_rows, "partition", lambda *_, **__: pytest.fail("divided again"))
        PROCESS_CACHE.clear()  # a client is another process
        shares = [client_share(data_selection(config, 2, "example"), client) for client in range(2)]
        assert sum(len(share.train) + len(share.held_out) for share in shares) == 8

    @pytest.mark.parametrize("terminal", [True, False])
    def test_a_terminal_says_that_they_are_read(self, terminal, rows, run_config):
        """A log, or a notebook, has no line that is drawn anew."""
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        check_start(parse_run_config(run_config | {"data.name": str(rows)}), local=True, console=console)
        assert ("reading the data" in console.file.getvalue()) == terminal

    def test_how_many_nodes_there_will_be_is_not_guessed(self, rows, run_config, app_home, monkeypatch):
        """The set is read, so that its own faults are told, and not divided."""
        monkeypatch.setattr(client_rows, "partition", lambda *_, **__: pytest.fail("divided"))
        check_start(parse_run_config(run_config | {"data.name": str(rows), "clients.number": 0}), local=True)
        assert len(list((app_home / "sources").iterdir())) == 1

    def test_rows_that_must_be_fetched_are_left_to_the_clients(self, run_config, monkeypatch):
        monkeypatch.setattr(start_checks, "check_rows", lambda _: pytest.fail("looked for"))
        check_start(parse_run_config(run_config | {"data.name": "owner/rows"}), local=True)

    def test_a_run_of_them_never_starts_flower(self, rows, tiny_model, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("fedllm_app.commands.run.LocalSuperLink", lambda *_: pytest.fail("Flower was started"))
        chosen = f"model.name={tiny_model} data.name='{rows}' data.prompt-column=qestion"
        assert main(["run", str(ROOT), "-c", chosen]) == 2
        assert "Did you mean 'question'?" in " ".join(capsys.readouterr().out.split())
