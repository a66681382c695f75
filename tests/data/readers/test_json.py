"""JSON files: lines, arrays and objects, told apart by their contents, and what damage costs."""

import json

import pytest

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.base import TextFormat, UnreadableFile
from fedllm_app.data.readers.files import read_files

ROWS = [{"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": "b"}]


@pytest.fixture
def read(tmp_path):
    """Write a file and read it: its good rows, its bad ones by location, and the notes."""

    def written_and_read(content, name="rows.jsonl", **given):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        notes = {}
        located = list(read_files([path], TextFormat(**given), notes))
        good = [row for _, row in located if not isinstance(row, BadRow)]
        return good, {where: str(row) for where, row in located if isinstance(row, BadRow)}, list(notes)

    return written_and_read


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


FORMS = [
    ("rows.jsonl", lines(), []),
    ("rows.json", lines(), []),
    ("rows.jsonl", json.dumps(ROWS), []),
    ("rows.jsonl", json.dumps(ROWS, indent=2), []),
    ("rows.json", json.dumps(ROWS, indent=2).replace("\n]", ",\n]"), []),  # a comma too many
    ("rows.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS), []),  # each row over several lines
    ("rows.jsonl", lines().replace("}\n", "},\n"), []),  # commas between the lines
    ("rows.jsonl", lines().replace("}\n{", "}{"), []),  # files joined without a line break
    ("rows.jsonl", lines().replace("\n{", "\n\ufeff{"), []),  # files joined, each with its mark
    ("rows.jsonl", lines().encode("utf-16"), ["UTF-16"]),
    ("rows.json", json.dumps(ROWS, indent=1).encode("utf-16-be"), ["UTF-16-BE"]),
    ("rows.jsonl", "".join(f"{row}\n" for row in ROWS), []),  # Python's notation
    ("rows.json", str(ROWS), []),
    (
        "rows.json",
        json.dumps({"version": 1, "data": ROWS}),
        ["rows below the key 'data'; keys beside it that are not read: version"],
    ),
    ("rows.json", json.dumps({"train": ROWS}, indent=1), ["rows below the key 'train'"]),
    ("rows.json", json.dumps({"prompt": ["q", "r"], "completion": ["a", "b"]}), ["columns that hold lists"]),
    (
        "rows.json",
        json.dumps({"prompt": {"0": "q", "1": "r"}, "completion": {"0": "a", "1": "b"}}),
        ["columns that hold their rows by number"],
    ),
    (
        "rows.json",
        json.dumps({"columns": ["prompt", "completion"], "index": [0, 1], "data": [["q", "a"], ["r", "b"]]}),
        ["rows below the key 'data', named by 'columns'"],
    ),
]


@pytest.mark.parametrize(("name", "content", "told"), FORMS)
def test_forms_with_one_meaning_are_read(name, content, told, read):
    assert read(content, name) == (ROWS, {}, told)


def test_an_object_keyed_by_id(read):
    """As PubMedQA is published; the key is a column, under a name that no row has."""
    good, _, told = read(json.dumps({"21": {"QUESTION": "q"}, "16": {"QUESTION": "r"}}, indent=4), "rows.json")
    assert good == [{"id": "21", "QUESTION": "q"}, {"id": "16", "QUESTION": "r"}]
    assert told == ["rows by key, which is column 'id'"]
    assert read('{"21": {"id": 7}}', "rows.json")[0] == [{"key": "21", "id": 7}]


def test_an_id_that_stands_twice_would_lose_a_row(read):
    with pytest.raises(UnreadableFile, match="has a key twice"):
        read('{"21": {"q": 1}, "21": {"q": 2}}', "rows.json")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "row",
    [
        ROWS[0],
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"chosen": [{"role": "user", "content": "q"}], "rejected": [{"role": "user", "content": "q"}]},
        {"prompt": {"role": "user", "content": "q"}, "completion": {"role": "assistant", "content": "a"}},
    ],
)
def test_one_object_that_is_one_row(row, indent, name, read):
    """Messages are no rows, in whatever place they stand."""
    assert read(json.dumps(row, indent=indent), name)[0] == [row]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"train": ROWS, "test": ROWS}, r"several lists of rows \(train, test\)"),
        ({str(n): "yes" for n in range(500)}, "500 texts or numbers by key"),
    ],
)
def test_objects_that_are_no_rows_are_named(content, told, read):
    with pytest.raises(UnreadableFile, match=told):
        read(json.dumps(content, indent=1), "rows.json")


