"""Ratings of a judge that misbehaves: what is asked again, what is counted as missing, what is never asked twice."""

import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from evaluation.graders.judging import KEY, NO_DIGITS, one_turn, rated
from evaluation.graders.misbehaving_server import (
    body,
    hangs_up,
    no_http,
    says,
    slow,
    status,
    trickles,
)

from fedllm_app.errors import UserError
from fedllm_app.evaluation.graders.judge import (
    judge_from_environment,
    judged,
    mean_rating,
    turn_prompts,
)
from fedllm_app.evaluation.graders.judge_endpoint import Endpoint, JudgeError
from fedllm_app.evaluation.graders.judge_prompts import read_rating
from fedllm_app.evaluation.suite import Answer, Grade, Means, Question


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[[ 8/10 ]]", 8.0),
        ("It is no [[3]] for sure.\nRating: [[9]]", 9.0),  # the verdict follows the explanation
        ("Good.\n**Rating:** 7/10", 7.0),
        ("rating: [6].", 6.0),
        ("Rating: 2\nSecond thoughts.\n## Rating: 4 out of 10\n", 4.0),
        ("Rating: 2\n[[4]]\nRating: 3", 4.0),  # double brackets come first
        ("[[1]]", 1.0),
        ("[[10]]", 10.0),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[-1]]", None),
        ("Rating: -1", None),
        ("[[5]] or rather [[50]]", None),  # the number before is not taken instead
        ("Rating: 70/100", None),
        ("The rating: 7 of these points are right", None),
        ("[[five]]", None),
        ("[7]", None),
        ("7", None),
        ("", None),
    ],
)
def test_a_rating_is_the_last_number_in_double_brackets(reply, rating):
    assert read_rating(reply) == rating


def test_the_second_turn_is_rated_with_the_first_in_sight_and_references_where_there_are_any():
    question = Question("What is 2+3?", gold=["It is five.", "It is ten."], follow_up="And doubled?")
    first, second = turn_prompts(question, Answer(("Six.", "Twelve.")))
    parts = ["It is five.", "It is ten.", "What is 2+3?", "Six.", "And doubled?", "Twelve."]
    assert [part in first for part in parts] == [True, False, True, True, False, False]
    assert [second.count(part) for part in parts] == [1] * 6
    assert sorted(parts[2:], key=second.index) == parts[2:]
    without = turn_prompts(Question(question.text, follow_up=question.follow_up), Answer(("Six.", "Twelve.")))
    assert "eference" not in "".join(without)


def test_a_conversation_gets_a_rating_for_each_turn_at_temperature_0(server, judge):
    """8 and 5, so 6.5."""
    server.behaviour = lambda prompt, _before: says("[[5]]" if "Twelve." in prompt else "[[8]]")
    question, answer = Question("What is 2+3?", follow_up="And doubled?"), Answer(("Six.", "Twelve."))
    grades = judged([question], [answer], Means(judge=judge()))
    assert grades == [Grade({"turn 1": 8.0, "turn 2": 5.0, "rating": 6.5, "missing ratings": 0.0})]
    assert server.paths == ["/v1/chat/completions"] * 2
    assert {(request["model"], request["temperature"]) for request in server.requests} == {("judge", 0)}
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_without_a_judge_every_answer_is_not_judged():
    assert judged(*one_turn("a", "b"), Means()) == [Grade(missing="not judged")] * 2


@pytest.mark.parametrize(
    "deed",
    [
        status(429),
        status(500),
        status(503),
        body(b"<html>oops</html>"),
        body(b"\xff\xfe\x00"),
        body(b"[" * 100_000),
        body(b""),
        body(b'{"choices": []}'),
        body(b'{"error": {"message": "overloaded"}}'),
        body(b'{"choices": [{"message": {"content": 7}}]}'),
        body(b"no gzip", Content_Encoding="gzip"),
        hangs_up,
        no_http,
    ],
)
def test_what_may_pass_is_tried_again_after_a_longer_wait_each_time(server, judge, deed):
    """Two failures, so waits of 1 and 2 s, and the third attempt is answered."""
    server.script([deed, deed])
    grader = judge()
    assert grader.grade(*one_turn("a")) == [rated(5.0)]
    assert (server.calls, grader.waits) == (3, [1.0, 2.0])


@pytest.mark.parametrize("deed", [slow, trickles])
def test_a_reply_that_takes_too_long_is_asked_for_again(server, judge, deed):
    server.script([deed])
    grader = judge(timeout=0.1)
    assert grader.grade(*one_turn("a")) == [rated(5.0)]
    assert (server.calls, grader.waits) == (2, [1.0])


