"""Opening sources from local files. The Hub is replaced by a function: nothing is fetched."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from places import SHARED_DATA as SHARED

from fedllm_app.data.examples import Example, PreferencePair
from fedllm_app.data.readers.base import BATCH, TextFormat, UnreadableFile
from fedllm_app.data.readers.folders import AmbiguousSplit
from fedllm_app.data.schemas import Columns, UnknownColumn, UnknownSchema
from fedllm_app.data.sources import EmptySource, TooManyBadRows, UnknownLabel, open_source

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


def test_readable_rows_after_a_whole_batch_of_bad_ones_are_found(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    path.write_text("oops\n" * (BATCH + 1) + '{"prompt": "q", "completion": "a"}\n')
    source = open_source(str(path), rows="example", cache_dir=cache, max_bad_share=1.0)
    assert (len(source), source.bad.count, source.bad.total) == (1, BATCH + 1, BATCH + 2)


def test_only_the_first_ten_bad_rows_are_listed(tmp_path, cache):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": ""}] * 20 + ROWS)
    source = open_source(str(path), rows="example", cache_dir=cache, max_bad_share=0.8)
    assert (source.bad.count, len(source.bad.first)) == (20, 10)


def test_a_folder_of_arrow_files(tmp_path, cache):
    """What datasets computed from the rows and left beside them is not read again."""
    (tmp_path / "rows").mkdir()
    for name in ("x-train-00000-of-00001.arrow", "cache-0123456789abcdef.arrow"):
        write_as("arrow", tmp_path).rename(tmp_path / "rows" / name)
    assert len(open_source(str(tmp_path / "rows"), rows="example", cache_dir=cache)) == 5


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b'[{"prompt": "a"},\n oops]', "broken JSON"),
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
    monkeypatch.setattr("fedllm_app.data.origins.read_files", None)
    again = open_source(path, rows="example", cache_dir=cache)
    assert again.fingerprint == first.fingerprint
    assert read_all(again) == EXAMPLES


def test_fingerprint_follows_file_columns_and_task(tmp_path, cache):
    path = write_lines(tmp_path / "rows.jsonl", [{**row, "chosen": "x", "rejected": "y"} for row in ROWS])
    first = open_source(str(path), rows="example", cache_dir=cache)
    named = open_source(str(path), rows="example", cache_dir=cache, columns=Columns(completion="topic"))
    pairs = open_source(str(path), rows="pair", cache_dir=cache)
    path.write_bytes(path.read_bytes() + b"\n")
    changed = open_source(str(path), rows="example", cache_dir=cache)
    assert len({source.fingerprint for source in (first, named, pairs, changed)}) == 4
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


def test_what_is_not_read_is_named(tmp_path, cache):
    """A column that is empty throughout is not missed; one that appears after the first rows is named all the same."""
    message = {"role": "user", "content": "q", "name": "ada", "tool_calls": []}
    answer = {"role": "assistant", "content": "a", "reasoning_content": "hm", "weight": 0.5}
    rows = [{"messages": [message, answer], "tools": [{"name": "t"}], "note": None, "tag": ""}] * (BATCH + 1)
    path = write_lines(tmp_path / "set" / "my_train.jsonl", [*rows, {"messages": [message, answer], "late": 1}])
    for name in ("my_test.jsonl", "notes.xlsx"):
        (tmp_path / "set" / name).write_text("{}")
    source = open_source(str(path.parent), rows="example", cache_dir=cache)
    assert source.unread.columns == ("tools", "late")
    assert source.unread.message_keys == ("name", "reasoning_content", "weight other than 0 and 1")
    assert source.unread.files == ("my_test.jsonl", "notes.xlsx")
    assert source.notes("late") == [
        "columns read: messages as messages",
        "columns not read: tools",
        "message keys not read: name, reasoning_content, weight other than 0 and 1",
        "files not read: my_test.jsonl, notes.xlsx",
    ]


def test_rows_that_are_marked_as_unwanted_are_left_out_and_counted_apart(tmp_path, cache):
    """Two of five are labelled false; they are not bad, so a share of 0 accepts them. Alone, they leave none."""
    rows = [{"prompt": f"q{i}", "completion": "a", "label": i % 2 == 0} for i in range(5)]
    source = open_source(str(write_lines(tmp_path / "rows.jsonl", rows)), rows="example", cache_dir=cache)
    assert [example.prompt[0][1] for example in read_all(source)] == ["q0", "q2", "q4"]
    assert (source.bad.count, source.bad.total, source.unwanted) == (0, 5, 2)
    assert "2 rows left out that a label of false or a weight of 0 excludes" in source.notes()
    with pytest.raises(EmptySource, match="no usable row: a label of false or a weight of 0 excludes 2"):
        open_source(str(write_lines(tmp_path / "none.jsonl", rows[1::2])), rows="example", cache_dir=cache)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label", ["sports", "politics", "sports"]),  # classes
        ("label", [0, 1, 2]),
        ("history", ["smoker", "none known", "asthma"]),  # a patient's
        ("context", [["a"], ["b"], ["c"]]),
        ("system", [1, 2, 3]),
    ],
)
def test_a_column_that_is_another_thing_than_its_name_is_named_and_not_read(column, values, tmp_path, cache):
    rows = [{"question": "q", "answer": "a", column: value} for value in values]
    source = open_source(str(write_lines(tmp_path / "rows.jsonl", rows)), rows="example", cache_dir=cache)
    assert read_all(source) == [Example((("user", "q"),), "a")] * 3
    assert source.unread.columns == (column,)


def test_how_files_were_read_is_told(tmp_path, cache):
    (tmp_path / "set").mkdir()
    for name in ("a", "b", "c", "d"):
        (tmp_path / "set" / f"{name}.csv").write_text("question;answer\nq;a\n")
    (tmp_path / "set" / "e.csv").write_text("question,answer\nq,a\n")
    source = open_source(str(tmp_path / "set"), rows="example", cache_dir=cache)
    assert source.notes() == [
        "a.csv, b.csv, c.csv and 1 more: columns separated by ';', UTF-8",
        "e.csv: columns separated by ',', UTF-8",
        "columns read: question as prompt, answer as completion",
    ]


def test_a_given_text_format_is_part_of_what_is_cached(tmp_path, cache):
    path = tmp_path / "rows.csv"
    path.write_bytes("question:answer\nq:é\n".encode("latin-1"))
    first, second = (
        open_source(str(path), rows="example", cache_dir=cache, text_format=TextFormat(":", encoding))
        for encoding in ("latin-1", "cp1251")
    )
    assert [read_all(source)[0].completion for source in (first, second)] == ["é", "й"]


def test_rows_that_stand_twice_are_known(tmp_path, cache):
    """Equal are rows 0 and 3, and 1 and 4 with other columns beside; row 2 has the prompt of 0 and another answer."""
    answers = [("q", "a"), ("r", "b"), ("q", "c"), ("q", "a"), ("r", "b")]
    rows = [{"prompt": prompt, "completion": answer, "n": n} for n, (prompt, answer) in enumerate(answers)]
    source = open_source(str(write_lines(tmp_path / "rows.jsonl", rows)), rows="example", cache_dir=cache)
    assert source.repeated.tolist() == [0, 1, 3, 4]


def test_a_column_whose_name_is_not_unicode(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q", "completion": "a", "\\ud800 x": "y"}\n')
    source = open_source(str(path), rows="example", cache_dir=cache)
    assert source.labels("\ud800 x") == ["y"]
    assert "columns not read: ? x" in source.notes()


def test_a_published_set_keyed_by_id(cache):
    """PubMedQA as published, 1,000 questions: the columns are in capitals, the answer's name has to be given."""
    path = SHARED / "pubmedqa" / "ori_pqal.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    source = open_source(
        str(path), rows="example", cache_dir=cache, columns=Columns("QUESTION", completion="LONG_ANSWER")
    )
    assert len(source) == 1000
    assert "CONTEXTS" in source.unread.columns
    assert source.labels("id")[0] == "21645374"
    with pytest.raises(UnreadableFile, match="500 texts or numbers by key"):
        open_source(str(path.parent / "test_ground_truth.json"), rows="example", cache_dir=cache)


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


def test_column_errors_name_the_file(tmp_path, cache):
    path = str(write_lines(tmp_path / "rows.jsonl", [{"headline": "a", "mood": "b"}]))
    with pytest.raises(UnknownSchema, match="rows.jsonl: the columns \\(headline, mood\\)"):
        open_source(path, rows="example", cache_dir=cache)
    with pytest.raises(UnknownColumn, match="rows.jsonl: data has no column 'modo'"):
        open_source(path, rows="example", cache_dir=cache, columns=Columns(completion="modo"))


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
