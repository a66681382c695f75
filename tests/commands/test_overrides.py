"""What `--run-config` gives, and the paths in it."""

import pytest
from places import ROOT

from fedllm_app.commands.overrides import read_overrides, resolve_paths
from fedllm_app.config.sections import ConfigError

DEFAULTS = {"data.split": "", "data.system-prompt": "", "strategy.name": "fedavg", "train.rounds": 6, "lora.r": 8}


def test_overrides_merge_and_later_ones_win(tmp_path):
    file = tmp_path / "few.toml"
    file.write_text('"lora.r" = 4\n[train]\nrounds = 3\nlearning-rate = 1e-5\n[strategy]\nname = "fedprox"\n')
    given = ["train.rounds=9 lora.alpha=32", str(file), "lora.r=2 run.seed=1", 'strategy.name="fedadam"']
    assert read_overrides(given, DEFAULTS) == {
        "lora.alpha": 32,
        "lora.r": 2,
        "run.seed": 1,
        "strategy.name": "fedadam",
        "train.learning-rate": 1e-5,
        "train.rounds": 3,
    }
    assert read_overrides([], DEFAULTS) == {}


def test_a_yaml_file_is_read_like_toml(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  rounds: 3\nlora.r: 4\nstrategy: {name: fedprox, fedprox: {mu: 0.5}}\n")
    read = {"train.rounds": 3, "lora.r": 4, "strategy.name": "fedprox", "strategy.fedprox.mu": 0.5}
    assert read_overrides([str(file)], DEFAULTS) == read


@pytest.mark.parametrize("text", ["cpu", "cpu.toml", "conf/cpu.toml"])
def test_a_preset_goes_by_its_name_where_there_is_no_such_file(text, tmp_path, monkeypatch):
    """A file of the user's with the name of a preset is that file."""
    monkeypatch.chdir(tmp_path)
    preset = read_overrides([str(ROOT / "conf" / "cpu.toml")], DEFAULTS)
    assert preset["model.name"] == "smollm2-135m-instruct"
    assert read_overrides([text, "train.rounds=9"], DEFAULTS) == preset | {"train.rounds": 9}
    if text.endswith(".toml"):
        (tmp_path / "conf").mkdir()
        (tmp_path / text).write_text("lora.r = 2")
        assert read_overrides([text], DEFAULTS) == {"lora.r": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("strategy.name=fedprox", {"strategy.name": "fedprox"}),
        ("data.system-prompt=Be brief, please.", {"data.system-prompt": "Be brief, please."}),
        ("data.system-prompt='Be brief.' train.rounds=2", {"data.system-prompt": "Be brief.", "train.rounds": 2}),
        ("data.split=2024", {"data.split": "2024"}),
        ("data.split=true", {"data.split": "true"}),
        ("lora.dora=true train.learning-rate=1e-4", {"lora.dora": True, "train.learning-rate": 1e-4}),
        ("data.name=''", {"data.name": ""}),
        ("data.name=C:\\rows.csv", {"data.name": "C:\\rows.csv"}),
    ],
)
def test_values(text, expected):
    """Text stands as it is, also where it looks like a number and the default is text."""
    assert read_overrides([text], DEFAULTS) == expected


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("train.rounds", "key=value pairs"),
        ("rounds=3", "'rounds' is no key; keys have a section and a name"),
        ("train.rounds: 3", "'=' instead of ':'"),
        ("train.rounds = 3", "no blanks around '='"),
        ("train.rounds=2, lora.r=2", "separate pairs by blanks, without the comma in '2,'"),
        ("train.rounds=", "train.rounds has no value"),
        ("train.rounds=3 4 lora.r=2", "cannot read '4"),
        ("fedit-finanze", "did you mean fedit-finance?"),
        ("few.toml", "there is no such file"),
        ("few.yaml", "there is no such file"),
        (
            "data.name='/d/x.csv train.rounds=3",
            "the value of data.name begins with ' and lacks the ' at its end: '/d/x.csv",
        ),
        ('train.rounds=3 data.name="/d/x.csv', 'the value of data.name begins with " and lacks the " at its end'),
        ("data.system-prompt='it's fine' lora.r=2", "the value of data.system-prompt begins with ' and lacks"),
    ],
)
def test_each_mistake_has_its_sentence(text, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_overrides([text], DEFAULTS)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ['data.system-prompt="it\'s fine" lora.r=2', "data.system-prompt='a x.y=\"b' lora.r=2", "lora.r=2 data.name=it's"],
)
def test_quotes_inside_of_text_are_no_mistake(text):
    assert read_overrides([text], DEFAULTS)["lora.r"] == 2