def in_an_hour():
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        ("7", 7.0),
        ("0", 1.0),
        ("-3", 1.0),
        ("900", 60.0),
        pytest.param(in_an_hour(), 60.0, id="in an hour"),
        ("soon", 1.0),
    ],
)
def test_the_endpoint_may_ask_for_a_longer_wait_up_to_a_limit(server, judge, asked, wait):
    """Its own delay is 1 s, the limit 60 s."""
    server.script([status(429, Retry_After=asked)])
    grader = judge()
    grader.grade(*one_turn("a"))
    assert grader.waits == [wait]


def test_a_reply_without_rating_is_asked_again_past_the_cache(server, judge):
    server.script([says(NO_DIGITS), says(None), says("[[4]]")])
    assert judge().grade(*one_turn("a")) == [rated(4.0)]
    assert judge().grade(*one_turn("a")) == [rated(4.0)]
    assert server.calls == 3


@pytest.mark.parametrize("reply", [NO_DIGITS, "[[0]]", "[[11]]"])
def test_a_judge_that_never_rates_makes_the_rating_missing_and_no_low_one(server, judge, reply):
    """Three replies are asked for, and none by a later run."""
    server.behaviour = lambda _prompt, _before: says(reply)
    assert judge().grade(*one_turn("a")) == [Grade(missing="no rating")]
    assert judge().grade(*one_turn("a")) == [Grade(missing="no rating")]
    assert server.calls == 3


def test_a_turn_without_rating_leaves_the_other_ones_rating(server, judge):
    """Averaged over all ratings with an answer of 8 and 8: (2 + 8 + 8) / 3 = 6, not (2 + 8) / 2."""
    server.behaviour = lambda prompt, _before: says(NO_DIGITS if "second" in prompt else "[[2]]")
    (grade,) = judge().grade([Question("one", follow_up="two")], [Answer(("first", "second"))])
    assert grade == Grade({"turn 1": 2.0, "missing ratings": 1.0}, {"turn 2": "no rating"})
    whole = Grade({"turn 1": 8.0, "turn 2": 8.0, "rating": 8.0, "missing ratings": 0.0})
    assert mean_rating([grade, whole]) == 6.0


def test_a_turn_that_the_model_did_not_answer_is_not_asked_for(server, judge):
    grades = judge().grade([Question("one", follow_up="two"), Question("three")], [Answer(("first",)), Answer()])
    assert grades == [
        Grade({"turn 1": 5.0, "missing ratings": 1.0}, {"turn 2": "no answer"}),
        Grade(missing="no answer"),
    ]
    assert server.calls == 1


def test_an_endpoint_that_goes_away_leaves_the_ratings_that_it_gave(server, judge):
    """a and b are rated. c, d and e get three attempts each; three in a row, so f is not asked any more."""
    gone = status(502)
    server.behaviour = lambda prompt, _before: says("[[9]]") if "answer a" in prompt or "answer b" in prompt else gone
    grades = judge().grade(*one_turn(*"abcdef"))
    assert grades == [rated(9.0)] * 2 + [Grade(missing="not judged: HTTP 502")] * 4
    assert server.calls == 2 + 3 * 3


def test_an_endpoint_that_is_gone_gets_one_try_from_the_next_model(server, judge):
    server.behaviour = lambda _prompt, _before: status(502)
    grader = judge()
    grader.grade(*one_turn(*"abcdef"))
    grader.grade(*one_turn(*"uvwxyz"))
    assert server.calls == 3 * 3 + 3
    server.behaviour = lambda _prompt, _before: says("[[6]]")
    assert grader.grade(*one_turn(*"abcdef")) == [rated(6.0)] * 6


@pytest.mark.parametrize("between", [says("[[7]]"), status(400)])
def test_only_failures_in_a_row_stop_the_judge(server, judge, between):
    """a, b, d and e get no reply, but c does, or is refused by someone who is there: f is asked and rated."""
    deeds = {"c": between, "f": says("[[7]]")}
    server.behaviour = lambda prompt, _before: deeds.get(prompt.split("answer <")[1][0], status(502))
    grades = judge().grade(*one_turn(*(f"<{name}>" for name in "abcdef")))
    assert grades[5] == rated(7.0)
    assert sum(grade.missing == "not judged: HTTP 502" for grade in grades) == 4


def test_of_two_reasons_the_endpoints_is_told(server, judge):
    """The first turn gets no rating, the second no reply."""
    server.behaviour = lambda prompt, _before: status(502) if "second" in prompt else says(NO_DIGITS)
    grades = judge().grade([Question("one", follow_up="two")], [Answer(("first", "second"))])
    assert grades == [Grade(missing="not judged: HTTP 502")]


