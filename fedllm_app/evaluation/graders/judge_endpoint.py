"""One call to an OpenAI-compatible endpoint: retried with back-off while that may help, given up where it cannot."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    import httpx

_PATH = "/chat/completions"
_PASSING = frozenset({408, 409, 425, 429})  # and every 5xx: the same request may succeed later
_WRONG = frozenset({401, 404, 405})  # and every redirection: no request of ours can succeed
_SHOWN = 200  # characters of a reason, which may hold an endpoint's own message
_SECRET = 8  # a shorter key is a placeholder such as "EMPTY"; replacing it would garble replies


class JudgeError(UserError):
    """The judge's settings cannot be used, or its cache cannot be read or written."""


class NoReply(Exception):
    """There is no reply to one prompt, after all attempts.

    Attributes
    ----------
    extent : Literal["prompt", "perhaps all", "all"]
        Whether others will fail, too: no (the endpoint refused this one), maybe (it did not answer), yes.
    """

    def __init__(self, reason: str, extent: Literal["prompt", "perhaps all", "all"]) -> None:
        super().__init__(reason)
        self.extent = extent


class _Passing(Exception):
    """This attempt failed and another may not. `after`: seconds that the endpoint asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Endpoint:
    """Where a judge answers.

    Attributes
    ----------
    url : str
        Base URL, such as "http://localhost:8000/v1"; "/chat/completions" at its end may be there or not.
    model : str
        The judge's name there.
    key : str
        Sent as a bearer token; "" sends none. In no representation and no message.
    timeout : float
        Seconds for one attempt, from sending to the last byte.
    delays : tuple[float, ...]
        Seconds to wait before each further attempt; a longer `Retry-After` of the endpoint counts instead.
    longest_wait : float
        Seconds that a `Retry-After` may ask for; more is cut to this.
    max_tokens : int
        Of a reply.
    sleep : Callable[[float], object] | None
        Waits; None waits in a way that an interruption ends.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    delays: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    longest_wait: float = 60.0
    max_tokens: int = 2048
    sleep: Callable[[float], object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        import httpx

        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise JudgeError("the judge's URL is no URL; one looks like http://localhost:8000/v1") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise JudgeError("the judge's URL must begin with http:// or https:// and name a machine")
        if url.userinfo or url.query or url.fragment:
            raise JudgeError("the judge's URL may hold no user name, password, '?' or '#'; the key has its own setting")
        if not self.model:
            raise JudgeError("the judge's model has no name")
        if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
            raise JudgeError("the judge's key holds characters that cannot be sent in a header")

    def client(self) -> "httpx.Client":
        """A client that several threads may use."""
        import httpx

        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        return httpx.Client(headers=headers, timeout=self.timeout)

    def reply(self, client: "httpx.Client", prompt: str, closing: threading.Event) -> str:
        """The reply to a prompt, at temperature 0; "" where the judge says nothing.

        Raises
        ------
        NoReply
            All attempts failed, or the endpoint refused; or `closing` is set.
        """
        for delay in (*self.delays, None):
            if closing.is_set():
                raise NoReply("interrupted", "all")
            try:
                return self._hidden(self._attempt(client, prompt))
            except _Passing as failure:
                if delay is None:
                    raise NoReply(self._hidden(str(failure))[:_SHOWN], "perhaps all") from None
                wait = min(max(delay, failure.after), max(delay, self.longest_wait))
            (self.sleep or closing.wait)(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, client: "httpx.Client", prompt: str) -> str:
        import httpx

        try:
            status, retry_after, body = self._post(client, prompt)
        except httpx.TimeoutException:
            raise _Passing(f"no reply within {self.timeout:g} s") from None
        except httpx.RequestError as error:  # refused, hung up, or answered in something that is no HTTP
            raise _Passing(f"no connection ({' '.join(str(error).split()) or type(error).__name__})") from None
        if status in _PASSING or status >= 500:
            raise _Passing(f"HTTP {status}", _seconds(retry_after))
        if status >= 300:
            reason = self._hidden(f"HTTP {status}{_message(body)}")[:_SHOWN]  # hidden first: a cut key is a key
            raise NoReply(reason, "all" if status in _WRONG or status < 400 else "prompt")
        return _content(body)

    def _post(self, client: "httpx.Client", prompt: str) -> tuple[int, str, bytes]:
        """Status, Retry-After and body. httpx limits each wait and not their sum: a trickle of bytes is ended here."""
        import httpx

        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        # json.dumps writes ASCII, so an answer with half a surrogate pair can be sent, too
        url, content = self.url.rstrip("/").removesuffix(_PATH) + _PATH, json.dumps(request).encode()
        end = time.monotonic() + self.timeout
        with client.stream("POST", url, content=content) as response:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("the reply takes too long")
            return response.status_code, response.headers.get("Retry-After", ""), bytes(body)

    def _hidden(self, text: str) -> str:
        """Without the key, which an endpoint may echo."""
        return text.replace(self.key, "(key)") if len(self.key) >= _SECRET else text


def _content(body: bytes) -> str:
    """The text of a chat completion. No text at all, as with a refusal, is ""."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _Passing("its reply is no chat completion") from None
    if content is not None and not isinstance(content, str):
        raise _Passing("its reply is no chat completion")
    return content or ""


def _message(body: bytes) -> str:
    """What the endpoint says of an error, on one line, behind a colon; "" if it says nothing readable."""
    try:
        said = json.loads(body)
        said = said.get("error", said.get("message", ""))
        said = said.get("message", "") if isinstance(said, dict) else said
    except (ValueError, AttributeError, RecursionError):
        return ""
    shown = " ".join(str(said or "").split())
    return f": {shown}" if shown else ""


def _seconds(retry_after: str) -> float:
    """Of a Retry-After header, which holds seconds or a date; 0 for none and for anything else."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return seconds if seconds > 0 else 0.0  # also for NaN
