"""One keep-alive HTTP/1.1 connection, one request at a time: what is sent is sent once."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

HEAD_END = b"\r\n\r\n"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


BROKEN = (
    OSError,
    TimeoutError,
    ValueError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    # uvloop's word for a connection that was cut between two calls.
    RuntimeError,
)


class NoAnswer(Exception):
    """The request may have arrived or not, and may have been carried out or not."""


class HttpAnswer(NamedTuple):
    """Status, headers with names in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpConnection:
    """To one gateway; connects when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self,
        method: str,
        path: str,
        token: str,
        body: object,
        key: str | None,
        timeout_s: float,
        more: Mapping[str, str] = NO_HEADERS,
    ) -> HttpAnswer:
        """Ask, and wait for the answer; raises NoAnswer."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(self._host, self._port)
                reader, writer = self._streams
                writer.write(self._request(method, path, token, body, key, more))
                await writer.drain()
                return await self._read(reader)
        except BROKEN as error:
            self.close()
            raise NoAnswer(repr(error)) from None
        except asyncio.CancelledError:
            self.close()
            raise

    async def stream(self, path: str, silence_max_s: float) -> None:
        """Read a stream over a connection of its own until it ends or falls silent; raises NoAnswer."""
        writer = None
        try:
            async with asyncio.timeout(silence_max_s):
                reader, writer = await asyncio.open_connection(self._host, self._port)
            lines = (f"GET {path} HTTP/1.1", f"Host: {self._host}", "Connection: close")
            writer.write("\r\n".join(lines).encode() + HEAD_END)
            while True:
                async with asyncio.timeout(silence_max_s):
                    if not await reader.read(4096):
                        return
        except BROKEN as error:
            raise NoAnswer(repr(error)) from None
        finally:
            if writer is not None:
                writer.transport.abort()

    def _request(
        self, method: str, path: str, token: str, body: object, key: str | None, more: Mapping[str, str]
    ) -> bytes:
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Authorization: Bearer {token}"]
        if body is not None:
            lines.append("Content-Type: application/json")
        if body is not None or method == "POST":
            lines.append(f"Content-Length: {len(content)}")
        if key is not None:
            lines.append(f"Idempotency-Key: {key}")
        lines += [f"{name}: {value}" for name, value in more.items()]
        return "\r\n".join(lines).encode() + HEAD_END + content

    async def _read(self, reader: asyncio.StreamReader) -> HttpAnswer:
        head = (await reader.readuntil(HEAD_END)).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = {}
        for line in filter(None, head[1:]):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return HttpAnswer(status, headers, body)

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].transport.abort()
            self._streams = None