def test_without_anyone_at_the_port_nothing_is_judged(judge):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    grades = judge(url=url).grade(*one_turn("a", "b"))
    assert all(grade.missing.startswith("not judged: no connection") for grade in grades)


@pytest.mark.parametrize(("code", "calls"), [(401, 1), (404, 1), (307, 1), (400, 3), (403, 3), (413, 3)])
def test_a_refusal_is_not_tried_again_and_a_wrong_key_or_model_stops_all(server, judge, code, calls):
    server.behaviour = lambda _prompt, _before: status(code, "we say\nno")
    grader = judge()
    assert grader.grade(*one_turn(*"abc")) == [Grade(missing=f"not judged: HTTP {code}: we say no")] * 3
    assert (server.calls, grader.waits) == (calls, [])


def test_one_answer_that_the_endpoint_refuses_leaves_the_others(server, judge):
    server.behaviour = lambda prompt, _before: status(400, "too long") if "answer b" in prompt else says("[[3]]")
    grades = judge().grade(*one_turn(*"abc"))
    assert grades == [rated(3.0), Grade(missing="not judged: HTTP 400: too long"), rated(3.0)]


def test_four_calls_run_at_a_time_and_grades_keep_their_order(server, judge):
    """Nobody is answered until four are there."""
    four = threading.Barrier(4, timeout=10)

    def together(prompt, _before):
        number = int(prompt.split("answer n")[1].split()[0])

        def deed(handler):
            four.wait()
            says(f"[[{number}]]")(handler)

        return deed

    server.behaviour = together
    names = [f"n{number}" for number in range(1, 9)]
    grades = judge(workers=4).grade(*one_turn(*names))
    assert grades == [rated(float(number)) for number in range(1, 9)]
    assert server.most_at_once == 4


def test_the_key_is_in_no_file_message_or_representation(server, judge):
    """The endpoint echoes it, once in a reply and once where the message is cut within it."""
    server.script([says(f"You sent {KEY}. [[5]]"), status(400, "x" * 180 + KEY), no_http])
    grader = judge()
    grades = grader.grade(*one_turn(*"abc"))
    assert grades[1].missing.startswith("not judged: HTTP 400: xxx")
    written = grader.cache.path.read_text()
    assert "You sent (key)" in written
    for shown in (written, str(grades), repr(grader), repr(grader.endpoint), str(grader.notes())):
        assert KEY[:9] not in shown


def test_a_text_that_is_no_valid_unicode_can_be_judged(server, judge):
    """Half of a surrogate pair, as broken decoding leaves it."""
    assert judge().grade([Question("a")], [Answer(("\ud83d",))]) == [rated(5.0)]
    assert "\ud83d" in server.prompts[0]


def test_the_environment_names_the_judge(monkeypatch, tmp_path, server):
    assert judge_from_environment(tmp_path / "cache.jsonl") is None
    monkeypatch.setenv("FEDLLM_JUDGE_KEY", f"{KEY}\n")
    assert judge_from_environment(tmp_path / "cache.jsonl") is None
    monkeypatch.setenv("FEDLLM_JUDGE_URL", f"{server.url}/chat/completions/")
    with pytest.raises(UserError, match="FEDLLM_JUDGE_MODEL is not"):
        judge_from_environment(tmp_path / "cache.jsonl")
    monkeypatch.setenv("FEDLLM_JUDGE_MODEL", "judge")
    made = judge_from_environment(tmp_path / "cache.jsonl")
    assert (made.endpoint.model, made.endpoint.key, made.workers) == ("judge", KEY, 4)
    assert made.grade(*one_turn("a")) == [rated(5.0)]
    assert server.paths == ["/v1/chat/completions"]
    monkeypatch.delenv("FEDLLM_JUDGE_URL")
    with pytest.raises(UserError, match="FEDLLM_JUDGE_URL is not"):
        judge_from_environment(tmp_path / "cache.jsonl")


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("localhost:8000", ""),
        ("ftp://host/v1", ""),
        ("http://", ""),
        ("http://host:port/v1", ""),
        (f"http://user:{KEY}@host/v1", ""),
        (f"http://host/v1?key={KEY}", ""),
        ("http://host/v1", f"{KEY}\nX: y"),
        ("http://host/v1", f"{KEY}é"),
    ],
)
def test_a_url_or_key_that_cannot_be_used_is_refused_without_being_shown(url, key):
    with pytest.raises(JudgeError) as caught:
        Endpoint(url, "judge", key)
    assert KEY not in str(caught.value)


def test_without_a_key_no_authorization_is_sent(server, judge):
    judge(key="").grade(*one_turn("a"))
    assert "Authorization" not in server.headers[0]
    assert json.dumps(server.requests[0]).count("temperature") == 1
