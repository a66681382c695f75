"""What a judge has said is kept: nothing is asked twice, and a cache that fails is told."""

import subprocess
import sys
import threading
import time

import pytest
from evaluation.graders.judging import one_turn, rated
from evaluation.graders.misbehaving_server import (
    says,
    slow,
    status,
)

from fedllm_app.evaluation.graders.judge import (
    EndpointJudge,
    ReplyCache,
)
from fedllm_app.evaluation.graders.judge_endpoint import Endpoint, JudgeError
from fedllm_app.evaluation.suite import Answer

RUN = """
import sys
from pathlib import Path
from fedllm_app.evaluation.graders.judge import EndpointJudge, ReplyCache
from fedllm_app.evaluation.graders.judge_endpoint import Endpoint
from fedllm_app.evaluation.suite import Answer, Question
questions = [Question(f"question {name}?") for name in "abcdef"]
answers = [Answer((f"answer {name}",)) for name in "abcdef"]
EndpointJudge(Endpoint(sys.argv[1], "judge"), ReplyCache(Path(sys.argv[2])), workers=1).grade(questions, answers)
"""


def test_a_killed_run_goes_on_and_asks_nothing_twice(server, judge, tmp_path):
    """a, b and c were answered and the run is killed while it waits for d: three more are asked, d, e and f."""
    fourth = threading.Event()

    def stuck(handler):
        fourth.set()
        slow(handler)

    server.script([says("[[1]]"), says("[[2]]"), says("[[3]]"), stuck])
    cache = tmp_path / "cache" / "judge.jsonl"
    run = subprocess.Popen([sys.executable, "-c", RUN, server.url, str(cache)])
    try:
        assert fourth.wait(60)
    finally:
        run.kill()
        run.wait()
    assert judge().grade(*one_turn(*"abcdef")) == [rated(1.0), rated(2.0), rated(3.0)] + [rated(5.0)] * 3
    assert server.calls == 4 + 3
    assert sum("answer d" in prompt for prompt in server.prompts) == 2
    judge().grade(*one_turn(*"abcdef"))
    assert server.calls == 4 + 3


def test_a_torn_last_line_is_counted_and_asked_again(server, judge):
    """Two replies, the second one's line cut in its middle; the next line does not stick to it."""
    grader = judge()
    grader.grade(*one_turn("a", "b"))
    path = grader.cache.path
    path.write_bytes(path.read_bytes()[:-9])
    resumed = judge()
    assert resumed.cache.unread == 1
    assert resumed.notes()[1].endswith("could not be read: 1")
    assert resumed.grade(*one_turn("a", "b")) == [rated(5.0)] * 2
    assert server.calls == 3
    assert judge().grade(*one_turn("a", "b")) == [rated(5.0)] * 2
    assert server.calls == 3


def test_lines_of_others_in_the_cache_are_counted_and_left(judge, tmp_path):
    path = tmp_path / "cache" / "judge.jsonl"
    path.parent.mkdir()
    path.write_text('[1]\n7\n{"key": 1, "reply": "x"}\n{"reply": "x"}\n\n\xff\n', encoding="latin-1")
    before = path.read_bytes()
    grader = judge()
    grader.grade(*one_turn("a"))
    assert grader.cache.unread == 5
    assert path.read_bytes().startswith(before)


def test_another_judge_or_another_answer_is_asked_anew_and_the_same_one_once(server, judge):
    """a and b: two calls, though a comes twice. Then another judge, then another answer: one call each."""
    questions, answers = one_turn("a", "b", "a")

    def deed(handler):  # so slow that all three would be asked at once
        handler.server.closing.wait(0.05)
        says("[[5]]")(handler)

    server.behaviour = lambda _prompt, _before: deed
    judge(workers=4).grade(questions, answers)
    assert server.calls == 2
    judge(model="other").grade(questions[:1], answers[:1])
    assert server.calls == 3
    judge().grade(questions[:1], [Answer(("something else",))])
    assert server.calls == 4


def test_a_cache_that_cannot_be_written_stops_the_grading(judge, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(JudgeError, match="cannot be written"):
        judge().grade(*one_turn("a"))


def test_what_stops_the_grading_stops_the_calls(server, judge, tmp_path):
    """The first of 40 replies cannot be written down; each takes 0.02 s, and most are never asked for."""
    (tmp_path / "cache").write_text("a file where a folder should be")

    def deed(handler):
        handler.server.closing.wait(0.02)
        says("[[5]]")(handler)

    server.behaviour = lambda _prompt, _before: deed
    with pytest.raises(JudgeError):
        judge().grade(*one_turn(*map(str, range(40))))
    assert server.calls < 20


def test_what_stops_the_grading_ends_the_waiting_before_another_attempt(server, tmp_path):
    """b fails and would wait for 30 s; then the reply to a cannot be written down."""
    failed = threading.Event()

    def fails(handler):
        status(500)(handler)
        failed.set()

    def answers(handler):
        failed.wait(10)
        handler.server.closing.wait(0.05)
        says("[[5]]")(handler)

    (tmp_path / "cache").write_text("a file where a folder should be")
    server.behaviour = lambda prompt, _before: answers if "answer <a>" in prompt else fails
    endpoint = Endpoint(server.url, "judge", delays=(30.0,))
    began = time.monotonic()
    with pytest.raises(JudgeError):
        EndpointJudge(endpoint, ReplyCache(tmp_path / "cache" / "judge.jsonl")).grade(*one_turn("<a>", "<b>"))
    assert time.monotonic() - began < 15
    assert server.calls == 2


def test_a_cache_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(JudgeError, match="cannot be read"):
        ReplyCache(tmp_path)
