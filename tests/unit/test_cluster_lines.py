"""The hot lines of a cluster: each call to the node of its key, or to where that node says, never twice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import engine.cluster_lines
from engine.cluster_lines import HOPS_MAX, ClusterLines
from engine.errors import Fenced, OutcomeUnknown, Overloaded, StoreUnavailable
from engine.hotline import HotLine
from engine.redis_url import ClusterAddress, RedisAddress
from engine.slots import SLOTS, slot_of
from tests.scripted_redis import FAR_MS, OK, ScriptedRedis, bulk, greet, outcome, outcomes, until

HALF = SLOTS // 2
LOW, HIGH = "key:{6}", "key:{1}"
EVALSHA = ("EVALSHA", "a" * 40, 1)


class Node(ScriptedRedis):
    """One node: it says who owns what, and answers what the test tells it to."""

    def __init__(self, nodes: list["Node"]) -> None:
        super().__init__()
        self.greet = self._greet
        self.hot_writer: Any = None
        self.name = f"node{len(nodes)}"
        self.epoch, self.slots = 1, ""
        self._nodes = nodes

    def _greet(self, command: list[bytes]) -> bytes | None:
        if command[0] == b"CLUSTER":
            return self.view()
        self.hot_writer = self.writer
        return greet(command)

    @property
    def where(self) -> str:
        return f"127.0.0.1:{self.port}"

    def view(self) -> bytes:
        """What CLUSTER NODES answers: to all of them the same."""
        lines = [
            f"{node.name} {node.where}@1 master - 0 0 {node.epoch} connected {node.slots}".strip()
            for node in self._nodes
        ]
        return bulk("\n".join(lines).encode())


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    """Two nodes with half of the slots each."""
    opened: list[Node] = []
    for _ in range(2):
        opened.append(Node(opened))
    opened[0].slots, opened[1].slots = f"0-{HALF - 1}", f"{HALF}-{SLOTS - 1}"
    for number, node in enumerate(opened):
        await node.listen()
        node.answer = lambda command, number=number: b":%d\r\n" % number
    yield opened
    for node in opened:
        await node.close()


@pytest.fixture
async def lines(nodes: list[Node]) -> AsyncIterator[ClusterLines]:
    """Connected to both, of which the URL names only one."""
    address = ClusterAddress((RedisAddress("127.0.0.1", nodes[0].port),))
    opened = ClusterLines(address, in_flight_max=100, timeout_ms=FAR_MS)
    await opened.start()
    await until(lambda: len(opened.call_all("PING")) == 2)
    for node in nodes:
        await node.received(1)
        node.commands.clear()
    yield opened
    await opened.close()


def test_the_keys_of_these_tests_are_on_either_side() -> None:
    assert slot_of(LOW) < HALF <= slot_of(HIGH)


async def test_a_call_goes_to_the_node_of_its_first_key(lines: ClusterLines, nodes: list[Node]) -> None:
    calls = [("HGET", LOW, "x"), ("HGET", HIGH, "x"), (*EVALSHA, LOW, HIGH), (*EVALSHA, HIGH, LOW)]
    assert [await lines.call(*call) for call in calls] == [0, 1, 0, 1]


async def test_a_slot_that_nobody_owns_is_away(nodes: list[Node]) -> None:
    nodes[1].slots = ""
    lines = ClusterLines(
        ClusterAddress((RedisAddress("127.0.0.1", nodes[0].port),)), in_flight_max=9, timeout_ms=9
    )
    await lines.start()
    with pytest.raises(StoreUnavailable):
        lines.call("GET", HIGH)
    await lines.close()


async def test_moved_is_followed_and_makes_it_look_again(lines: ClusterLines, nodes: list[Node]) -> None:
    changes = lines.connections
    nodes[1].slots, nodes[1].epoch = f"{HALF - 8192}-{SLOTS - 1}", 2
    nodes[0].slots = ""
    nodes[0].answer = lambda command: f"-MOVED {slot_of(LOW)} {nodes[1].where}\r\n".encode()
    assert await lines.call(*EVALSHA, LOW) == 1
    assert nodes[1].commands == nodes[0].commands != []
    # From now on the first way is the right one.
    await until(lambda: lines.connections != changes)
    nodes[0].commands.clear()
    assert await lines.call(*EVALSHA, LOW) == 1
    assert nodes[0].commands == []


async def test_two_nodes_that_send_a_call_to_each_other_are_given_up(
    lines: ClusterLines, nodes: list[Node]
) -> None:
    for number, node in enumerate(nodes):
        other = nodes[1 - number]
        node.answer = lambda command, other=other: f"-MOVED {slot_of(LOW)} {other.where}\r\n".encode()
    assert await outcome(lines.call("GET", LOW)) is StoreUnavailable
    assert sum(len(node.commands) for node in nodes) == HOPS_MAX + 1


async def test_moved_to_nobody_we_know_is_refused_untouched(lines: ClusterLines, nodes: list[Node]) -> None:
    nodes[0].answer = lambda command: b"-MOVED 1 127.0.0.1:1\r\n"
    assert await outcome(lines.call("GET", LOW)) is StoreUnavailable


async def test_ask_is_followed_right_behind_asking(lines: ClusterLines, nodes: list[Node]) -> None:
    nodes[0].answer = lambda command: f"-ASK {slot_of(LOW)} {nodes[1].where}\r\n".encode()
    nodes[1].answer = lambda command: OK if command == [b"ASKING"] else b":7\r\n"
    others = [lines.call("GET", HIGH) for _ in range(3)]
    asked = lines.call("HGET", LOW, "x")
    await nodes[1].received(3)
    others += [lines.call("GET", HIGH) for _ in range(3)]
    assert await asked == 7
    assert await outcomes(*others) == [7] * 6
    commands = nodes[1].commands
    at = commands.index([b"ASKING"])
    assert commands[at + 1] == [b"HGET", LOW.encode(), b"x"]
    assert commands.count([b"ASKING"]) == 1


async def test_a_script_does_not_follow_ask_into_half_a_cell(lines: ClusterLines, nodes: list[Node]) -> None:
    nodes[0].answer = lambda command: f"-ASK {slot_of(LOW)} {nodes[1].where}\r\n".encode()
    assert await outcome(lines.call(*EVALSHA, LOW)) is StoreUnavailable
    assert nodes[1].commands == []


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n", StoreUnavailable),
        (b"-CLUSTERDOWN Hash slot not served\r\n", StoreUnavailable),
        (b"-LOADING Redis is loading the dataset in memory\r\n", StoreUnavailable),
        (b"-ERR Script attempted to access a non local key in a cluster node\r\n", StoreUnavailable),
        (b"-NOSCRIPT No matching script.\r\n", Fenced),
    ],
)
async def test_what_no_node_has_done_is_said_so(
    lines: ClusterLines, nodes: list[Node], reply: bytes, expected: type[Exception]
) -> None:
    nodes[0].answer = lambda command: reply
    assert await outcome(lines.call(*EVALSHA, LOW)) is expected
    assert len(nodes[0].commands) == 1


async def test_a_lost_reply_is_unknown_and_the_call_is_sent_to_nobody_else(
    lines: ClusterLines, nodes: list[Node]
) -> None:
    nodes[0].answer = None
    lost, other = lines.call(*EVALSHA, LOW), lines.call(*EVALSHA, HIGH)
    await nodes[0].received(1)
    nodes[0].cut()
    assert await outcomes(lost, other) == [OutcomeUnknown, 1]
    await until(lambda: lines._line_of_slot[0].connected)  # type: ignore[union-attr]
    assert len(nodes[0].commands) == 1
    assert len(nodes[1].commands) == 1


async def test_the_death_of_a_node_leaves_the_others_alone(lines: ClusterLines, nodes: list[Node]) -> None:
    await nodes[0].close()
    await until(lambda: not lines._line_of_slot[0].connected)  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailable):
        lines.call("GET", LOW)
    assert lines.connected
    assert await lines.call("GET", HIGH) == 1


async def test_a_node_with_too_much_in_flight_is_left_out_of_what_all_are_asked(nodes: list[Node]) -> None:
    address = ClusterAddress(tuple(RedisAddress("127.0.0.1", node.port) for node in nodes))
    lines = ClusterLines(address, in_flight_max=1, timeout_ms=FAR_MS)
    await lines.start()
    nodes[0].answer = None
    waiting = [lines.call("GET", LOW)]
    assert await outcomes(*lines.call_all("PING")) == [1]
    nodes[1].answer = None
    waiting.append(lines.call("GET", HIGH))
    with pytest.raises(Overloaded):
        lines.call_all("PING")
    await lines.close()
    await outcomes(*waiting)


async def test_a_replica_that_takes_over_is_connected_to(
    lines: ClusterLines, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.cluster_lines, "TROUBLED_INTERVAL_S", 0.01)
    replica = Node(nodes)
    replica.answer = lambda command: b":2\r\n"
    await replica.listen()
    nodes.append(replica)
    replica.slots, replica.epoch = nodes[0].slots, 9
    await nodes[0].close()
    await until(lambda: lines._line_of_slot[0] and lines._line_of_slot[0].connected)
    assert await lines.call(*EVALSHA, LOW) == 2
    assert {str(master) for master in lines.masters()} == {nodes[1].where, replica.where}


async def test_a_cluster_that_is_made_anew_at_the_same_addresses_is_found_out(
    lines: ClusterLines, nodes: list[Node]
) -> None:
    for node in nodes:
        node.epoch = 0
        node.name = f"new-{node.name}"
    nodes[0].slots, nodes[1].slots = nodes[1].slots, nodes[0].slots
    lines.look_soon()
    await until(lambda: {master.name for master in lines.masters()} == {"new-node0", "new-node1"})
    await until(lambda: len(lines.call_all("PING")) == 2)
    assert [await lines.call("GET", key) for key in (LOW, HIGH)] == [1, 0]


async def test_a_later_epoch_alone_changes_no_line(lines: ClusterLines, nodes: list[Node]) -> None:
    before, masters = lines.connections, set(lines._lines.values())
    nodes[0].epoch = 9
    lines.look_soon()
    await until(lambda: lines._slots._epochs[0] == 9)
    await lines.call("GET", LOW)
    assert (lines.connections, set(lines._lines.values())) == (before, masters)


async def test_what_is_in_flight_to_a_node_that_loses_its_slots_is_still_answered(
    lines: ClusterLines, nodes: list[Node]
) -> None:
    nodes[0].answer = None
    waiting = lines.call(*EVALSHA, LOW)
    await nodes[0].received(1)
    hot = nodes[0].hot_writer
    nodes[1].slots, nodes[1].epoch = f"0-{SLOTS - 1}", 5
    lines.look_soon()
    await until(lambda: len(lines.masters()) == 1)
    hot.write(b":41\r\n")
    assert await waiting == 41
    assert await lines.call(*EVALSHA, LOW) == 1


async def test_a_single_line_to_a_node_of_a_cluster_says_what_is_wrong(
    nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    nodes[0].answer = lambda command: f"-MOVED 1 {nodes[1].where}\r\n".encode()
    line = HotLine(nodes[0].url, in_flight_max=9, timeout_ms=FAR_MS)
    await line.start()
    assert await outcome(line.call("GET", HIGH)) is StoreUnavailable
    assert "redis+cluster://" in caplog.text
    await line.close()


async def test_closing_ends_all_and_starting_needs_no_server(nodes: list[Node]) -> None:
    address = ClusterAddress((RedisAddress("127.0.0.1", nodes[0].port),))
    for node in nodes:
        await node.close()
    lines = ClusterLines(address, in_flight_max=9, timeout_ms=FAR_MS)
    await lines.start()
    assert not lines.connected
    assert lines.call_all("PING") == []
    for node in nodes:
        await node.listen()
    await until(lambda: lines.connected)
    calls: list[asyncio.Future[Any]] = lines.call_all("PING")
    await lines.close()
    assert set(await outcomes(*calls)) <= {OutcomeUnknown, StoreUnavailable}
    assert not lines.connected
