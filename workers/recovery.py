"""Recovery: lifts fenced nodes, brings back cells that are not open, and keeps replicas without scripts.

One works at a time, under a lease in Postgres. It keeps one connection to each store and never replaces
it: if one breaks, what was known is not known any more, and it starts over.
"""

import asyncio
import logging
import time

import msgspec
import redis
import redis.asyncio

from engine.cells import RECOVERY_CHANNEL
from engine.errors import RushError
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.lease import RECOVERY_LOCKS, Lease
from engine.lift import Lifter, Node, NotLiftable, queries
from engine.rebuild import BuildVoid
from engine.stores import POSTGRES_ERRORS, Stores, connect_postgres, open_redis, open_replica
from observability.metrics import counter
from workers.backoff import Backoff, sleep_unless

log = logging.getLogger(__name__)
_lifts = counter("recovery_lifts_total")
_cells = counter("recovery_cells_total")

CELLS_INTERVAL_S = 1.0
CELLS_PER_SECOND_MAX = 2_000
REPLICAS_INTERVAL_S = 1.0
EDITS_INTERVAL_S = 2.0
EDITS_AGE_S = 2.0
CLOSE_INTERVAL_S = 60.0
LEASE_INTERVAL_S = 0.5


class Recovery:
    """One recovery at work, while it has the lease."""

    def __init__(
        self, stores: Stores, lifter: Lifter, connection: object, client: redis.asyncio.Redis
    ) -> None:
        self._stores = stores
        self._lifter = lifter
        self._connection = connection
        self._client = client
        self._next_s = {"cells": 0.0, "replicas": 0.0, "edits": 0.0, "close": 0.0}
        self.woken = asyncio.Event()

    async def step(self) -> None:
        """Look once, and do what is to be done."""
        node = await self._lifter.look()
        if not node.is_master:
            raise NotLiftable("the Redis that the URL names is a replica")
        if await self._is_foreign(node):
            log.warning("this is not the node that was lifted: fencing it")
            await self._lifter.fence()
        if await self._lifter.is_fenced():
            await self._lifter.fence()
            await self._lifter.lift(node)
            _lifts.inc()
        if self.woken.is_set() or self._is_time("cells", CELLS_INTERVAL_S):
            self.woken.clear()
            await self._check_cells(node)
        if self._is_time("replicas", REPLICAS_INTERVAL_S):
            await self._flush_replicas(node)
        if self._is_time("edits", EDITS_INTERVAL_S):
            await self._lifter.apply_outstanding_edits(older_than_s=EDITS_AGE_S)
        if self._is_time("close", CLOSE_INTERVAL_S):
            await self._lifter.close_finished(self._stores.settings.cell_retention_s)

    def _is_time(self, what: str, interval_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_s[what]:
            return False
        self._next_s[what] = now_s + interval_s
        return True

    async def _is_foreign(self, node: Node) -> bool:
        """Whether the node has scripts although some cell was last opened on another one."""
        return bool(await queries.is_any_cell_elsewhere(self._connection, replid=node.replid))

    async def _check_cells(self, node: Node) -> None:
        """Bring back every cell whose `sale` is not there, or is of another epoch."""
        rows = [row async for row in queries.cells_to_recover(self._connection)]
        self._next_s["cells"] = time.monotonic() + max(CELLS_INTERVAL_S, len(rows) / CELLS_PER_SECOND_MAX)
        if not rows:
            return
        pipeline = self._client.pipeline(transaction=False)
        for row in rows:
            pipeline.hmget(CellKeys(CellId(row["event_ref"], row["cell"])).sale, ["epoch", "seq"])
        positions = await pipeline.execute()
        for row, (epoch, seq) in zip(rows, positions, strict=True):
            if epoch is None or seq is None or int(epoch) != row["epoch"] or row["epoch"] == 0:
                cell_id = CellId(row["event_ref"], row["cell"])
                if await self._lifter.recover_cell(cell_id, node):
                    log.info("brought %s back", tag(cell_id))
                    _cells.inc()

    async def _flush_replicas(self, node: Node) -> None:
        """A replica that is promoted must have no scripts, or nothing would fence it."""
        for host, port in node.replicas:
            try:
                async with open_replica(self._stores.settings, host, port) as replica:
                    await replica.script_flush("SYNC")
            except (redis.RedisError, OSError) as error:
                log.warning("the replica %s:%d could not be flushed: %s", host, port, error)


async def _work(stores: Stores, lease: Lease, stop: asyncio.Event, backoff: Backoff) -> None:
    """Recover with one connection to each store, until one breaks or the lease is lost."""
    connection = await connect_postgres(stores.settings, "recovery")
    client = open_redis(stores.settings, single=True)
    try:
        recovery = Recovery(stores, Lifter(stores, connection, client), connection, client)
        await connection.add_listener(RECOVERY_CHANNEL, lambda *_: recovery.woken.set())
        while not stop.is_set() and not lease.is_lost:
            await recovery.step()
            backoff.succeeded()
            await _pause(recovery.woken, stop, stores.settings.recovery_poll_ms / 1000)
    finally:
        await client.aclose()
        connection.terminate()


async def _pause(woken: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.create_task(woken.wait()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Recover until `stop`, through outages of either store."""
    backoff = Backoff("recovery")
    while not stop.is_set():
        try:
            async with Lease(stores.settings, "recovery") as lease:
                while not stop.is_set() and not lease.is_lost:
                    if await lease.take(RECOVERY_LOCKS, [0]):
                        await _work(stores, lease, stop, backoff)
                    await sleep_unless(stop, LEASE_INTERVAL_S)
        except (
            *POSTGRES_ERRORS,
            redis.RedisError,
            RushError,
            NotLiftable,
            BuildVoid,
            msgspec.MsgspecError,
        ) as error:
            await sleep_unless(stop, backoff.failed(error))
