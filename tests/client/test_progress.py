"""Lines that many processes append and one reads."""

import json

from fedllm_app.client.progress import Tail, progress_file, report


def test_reports_arrive_in_order_and_once(app_home):
    tail = Tail(progress_file(12))
    assert tail.new() == []
    report(12, client=0, step=1)
    report(12, client=1, step=1)
    report(13, client=9, step=9)
    assert [(line["client"], line["step"]) for line in tail.new()] == [(0, 1), (1, 1)]
    assert tail.new() == []
    report(12, client=0, step=2)
    assert [line["step"] for line in tail.new()] == [2]
    assert progress_file(12).is_relative_to(app_home)


def test_a_line_not_yet_ended_waits(tmp_path):
    file = tmp_path / "lines.jsonl"
    tail = Tail(file)
    line = json.dumps({"name": "Zürich"}, ensure_ascii=False).encode()
    cut = line.index("ü".encode()) + 1  # in the middle of a character
    file.write_bytes(b'{"a": 1}\n' + line[:cut])
    assert tail.new() == [{"a": 1}]
    assert tail.new() == []
    with open(file, "ab") as more:
        more.write(line[cut:])
    assert tail.new() == []
    with open(file, "ab") as more:
        more.write(b'\n{"b": 2}\n{"c"')
    assert tail.new() == [{"name": "Zürich"}, {"b": 2}]
    with open(file, "ab") as more:
        more.write(b": 3}\n")
    assert tail.new() == [{"c": 3}]


def test_a_file_in_the_place_of_the_first_is_read_from_its_beginning(tmp_path):
    """The journal of a run that failed at its start is put aside for the next, which starts anew."""
    file = tmp_path / "lines.jsonl"
    file.write_text('{"reason": "a long reason"}\n')
    tail = Tail(file)
    assert tail.new() == [{"reason": "a long reason"}]
    file.rename(tmp_path / "aside.jsonl")
    file.write_text('{"a": 1}\n{"b": 2}\n')
    assert tail.new() == [{"a": 1}, {"b": 2}]


def test_separators_inside_a_line_do_not_end_it(tmp_path):
    """U+2028 and U+0085 end a line for `str.splitlines`, but not in JSON lines."""
    file = tmp_path / "lines.jsonl"
    said = {"reason": "a\u2028b\u0085c"}
    file.write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8")
    assert Tail(file).new() == [said]
