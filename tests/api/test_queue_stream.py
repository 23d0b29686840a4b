"""Server-sent events: who watches is told what changes, and nobody can hold the process up."""

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from uvicorn.server import ServerState

from engine.settings import Settings
from engine.stores import Stores
from gateway import streams
from gateway.app import Application
from gateway.protocol import GatewayProtocol
from gateway.server import server_config
from tests.api.conftest import API, Mint
from tests.api.queuekit import Person, Room, in_s, looks, open_room, rooms_of
from tests.api.test_server import start
from tests.integration.kit import until

STREAM = f"{API}/queue/stream"


class Event(msgspec.Struct):
    """One event of a stream, or a comment."""

    id: str = ""
    kind: str = "message"
    data: Any = None
    retry_ms: int | None = None
    is_comment: bool = False


class Watching:
    """A stream that is being read."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self, *, with_comments: bool = False) -> Event | None:
        """The next event; None at the end."""
        event = Event()
        async with asyncio.timeout(20):
            async for line in self._lines:
                name, _, value = line.partition(":")
                match name, value.strip():
                    case "", "":
                        if event.data is not None or (with_comments and event.is_comment):
                            return event
                        event = Event(retry_ms=event.retry_ms)
                    case "", _:
                        event.is_comment = True
                    case "id", text:
                        event.id = text
                    case "event", text:
                        event.kind = text
                    case "retry", text:
                        event.retry_ms = int(text)
                    case "data", text:
                        event.data = json.loads(text)
        return None


@pytest.fixture
async def port(app: Application) -> AsyncIterator[int]:
    """The application behind its own protocol, on a real socket."""
    config, state = server_config(app, lifespan="off"), ServerState()
    config.load()
    listening = await asyncio.get_running_loop().create_server(
        lambda: GatewayProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    for connection in list(state.connections):
        connection.shutdown()
    async with asyncio.timeout(10):
        while state.connections or state.tasks:
            await asyncio.sleep(0.01)


@pytest.fixture
async def room(ready: httpx.AsyncClient, mint: Mint, stores: Stores) -> Room:
    return await open_room(ready, mint, stores)


@contextlib.asynccontextmanager
async def watch(port: int, ticket: str, *, last: str = "", in_query: bool = False) -> AsyncIterator[Watching]:
    headers = {"last-event-id": last} if last else {}
    if not in_query:
        headers["x-queue-ticket"] = ticket
    url = f"http://127.0.0.1:{port}{STREAM}" + (f"?ticket={ticket}" if in_query else "")
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        yield Watching(answer)


async def first(watching: Watching) -> Event:
    event = await watching.next()
    assert event is not None
    return event


@pytest.mark.parametrize("in_query", [False, True])
async def test_who_watches_is_told_when_they_are_served(port: int, room: Room, in_query: bool) -> None:
    [person] = await room.joined(1)
    async with watch(port, person.ticket, in_query=in_query) as watching:
        assert watching.answer.status_code == 200
        assert watching.answer.headers["content-type"] == "text/event-stream"
        assert watching.answer.headers["cache-control"] == "no-store"
        waiting = await first(watching)
        state = await person.state()
        assert (waiting.kind, waiting.data["status"], list(waiting.data)) == (
            "message",
            "waiting",
            list(state),
        )
        assert waiting.retry_ms is not None
        assert await room.admit() == 1
        served = await first(watching)
        assert (served.data["status"], served.data["place"]) == ("served", 1)
        assert served.id not in ("", waiting.id)
        assert (await person.claim()).status_code == 201
        assert (await first(watching)).data["status"] == "admitted"


async def test_who_comes_back_is_not_told_again_what_they_have_seen(port: int, room: Room) -> None:
    [person] = await room.joined(1)
    async with watch(port, person.ticket) as watching:
        seen = await first(watching)
    async with watch(port, person.ticket, last="something else") as watching:
        assert (await first(watching)).id == seen.id
    async with watch(port, person.ticket, last=seen.id) as watching:
        await room.admit()
        assert (await first(watching)).data["status"] == "served"


async def test_a_silent_stream_shows_that_it_lives(
    port: int, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.05)
    [person] = await room.joined(1)
    async with watch(port, person.ticket) as watching:
        await first(watching)
        for _ in range(3):
            event = await watching.next(with_comments=True)
            assert event is not None
            assert event.is_comment


async def test_however_many_watch_redis_is_looked_at_once_a_second(
    app: Application, port: int, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = rooms_of(app)
    people = await room.joined(12)
    seen = 0
    look = rooms.views._look

    async def counted(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        return await look(*arguments)

    async with contextlib.AsyncExitStack() as stack:
        for person in people:
            await first(await stack.enter_async_context(watch(port, person.ticket)))
        monkeypatch.setattr(rooms.views, "_look", counted)
        await looks(rooms, room, 3)
    # The one that was under way may have ended first.
    assert seen in (2, 3, 4)


async def test_a_closed_queue_ends_the_stream_and_who_knows_it_is_sent_away(port: int, room: Room) -> None:
    [person] = await room.joined(1)
    async with watch(port, person.ticket) as watching:
        await first(watching)
        soon = in_s(0.1, int(time.time() * 1000))
        assert (await room.organize("PUT", sale_end_at=soon)).status_code == 200
        closed = await first(watching)
        assert closed.data["status"] == "closed"
        assert await watching.next() is None
    async with watch(port, person.ticket, last=closed.id) as watching:
        assert watching.answer.status_code == 204
    async with watch(port, person.ticket) as watching:
        assert (await first(watching)).data["status"] == "closed"


async def test_who_gives_the_place_up_elsewhere_is_told_that_it_is_gone(port: int, room: Room) -> None:
    [person] = await room.joined(1)
    async with watch(port, person.ticket) as watching:
        await first(watching)
        assert (await person.leave()).status_code == 204
        gone = await first(watching)
        assert (gone.kind, gone.data["error"]["code"]) == ("gone", "NOT_FOUND")
        assert await watching.next() is None
    async with watch(port, person.ticket) as watching:
        assert watching.answer.status_code == 404


class TestFew:
    """A process that takes one stream."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, queue_streams_max=1)

    async def test_one_more_than_it_takes_is_told_to_poll(self, port: int, room: Room) -> None:
        people = await room.joined(2)
        async with watch(port, people[0].ticket) as watching:
            await first(watching)
            async with watch(port, people[1].ticket) as refused:
                assert refused.answer.status_code == 503
                assert "retry-after" in refused.answer.headers
            assert (await people[1].state())["status"] == "waiting"

        async def is_taken() -> bool:
            async with watch(port, people[1].ticket) as later:
                return later.answer.status_code == 200

        await until(is_taken, "the place of a stream that ended is free")


