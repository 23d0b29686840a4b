"""The harness itself: it sells, it breaks what it is told to break, and it sees what is wrong."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from engine import ids
from engine.keys import CellKeys
from tests.drills.fault_redis import client_of
from tests.drills.history import Answered, Asked, ClientWriter, Fault, Run, read_operations, read_run
from tests.drills.outage import outage
from tests.drills.run import Scene, drill
from tests.drills.stack import open_stack
from tests.integration.proxy import Proxy


async def test_a_run_in_which_the_relays_die_ends_quiet_and_is_written_down(tmp_path: Path) -> None:
    async def strike(scene: Scene) -> None:
        with scene.fault("relay-kill", "both"):
            for member in scene.stack.of_kind("relay"):
                member.kill()
            await scene.sleep(0.2, 0.4)

    folder = tmp_path / "run"
    async with open_stack(tmp_path / "stack") as stack:
        result = await drill(stack, folder, seed=1, scenario="relay-kill", strike=strike)
        assert result.violations == []
        assert [member.starts for member in stack.of_kind("relay")] == [2, 2]
    assert [fault.kind for fault in read_run(folder).faults] == ["relay-kill"]
    answers = [operation.answer for operation in read_operations(folder)]
    assert sum(answer is not None and answer.http == 201 for answer in answers) > 20
    assert all(member.code is not None for member in stack.members.values()), "somebody is left"


async def test_who_dies_without_being_killed_is_found(tmp_path: Path) -> None:
    async def strike(scene: Scene) -> None:
        member = scene.stack.members["publisher-1"]
        member.kill()
        member.is_wanted = True

    async with open_stack(tmp_path / "stack") as stack:
        result = await drill(stack, tmp_path / "run", seed=1, scenario="x", strike=strike)
    assert any("publisher-1 ended by itself" in violation for violation in result.violations)


async def test_what_is_wrong_in_a_store_is_found_by_the_checker_and_by_the_auditor(tmp_path: Path) -> None:
    async def strike(scene: Scene) -> None:
        cell = CellKeys(ids.cell_of(UUID(scene.event.id)))
        async with client_of(scene.stack.redis) as client:
            await client.hincrby(cell.zone(scene.event.zones[0].id), "available", -1)
        async with asyncio.timeout(20):
            while not scene.stack.alarms():
                await asyncio.sleep(0.1)

    async with open_stack(tmp_path / "stack") as stack:
        result = await drill(stack, tmp_path / "run", seed=1, scenario="x", strike=strike)
    found = "\n".join(result.violations)
    assert "workers.auditor" in found
    assert "VIOLATIONS" in found, "the checker's last line"


# A network that can be broken.


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A server that gives back what it gets; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            arrived.append(data)
            writer.write(data)
        writer.close()

    arrived.clear()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


arrived: list[bytes] = []
"""What the echo server got."""


@pytest.fixture
async def proxy(echo: int) -> AsyncIterator[Proxy]:
    """Leads to it."""
    made = Proxy(echo)
    await made.start()
    yield made
    await made.close()


async def _ask(proxy: Proxy, text: bytes = b"hello") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(text)
        async with asyncio.timeout(0.3):
            return await reader.read(100)
    finally:
        writer.transport.abort()


async def test_a_good_network_carries(proxy: Proxy) -> None:
    assert await _ask(proxy) == b"hello"


async def test_a_stalled_network_carries_nothing_until_it_is_healed(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.stall()
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        await _ask(proxy)
    assert arrived == []
    proxy.heal()
    assert await reader.read(100) == b"hello"
    writer.transport.abort()


async def test_a_dropped_reply_is_of_a_request_that_arrived(proxy: Proxy) -> None:
    proxy.drop_replies()
    assert await _ask(proxy) == b"", "the connection is cut"
    assert arrived == [b"hello"]
    proxy.heal()
    assert await _ask(proxy) == b"hello"


async def test_a_lost_connection_is_silent_and_a_new_one_works(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one")
    assert await reader.read(100) == b"one"
    proxy.lose()
    writer.write(b"two")
    assert await _ask(proxy, b"three") == b"three"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(100), 0.2)
    assert arrived == [b"one", b"three"]
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        await reader.read(100)
    writer.transport.abort()


async def test_a_reset_is_seen_at_once(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one")
    await reader.read(100)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read(100)
    writer.transport.abort()


# How long buyers waited.


def test_the_outage_is_the_longest_silence_and_the_longest_wait(tmp_path: Path) -> None:
    second = 1_000_000_000
    writer = ClientWriter(tmp_path, "0")
    # Between 7 and 30 nobody asks.
    answers = [(1, 201), (2, 503), (3, None), (6, 201), (7, 409), (30, 201)]
    for n, (at, http) in enumerate(answers):
        key = "k" if n in (1, 2, 3) else f"other {n}"
        writer.write(Asked(n, "reserve", int((at - 0.5) * second), "u", "e", key=key))
        writer.write(Answered(n, at * second, http))
    writer.close()
    run = Run(1, "x", [], [Fault("x", int(1.5 * second), 4 * second)])
    seen = outage(tmp_path, run)
    assert seen.gap_s == 4.5
    assert seen.wait_s == 4.5
