"""Whether everything is as before: asked of the stores themselves, while the load goes on or after it."""

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import asyncpg
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine import ids
from engine.keys import CellKeys
from engine.scripts import Scripts
from engine.stores import POSTGRES_ERRORS
from tests.drills.history import Event
from tests.drills.stack import Stack

POLL_S = 0.05
OVERDUE_S = 2.0
"""A hold that is due for so long is one that nobody takes back."""
LAG_S = 0.5
"""What stands in a ledger now is in Postgres so much later."""
TIMEOUT_S = 5.0


class NotQuiet(Exception):
    """It did not recover in time; the message says what is still wrong."""


class Look:
    """Looks at the stores directly, over connections of its own."""

    def __init__(self, stack: Stack, event: Event) -> None:
        self._stack = stack
        self._cell = ids.cell_of(UUID(event.id))
        self._keys = CellKeys(self._cell)
        self._shas = [script.sha for script in Scripts().group("verb")]

    async def recovered(self, is_selling: Callable[[], str | None], timeout_s: float) -> float:
        """Wait until nothing is wrong any more; the seconds that took. Raises NotQuiet."""
        return await self._until(
            lambda connection, client: self._while_loaded(connection, client, is_selling), timeout_s
        )

    async def drained(self, timeout_s: float) -> float:
        """Wait until nothing moves any more: with nobody asking, the last hold has run out, and Postgres has
        all that the ledger has. Raises NotQuiet."""
        return await self._until(self._at_rest, timeout_s)

    async def _until(self, look: Callable[..., object], timeout_s: float) -> float:
        began_s = time.monotonic()
        wrong = "nothing was looked at"
        while time.monotonic() - began_s < timeout_s:
            try:
                connection = await asyncpg.connect(self._stack.postgres.url, timeout=TIMEOUT_S)
                client = redis.asyncio.Redis.from_url(
                    self._stack.redis.url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
                )
                try:
                    while time.monotonic() - began_s < timeout_s:
                        wrong = await look(connection, client)  # type: ignore[misc]
                        if not wrong:
                            return time.monotonic() - began_s
                        await asyncio.sleep(POLL_S)
                finally:
                    await client.aclose()
                    connection.terminate()
            except (*POSTGRES_ERRORS, redis.RedisError) as error:
                wrong = f"a store does not answer: {error!r}"
                await asyncio.sleep(POLL_S)
        raise NotQuiet(wrong)

    async def _while_loaded(
        self,
        connection: asyncpg.Connection,
        client: redis.asyncio.Redis,
        is_selling: Callable[[], str | None],
    ) -> str | None:
        if wrong := is_selling():
            return wrong
        if wrong := await self._standing(connection, client):
            return wrong
        before = await self._ledger_end(client)
        await asyncio.sleep(LAG_S)
        offset = await self._offset(connection)
        return (
            None if offset >= before else f"Postgres is at {offset}, the ledger was at {before} {LAG_S} s ago"
        )

    async def _at_rest(self, connection: asyncpg.Connection, client: redis.asyncio.Redis) -> str | None:
        if wrong := await self._standing(connection, client):
            return wrong
        if count := await client.zcard(self._keys.deadlines):
            return f"{count} holds have not run out"
        offset, end = await self._offset(connection), await self._ledger_end(client)
        return None if offset == end else f"Postgres is at {offset}, the ledger at {end}"

    async def _standing(self, connection: asyncpg.Connection, client: redis.asyncio.Redis) -> str | None:
        """What of a lift, a rebuild, the sweeper and the relay is not finished."""
        if not all(await client.script_exists(*self._shas)):
            return "the node is fenced"
        fields = ["epoch", "loaded"]
        rows = await connection.fetch("SELECT event_ref, cell, epoch FROM cells WHERE closed_at IS NULL")
        pipeline = client.pipeline(transaction=False)
        for row in rows:
            pipeline.hmget(CellKeys(ids.CellId(row["event_ref"], row["cell"])).sale, fields)
        for row, (epoch, loaded) in zip(rows, await pipeline.execute(), strict=True):
            if epoch is None or int(epoch) != row["epoch"]:
                return f"the cell {row['event_ref']:012x}.{row['cell']} is not open"
            if loaded is not None:
                return f"the cell {row['event_ref']:012x}.{row['cell']} is still being loaded"
        now_ms = int((await client.time())[0]) * 1000
        for member in await client.zrange(self._keys.deadlines, 0, -1):
            due_ms = int(member.split(b":")[-2])
            if now_ms - due_ms > OVERDUE_S * 1000:
                return f"a hold is overdue by {now_ms - due_ms} ms"
        if count := await connection.fetchval("SELECT count(*) FROM dead_letters WHERE returned_at IS NULL"):
            return f"{count} dead letters whose seats are not given back"
        return None

    async def _ledger_end(self, client: redis.asyncio.Redis) -> tuple[int, int]:
        epoch, seq = await client.hmget(self._keys.sale, ["epoch", "seq"])
        return (int(epoch), int(seq)) if epoch is not None and seq is not None else (-1, 0)

    async def _offset(self, connection: asyncpg.Connection) -> tuple[int, int]:
        row = await connection.fetchrow(
            "SELECT epoch, seq FROM cells WHERE event_ref = $1 AND cell = $2", *self._cell
        )
        return (row["epoch"], row["seq"]) if row is not None else (0, 0)
