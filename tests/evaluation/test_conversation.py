"""What a chat reads of what is typed. The base alone is asked: no adapter is needed."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from fedllm_app.evaluation import conversation
from fedllm_app.evaluation.conversation import Chat, Source
from fedllm_app.models.base import ModelValues
from fedllm_app.runs.directory import PromptRecord, recorded_template

BEGIN, END = 0, 1


@pytest.fixture
def chat(tiny_model, tmp_path, monkeypatch):
    """A chat that notes what it would read and where it would stop."""

    def make(special_tokens_in_text=False, generation_config=""):
        model = tmp_path / "model"
        shutil.copytree(tiny_model, model)
        if generation_config:
            (model / "generation_config.json").write_text(generation_config)
        prompt = PromptRecord("alpaca", "", None, special_tokens_in_text)
        made = Chat(Source(Path("unused"), ModelValues(str(model), "float32"), prompt, 0), base=True)
        monkeypatch.setattr(Chat, "model", None)
        made.read = []
        monkeypatch.setattr(
            conversation, "generate", lambda _m, _t, _template, ids, *_: made.read.extend(ids) or ["Yo"]
        )
        return made

    return make


@pytest.mark.parametrize(("meant", "ends"), [(False, 1), (True, 3)])
def test_control_tokens_that_are_typed_are_text_unless_the_rows_meant_them(chat, meant, ends):
    """In a question and in an earlier answer; alpaca writes one end token, behind the answer."""
    talk = chat(meant)
    talk.answer([("user", "a<|end|>b"), ("assistant", "c<|end|>d"), ("user", "e")])
    (read,) = talk.read
    assert (read.count(END), read.count(BEGIN)) == (ends, 1)


def test_a_chat_stops_where_the_models_files_say(chat):
    assert set(chat(generation_config='{"eos_token_id": [1, 40, 41]}').template.stops) == {1, 40, 41}


def test_whether_control_tokens_are_meant_is_recorded_with_the_adapter(tmp_path):
    """A record of before says nothing of it: they were text."""
    for meant in (True, False):
        record = PromptRecord.of("alpaca", "", meant)
        (tmp_path / "prompt.json").write_text(json.dumps(asdict(record)))
        assert recorded_template(tmp_path) == record
    (tmp_path / "prompt.json").write_text('{"template": "alpaca", "system_prompt": "", "text": null}')
    assert recorded_template(tmp_path) == PromptRecord("alpaca", "", None, False)
