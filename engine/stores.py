"""The stores of one process: opened once, by its composition root."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.hotline import HotLine, RedisReplyError
from engine.scripts import ScriptFailed, Scripts
from engine.settings import Settings

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_S = 15
IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
SOCKET_TIMEOUT_S = 5
HEALTH_CHECK_INTERVAL_S = 5
RESP_VERSION = 2
"""The replies of redis-py have another shape with each version of the protocol."""
REPLICA_TIMEOUT_S = 1

POSTGRES_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a call to Postgres raises while it is away, restarting, or refuses to go on. A connection that
dies while it is being handed out may raise the last one: asyncpg finds it between two operations."""

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


RunScript = Callable[..., Awaitable[Any]]
"""(name, keys, *arguments) → the script's reply."""


class Stores(msgspec.Struct, frozen=True):
    """Postgres, Redis for what is not hot, the hot line, and the scripts they share."""

    settings: Settings
    pool: asyncpg.Pool
    redis: redis.asyncio.Redis
    line: HotLine
    scripts: Scripts

    async def run(self, name: str, keys: Sequence[str], *arguments: str | int) -> Any:
        """Call a script on the hot line; its reply, a list that begins with the status.

        Raises what HotLine.call raises, and ScriptFailed where the script itself is at fault.
        """
        script = self.scripts[name]
        script.check_keys(keys)
        try:
            return await self.line.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except RedisReplyError as error:
            raise self.script_failed(name, error) from None

    def script_failed(self, name: str, error: RedisReplyError) -> ScriptFailed:
        """The exception for an error that a script made; its text names the source file and line."""
        return ScriptFailed(self.scripts[name].locate(str(error)))

    async def close(self) -> None:
        """Close all connections; returns also when a store is away."""
        await self.line.close()
        await self.redis.aclose()
        try:
            await asyncio.wait_for(self.pool.close(), CONNECT_TIMEOUT_S)
        except TimeoutError:
            self.pool.terminate()


def script_runner(client: redis.asyncio.Redis, scripts: Scripts) -> RunScript:
    """What `Stores.run` is on the hot line, on a redis-py client: recovery keeps to one connection."""

    async def run(name: str, keys: Sequence[str | bytes], *arguments: str | int) -> Any:
        script = scripts[name]
        script.check_keys(keys)
        return await client.evalsha(script.sha, len(keys), *keys, *arguments)

    return run


def open_redis(settings: Settings, *, single: bool = False) -> redis.asyncio.Redis:
    """A redis-py client that never repeats a command on its own: a lost reply would run it twice.

    `single` keeps to one connection, which breaks visibly instead of being replaced.
    """
    return redis.asyncio.Redis.from_url(
        settings.redis_url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=RESP_VERSION,
        health_check_interval=HEALTH_CHECK_INTERVAL_S,
        single_connection_client=single,
    )


def open_replica(settings: Settings, host: str, port: int) -> redis.asyncio.Redis:
    """A client for a replica, with the user, password and TLS that its master's URL has."""
    url = urlsplit(settings.redis_url)
    credentials, at, _ = url.netloc.rpartition("@")
    netloc = f"{credentials}{at}[{host}]:{port}" if ":" in host else f"{credentials}{at}{host}:{port}"
    return redis.asyncio.Redis.from_url(
        urlunsplit((url.scheme, netloc, "", url.query, "")),
        socket_timeout=REPLICA_TIMEOUT_S,
        socket_connect_timeout=REPLICA_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


async def connect_postgres(settings: Settings, name: str) -> asyncpg.Connection:
    """One connection of its own, as a worker that holds a lock needs it."""
    return await asyncpg.connect(settings.database_url, **_postgres_options(name))


def _postgres_options(name: str) -> dict[str, Any]:
    # Short keepalives and time-outs: a process that was stopped and wakes up later must find its
    # transaction and its locks gone.
    return {
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": STATEMENT_TIMEOUT_S,
        "server_settings": {
            "application_name": f"rush {name}",
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
        },
    }


async def open_stores(settings: Settings, name: str = "gateway") -> Stores:
    """Open all stores; one that is away is not an error here but where it is used."""
    pool = await asyncpg.create_pool(
        settings.database_url, min_size=0, max_size=settings.database_pool_max, **_postgres_options(name)
    )
    line = HotLine(
        settings.redis_url,
        in_flight_max=settings.hot_line_in_flight_max,
        timeout_ms=settings.hot_line_timeout_ms,
        replicas_min=settings.redis_replicas_min,
    )
    await line.start()
    return Stores(settings=settings, pool=pool, redis=open_redis(settings), line=line, scripts=Scripts())
