"""A question to one Redis server, over a connection of its own: who knows the way to the others is asked like
this, seldom and with a short time-out, and may be none of those that are connected."""

import asyncio
from typing import Any

import hiredis

from engine.errors import RushError
from engine.redis_link import RedisReplyError, pack, reply_error
from engine.redis_url import RedisAddress

ASK_ERRORS = (OSError, TimeoutError, EOFError, RushError, RedisReplyError, hiredis.ProtocolError)
"""What a question raises that gets no good answer."""

_READ_BYTES = 65_536
_NOT_YET = object()

Command = tuple[str | bytes | int, ...]


def login(address: RedisAddress) -> list[Command]:
    """The commands that a connection to this address begins with."""
    commands: list[Command] = []
    if address.username:
        commands.append(("AUTH", address.username, address.password or ""))
    elif address.password:
        commands.append(("AUTH", address.password))
    if address.database:
        commands.append(("SELECT", address.database))
    return commands


async def ask(address: RedisAddress, command: Command, timeout_s: float) -> Any:
    """The reply to one command; raises one of ASK_ERRORS."""
    commands = [*login(address), command]
    async with asyncio.timeout(timeout_s):
        if address.path is not None:
            reader, writer = await asyncio.open_unix_connection(address.path)
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=address.tls)
        try:
            writer.write(b"".join(map(pack, commands)))
            return await _last_reply(reader, len(commands))
        finally:
            writer.transport.abort()


async def _last_reply(reader: asyncio.StreamReader, count: int) -> Any:
    parser = hiredis.Reader(
        protocolError=hiredis.ProtocolError, replyError=reply_error, notEnoughData=_NOT_YET
    )
    reply: Any = None
    for _ in range(count):
        while (reply := parser.gets()) is _NOT_YET:
            data = await reader.read(_READ_BYTES)
            if not data:
                raise EOFError("Redis closed the connection")
            parser.feed(data)
        if isinstance(reply, Exception):
            raise reply
    return reply