@pytest.mark.parametrize(
    ("text", "beside"),
    [("tickets.tml", "tickets.toml"), ("Tickets.toml", "tickets.toml"), ("{here}/tikets.yaml", "{here}/tickets.yaml")],
)
def test_a_mistyped_file_name_is_told_what_lies_there(text, beside, tmp_path, monkeypatch):
    """Relative as it was given; nothing is told where no name is alike."""
    monkeypatch.chdir(tmp_path)
    for name in ("tickets.toml", "tickets.yaml", "other.csv"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        read_overrides([text.format(here=tmp_path)], DEFAULTS)
    assert f"did you mean {beside.format(here=tmp_path)}" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        read_overrides(["nothing-alike.toml"], DEFAULTS)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("a.toml", "[train"), ("a.yaml", "train: ["), ("b.yaml", "just text")])
def test_broken_files_are_named(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=name):
        read_overrides([str(tmp_path / name)], DEFAULTS)


def test_a_directory_after_the_option_is_explained(tmp_path):
    with pytest.raises(ConfigError, match="the app's directory comes before --run-config"):
        read_overrides([str(tmp_path)], DEFAULTS)


def test_relative_paths_are_those_of_the_working_directory(tmp_path):
    """What is there or must be a path becomes absolute; named sets and Hub ids stay."""
    (tmp_path / "rows.csv").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    flat = {
        "run.directory": "runs/one",
        "adapter.start": "../before",
        "data.template": "mine.jinja",
        "model.name": "model",
        "data.name": "rows.csv,gsm8k,owner/name",
    }
    assert resolve_paths(flat, tmp_path, local=True) == {
        "run.directory": str(tmp_path / "runs" / "one"),
        "adapter.start": str(tmp_path.parent / "before"),
        "data.template": str(tmp_path / "mine.jinja"),
        "model.name": str(tmp_path / "model"),
        "data.name": f"{tmp_path / 'rows.csv'},gsm8k,owner/name",
    }
    assert resolve_paths(flat, tmp_path, local=False)["run.directory"] == "runs/one"
    kept = {
        "run.directory": "",
        "adapter.start": "",
        "data.template": "chatml",
        "model.name": "a/b",
        "data.name": "gsm8k",
        "evaluate.suite": "finance",
        "evaluate.suite-data": "",
    }
    assert resolve_paths(kept, tmp_path, local=True) == kept


@pytest.mark.parametrize(
    ("suite", "resolved"),
    [
        ("own.py", "{here}/own.py"),
        ("../own.py", "{above}/own.py"),
        ("file:rows.jsonl", "file:{here}/rows.jsonl"),
        ("file:/data/rows.jsonl", "file:/data/rows.jsonl"),
    ],
)
def test_a_suite_that_is_a_file_is_one_of_the_working_directory(suite, resolved, tmp_path):
    """Over a connection as well: there, too, the path of the terminal means nothing as it stands."""
    flat = {"evaluate.suite": suite, "evaluate.suite-data": "sets"}
    for local in (True, False):
        assert resolve_paths(flat, tmp_path, local) == {
            "evaluate.suite": resolved.format(here=tmp_path, above=tmp_path.parent),
            "evaluate.suite-data": str(tmp_path / "sets"),
        }
