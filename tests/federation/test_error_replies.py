"""What error replies of Flower, Ray and clients are told as."""

import pytest
from flwr.app import Error

from fedllm_app.federation.error_replies import error_reason, is_lost_node


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (
            0,
            "<class 'ray.exceptions.ActorDiedError'>:<'The actor died\n\tclass_name: X'>",
            "died (Ray: ActorDiedError)",
        ),
        (0, "<class 'ray.exceptions.ActorUnavailableError'>:<'gone'>", "died (Ray: ActorUnavailableError)"),
        (3, "Error: Message Unavailable", "Flower has no message for it any more"),
        (4, "Error: Reply Message Unavailable", "its reply expired on the way"),
        (5, "Error: Node Unavailable", "its SuperNode was lost"),
        (8, "ClientApp stopped responding.", "the process of its ClientApp died"),
        (2, "client 1: out of memory", "client 1: out of memory"),
        (2, "", "error code 2"),
    ],
)
def test_reasons(code, reason, said):
    assert said in error_reason(Error(code=code, reason=reason))
    assert is_lost_node(Error(code=code, reason=reason)) is (code == 5)
