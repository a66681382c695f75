"""The three formats: what stands in them, and that words of clients and data stay words."""

import csv
import io
import json
import re
from datetime import datetime

import pytest
from evil_runs import EVIL, IMAGE, LINK
from places import ROOT
from run_material import write_run

from fedllm_app.config.parse import default_run_config
from fedllm_app.report.figures import client_words
from fedllm_app.report.gather import gather
from fedllm_app.report.markdown import markdown, text
from fedllm_app.report.page import content_policy, duration, json_for_html, page
from fedllm_app.report.table_file import csv_text
from fedllm_app.runs.directory import RunDirectory

NOW = datetime(2026, 1, 2, 3, 4)
MOST_BYTES = 6_000_000


@pytest.fixture
def data(evil_runs, evaluation):
    return gather(evil_runs, [evaluation])


def without_scripts(html: str) -> str:
    """The page without what stands in script and style elements."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)


def test_the_page_asks_for_nothing_and_is_small(data):
    """No address is fetched: there is none in an attribute, and the policy allows no source. Under 6 MB."""
    html = page(data, NOW)
    assert len(html.encode()) < MOST_BYTES
    body = without_scripts(html)
    assert set(re.findall(r"\b(?:src|href)=\"([^\"]*)\"", body)) <= {"data:,"} | set(
        re.findall(r'href="(#[^"]*)"', body)
    )
    assert 'content="default-src &#39;none&#39;; script-src &#39;sha256-' in body
    assert "unsafe-eval" not in body


def test_words_of_clients_are_no_markup_in_the_page(data):
    """Neither in the text nor in the data of the figures, which stand in a script element."""
    html = page(data, NOW)
    body = without_scripts(html)
    for words in (EVIL, IMAGE, LINK, "<img"):
        assert words not in html
        assert words not in body
    assert body.count("&lt;script&gt;document.title") > 5
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)[1]
    assert "<" not in figures
    names = {trace.get("name") for figure in json.loads(figures).values() for trace in figure["traces"]}
    assert "together &lt;script&gt;document.title='owned'&lt;/script&gt;" in names


def test_the_page_shows_what_was_reached(data):
    """Base and alone, refusals and resets, intervals, answers, environment and the command."""
    body = " ".join(re.sub(r"<[^>]+>", " ", without_scripts(page(data, NOW))).split())
    for words in (
        "50.0 % held-out exact match",
        "+50.0 points over base (0.0 %)",
        "+25.0 points over clients alone (25.0 %)",
        "held-out loss 5 → 2",
        "2 (control variate)",
        "because &#34;&gt;&lt;img",
        "60.0 [50.0, 80.0]",
        "paired tests",
        "= 4",
        "Python 3.11.7, Linux, 2 CPUs, 2.0 GiB",
        "strategy.name fedavg local",
        "fedllm run . -c",
        "Written by fedllm report on 2026-01-02 03:04",
    ):
        assert words in body


def test_numbers_that_json_does_not_know(data):
    assert json_for_html({"x": [float("nan"), float("inf"), 1.5], "</script>": "&<!--"}) == (
        '{"x":[null,null,1.5],"\\u003c/script\\u003e":"\\u0026\\u003c!--"}'
    )


def test_the_policy_names_the_scripts_by_their_hash():
    """SHA-256 of "x", in base 64."""
    assert "'sha256-LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE='" in content_policy({"own": "x"})


def test_markdown_has_the_tables_and_no_markup_of_others(data):
    written = markdown(data, NOW)
    assert "<script" not in written.replace("\\<", "")
    assert "| \\<script\\>document.title='owned'\\</script\\> |" in written
    assert "| **60.0 \\[50.0, 80.0\\]\\*** |" in written
    for line in written.splitlines():
        if line.startswith("|") and "---" not in line:
            assert len(re.findall(r"(?<!\\)\|", line)) >= 3
    assert "```sh\nfedllm run . -c" in written


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(data):
    """A cell with a bar or a line end would break the row."""
    rows = [line for line in markdown(data, NOW).splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    dividers = [place for place, row in enumerate(rows) if set(row) <= set("|-: ")]
    assert len(dividers) > 8
    for place, following in zip(dividers, [*dividers[1:], len(rows) + 1], strict=True):
        assert set(cells[place - 1 : following - 1]) == {cells[place]}


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("a|b\nc", "a\\|b c"),
        ("# x", "\\# x"),
        ("- x", "\\- x"),
        ("1. x", "1\\. x"),
        ("[x](http://y)", "\\[x\\](http://y)"),
        ("<b>&amp;", "\\<b\\>\\&amp;"),
        ("snake_case `code` $x$ ~~y~~", "snake\\_case \\`code\\` \\$x\\$ \\~\\~y\\~\\~"),
        ("-4.4 points", "-4.4 points"),
        ("20.0 [1.5, 2]", "20.0 \\[1.5, 2\\]"),
        ("---", "\\---"),
    ],
)
def test_words_in_markdown(words, written):
    assert text(words) == written


def test_a_card_says_no_number_twice(tmp_path):
    """Of a task whose headline is its loss: the difference to 3.43 is 3.43."""
    from run_material import write_run

    run = write_run(tmp_path / "run", losses={0: 3.43, 1: 1.0, 2: 0.0002325}, train__task="text")
    body = " ".join(re.sub(r"<[^>]+>", " ", without_scripts(page(gather([run], []), NOW))).split())
    assert "0.000233 held-out loss +3.43 over base rounds" in body


def test_one_client_is_told_in_the_singular(tmp_path):
    from run_material import write_run

    one = write_run(tmp_path / "one", names={0: "north"}, refused={})
    assert "1 client ·" in markdown(gather([one], []), NOW)
    assert "2 clients ·" in markdown(gather([write_run(tmp_path / "two")], []), NOW)


def test_an_answer_without_a_grade_has_no_verdict(evil_runs, evaluation):
    """And one with a grade has it."""
    file = evaluation / "examples" / "set.jsonl"
    assert "(right): = 4" in markdown(gather(evil_runs, [evaluation]), NOW)
    file.write_text(file.read_text().replace('"values": {"exact"', '"values": {"other"'))
    found = gather(evil_runs, [evaluation])
    written, html = markdown(found, NOW), without_scripts(page(found, NOW))
    assert "- base: no" in written
    assert '<p class="model">base</p>' in html
    for words in ("(wrong)", "(right)", "not graded"):
        assert words not in written
        assert words not in html


def test_csv_has_every_number_and_no_formula(data, evil_runs):
    """By run, table, round and client; a name that a spreadsheet would compute is text."""
    lines = list(csv.DictReader(io.StringIO(csv_text(data))))
    found = {(line["run"], line["table"], line["round"], line["client"], line["metric"]): line for line in lines}
    assert float(found["together", "rounds", "2", "", "eval_loss"]["value"]) == 2.0
    assert float(found["together", "rounds", "2", "1", "eval_loss"]["value"]) == 2.5
    assert float(found["alone", "rounds", "2", "", "exact_match"]["value"]) == 0.25
    assert found["together", "clients", "", "1", "refused"]["value"] == "1"
    assert found["together", "clients", "", "0", "refused"]["name"] == EVIL
    assert float(found["together", "phases", "", "", "train_seconds"]["value"]) == 12.0
    assert [line["high"] for line in lines if line["run"].startswith("together <") and line["metric"] == "exact match"]


def test_formulas_in_csv(tmp_path):
    from run_material import write_run

    run = write_run(tmp_path / "run", names={0: "=cmd()", 1: "-2+3"})
    assert {line["name"] for line in csv.DictReader(io.StringIO(csv_text(gather([run], []))))} == {
        "",
        "'=cmd()",
        "'-2+3",
    }


@pytest.mark.parametrize(
    ("seconds", "words"), [(9.87, "9.9 s"), (99.0, "99.0 s"), (600.0, "10 min"), (7380.0, "2 h 03 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_long_names_leave_room_for_the_figure():
    """24 characters, the number of the client first; what is markup is cut before it is escaped."""
    assert client_words(3, "north") == "3 north"
    assert client_words(3, "x" * 30) == "3 " + "x" * 21 + "…"
    assert client_words(3, "<" * 30) == "3 " + "&lt;" * 21 + "…"


def test_a_run_that_failed_before_its_clients_told_of_themselves(tmp_path):
    """Its card says how many were asked for and when it failed, and each reason has a line of its own."""
    directory = RunDirectory(tmp_path / "run")
    directory.create(default_run_config(ROOT) | {"clients.number": 2})
    reason = "2 of 2 clients cannot take part:\n  client 0 (north): no rows\n  client 1 (south): no file"
    directory.journal("started", run="a" * 32, run_id="5", rounds=2, strategy="fedavg", code="c")
    directory.journal("failed", reason=reason)
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) | {"time": 1000.0 + 12 * place} for place, line in enumerate(lines)]
    (tmp_path / "run" / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    found = gather([tmp_path / "run"], [])
    body = " ".join(re.sub(r"<[^>]+>", " ", without_scripts(page(found, NOW))).split())
    assert "clients 2 asked for time 12.0 s until it failed" in body
    written = markdown(found, NOW)
    assert "\n  - client 0 (north): no rows\n  - client 1 (south): no file\n" in written


def test_a_title_stands_once_and_the_start_has_one_name(data):
    """The section and its only table are both called Environment; cards and tables say over base."""
    for written in (without_scripts(page(data, NOW)), markdown(data, NOW)):
        assert len(re.findall(r"(?:<h[23]>|^#+ )Environment\b", written, re.MULTILINE)) == 1
        assert "over start" not in written
        assert "over base" in written


def test_the_table_of_a_demo_in_all_formats(evil_runs):
    """Its words are text as all others; the answers stand side by side."""
    content = {
        "questions_per_domain": 4,
        "accuracy": {EVIL: {IMAGE: 0.25}},
        "average_rank": {EVIL: 1.0},
        "sample": {"question": LINK, "expected": "x", EVIL: IMAGE},
    }
    (evil_runs[0].parent / "comparison.json").write_text(json.dumps(content))
    found = gather(evil_runs, [])
    html = page(found, NOW)
    for words in (EVIL, IMAGE, LINK):
        assert words not in html
    assert "Demo: exact match on 4 held-out questions a domain" in html
    assert "25.0%" in html
    written = markdown(found, NOW)
    assert "### Demo: exact match on 4 held-out questions a domain" in written
    assert "<script" not in written.replace("\\<", "")
    assert f"{EVIL},demo,,," in csv_text(found).replace('"', "")


def test_a_difference_within_a_spread_is_praised_nowhere(tmp_path):
    """7 of 16 rows are right and 4 were before: no colour on the card, and a remark wherever the difference stands."""
    found = gather([write_run(tmp_path / "run", exact={0: 0.25, 1: 0.25, 2: 0.4375})], [])
    body = without_scripts(page(found, NOW))
    assert '<b class="">+18.8 points</b> over base (25.0 %, within the run&#39;s 95 % interval)' in body
    both = gather([tmp_path / "run", write_run(tmp_path / "better")], [])
    assert "| +18.8 points, within the run's 95 % interval |" in markdown(both, NOW)
    body = without_scripts(page(both, NOW))
    assert '<b class="good">+50.0 points</b> over base (0.0 %)' in body