def test_damage_costs_the_line_it_is_in(read):
    """A truncated line, as a process leaves it that is killed; half a line; a byte that is no UTF-8; a list."""
    content = lines() + '{"prompt": "q", "compl\n' + lines() + "oops\n[1, 2]\n"
    good, bad, _ = read(content.encode() + b'{"prompt": "\xff"}\n' + lines().encode())
    assert good == 3 * ROWS
    assert list(bad) == [f"rows.jsonl line {number}" for number in (3, 6, 7, 8)]
    assert "Unterminated string" in bad["rows.jsonl line 3"]
    assert "not list" in bad["rows.jsonl line 7"]
    assert "broken UTF-8: byte 0xff" in bad["rows.jsonl line 8"]


def test_a_row_with_line_breaks_in_it_is_one_row(read):
    """Line breaks that are not escaped; and, among rows of one line, one that was printed over several."""
    messages = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    content = (
        lines()
        + '{"prompt": "two\nlines", "completion": "a"}\n'
        + json.dumps(messages, indent=1)
        + "\noops\n"
        + lines()
    )
    good, bad, _ = read(content)
    assert good == [*ROWS, {"prompt": "two\nlines", "completion": "a"}, messages, *ROWS]
    assert list(bad) == ["rows.jsonl line 17"]  # 2 + 2 + 12 lines before it


def test_lines_inside_a_damaged_row_are_no_rows(read):
    """The row over several lines lacks a comma; its last message would be a row by itself."""
    broken = '{"messages": [\n{"role": "user" "content": "q"},\n{"role": "assistant", "content": "a"}\n]}\n'
    with pytest.raises(UnreadableFile, match="rows.jsonl line 3: a row begins there"):
        read(lines() + broken + lines())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[{"a": 1},\n{"a": 2},\n{"a" 3},\n{"a": 4}]', "item 3 of the array, in line 3: Expecting ':'"),
        ('[{"a": 1},\n{"a": 2},\n', "item 3 of the array, in line 3: the array does not end"),
        ('[{"a": 1}]\n[{"a": 2}]\n', "line 2: more follows after the end of the array"),
        ('[{"a": ' + "[" * 100_000, "item 1 of the array, in line 1: it is nested too deeply"),
    ],
)
def test_a_broken_array_is_refused_where_the_damage_begins(content, told, read):
    with pytest.raises(UnreadableFile, match=told):
        read(content, "rows.json")


def test_a_byte_that_is_no_utf8_costs_one_item_of_an_array(read):
    good, bad, _ = read(b'[{"a": "\xc3\xbc"},\n{"a": "\xff"}, {"a": "c"}]', "rows.json")
    assert (good, list(bad)) == ([{"a": "ü"}, {"a": "c"}], ["rows.json item 2"])


def test_numbers_that_python_refuses_and_deep_nests_cost_one_row(read):
    """Python converts integers of up to 4,300 digits."""
    good, bad, _ = read(lines() + '{"a": ' + "9" * 5000 + '}\n{"a": ' + "[" * 100_000 + "\n" + lines())
    assert good == 2 * ROWS
    assert "too many digits" in bad["rows.jsonl line 3"] and "nested too deeply" in bad["rows.jsonl line 4"]


def test_a_given_encoding_is_taken(read):
    content = '{"prompt": "ü", "completion": "a"}\n'.encode("cp1252")
    assert list(read(lines().encode() + content)[1]) == ["rows.jsonl line 3"]
    assert read(content, encoding="cp1252")[0] == [{"prompt": "ü", "completion": "a"}]


def test_blank_files_and_blank_lines(read):
    assert read("\n \n")[0] == []
    assert read("\n\n" + lines().replace("\n", "\n\n"))[0] == ROWS
    assert list(read("\n\noops\n" + lines())[1]) == ["rows.jsonl line 3"]
