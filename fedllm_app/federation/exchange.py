"""How the replies of a round come in: one by one and checked, or, for other exchanges, as their sum."""

import copy
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedllm_app.federation.closing import Closing
from fedllm_app.federation.error_replies import is_lost_node
from fedllm_app.federation.ledger import Ledger
from fedllm_app.federation.reply_checks import array_problem, checked_content, reply_problem, unreadable
from fedllm_app.federation.sent_once import SentOnce
from fedllm_app.federation.transport import LateReplies, ask
from fedllm_app.federation.wire_arrays import UnreadableArray, read_arrays
from fedllm_app.messages import ADAPTER, ARRAYS, plain_text, vectors_record
from fedllm_app.packed_arrays import array_view
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.update import UpdateError


@dataclass(frozen=True)
class RoundRequest:
    """What the loop asks for in one round.

    Attributes
    ----------
    kind : str
        `MessageType.TRAIN` or `MessageType.EVALUATE`.
    contents : Mapping[int, RecordDict]
        The message to each client.
    absent : Mapping[int, str]
        Why clients that were drawn as well are sent none.
    enough : int | None
        Usable replies after which the others have the grace time only; None: all are waited for.
    accepted : list[int]
        Filled while the replies come in: the clients whose replies were used.
    silent, lost : list[int]
        Filled as well: the clients that did not answer, and those whose node Flower says to be gone.
    arrived : dict[int, float]
        Filled as well: seconds from the end of sending to the arrival of each client's reply.
    seconds : dict[str, float]
        Filled as well: how long the server was busy with sending ("send") and did nothing but wait ("wait").
    """

    server_round: int
    kind: str
    contents: Mapping[int, RecordDict]
    absent: Mapping[int, str] = field(default_factory=dict)
    enough: int | None = None
    accepted: list[int] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    arrived: dict[int, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"send": 0.0, "wait": 0.0})


class Exchange(ABC):
    """Sends the messages of a round and hands on what the strategy aggregates.

    An exchange that forms a sum (secure aggregation, in several phases) hands on one reply that stands for all; it
    needs a strategy whose `needs_single_replies` is false.
    """

    gives_single_replies: bool = True

    @abstractmethod
    def replies(self, request: RoundRequest) -> Iterator[Message]:
        """Yield usable replies in the order of the clients, as Flower's strategies take them.

        Arrays are float32 vectors of the shape of the global adapter, finite. Whatever is not used is journaled.
        """


