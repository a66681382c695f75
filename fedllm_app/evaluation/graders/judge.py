"""Conversations graded by a language model behind an endpoint: concurrent, cached, resumable.

A reply that holds no rating is asked for again and then counted as missing. It is never a low rating: a judge that
fails says nothing about the model.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.evaluation.graders.judge_endpoint import Endpoint, JudgeError, NoReply
from fedllm_app.evaluation.graders.judge_prompts import judge_prompt, read_rating
from fedllm_app.evaluation.suite import Answer, Grade, Means, Metric, Question
from fedllm_app.paths import make_directory, opener

if TYPE_CHECKING:
    import httpx

URL, MODEL, KEY = "FEDLLM_JUDGE_URL", "FEDLLM_JUDGE_MODEL", "FEDLLM_JUDGE_KEY"
NOT_JUDGED = "not judged"
NO_RATING = "no rating"
NO_ANSWER = "no answer"

TURNS = ("turn 1", "turn 2")
RATING = "rating"
MISSING_RATINGS = "missing ratings"


def judged(questions: Sequence[Question], answers: Sequence[Answer], means: Means) -> list[Grade]:
    """The grader of conversations: by `means.judge`; without one, every answer is "not judged".

    A grade's values are "turn 1" and "turn 2" (1 to 10; a turn without rating is absent), "rating" (their mean, only
    where every turn is rated) and "missing ratings" (turns without one). Its labels say why a turn has none. An answer
    without any rating is missing.
    """
    if means.judge is None:
        return [Grade(missing=NOT_JUDGED) for _ in questions]
    return means.judge.grade(questions, answers)


def mean_rating(grades: Sequence[Grade]) -> float:
    """The mean of all ratings, whichever turn they are of: a rated turn counts where the other one is missing."""
    ratings = [grade.values[turn] for grade in grades for turn in TURNS if turn in grade.values]
    return sum(ratings) / len(ratings)


def rating_metric(name: str, key: str) -> Metric:
    """The mean of a rating, from 1 to 10."""
    return Metric(name, "mean", key, percent=False)


class ReplyCache:
    """Replies in a JSONL file, appended at once: what a killed run had asked is not asked again.

    A line holds "key" (a hash of the judge's model, what it was asked and how), "model" and "reply". Lines that cannot
    be read, such as a last one that was torn, are left alone and counted in `unread`.

    Raises
    ------
    JudgeError
        The file cannot be read, or later written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unread = 0
        self._lock = threading.Lock()
        self._replies: dict[str, list[str]] = {}
        self._torn = False  # whether the next line must first end the one before
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise JudgeError(f"the judge's cache {path} cannot be read: {error.strerror}") from error
        for line in content.splitlines():
            self._take(line)
        self._torn = bool(content) and not content.endswith(b"\n")

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key, reply = row["key"], row["reply"]
        except (ValueError, LookupError, TypeError):
            key = reply = None
        if isinstance(key, str) and isinstance(reply, str):
            self._replies.setdefault(key, []).append(reply)
        elif line.strip():
            self.unread += 1

    def replies(self, key: str) -> list[str]:
        """All replies under a key, the oldest first."""
        with self._lock:
            return list(self._replies.get(key, ()))

    def add(self, key: str, model: str, reply: str) -> None:
        """Write a reply down."""
        line = json.dumps({"key": key, "model": model, "reply": reply}).encode() + b"\n"
        with self._lock:
            try:
                make_directory(self.path.parent)
                with open(
                    self.path, "ab", opener=opener
                ) as file:  # one write, so that lines of two processes do not mix
                    file.write(b"\n" + line if self._torn else line)
            except OSError as error:
                raise JudgeError(f"the judge's cache {self.path} cannot be written: {error.strerror}") from error
            self._torn = False
            self._replies.setdefault(key, []).append(reply)


@dataclass(frozen=True)
class Verdict:
    """The rating of one answer, or why there is none."""

    rating: float | None = None
    missing: str = ""


@dataclass
class EndpointJudge:
    """Rates every turn of a conversation by itself; the second turn's prompt shows the first.

    Attributes
    ----------
    endpoint, cache : Endpoint, ReplyCache
        Who answers, and where replies are kept.
    workers : int
        Calls at a time.
    asks : int
        Replies that are asked for one prompt until one holds a rating; those of earlier runs count.
    patience : int
        Prompts in a row that got no reply, after which the endpoint is held to be gone: the others are not asked.
    """

    endpoint: Endpoint
    cache: ReplyCache
    workers: int = 4
    asks: int = 3
    patience: int = 3
    _failed: int = field(default=0, init=False, repr=False)  # prompts in a row
    _gone: str = field(default="", init=False, repr=False)  # why no more is asked
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def grade(self, questions: Sequence[Question], answers: Sequence[Answer]) -> list[Grade]:
        """A grade each, in the same order; see `judged` for what it holds. What is asked twice is asked once.

        Raises
        ------
        JudgeError
            The cache cannot be written.
        """
        prompts = [turn_prompts(question, answer) for question, answer in zip(questions, answers, strict=True)]
        verdicts = self._verdicts(dict.fromkeys(prompt for those in prompts for prompt in those if prompt))
        return [grade_of([verdicts.get(prompt, Verdict(missing=NO_ANSWER)) for prompt in those]) for those in prompts]

    def notes(self) -> list[str]:
        """What is to be said of the judge beside its ratings."""
        said = [f"judged by {self.endpoint.model}"]
        if unread := self.cache.unread:
            said.append(f"lines of the judge's cache {self.cache.path.name} that could not be read: {unread}")
        return said

    def _verdicts(self, prompts: Iterable[str]) -> dict[str, Verdict]:
        closing = threading.Event()
        self._gone, self._failed = "", min(self._failed, self.patience - 1)  # one that was gone gets another try
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")
        with self.endpoint.client() as client:
            try:
                futures = {prompt: pool.submit(self._verdict, client, prompt, closing) for prompt in prompts}
                return {prompt: future.result() for prompt, future in futures.items()}
            finally:  # after an interruption, too: nothing more is asked, and paid for
                closing.set()
                pool.shutdown()

    def _verdict(self, client: "httpx.Client", prompt: str, closing: threading.Event) -> Verdict:
        key = cache_key(self.endpoint, prompt)
        replies = self.cache.replies(key)
        ratings = [rating for rating in map(read_rating, replies) if rating is not None]
        if ratings:
            return Verdict(ratings[0])
        for _ in range(self.asks - len(replies)):
            if self._gone:
                return Verdict(missing=f"{NOT_JUDGED}: {self._gone}")
            try:
                reply = self.endpoint.reply(client, prompt, closing)
            except NoReply as failure:
                self._note(failure)
                return Verdict(missing=f"{NOT_JUDGED}: {failure}")
            with self._lock:
                self._failed = 0
            self.cache.add(key, self.endpoint.model, reply)
            rating = read_rating(reply)
            if rating is not None:
                return Verdict(rating)
        return Verdict(missing=NO_RATING)

    def _note(self, failure: NoReply) -> None:
        with self._lock:
            self._failed = 0 if failure.extent == "prompt" else self._failed + 1  # a refusal is a sign of life
            if failure.extent == "all" or self._failed >= self.patience:
                self._gone = str(failure)


def turn_prompts(question: Question, answer: Answer) -> list[str]:
    """What the judge is asked on every turn; "" for a turn that the model did not answer.

    `question.gold` is a list with the reference answer of every turn, or None.
    """
    asked = [question.text, question.follow_up] if question.follow_up else [question.text]
    references = list(question.gold or ())
    conversation = list(question.turns)
    prompts = []
    for place, text in enumerate(asked):
        if place >= len(answer.texts):
            prompts.append("")
            continue
        conversation += [("user", text), ("assistant", answer.texts[place])]
        prompts.append(judge_prompt(conversation, references[: place + 1]))
    return prompts


def grade_of(verdicts: Sequence[Verdict]) -> Grade:
    """The grade of a conversation of one or two turns."""
    ratings = {
        turn: verdict.rating for turn, verdict in zip(TURNS, verdicts, strict=False) if verdict.rating is not None
    }
    reasons = {turn: verdict.missing for turn, verdict in zip(TURNS, verdicts, strict=False) if verdict.rating is None}
    if not ratings:
        # an endpoint that fails is the reason that a user can do something about
        return Grade(
            missing=next((said for said in reasons.values() if said.startswith(NOT_JUDGED)), verdicts[0].missing)
        )
    values = {**ratings, MISSING_RATINGS: float(len(reasons))}
    if not reasons:
        values[RATING] = sum(ratings.values()) / len(ratings)
    return Grade(values, reasons)


def cache_key(endpoint: Endpoint, prompt: str) -> str:
    """A hash of all that a reply depends on: the judge's model, and the prompt with question, answers and references.

    The URL is no part of it, because a local server changes its port; give another judge another name.
    """
    asked = json.dumps([endpoint.model, endpoint.max_tokens, prompt])
    return hashlib.sha256(asked.encode()).hexdigest()


def judge_from_environment(cache: Path) -> EndpointJudge | None:
    """The judge of FEDLLM_JUDGE_URL, FEDLLM_JUDGE_MODEL and FEDLLM_JUDGE_KEY, with its replies in a file `cache`.

    None where no URL is set.

    Raises
    ------
    JudgeError
        A URL without model, or a model without URL; a URL or key that cannot be used; a cache that cannot be read.
    """
    url, model, key = (os.environ.get(name, "").strip() for name in (URL, MODEL, KEY))
    if url and not model:
        raise JudgeError(f"{URL} is set and {MODEL} is not: name the model that is to judge")
    if model and not url:
        raise JudgeError(f"{MODEL} is set and {URL} is not: name the endpoint, such as http://localhost:8000/v1")
    return EndpointJudge(Endpoint(url, model, key), ReplyCache(cache)) if url else None
