"""An address that leads to one server now and to another later, as a name in front of a fail-over does.

It is also a network that can be broken: slow, stalled, cut, or half-open.
"""

import asyncio
import contextlib
import socket
import struct

CHUNK = 65_536
CLOSE_TIMEOUT_S = 2.0


class _Connection:
    """One that a client made, and its continuation to the server."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.client = writer
        self.server: asyncio.StreamWriter | None = None
        self.is_lost = False
        """What either end sends arrives nowhere, and neither is told."""
        self.found_out = asyncio.Event()

    def cut(self, *, is_reset: bool = False) -> None:
        """Both ends are told at once that it is over."""
        self.found_out.set()
        for writer in (self.client, self.server):
            if writer is not None and not writer.transport.is_closing():
                if is_reset:
                    connection = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()


class Proxy:
    """A TCP proxy on loopback. `switch` cuts every connection and leads new ones elsewhere."""

    def __init__(self, target_port: int | None, *, target_host: str = "127.0.0.1") -> None:
        self._target_port = target_port
        self._target_host = target_host
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._drops_replies = False
        self.delay_s = 0.0
        """How long what is sent takes to arrive, in either direction."""
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen, on a free port where none is named."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            if self._target_port is not None:
                await self._lead(connection, reader)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            connection.cut()
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _lead(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        await self._flows.wait()
        there_reader, there_writer = await asyncio.open_connection(self._target_host, self._target_port)
        connection.server = there_writer
        pumps = [
            asyncio.create_task(self._pump(connection, reader, there_writer, is_reply=False)),
            asyncio.create_task(self._pump(connection, there_reader, connection.client, is_reply=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_reply: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flows.wait()
                if connection.is_lost:
                    continue
                if is_reply and self._drops_replies:
                    return
                writer.write(data)
                await writer.drain()
            # The end, too, is something that is sent.
            await self._flows.wait()
            if connection.is_lost:
                await connection.found_out.wait()

    def switch(self, target_port: int | None) -> None:
        """Lead to another server from now on; None refuses everybody."""
        self._target_port = target_port
        for connection in list(self._connections):
            connection.cut()

    def reset(self) -> None:
        """Cut every connection in the middle of whatever it carries (RST)."""
        for connection in list(self._connections):
            connection.cut(is_reset=True)

    def stall(self) -> None:
        """From now on nothing arrives; it does when the network is healed."""
        self._flows.clear()

    def drop_replies(self) -> None:
        """Requests arrive. The first answer on each connection does not: the connection is cut instead."""
        self._drops_replies = True

    def lose(self) -> None:
        """Lead the connections of now nowhere, without telling either end; new ones work."""
        for connection in self._connections:
            connection.is_lost = True

    def heal(self) -> None:
        """Be a good network again. Who holds a lost connection is told now, as by the kernel's keepalive."""
        self.delay_s = 0.0
        self._drops_replies = False
        self._flows.set()
        for connection in list(self._connections):
            if connection.is_lost:
                connection.cut(is_reset=True)

    async def close(self) -> None:
        """Hang up."""
        if self._server is not None:
            self._server.close()
        self.heal()
        self.switch(None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
