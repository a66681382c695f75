"""Which node serves which client, and what the clients hold."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedllm_app.federation.fingerprint import PROTOCOL
from fedllm_app.federation.roster import (
    Node,
    RosterError,
    assign_clients,
    describe_clients,
    gather_nodes,
    other_code,
    unused_gpus,
    unused_nodes,
)
from fedllm_app.federation.transport import NoReply
from fedllm_app.messages import ClientHolding

CODE = "c0de"


def says(**by_node):
    """Nodes that say of themselves what is given for `node_<id>`, on top of a site without partitions."""
    plain = {"partition": -1, "partitions": 0, "site": "", "code": CODE, "protocol": PROTOCOL}

    def answer(message):
        said = by_node[f"node_{message.metadata.dst_node_id}"]
        return Message(RecordDict({"config": ConfigRecord(plain | said)}), reply_to=message)

    return answer


def site(node_id, name="", partitions=0):
    return Node(node_id, -1 if not partitions else node_id, partitions, name, CODE)


def test_simulation_two_nodes_serve_four_clients(make_grid):
    """Partition 0 has the larger id; clients 0 and 2 go to partition 0, clients 1 and 3 to partition 1."""
    answer = says(node_90={"partition": 0, "partitions": 2}, node_17={"partition": 1, "partitions": 2})
    nodes = gather_nodes(make_grid(answer, looks=[[17, 90]]), 4, CODE, 5.0)
    assert [node.node_id for node in nodes] == [90, 17]
    assert assign_clients(nodes, 4) == {0: 90, 1: 17, 2: 90, 3: 17}
    assert assign_clients(nodes, 0) == {0: 90, 1: 17}


def test_simulation_waits_for_all_its_nodes(make_grid):
    """The first node to connect says that there are three; clients.number = 1 does not shorten the wait. The others run
    the same code with the same data, and are not asked."""
    answer = says(**{f"node_{number}": {"partition": number, "partitions": 3} for number in range(3)})
    grid = make_grid(answer, looks=[[], [2], [2], [2, 0], [0, 2, 1]])
    assert [node.node_id for node in gather_nodes(grid, 1, CODE, 5.0)] == [0, 1, 2]
    assert [message.metadata.dst_node_id for message in grid.sent] == [2]


def test_a_large_simulation_asks_as_few_nodes_as_a_small_one(make_grid):
    answer = says(**{f"node_{number}": {"partition": number, "partitions": 1000} for number in range(1000)})
    grid = make_grid(answer, looks=[list(range(1000))])
    nodes = gather_nodes(grid, 1000, CODE, 5.0)
    assert len(grid.sent) == 16
    assert sorted(assign_clients(nodes, 1000).values()) == list(range(1000))


def test_deployment_is_ordered_by_site(make_grid):
    answer = says(node_5={"site": "rome"}, node_6={"site": "athens"}, node_4={"site": "oslo"})
    nodes = gather_nodes(make_grid(answer, looks=[[4, 5, 6]]), 3, CODE, 5.0)
    assert assign_clients(nodes, 3) == {0: 6, 1: 4, 2: 5}


def test_deployment_without_names_is_ordered_by_id(make_grid):
    nodes = gather_nodes(make_grid(says(node_8={}, node_3={}), looks=[[8, 3]]), 2, CODE, 5.0)
    assert [node.node_id for node in nodes] == [3, 8]


def test_deployment_must_say_how_many_sites(make_grid):
    with pytest.raises(RosterError, match=r"clients\.number = 0.*number of sites"):
        gather_nodes(make_grid(says(node_8={}), looks=[[8]]), 0, CODE, 5.0)


def test_deployment_waits_for_its_sites(make_grid):
    with pytest.raises(NoReply, match="1 of 2 clients connected"):
        gather_nodes(make_grid(says(node_8={}), looks=[[8]]), 2, CODE, 0.02)


def test_two_sites_with_one_name_are_refused(make_grid):
    """Their numbers would depend on the ids that Flower draws."""
    answer = says(node_1={"site": "a"}, node_2={"site": "b"}, node_3={"site": "b"})
    with pytest.raises(RosterError, match="2 nodes say site='b'.*needs its own"):
        gather_nodes(make_grid(answer, looks=[[1, 2, 3]]), 3, CODE, 5.0)


def test_a_connected_site_that_is_not_used_is_named():
    nodes = [site(4, "athens"), site(9, "paris"), site(7)]
    assert unused_nodes(nodes, assign_clients(nodes, 3).values()) is None
    told = unused_nodes(nodes, assign_clients(nodes, 1).values())
    assert told == "3 sites are connected and clients.number = 1; not used: paris, 7"
    assert unused_nodes([site(0, partitions=2), site(1, partitions=2)], [0]) is None


def test_other_code_in_a_simulation_is_refused(make_grid):
    """Server and clients come from one machine: one of them is a stale package."""
    simulated = {"partitions": 3}
    answer = says(node_1=simulated, node_2=simulated | {"code": "01d"}, node_3=simulated | {"code": "01d"})
    with pytest.raises(RosterError, match="2 of 3 nodes run another version.*node 2"):
        gather_nodes(make_grid(answer, looks=[[1, 2, 3]]), 3, CODE, 5.0)


def test_other_code_at_a_site_is_told_and_goes_on(make_grid):
    """One site was updated before the others; it means the same by a message."""
    answer = says(node_1={"site": "a"}, node_2={"site": "b", "code": "01d"})
    nodes = gather_nodes(make_grid(answer, looks=[[1, 2]]), 2, CODE, 5.0)
    assert other_code(nodes, CODE).startswith("b: other code of the app than the server's, of the same protocol")
    assert other_code(nodes[:1], CODE) is None


def test_another_protocol_at_a_site_is_refused(make_grid):
    """A site from before protocols were numbered says none."""
    answer = says(node_1={"site": "a"}, node_2={"site": "b", "protocol": PROTOCOL + 1}, node_3={"site": "c"})

    def older(message):
        said = answer(message)
        if message.metadata.dst_node_id == 3:
            del said.content["config"]["protocol"]
        return said

    named = rf"2 of 3 sites speak another protocol than the server, which has {PROTOCOL}: b has {PROTOCOL + 1}, c has 1"
    with pytest.raises(RosterError, match=named):
        gather_nodes(make_grid(older, looks=[[1, 2, 3]]), 3, CODE, 5.0)


@pytest.mark.parametrize("silent", [True, False])
def test_a_node_that_cannot_say_who_it_is(make_grid, silent):
    def answer(message):
        return None if silent else Message(Error(code=2, reason="no such app"), reply_to=message)

    said = "could not say who it is: no answer" if silent else "does not take part: no such app"
    with pytest.raises(NoReply, match=f"node 8 {said}"):
        gather_nodes(make_grid(answer, looks=[[8]]), 1, CODE, 0.05)


def test_a_node_that_was_killed_just_before_is_left_out(make_grid):
    """Flower lists node 8 for a minute after its end, and node 9 is the same site, started again."""
    there = says(node_9={"site": "rome"}, node_3={"site": "oslo"})

    def answer(message):
        if message.metadata.dst_node_id == 8:
            return Message(Error(code=5, reason="Node Unavailable"), reply_to=message)
        return there(message)

    grid = make_grid(answer, looks=[[8], [8], [8, 9], [8, 9, 3]])
    assert [(node.node_id, node.site) for node in gather_nodes(grid, 2, CODE, 5.0)] == [(3, "oslo"), (9, "rome")]
    assert [message.metadata.dst_node_id for message in grid.sent] == [8, 9, 3]


def test_sites_are_not_shared():
    with pytest.raises(RosterError, match="3 clients need 3 nodes, 2 are there"):
        assign_clients([site(4, "a"), site(5, "b")], 3)
    assert assign_clients([site(4, "a"), site(5, "b"), site(6, "c")], 2) == {0: 4, 1: 5}


def shard(client: int, clients: int) -> ClientHolding:
    return ClientHolding(f"shard {client} of {clients}", "chat", 7, 0, 0, 0, 90)


def holds(message):
    asked = message.content["config"]
    held = shard(asked["client"], asked["clients"]).to_config() | {"manifest": "m", "versions": ["torch 2"]}
    return Message(RecordDict({"config": ConfigRecord(held)}), reply_to=message)


def test_every_client_describes_itself(make_grid):
    """One node answers for both of its clients."""
    grid = make_grid(holds, arrival=lambda message: -message.content["config"]["client"])
    held = describe_clients(grid, {0: 9, 1: 9}, 2, "m", 5.0)
    assert held == {client: (shard(client, 2), ["torch 2"]) for client in (0, 1)}
    assert np.unique([message.metadata.message_type for message in grid.sent]).tolist() == ["query.describe"]


def test_all_clients_that_cannot_take_part_are_named(make_grid):
    """Client 0 fails with a reason, 1 without, 2 is silent, 3 has another adapter, 4 is well."""

    def answer(message):
        client = message.content["config"]["client"]
        if client == 2:
            return None
        if client < 2:
            return Message(Error(code=77, reason="client 0: no rows" if client == 0 else ""), reply_to=message)
        reply = holds(message)
        if client == 3:
            reply.content["config"]["manifest"] = "other"
        return reply

    with pytest.raises(RosterError) as caught:
        describe_clients(make_grid(answer, at_once=5), {client: 10 + client for client in range(5)}, 5, "m", 0.1)
    first, *lines = str(caught.value).splitlines()
    assert first == "4 of 5 clients cannot take part:"
    assert [line.strip() for line in lines] == [
        "client 0: no rows",
        "client 1: error code 77",
        "client 2: no reply within run.describe-timeout = 0.1 s",
        "client 3: its adapter has another layout than the server's",
    ]


@pytest.mark.parametrize(("clients", "named"), [(3, "0, 1, 2"), (12, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more")])
def test_what_all_clients_say_alike_is_told_once(make_grid, clients, named):
    """A client with a name, a site, keeps its line."""

    def answer(message):
        client = message.content["config"]["client"]
        name = " (north)" if client == clients else ""
        return Message(Error(code=77, reason=f"client {client}{name}: no such column"), reply_to=message)

    nodes = {client: 10 + client for client in range(clients + 1)}
    with pytest.raises(RosterError) as caught:
        describe_clients(make_grid(answer, at_once=clients + 1), nodes, clients + 1, "m", 5.0)
    _, *lines = str(caught.value).splitlines()
    alike, site = (line.strip() for line in lines)
    assert alike == f"clients {named}: no such column"
    assert site == f"client {clients} (north): no such column"


def says_of_itself(**changes):
    """A describe reply of client 1 with other fields; the other clients are well."""

    def answer(message):
        reply = holds(message)
        if message.content["config"]["client"] == 1:
            reply.content["config"] = ConfigRecord({**reply.content["config"], **changes})
        return reply

    return answer


@pytest.mark.parametrize(
    "wrong",
    [
        {"examples": "many"},
        {"examples": -1},
        {"examples": 10**17},
        {"examples": 2.5},
        {"examples": True},
        {"one-kind": 1},
        {"name": 5},
        {"notes": [1]},
        {"versions": "torch"},
        {"versions": [1]},
        {"versions": ["torch 2"] * 1000},
        {"manifest": b"m"},
    ],
)
def test_a_description_of_other_types_or_beyond_bounds_names_its_client(make_grid, wrong):
    with pytest.raises(RosterError, match="1 of 2 clients cannot take part:\n  client 1: the reply cannot be read"):
        describe_clients(make_grid(says_of_itself(**wrong)), {0: 9, 1: 9}, 2, "m", 60.0)


def test_descriptions_are_cleaned_and_shortened(make_grid):
    grid = make_grid(says_of_itself(name="\x1b[2J" + "a" * 5_000_000, versions=["torch \u202e2"]))
    holding, versions = describe_clients(grid, {0: 9, 1: 9}, 2, "m", 60.0)[1]
    assert holding.name.startswith(" [2Jaaa")
    assert len(holding.name) < 1100
    assert versions == ["torch  2"]


@pytest.mark.parametrize("wrong", [{"partition": "0"}, {"partitions": -1}, {"site": 5}, {"code": b""}, {"site": [1]}])
def test_an_identity_of_other_types_names_its_node(make_grid, wrong):
    with pytest.raises(NoReply, match="node 8 does not take part: the reply cannot be read: BadMessage"):
        gather_nodes(make_grid(says(node_8=wrong), looks=[[8]]), 1, CODE, 60.0)


def test_clients_with_other_base_weights_or_tokenizers_are_refused_by_name(make_grid):
    """Three have the weights a…, client 1 has b…; of the tokenizers one is not known, which is held against nobody."""
    same = {"base": "a" * 64, "tokenizer": "c" * 64}
    differ = {1: {"base": "b" * 64}, 3: {"tokenizer": ""}}

    def answer(message):
        reply = holds(message)
        more = same | differ.get(message.content["config"]["client"], {})
        reply.content["config"] = ConfigRecord({**reply.content["config"], **more})
        return reply

    with pytest.raises(RosterError) as caught:
        describe_clients(make_grid(answer), dict.fromkeys(range(4), 9), 4, "m", 60.0)
    said = str(caught.value)
    assert "different files of the weights of the base model (clients 0 " in said
    assert "aaaaaaaaaaaa; client 1 " in said
    assert "tokenizer" not in said
    differ[1] = {}
    assert len(describe_clients(make_grid(answer), dict.fromkeys(range(4), 9), 4, "m", 60.0)) == 4


def test_gpus_that_flower_keeps_from_clients_are_told(make_grid):
    """In a simulation alone: at a site, whoever runs it has decided that."""
    hidden = {"partitions": 2, "gpus-hidden": True}
    nodes = gather_nodes(make_grid(says(node_1=hidden, node_2=hidden), looks=[[1, 2]]), 2, CODE, 5.0)
    assert "client-resources-num-gpus=1" in unused_gpus(nodes)
    nodes = gather_nodes(make_grid(says(node_1={"partitions": 1}), looks=[[1]]), 1, CODE, 5.0)
    assert unused_gpus(nodes) is None
    site_of_one = says(node_1={"site": "berlin", "gpus-hidden": True})
    assert unused_gpus(gather_nodes(make_grid(site_of_one, looks=[[1]]), 1, CODE, 5.0)) is None
