"""Opening sources from local files. The Hub is replaced by a function: nothing is fetched."""

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from places import SHARED_DATA as SHARED

from fedllm_app.data.examples import Example, PreferencePair
from fedllm_app.data.readers import BATCH, AmbiguousSplit, UnreadableFile, arrow_batches, read_files
from fedllm_app.data.schemas import Columns, UnknownColumn, UnknownSchema, recognise
from fedllm_app.data.sources import NAMED_SETS, DataNotFound, EmptySource, TooManyBadRows, UnknownLabel, open_source

ROWS = [{"prompt": f"question {i}", "completion": f"answer {i}", "topic": "ab"[i % 2], "n": i} for i in range(5)]
EXAMPLES = [Example((("user", f"question {i}"),), f"answer {i}") for i in range(5)]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_all(source):
    return list(source.examples(range(len(source))))


def write_as(kind, folder):
    """Write `ROWS` in one of the accepted forms; return the path to open."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif kind == "json":
        path.write_text("\ufeff \n" + json.dumps(ROWS, indent=1))
    elif kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        lines = [ROWS[0].keys(), *map(dict.values, ROWS)]
        path.write_text("\ufeff" + "".join(mark.join(map(str, line)) + "\n" for line in lines))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind in ("arrow", "arrow-stream"):
        path = folder / f"{kind}.arrow"
        table = pa.Table.from_pylist(ROWS)
        with (pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream)(str(path), table.schema) as writer:
            writer.write_table(table.slice(0, 2))
            writer.write_table(table.slice(2))
    elif kind == "saved-shard":
        datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
        path = folder / "saved" / "data-00000-of-00001.arrow"
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == "saved-splits":
        parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
        datasets.DatasetDict(parts).save_to_disk(path)
    else:
        write_lines(path / "data" / "train-00000-of-00002.jsonl", ROWS[:3])
        write_lines(path / "data" / "train-00001-of-00002.jsonl", ROWS[3:])
        write_lines(path / "data" / "test-00000-of-00001.jsonl", ROWS[:1])
    return path


KINDS = [
    "jsonl",
    "jsonl.gz",
    "json",
    "csv",
    "tsv",
    "parquet",
    "arrow",
    "arrow-stream",
    "saved",
    "saved-shard",
    "saved-splits",
    "folder",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_examples(kind, tmp_path, cache):
    source = open_source(str(write_as(kind, tmp_path)), rows="example", cache_dir=cache)
    assert read_all(source) == EXAMPLES
    assert (source.schema, source.bad.count, source.bad.total) == ("prompt-completion", 0, 5)
    assert source.labels("topic") == ["a", "b", "a", "b", "a"]
    assert source.labels("n") == ["0", "1", "2", "3", "4"]


def test_examples_in_the_order_asked_for_across_batches(tmp_path, cache):
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(2 * BATCH + 3)]
    source = open_source(str(write_lines(tmp_path / "rows.jsonl", rows)), rows="example", cache_dir=cache)
    wanted = [2 * BATCH + 2, 0, BATCH, BATCH - 1]
    assert len(source) == len(rows)
    assert [example.completion for example in source.examples(wanted)] == [f"a{i}" for i in wanted]


def test_bad_lines_are_counted_and_located(tmp_path, cache):
    """Eight lines: two good rows, one blank line that is no row, and five that cannot be used."""
    path = tmp_path / "rows.jsonl"
    good = b'{"instruction": "a", "output": "b"}\n'
    bad = [b'{"instruction": "a", "out\n', b'{"instruction": "\xff"}\n', b'{"instruction": "a"}\n']
    bad += [b'{"instruction": "a", "output": " "}\n', b'{"instruction": "a", "output": 7}\n']
    path.write_bytes(good + b"\n" + b"".join(bad) + good)
    source = open_source(str(path), rows="example", cache_dir=cache, max_bad_share=0.8)
    assert (len(source), source.bad.count, source.bad.total) == (2, 5, 7)
    reasons = dict(source.bad.first)
    assert "broken JSON" in reasons["rows.jsonl line 3"]
    assert "broken UTF-8: byte 0xff at position 18" in reasons["rows.jsonl line 4"]
    assert "'output' is missing" in reasons["rows.jsonl line 5"]
    assert "'output' is empty" in reasons["rows.jsonl line 6"]
    assert "'output' holds int" in reasons["rows.jsonl line 7"]
    with pytest.raises(TooManyBadRows, match=r"5 of 7 rows \(71.43%\).*70.00%[^$]*line 3: broken JSON"):
        open_source(str(path), rows="example", cache_dir=cache, max_bad_share=0.7)


def test_only_the_first_ten_bad_rows_are_listed(tmp_path, cache):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": ""}] * 20 + ROWS)
    source = open_source(str(path), rows="example", cache_dir=cache, max_bad_share=0.8)
    assert (source.bad.count, len(source.bad.first)) == (20, 10)


def test_bad_csv_rows(tmp_path, cache):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,completion\na,"b\nc"\nd\nd,\xff\ne,"f" g\nh,i\n')
    source = open_source(str(path), rows="example", cache_dir=cache, max_bad_share=0.6)
    assert [example.completion for example in source.examples(range(2))] == ["b\nc", "i"]
    reasons = dict(source.bad.first)
    assert "1 cells where the header names 2" in reasons["rows.csv line 4"]
    assert "broken UTF-8" in reasons["rows.csv line 5"]
    assert "broken CSV" in reasons["rows.csv line 6"]


@pytest.mark.parametrize("kind", ["arrow", "arrow-stream"])
def test_a_truncated_arrow_file_is_named(kind, tmp_path, cache):
    """Cut where its last rows are."""
    path = write_as(kind, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with pytest.raises(UnreadableFile, match=f"{kind}.arrow cannot be read"):
        open_source(str(path), rows="example", cache_dir=cache)


def test_damage_inside_an_arrow_file_is_named(tmp_path, cache):
    """Text whose second value ends before it begins: an Arrow file can be read without a complaint to rows that are not
    there."""
    import datasets
    import pyarrow as pa

    offsets, text = np.array([0, 2, 1, 3], np.int32), b"abc"
    column = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(text))
    table = pa.table({"prompt": ["x", "y", "z"], "completion": column})
    datasets.Dataset.from_dict({"prompt": ["x"], "completion": ["y"]}).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "rows.arrow", tmp_path / "saved" / "data-00000-of-00001.arrow"):
        with pa.ipc.new_stream(str(file), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(UnreadableFile, match="rows.arrow cannot be read: .*offset"):
        open_source(str(tmp_path / "rows.arrow"), rows="example", cache_dir=cache)
    with pytest.raises(UnreadableFile, match="saved cannot be read as a saved dataset: .*offset"):
        open_source(str(tmp_path / "saved"), rows="example", cache_dir=cache)


def test_a_folder_of_arrow_files(tmp_path, cache):
    """What datasets computed from the rows and left beside them is not read again."""
    (tmp_path / "rows").mkdir()
    for name in ("x-train-00000-of-00001.arrow", "cache-0123456789abcdef.arrow"):
        write_as("arrow", tmp_path).rename(tmp_path / "rows" / name)
    assert len(open_source(str(tmp_path / "rows"), rows="example", cache_dir=cache)) == 5


def test_large_arrow_batches_are_read_in_pieces(tmp_path):
    """One batch of 2 BATCH + 1 rows: no more than BATCH become Python objects at a time."""
    import pyarrow as pa

    table = pa.table({"prompt": [str(n) for n in range(2 * BATCH + 1)]})
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert [len(batch) for batch in arrow_batches(tmp_path / "rows.arrow")] == [BATCH, BATCH, 1]
    where, row = list(read_files([tmp_path / "rows.arrow"]))[-1]
    assert (where, row) == (f"rows.arrow row {2 * BATCH + 1}", {"prompt": str(2 * BATCH)})


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_broken_utf8_in_tables_spoils_one_row(kind, tmp_path, cache):
    import pyarrow as pa
    import pyarrow.parquet as pq

    answers = pa.array([b"a", b"\xff", b"c"]).cast(pa.string(), safe=False)
    table, path = pa.table({"prompt": ["x", "y", "z"], "completion": answers}), tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    source = open_source(str(path), rows="example", cache_dir=cache, max_bad_share=0.5)
    assert [example.completion for example in source.examples(range(2))] == ["a", "c"]
    assert "broken UTF-8" in dict(source.bad.first)[f"rows.{kind} row 2"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b'[{"prompt": "a"},\n oops]', "broken JSON"),
        ("a.json", b'[{"prompt":\n"\xff"}]', "broken UTF-8 in line 2"),
        ("a.parquet", b"not parquet", "cannot be read"),
        ("a.arrow", b"", "cannot be read"),
        ("a.arrow", b"not arrow", "cannot be read"),
        ("a.arrow", b"ARROW1\0\0not arrow", "cannot be read"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.csv", b"x,x\n1,2\n", "must name every column once"),
        ("a.xlsx", b"", "no ending that says how to read it"),
    ],
)
def test_unreadable_files(name, content, reason, tmp_path, cache):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=reason):
        open_source(str(tmp_path / name), rows="example", cache_dir=cache)
    assert not list(cache.glob("*")), "nothing half-written is left behind"


def test_empty_and_unusable_sources(tmp_path, cache):
    for name, content, reason in [
        ("a.jsonl", "\n\n", "no readable row"),
        ("b.csv", "prompt,completion\n", "no readable row"),
        ("c.jsonl", "{oops\n", "line 1: broken JSON"),
        ("d.jsonl", '{"prompt": "a", "completion": ""}\n', "no usable row"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(EmptySource, match=reason):
            open_source(str(tmp_path / name), rows="example", cache_dir=cache, max_bad_share=1.0)


def test_second_open_reads_the_cache_only(tmp_path, cache, monkeypatch):
    path = str(write_lines(tmp_path / "rows.jsonl", ROWS))
    first = open_source(path, rows="example", cache_dir=cache)
    monkeypatch.setattr("fedllm_app.data.sources.read_files", None)
    again = open_source(path, rows="example", cache_dir=cache)
    assert again.fingerprint == first.fingerprint
    assert read_all(again) == EXAMPLES


def test_fingerprint_follows_file_columns_and_rows(tmp_path, cache):
    path = write_lines(tmp_path / "rows.jsonl", [{**row, "chosen": "x", "rejected": "y"} for row in ROWS])
    first = open_source(str(path), rows="example", cache_dir=cache)
    named = open_source(str(path), rows="example", cache_dir=cache, columns=Columns(completion="topic"))
    pairs = open_source(str(path), rows="pair", cache_dir=cache)
    os.utime(path, ns=(1, 1))
    touched = open_source(str(path), rows="example", cache_dir=cache)
    assert len({source.fingerprint for source in (first, named, pairs, touched)}) == 4
    assert next(named.examples([1])).completion == "b"
    assert next(pairs.examples([0])) == PreferencePair((("user", "question 0"),), "x", "y")


def test_opening_at_the_same_time(tmp_path, cache):
    path = str(write_lines(tmp_path / "rows.jsonl", ROWS * 200))
    with ThreadPoolExecutor(8) as pool:
        sources = list(pool.map(lambda _: open_source(path, rows="example", cache_dir=cache), range(8)))
    assert {len(source) for source in sources} == {1000}
    assert [entry.name for entry in cache.iterdir()] == [sources[0].fingerprint]


def test_labels_are_short_text_or_integers(tmp_path, cache):
    """`long` has 64 characters, which is not less than 64; `score` is neither text nor integer."""
    rows = [{**row, "long": "x" * 64, "short": "x" * 63, "score": 0.5} for row in ROWS]
    del rows[0]["topic"]
    source = open_source(str(write_lines(tmp_path / "rows.jsonl", rows)), rows="example", cache_dir=cache)
    assert source.labels("topic") == ["", "b", "a", "b", "a"]
    assert set(source.label_columns) == {"prompt", "completion", "topic", "n", "short"}
    with pytest.raises(UnknownLabel, match="'long'.*topic"):
        source.labels("long")


def test_splits_of_a_folder(tmp_path, cache):
    folder = write_as("folder", tmp_path)
    assert len(open_source(str(folder), rows="example", cache_dir=cache, split="test")) == 1
    with pytest.raises(UnreadableFile, match="'dev', only of: test, train"):
        open_source(str(folder), rows="example", cache_dir=cache, split="dev")
    write_lines(folder / "train_prefs.jsonl", ROWS)
    with pytest.raises(AmbiguousSplit, match="test, train, train_prefs"):
        open_source(str(folder), rows="example", cache_dir=cache)
    assert len(open_source(str(write_as("saved-splits", tmp_path)), rows="example", cache_dir=cache, split="test")) == 1


def test_folder_without_split_names_is_read_whole(tmp_path, cache):
    write_lines(tmp_path / "set" / "a.jsonl", ROWS[:2])
    write_lines(tmp_path / "set" / "sub" / "b.jsonl", ROWS[2:])
    write_lines(tmp_path / "set" / ".hidden" / "c.jsonl", ROWS)
    assert read_all(open_source(str(tmp_path / "set"), rows="example", cache_dir=cache)) == EXAMPLES


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rows.jsonl", "relative path"),
        ("data/rows.jsonl", "relative path"),
        ("./data", "relative path"),
        ("~/data", "relative path"),
        ("a/b/c", "relative path"),
        ("alpacca", "Did you mean 'alpaca'"),
        ("hh-rlhf", "has pair rows, and the task needs example rows"),
        ("/no/such/folder", "no file or folder"),
    ],
)
def test_names_that_lead_nowhere(name, reason, cache):
    with pytest.raises(DataNotFound, match=reason):
        open_source(name, rows="example", cache_dir=cache)


def test_column_errors_name_the_file(tmp_path, cache):
    path = str(write_lines(tmp_path / "rows.jsonl", [{"headline": "a", "mood": "b"}]))
    with pytest.raises(UnknownSchema, match="rows.jsonl: the columns \\(headline, mood\\)"):
        open_source(path, rows="example", cache_dir=cache)
    with pytest.raises(UnknownColumn, match="rows.jsonl: data has no column 'modo'"):
        open_source(path, rows="example", cache_dir=cache, columns=Columns(completion="modo"))


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


def test_unreachable_hub_says_how_to_use_a_local_copy(cache, monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataNotFound, match='tatsu-lab/alpaca.*no route.*data.name = "/absolute/path'):
        open_source("alpaca", rows="example", cache_dir=cache)


@pytest.mark.parametrize(
    ("file", "rows", "schema", "least"),
    [("gsm8k/train.jsonl", "example", "question-answer", 7000), ("hh-rlhf/harmless.jsonl", "pair", "hh-rlhf", 590)],
)
def test_real_files(file, rows, schema, least, cache):
    path = SHARED / file
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    source = open_source(str(path), rows=rows, cache_dir=cache, max_bad_share=0.01)
    assert source.schema == schema
    assert len(source) == source.bad.total - source.bad.count >= least
    for row in source.examples(range(100)):
        assert row.prompt[-1][0] == "user"
