"""What an error reply says: the client's own words, or what Flower and Ray mean by theirs."""

import re

from flwr.app import Error
from flwr.common.constant import ErrorCode

from fedllm_app.messages import plain_text

_RAY = re.compile(r"ray\.exceptions\.(\w+)")
_MEANING = {
    ErrorCode.MESSAGE_UNAVAILABLE: "Flower has no message for it any more: it expired, or its SuperNode was removed",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply expired on the way; are the clocks of the machines right?",
    ErrorCode.CLIENT_APP_CRASHED: "the process of its ClientApp died: killed, or out of memory",
    ErrorCode.NODE_UNAVAILABLE: "its SuperNode was lost: Flower has had no sign of life of it for a minute",
}


def error_reason(error: Error) -> str:
    """One line that says why a client could not do what it was asked to."""
    reason = plain_text(error.reason or "")
    died = _RAY.search(reason)
    if died:
        return (
            f"the worker process of the simulation that served it died (Ray: {died[1]}), perhaps out of memory; Ray "
            "starts it anew"
        )
    return _MEANING.get(error.code) or reason or f"error code {error.code}"


def is_lost_node(error: Error) -> bool:
    """Whether the reply is Flower's own, for a node that is gone."""
    return error.code == ErrorCode.NODE_UNAVAILABLE
