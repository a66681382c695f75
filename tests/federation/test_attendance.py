"""Who is there in which round: sites that leave, come back under another node id, join late."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedllm_app.federation.attendance import NOT_CONNECTED, Attendance, differences
from fedllm_app.federation.fingerprint import PROTOCOL
from fedllm_app.federation.roster import Node
from fedllm_app.messages import ClientHolding

CODE = "c0de"
SITES = {10: "athens", 11: "oslo", 12: "rome"}  # node -> site; clients 0, 1, 2


def holding(examples: int = 16) -> ClientHolding:
    return ClientHolding("a site", "chat", examples, 4, 0, 0, 90)


class Federation:
    """The attendance of three sites on a grid whose connected nodes are `connected`."""

    def __init__(self, make_grid, partitions: int = 0) -> None:
        self.sites: dict[int, dict] = {}
        self.asked: list[int] = []
        self.described: list[dict[int, int]] = []
        self.problems: dict[int, str] = {}
        self.rows: dict[int, int] = {}
        self.back: list[tuple[int, int]] = []
        self.introduced: list[list[int]] = []
        self.events: list[tuple[str, dict]] = []
        self.nodes = {0: 10, 1: 11, 2: 12}
        self.grid = make_grid(self._identify, looks=[list(SITES)])
        known = [Node(node_id, -1, partitions, site, CODE) for node_id, site in SITES.items()]
        self.attendance = Attendance(
            self.grid,
            self.nodes,
            [*known, Node(99, -1, partitions, "unused", CODE)],
            holdings={client: holding() for client in self.nodes},
            code=CODE,
            describe=self._describe,
            introduced=lambda new: self.introduced.append(sorted(new)),
            returned=lambda client, held: self.back.append((client, held.examples)),
            journal=lambda event, **more: self.events.append((event, more)),
            wait_timeout=0.05,
        )

    def _identify(self, message):
        node_id = message.metadata.dst_node_id
        self.asked.append(node_id)
        if node_id not in self.sites:
            return None
        plain = {"partition": -1, "partitions": 0, "site": "", "code": CODE, "protocol": PROTOCOL}
        return Message(RecordDict({"config": ConfigRecord(plain | self.sites[node_id])}), reply_to=message)

    def _describe(self, nodes):
        self.described.append(dict(nodes))
        problems = {client: reason for client, reason in self.problems.items() if client in nodes}
        rest = nodes.keys() - problems.keys()
        return {client: (holding(self.rows.get(client, 16)), ["torch 2"]) for client in rest}, problems

    def absent(self, *connected: int, clients=(0, 1, 2), least=0, server_round=7) -> dict[int, str]:
        self.grid.looks = [list(connected)]
        return self.attendance.absent(server_round, clients, least)

    def told(self, event: str) -> list[dict]:
        return [more for kind, more in self.events if kind == event]


@pytest.fixture
def federation(make_grid, monkeypatch):
    monkeypatch.setattr("fedllm_app.federation.attendance._LOOK_EVERY", 0.001)
    monkeypatch.setattr("fedllm_app.federation.attendance._IDENTIFY_TIMEOUT", 0.02)
    return Federation(make_grid)


def test_where_nobody_moves_nobody_is_asked(federation):
    assert federation.absent(10, 11, 12, 99) == {}
    assert (federation.asked, federation.described, federation.events) == ([], [], [])


def test_a_simulation_keeps_its_nodes(make_grid):
    federation = Federation(make_grid, partitions=3)
    assert federation.absent() == {}


def test_a_site_that_left_is_absent_and_comes_back_under_another_id_with_more_rows(federation):
    assert federation.absent(10, 12) == {1: NOT_CONNECTED}
    federation.sites[50] = {"site": "oslo"}
    federation.rows[1] = 24
    assert federation.absent(10, 12, 50) == {}
    assert federation.nodes == {0: 10, 1: 50, 2: 12}
    assert (federation.asked, federation.described, federation.back) == ([50], [{1: 50}], [(1, 24)])
    (told,) = federation.told("returned")
    assert told == {"round": 7, "client": 1, "name": "a site", "changed": {"examples": [16, 24]}}
    assert federation.absent(10, 12, 50) == {}
    assert len(federation.described) == 1


def test_a_site_that_comes_back_under_its_own_id_is_described_anew(federation):
    """With a key, a node keeps its id."""
    assert federation.absent(10, 12) == {1: NOT_CONNECTED}
    assert federation.absent(10, 11, 12) == {}
    assert (federation.asked, federation.described) == ([], [{1: 11}])


def test_a_site_that_cannot_take_part_any_more_is_absent_with_its_reason(federation):
    federation.absent(10, 12)
    federation.problems[1] = "client 1: no rows"
    assert federation.absent(10, 11, 12) == {1: "client 1: no rows"}
    del federation.problems[1]
    assert federation.absent(10, 11, 12) == {}
    assert len(federation.described) == 2


def test_a_client_that_holds_up_rounds_is_asked_in_fewer_and_fewer(federation, monkeypatch):
    """In rounds 8, 10 and 14 of 8 to 16; when it was gone in between, in the next round."""
    monkeypatch.setattr("fedllm_app.federation.attendance._PATIENCE", -1.0)
    federation.absent(10, 12)
    federation.problems[1] = "client 1: no reply"
    asked = []
    for number in range(8, 17):
        before = len(federation.described)
        (reason,) = federation.absent(10, 11, 12, server_round=number).values()
        if len(federation.described) > before:
            asked.append(number)
        else:
            assert "it is asked again in round" in reason
    assert asked == [8, 10, 14]
    federation.absent(10, 12, server_round=17)
    del federation.problems[1]
    assert federation.absent(10, 11, 12, server_round=18) == {}


def test_only_clients_of_the_round_are_described(federation):
    federation.absent(10, 12)
    assert federation.absent(10, 11, 12, clients=(0, 2)) == {}
    assert federation.described == []
    assert federation.absent(10, 11, 12, clients=(0, 1)) == {}
    assert federation.described == [{1: 11}]


def test_a_late_site_is_told_once_and_not_used(federation):
    federation.sites[60] = {"site": "paris"}
    for _ in range(2):
        assert federation.absent(10, 11, 12, 60) == {}
    (told,) = federation.told("warning")
    assert "site 'paris' joined during the run; it is not used" in told["reason"]
    assert federation.nodes == {0: 10, 1: 11, 2: 12}


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"site": "oslo", "protocol": 1}, "came back with protocol 1"), ({"site": ""}, "without a site's name")],
)
def test_a_node_that_may_not_serve_is_told_and_not_used(federation, said, reason):
    federation.sites[50] = said
    assert federation.absent(10, 12, 50) == {1: NOT_CONNECTED}
    (told,) = federation.told("warning")
    assert reason in told["reason"]


def test_a_site_that_comes_back_with_other_code_is_used_and_told(federation):
    federation.sites[50] = {"site": "oslo", "code": "01d"}
    assert federation.absent(10, 12, 50) == {}
    (told,) = federation.told("warning")
    assert told["reason"].startswith("oslo: other code of the app than the server's")


def test_while_a_sites_node_is_there_another_with_its_name_is_not_used(federation):
    """It might be anybody's. It serves once the first one is gone, or does not answer."""
    federation.sites[50] = {"site": "oslo"}
    for _ in range(2):
        assert federation.absent(10, 11, 12, 50) == {}
    (told,) = federation.told("warning")
    assert "connected twice; node 11 serves it" in told["reason"]
    assert federation.nodes[1] == 11
    federation.attendance.silent([1])
    assert federation.absent(10, 11, 12, 50) == {}
    assert federation.nodes[1] == 50
    assert federation.described == [{1: 50}]


