"""A server that speaks RESP and does exactly what a test tells it: answer, delay, cut, garble."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import hiredis

from engine.errors import RushError
from engine.hotline import HotLine, RedisReplyError

OK = b"+OK\r\n"
GREETING = (b"AUTH", b"SELECT", b"CLIENT", b"PING")
PATIENCE_S = 10.0
FAR_MS = 30_000
"""A time-out that no test waits for."""

T = TypeVar("T")
Connect = Callable[..., Awaitable[HotLine]]


async def until(condition: Callable[[], T]) -> T:
    """Wait until the condition holds; its value."""
    async with asyncio.timeout(PATIENCE_S):
        while not (value := condition()):
            await asyncio.sleep(0.001)
        return value


async def outcome(future: asyncio.Future[Any]) -> Any:
    """The reply, or the class of the exception."""
    try:
        return await future
    except (RushError, RedisReplyError, asyncio.CancelledError) as error:
        return type(error)


async def outcomes(*futures: asyncio.Future[Any]) -> list[Any]:
    return [await outcome(future) for future in futures]


def bulk(value: bytes) -> bytes:
    """A bulk string reply."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


def greet(command: list[bytes]) -> bytes:
    """What a server in good health answers to the greeting of a client."""
    return b"+PONG\r\n" if command[0] == b"PING" else OK


class ScriptedRedis:
    """Listens on a loopback port (or a Unix socket) and keeps what it was sent.

    The greeting of each connection, up to its PING, is answered by `greet`; every later command is
    kept in `commands` and answered by `answer`, or by the test through `send` where that is None.
    """

    def __init__(self) -> None:
        self.greet: Callable[[list[bytes]], bytes | None] = greet
        self.answer: Callable[[list[bytes]], bytes | None] | None = None
        self.on_connect: Callable[[asyncio.StreamWriter], None] | None = None
        self.greetings: list[list[bytes]] = []
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.writer: asyncio.StreamWriter | None = None
        """Of the newest connection."""
        self.reading = asyncio.Event()
        self.reading.set()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def listen(self, *, tls: ssl.SSLContext | None = None, path: Path | None = None) -> None:
        """Begin, or begin again on the same port."""
        if path is not None:
            self._server = await asyncio.start_unix_server(self._serve, path)
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    async def close(self) -> None:
        """Listen no more and cut all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        for task in list(self._tasks):
            task.cancel()
            await asyncio.wait((task,))

    def send(self, data: bytes) -> None:
        """Write to the newest connection."""
        assert self.writer is not None
        self.writer.write(data)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def received(self, count: int) -> list[list[bytes]]:
        """The first `count` commands after the greeting, once they are there."""
        await until(lambda: len(self.commands) >= count)
        return self.commands[:count]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.writer = writer
        self._writers.append(writer)
        try:
            if self.on_connect is not None:
                self.on_connect(writer)
            with suppress(ConnectionError, asyncio.CancelledError):
                await self._converse(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        greeted = False
        while True:
            await self.reading.wait()
            data = await reader.read(65536)
            if not data:
                return
            parser.feed(data)
            while (command := parser.gets()) is not False:
                if not greeted:
                    self.greetings.append(command)
                    greeted = command[0] == b"PING"
                    reply = self.greet(command)
                else:
                    self.commands.append(command)
                    reply = self.answer(command) if self.answer else None
                if reply is not None:
                    writer.write(reply)
