"""What the clients of redis-py raise."""

import asyncio
import socket

import pytest
import redis
import uvloop

from engine.redis_clients import open_client
from engine.redis_url import parse_redis_url


async def _write_on_a_closed_transport(port: int) -> None:
    client = open_client(parse_redis_url(f"redis://127.0.0.1:{port}"))
    connection = client.connection_pool.make_connection()
    # Without a greeting: nobody answers it here.
    await connection._connect()
    connection._writer.transport.abort()
    await asyncio.sleep(0)
    try:
        with pytest.raises(redis.ConnectionError):
            await connection.send_packed_command(b"PING", check_health=False)
    finally:
        await connection.disconnect(nowait=True)
        await client.aclose()


def test_a_reset_connection_is_a_connection_error_on_uvloop_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uvloop.run(_write_on_a_closed_transport(listener.getsockname()[1]))
