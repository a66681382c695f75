"""Arrays that a client is sent once and keeps: a reference policy, the factors that stay at home."""

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import Array

from fedllm_app.messages import vector_hash


class SentOnce:
    """Knows which client still lacks which array.

    An array travels with a client's first message, and again after a reply that was refused, in case the client lost
    it.

    Parameters
    ----------
    arrays : Mapping[str, np.ndarray]
        Packed float32 vectors by name.
    clients : Iterable[int]
        All clients.
    derived : Iterable[str]
        Names of arrays that clients can make themselves; they are sent only after a refusal.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], clients: Iterable[int], derived: Iterable[str] = ()) -> None:
        self.hashes = {name: vector_hash(array) for name, array in arrays.items()}
        self._arrays = {name: Array(array.astype(np.float32)) for name, array in arrays.items()}
        everyone = set(clients)
        self._lacking = {name: set() if name in set(derived) else set(everyone) for name in arrays}

    def for_client(self, client: int) -> dict[str, Array]:
        """The arrays to send with the next message to a client."""
        return {name: array for name, array in self._arrays.items() if client in self._lacking[name]}

    def received(self, client: int) -> None:
        """Note that a client answered, so that it has what it was sent."""
        for lacking in self._lacking.values():
            lacking.discard(client)

    def refused(self, client: int) -> None:
        """Note that a client gave no usable reply."""
        for lacking in self._lacking.values():
            lacking.add(client)
