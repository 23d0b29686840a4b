"""The stores of one process: opened once, by its composition root."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
import redis.asyncio

from engine.cluster_lines import ClusterLines, ClusterMaster
from engine.errors import StoreUnavailable
from engine.hotline import HotLine, RedisReplyError, TheMaster
from engine.ids import CellId
from engine.redis_clients import open_client
from engine.redis_url import ClusterAddress, parse_redis_url
from engine.scripts import ScriptFailed, Scripts
from engine.settings import Settings

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_S = 15
IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000

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


Line = HotLine | ClusterLines
Master = TheMaster | ClusterMaster
"""One that a part of the cells live on, or all of them."""

RunScript = Callable[..., Awaitable[Any]]
"""(name, keys, *arguments) → the script's reply."""


class Stores(msgspec.Struct, frozen=True):
    """Postgres, Redis for what is not hot, the hot line, and the scripts they share.

    On a cluster `redis` goes to whichever node has the key, and to all masters with what has none.
    """

    settings: Settings
    pool: asyncpg.Pool
    redis: redis.asyncio.Redis
    line: Line
    scripts: Scripts

    async def run(self, name: str, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
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

    def master_of(self, cell_id: CellId) -> Master:
        """The master that a cell lives on; raises StoreUnavailable where none is known."""
        for master in self.line.masters():
            if master.owns(cell_id):
                return master
        raise StoreUnavailable

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

    async def run(name: str, keys: Sequence[str | bytes], *arguments: str | bytes | int) -> Any:
        script = scripts[name]
        script.check_keys(keys)
        return await client.evalsha(script.sha, len(keys), *keys, *arguments)

    return run


def open_redis(settings: Settings, *, single: bool = False) -> redis.asyncio.Redis:
    """A redis-py client for where the settings lead to: see `engine.redis_clients.open_client`."""
    return open_client(parse_redis_url(settings.redis_url), single=single)


def open_line(settings: Settings) -> Line:
    """The hot line to where the settings lead to, not started yet."""
    address = parse_redis_url(settings.redis_url)
    options = {
        "in_flight_max": settings.hot_line_in_flight_max,
        "timeout_ms": settings.hot_line_timeout_ms,
        "replicas_min": settings.redis_replicas_min,
    }
    if isinstance(address, ClusterAddress):
        return ClusterLines(address, **options)
    return HotLine(address, **options)


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
    line = open_line(settings)
    await line.start()
    return Stores(settings=settings, pool=pool, redis=open_redis(settings), line=line, scripts=Scripts())