def test_an_answer_makes_a_silent_client_whole_again(federation):
    federation.sites[50] = {"site": "oslo"}
    federation.attendance.silent([1])
    federation.attendance.answered([1])
    federation.absent(10, 11, 12, 50)
    assert federation.nodes[1] == 11


def test_a_client_whose_node_was_lost_is_described_before_it_trains_again(federation):
    """Flower lost it in the middle of a round; when the next begins, it is back under its own id."""
    federation.attendance.silent([], lost=[2])
    assert federation.absent(10, 11, 12) == {}
    assert federation.described == [{2: 12}]


def test_a_node_that_cannot_say_who_it_is_is_asked_three_times(federation):
    for _ in range(5):
        federation.absent(10, 11, 12, 70)
    assert federation.asked == [70] * 3
    (told,) = federation.told("warning")
    assert "node 70 connected and could not say who it is: no answer" in told["reason"]


def test_a_round_waits_for_its_least_number_of_clients(federation):
    federation.attendance._wait_timeout = 60.0  # the third look ends the wait, however slow the machine is
    federation.grid.looks = [[10], [10], [10, 11]]
    assert federation.attendance.absent(7, [0, 1, 2], 2) == {2: NOT_CONNECTED}
    (told,) = federation.told("waiting")
    assert told == {"round": 7, "clients": [1, 2], "least": 2, "wait_timeout": 60.0}


def test_a_round_waits_no_longer_than_the_time_out(federation):
    assert federation.absent(10, least=2) == {1: NOT_CONNECTED, 2: NOT_CONNECTED}


def test_differences():
    assert differences(holding(), holding()) == {}
    assert differences(holding(16), holding(20)) == {"examples": [16, 20]}