def slow_reader(port: int, person: Person) -> socket.socket:
    """Somebody who asks for a stream and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET {STREAM}?ticket={person.ticket} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


async def test_who_does_not_read_is_dropped_and_who_reads_is_not(
    app: Application, port: int, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What would take hours of events.
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.001)
    monkeypatch.setattr(streams, "HEARTBEAT", b":" + b" " * 100_000 + b"\n\n")
    monkeypatch.setattr(streams, "SEND_TIMEOUT_S", 1.0)
    slow, reading = await room.joined(2)
    opened = services_streams(app)
    connection = await asyncio.to_thread(slow_reader, port, slow)
    try:
        await until(lambda: opened.open == 1, "the slow one is there")
        async with watch(port, reading.ticket) as watching:

            async def read() -> None:
                while True:
                    await watching.next(with_comments=True)

            task = asyncio.create_task(read())
            await until(lambda: opened.open == 2, "both are there")
            await until(lambda: opened.open == 1, "the slow one was dropped")
            assert not task.done()
            task.cancel()
    finally:
        connection.close()


def services_streams(app: Application) -> streams.QueueStreams:
    [endpoint] = [route for url, route in app.hot.items() if url.endswith(b"/queue/join")]
    return endpoint._gateway.services.streams


async def test_open_streams_do_not_keep_a_process_from_stopping(room: Room, settings: Settings) -> None:
    [person] = await room.joined(1)
    process, port = await asyncio.to_thread(start, settings)
    try:
        async with watch(port, person.ticket) as watching:
            await first(watching)
            process.send_signal(signal.SIGTERM)
            assert await watching.next() is None
            # Less than the server waits before it breaks what is still being answered.
            output, _ = await asyncio.to_thread(process.communicate, timeout=8)
        assert (process.returncode, output) == (0, "ended well\n")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