class PlainExchange(Exchange):
    """Single replies in the clear: each is checked, decoded by the update chain, and journaled.

    Parameters
    ----------
    nodes : Mapping[int, int]
        The node id that serves each client.
    manifest : str
        Hash of the layout of the vector that travels, which every reply must name.
    required : Sequence[str]
        Names of the arrays that the strategy needs of a training reply.
    timeout : float
        Seconds to wait for the replies of a round, `run.round-timeout`.
    grace : float
        Seconds to wait after enough replies, `clients.grace`.
    examples : Mapping[int, int] | None
        Training examples of each client as described before round 1, which no reply may exceed; None for pooled rows.
    held_out : Mapping[int, int] | None
        Held-out rows of each client likewise.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[int, int],
        *,
        manifest: str,
        required: Sequence[str],
        timeout: float,
        grace: float = 0.0,
        ledger: Ledger,
        chain: UpdateChain,
        once: SentOnce,
        examples: Mapping[int, int] | None = None,
        held_out: Mapping[int, int] | None = None,
    ) -> None:
        self.grid, self.nodes = grid, nodes
        self.manifest, self.required = manifest, required
        self.timeout, self.grace = timeout, grace
        self.ledger, self.chain, self.once = ledger, chain, once
        self.examples, self.held_out = examples or {}, held_out or {}
        self.late = LateReplies(ledger.late)

    def replies(self, request: RoundRequest) -> Iterator[Message]:
        """See `Exchange`."""
        addressed = {client: (self.nodes[client], content) for client, content in request.contents.items()}
        for content in request.contents.values():
            self.ledger.sent(content)
        closing = Closing(self.timeout, enough=request.enough, grace=self.grace)
        self.late.server_round = request.server_round
        usable = functools.partial(self._usable, request, closing)
        since = time.monotonic()
        for client, answer in ask(
            self.grid, addressed, request.kind, closing, usable, self.late, self.ledger.directory.path
        ):
            if since < closing.began:  # the first look sends the messages
                request.seconds["send"] += closing.began - since
                since = closing.began
            request.seconds["wait"] += time.monotonic() - since
            if self._accepted(request, client, answer, closing):
                yield answer
            del answer  # the next reply may be long in coming; this one is the strategy's alone
            since = time.monotonic()

    def _accepted(self, request: RoundRequest, client: int, answer: Message | None, closing: Closing) -> bool:
        """Whether an answer is a usable reply, which then holds what a strategy is shown; any other is journaled."""
        if answer is None:
            request.silent.append(client)
            self._refused(request, client, closing.reason())
            return False
        content = request.contents[client]
        problem = None
        decoded = answer.content.get(ARRAYS, ArrayRecord()) if request.kind == MessageType.TRAIN else None
        if self.chain.steps:
            decoded, problem = self._decoded(client, answer, content, request.kind, self.chain)
        if problem is not None:  # a step that remembers earlier replies may judge otherwise than on arrival
            self._refused(request, client, problem)
            return False
        request.accepted.append(client)
        self.once.received(client)
        seconds = request.arrived[client]
        self.ledger.accepted(request.server_round, client, request.kind, content, answer, seconds)
        answer.content = checked_content(answer, decoded)
        return True

    def _usable(self, request: RoundRequest, closing: Closing, client: int, answer: Message) -> bool:
        """Whether a reply can be used, as it arrives: one that cannot must neither wait nor count."""
        request.arrived[client] = time.monotonic() - closing.began
        # The steps' own states advance in the order of the clients, when the reply is handed on, and once.
        chain = copy.deepcopy(self.chain)
        _, problem = self._decoded(client, answer, request.contents[client], request.kind, chain)
        if problem is not None:
            if answer.has_error() and is_lost_node(answer.error):
                request.lost.append(client)
            self._refused(request, client, problem)
        return problem is None

    def _refused(self, request: RoundRequest, client: int, reason: str) -> None:
        self.once.refused(client)
        self.ledger.refused(request.server_round, client, request.kind, reason)

    def _decoded(
        self, client: int, answer: Message, sent: RecordDict, kind: str, chain: UpdateChain
    ) -> tuple[ArrayRecord | None, str | None]:
        """The arrays of a usable training reply as the update chain decodes them, and why a reply cannot be used.

        This is the only look at a reply before it is accepted, so that whatever it raises costs one client its round.
        """
        try:
            return self._looked_at(client, answer, sent, kind, chain)
        except (UnreadableArray, UpdateError) as error:
            return None, plain_text(str(error))
        except Exception as error:
            return None, unreadable(error)

    def _looked_at(
        self, client: int, answer: Message, sent: RecordDict, kind: str, chain: UpdateChain
    ) -> tuple[ArrayRecord | None, str | None]:
        trains = kind == MessageType.TRAIN
        most = (self.examples if trains else self.held_out).get(client)
        problem = reply_problem(answer, self.manifest, client, most, kind)
        if problem is not None or not trains:
            return None, problem
        x = array_view(sent[ARRAYS][ADAPTER])
        wire = answer.content.get(ARRAYS, ArrayRecord())
        vectors = chain.incoming(read_arrays(wire, x.size, bool(chain.steps)), x)
        problem = array_problem(vectors, x.size, self.required)
        if problem is not None:
            return None, problem
        return vectors_record(vectors) if chain.steps else wire, None
