"""CSV files: where records end, what damage costs, and what is found out about a file that says nothing of itself."""

import csv
import io

import pytest

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.base import TextFormat, UnreadableFile
from fedllm_app.data.readers.files import read_files

HEADER = "prompt,completion\n"


@pytest.fixture
def write(tmp_path):
    """Write a file and return a function that reads it: its good rows, its bad ones by location, and the notes."""

    def written(content, name="rows.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return written


def read(path, **given):
    notes = {}
    located = list(read_files([path], TextFormat(**given), notes))
    good = [row for _, row in located if not isinstance(row, BadRow)]
    return good, {where: str(row) for where, row in located if isinstance(row, BadRow)}, notes


def pairs(rows):
    return [tuple(row.values()) for row in rows]


def test_a_quotation_mark_that_is_never_closed_is_named_where_it_opens(write):
    """Line 302 is the row with number 300; the file is refused, because its rest may be a cell or 699 rows."""
    lines = [f"question {i},answer {i}" for i in range(1000)]
    lines[300] = '"Tis the season,answer 300'
    with pytest.raises(UnreadableFile, match=r"rows.csv line 302: .*quotation mark"):
        read(write(HEADER + "\n".join(lines) + "\n"))


@pytest.mark.parametrize(
    "later",
    [
        'x,"quoted"',  # closes the open cell in its middle
        'x,", and so on"',  # closes it so that the rest looks like a record of two cells
        '"",y',  # a doubled mark inside it
        'x,"\nover two lines"',
    ],
)
def test_rows_swallowed_by_an_open_quotation_mark_are_not_one_bad_row(later, write):
    """Line 3 opens a cell; what follows 50 rows further on closes it, each time in another way."""
    between = "".join(f"q{i},a{i}\n" for i in range(50))
    with pytest.raises(UnreadableFile, match="line 3: "):
        read(write(f'{HEADER}a,b\n"open,b\n{between}{later}\n{between}'))


def test_damage_within_a_line_costs_one_row(write):
    good, bad, _ = read(write(f'{HEADER}a,b\ne,"f" g\nh,i\nj\n"k\nl",m\n'))
    assert pairs(good) == [("a", "b"), ("h", "i"), ("k\nl", "m")]
    assert list(bad) == ["rows.csv line 3", "rows.csv line 5"]
    assert "broken CSV" in bad["rows.csv line 3"] and "1 cells where the header names 2" in bad["rows.csv line 5"]


@pytest.mark.parametrize("broken", ['"c,"d"', 'c","d"x', '"c"x,"d"'])
def test_a_missing_quotation_mark_among_cells_that_all_have_them_costs_one_row(broken, write):
    good, bad, _ = read(write(f'"prompt","completion"\n"a","b"\n{broken}\n"e","f\ng"\n'))
    assert pairs(good) == [("a", "b"), ("e", "f\ng")]
    assert list(bad) == ["rows.csv line 3"]


def test_lines_inside_a_broken_cell_are_no_rows(write):
    """The cell has quotation marks that are not doubled, two on its first line and none on its second, which looks
    like a row; the third shows what it is."""
    with pytest.raises(UnreadableFile, match="line 2: "):
        read(write(f'{HEADER}e,"he said "hi,\nfine, clean\nthe end"\nh,i\n'))


def test_a_record_over_lines_with_too_many_cells_is_not_counted_as_one(write):
    with pytest.raises(UnreadableFile, match="line 3: "):
        read(write(f'{HEADER}a,b\n"c\nd",e,f\n'))


def test_a_giant_cell_is_read_whole(write):
    """200,000 lines of 12 characters: far beyond the csv module's limit of 131,072 characters."""
    giant = "yes, indeed\n" * 200_000
    good, bad, _ = read(write(f'{HEADER}q,"{giant}"\nr,b\n'))
    assert (pairs(good), bad) == ([("q", giant), ("r", "b")], {})


def test_backslashes_before_quotation_marks_get_the_remedy(write):
    _, bad, _ = read(write(f'{HEADER}q,"he said \\"hi\\" twice"\n'))
    assert "must be doubled" in bad["rows.csv line 2"]


def test_carriage_returns_alone_end_lines_where_they_end_the_header(write):
    good, bad, _ = read(write(b'prompt,completion\rq,a\rr,"b\nc"\r'))
    assert (pairs(good), bad) == ([("q", "a"), ("r", "b\nc")], {})


def test_a_carriage_return_inside_a_line_does_not_make_two_rows(write):
    good, bad, _ = read(write(f"{HEADER}q,answer with a\rbreak, here\nr,b\n"))
    assert pairs(good) == [("r", "b")]
    assert "line break inside a cell" in bad["rows.csv line 2"]


@pytest.mark.parametrize("header", ['"prompt,completion\n', '"prompt" x,completion\n'])
def test_a_broken_header_is_named(header, write):
    with pytest.raises(UnreadableFile, match="rows.csv line 1: .*quotation marks"):
        read(write(f"{header}q,a\n"))


def test_a_column_named_twice(write):
    """Which names they are is not said: without a header they would be values."""
    with pytest.raises(UnreadableFile, match="columns 1 and 3 have the same name") as caught:
        read(write("secret,x,secret\n1,2,3\n"))
    assert "secret" not in str(caught.value)


FOUND = [
    ("semicolons", b"prompt;completion\nq;a, b\n", "';', UTF-8"),
    ("tabs in a .csv", b"prompt\tcompletion\nq\ta, b\n", "tabs, UTF-8"),
    ("bars", b"prompt|completion\nq|a, b\n", "'|', UTF-8"),
    ("a mark", b"\xef\xbb\xbfprompt;completion\nq;a, b\n", "';', UTF-8"),
    ("UTF-16", "prompt\tcompletion\r\nq\ta, b\r\n".encode("utf-16"), "tabs, UTF-16"),
    ("UTF-16 without a mark", 'prompt,completion\nq,"a, b"\n'.encode("utf-16-le"), "',', UTF-16-LE"),
    ("the separator's line", b"sep=;\r\nprompt;completion\r\nq;a, b\r\n", "';', UTF-8"),
    ("the separator's line in quotes", b'"sep=|"\nprompt|completion\nq|a, b\n', "'|', UTF-8"),
    ("blanks after commas", b'prompt, completion\nq, "a, b"\n', "',', UTF-8"),
    ("blanks around names", b' prompt ,completion \nq,"a, b"\n', "',', UTF-8"),
    ("delimiters at the end", b'prompt,completion\nq,"a, b",,\n', "',', UTF-8"),
]


@pytest.mark.parametrize(("content", "told"), [case[1:] for case in FOUND], ids=[case[0] for case in FOUND])
def test_what_a_file_does_not_say_is_found_out_and_told(content, told, write):
    good, bad, notes = read(write(content))
    assert (good, bad) == ([{"prompt": "q", "completion": "a, b"}], {})
    assert notes == {f"columns separated by {told}": ["rows.csv"]}


def test_the_delimiter_is_the_one_that_divides_the_rows_alike(write):
    """The header holds more commas than semicolons: three semicolon columns in every line, four of commas in one."""
    good, _, _ = read(write("id;prompt, asked, first, here;completion\n1;q;a, b\n2;r;b\n"))
    assert good[0] == {"id": "1", "prompt, asked, first, here": "q", "completion": "a, b"}


def test_excel_in_german(write):
    """Semicolons, cp1252, CRLF; an umlaut, a euro sign and typographic quotation marks."""
    text = "Frage;Antwort\r\nWie heißt er?;„Müller“, 5 €\r\n"
    good, bad, notes = read(write(text, encoding="cp1252"))
    assert (good, bad) == ([{"Frage": "Wie heißt er?", "Antwort": "„Müller“, 5 €"}], {})
    assert list(notes) == ["columns separated by ';', cp1252"]


def test_one_broken_byte_in_utf8_costs_one_row(write):
    """The umlaut of the first row shows that the file is UTF-8."""
    good, bad, _ = read(write(HEADER.encode() + "ü,a\n".encode() + b"q,\xfc\nr,b\n"))
    assert pairs(good) == [("ü", "a"), ("r", "b")]
    assert "broken UTF-8: byte 0xfc at position 3" in bad["rows.csv line 3"]


@pytest.mark.parametrize("encoding", ["gbk", "cp1251", "shift_jis"])
def test_an_encoding_that_cannot_be_found_out_is_asked_for_and_taken(encoding, write):
    """Words of several letters beyond ASCII, of which cp1252 would make nonsense."""
    word = {"gbk": "你好吗朋友", "cp1251": "привет", "shift_jis": "こんにちは"}[encoding]
    path = write(f"{HEADER}{word},a\n", encoding=encoding)
    with pytest.raises(UnreadableFile, match="data.encoding"):
        read(path)
    good, bad, notes = read(path, encoding=encoding)
    assert (pairs(good), bad) == ([(word, "a")], {})
    assert list(notes) == [f"columns separated by ',', {encoding}"]


def test_a_given_delimiter_is_taken(write):
    content = "prompt:completion\nq, r:a\n"
    assert pairs(read(write(content), delimiter=":")[0]) == [("q, r", "a")]
    assert pairs(read(write(content.replace(":", "\t")), delimiter="tab")[0]) == [("q, r", "a")]


def test_a_nameless_column_is_called_by_its_number(write):
    """The index that pandas writes first; the empty columns that spreadsheets leave behind."""
    good, _, _ = read(write(",prompt,completion,\n0,q,a,\n"))
    assert good == [{"column 1": "0", "prompt": "q", "completion": "a", "column 4": ""}]


def test_blank_lines_and_a_quotation_mark_inside_a_plain_cell(write):
    good, bad, _ = read(write(f'\n{HEADER}\na 5" pipe,b\n\n'))
    assert (pairs(good), bad) == ([('a 5" pipe', "b")], {})


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_the_csv_module_writes_is_read_back(quoting, end, write):
    rows = [(f'q{i} "x", y', "a\n" * (i % 3) + "b; c\td") for i in range(40)]
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator=end).writerows([("prompt", "completion"), *rows])
    good, bad, _ = read(write(text.getvalue()))
    assert (pairs(good), bad) == (rows, {})
