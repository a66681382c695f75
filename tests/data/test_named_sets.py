"""Public sets by name, and the names in `data.name`. The Hub is replaced by a function: nothing is fetched."""

import pytest

from fedllm_app.data.named_sets import NAMED_SETS, set_names
from fedllm_app.data.schemas import recognise
from fedllm_app.data.sources import open_source


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def read_all(source):
    return list(source.examples(range(len(source))))


NAMED_ROWS = {
    "alpaca": {"instruction": "Add.", "input": "1 1", "output": "2", "text": "Below is ..."},
    "alpaca-gpt4": {"instruction": "Add.", "input": "", "output": "2", "text": "Below is ..."},
    "fingpt-sentiment": {"input": "Profit rose.", "output": "positive", "instruction": "What is the sentiment?"},
    "medical-flashcards": {"input": "What is PTH?", "output": "A hormone.", "instruction": "Answer truthfully"},
    "code-alpaca": {"instruction": "Print 1.", "input": "", "output": "print(1)"},
    "math-instruct": {"source": "data/CoT/a.json", "output": "The answer is 2", "instruction": "1+1?"},
    "wizardlm": {"instruction": "Explain tides.", "output": "The moon pulls."},
    "gsm8k": {"question": "1+1?", "answer": "1+1=2\n#### 2"},
    "math": {"problem": "1+1?", "level": "Level 1", "type": "Algebra", "solution": "$\\boxed{2}$"},
    "ultrafeedback": {
        "prompt": "Hi",
        "prompt_id": "0f",
        "chosen": [{"content": "Hi", "role": "user"}, {"content": "Hello", "role": "assistant"}],
        "rejected": [{"content": "Hi", "role": "user"}, {"content": "No", "role": "assistant"}],
        "messages": [{"content": "Hi", "role": "user"}, {"content": "Hello", "role": "assistant"}],
        "score_chosen": 8.0,
        "score_rejected": 2.0,
    },
    "hh-rlhf": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
}


@pytest.mark.parametrize("name", NAMED_SETS)
def test_every_named_set_through_the_hub_call(name, cache, monkeypatch):
    """What the Hub call returns is read like any table, once a configuration of the set."""
    import datasets

    named, calls = NAMED_SETS[name], []

    def load_dataset(hub_id, config, *, split):
        calls.append((hub_id, config, split))
        return datasets.Dataset.from_list([NAMED_ROWS[name]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source(name, rows=named.rows, cache_dir=cache)
    assert source.schema == named.schema
    assert len(read_all(source)) == max(1, len(named.configs))
    assert calls == [(named.hub_id, config, named.split) for config in named.configs or (None,)]
    assert recognise(NAMED_ROWS[name].keys(), named.rows).schema.name == named.schema


def test_every_named_set_says_where_it_is_from():
    assert set(NAMED_ROWS) == set(NAMED_SETS)
    for named in NAMED_SETS.values():
        assert named.url == f"https://huggingface.co/datasets/{named.hub_id}"
        assert named.licence and named.split and named.rows in ("example", "pair")


@pytest.mark.parametrize("name", NAMED_SETS)
def test_a_local_copy_of_a_named_set_is_used_when_its_directory_is_named(name, tmp_path, cache, monkeypatch):
    """The files as the Hub keeps them, a test split beside the training split; the Hub is not asked."""
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_options: pytest.fail("the Hub was asked"))
    named, folder = NAMED_SETS[name], tmp_path / name
    for config in named.configs or ("data",):
        for split in (named.split, "test"):
            path = folder / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list([NAMED_ROWS[name]]).to_parquet(path)
    source = open_source(str(folder), rows=named.rows, cache_dir=cache)
    assert (source.schema, len(source)) == (named.schema, max(1, len(named.configs)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("alpaca", ["alpaca"]),
        ("alpaca, /data/notes.csv ,a/b", ["alpaca", "/data/notes.csv", "a/b"]),
        ('"/data/notes, old.csv",alpaca', ["/data/notes, old.csv", "alpaca"]),
        ('"/data/notes, old.csv"', ["/data/notes, old.csv"]),
        ("a,,b", ["a", "", "b"]),
        ("", [""]),
    ],
)
def test_names_separated_by_commas(names, expected):
    assert set_names(names) == expected


def test_a_path_that_is_there_is_one_name(tmp_path):
    (tmp_path / "notes, old.csv").touch()
    assert set_names(str(tmp_path / "notes, old.csv")) == [str(tmp_path / "notes, old.csv")]
    assert len(set_names(str(tmp_path / "notes, new.csv"))) == 2
    assert set_names("/" + "x" * 5000) == ["/" + "x" * 5000]
