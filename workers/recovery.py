"""Recovery: lifts fenced nodes, brings back cells that are not open, and keeps replicas without scripts.

One works at a time, under a lease in Postgres; on a cluster it works on every master at the same time, with
those cells that live there. For each it keeps one connection to each store and never replaces it: if one
breaks, what was known is not known any more, and it starts over.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import assert_never

import asyncpg
import msgspec
import redis
import redis.asyncio

from engine.cells import RECOVERY_CHANNEL
from engine.errors import RushError
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.lease import RECOVERY_LOCKS, Lease
from engine.lift import Lifter, Node, NotLiftable, Recovered, leaving, queries
from engine.rebuild import BuildVoid
from engine.redis_clients import LEAVES_THE_NODE, open_client, open_replica
from engine.redis_url import parse_redis_url
from engine.stores import POSTGRES_ERRORS, Master, Stores, connect_postgres
from observability.metrics import counter
from workers.backoff import Backoff, sleep_unless
from workers.builders import Builders
from workers.masters import on_each_master

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
SALE_FIELDS = ["epoch", "seq", "loaded", "fenced_epoch"]
"""What `sale` says of how a cell stands."""

ERRORS = (*POSTGRES_ERRORS, redis.RedisError, RushError, NotLiftable, BuildVoid, msgspec.MsgspecError)
"""What recovery of a node ends with, to begin again."""


class Recovery:
    """One recovery at work, while it has the lease."""

    def __init__(
        self,
        stores: Stores,
        lifter: Lifter,
        connection: asyncpg.Connection,
        client: redis.asyncio.Redis,
        owns: Callable[[CellId], bool],
        builders: Builders,
    ) -> None:
        self._stores = stores
        self._lifter = lifter
        self._owns = owns
        self._builders = builders
        # Once: by TLS this reads certificates.
        self._address = parse_redis_url(stores.settings.redis_url)
        self._believed = ""
        """The replication id with which the node was last seen to be the one that was lifted."""
        self._connection = connection
        self._client = client
        self._next_s = {"cells": 0.0, "replicas": 0.0, "edits": 0.0, "close": 0.0}
        self.woken = asyncio.Event()

    async def step(self) -> None:
        """Look once, and do what is to be done."""
        node = await self._lifter.look()
        if not node.is_master:
            raise NotLiftable("the Redis that the URL leads to is a replica")
        if await queries.is_everything_fenced(self._connection):
            await self._keep_closed(node)
            return
        if node.replid != self._believed and await self._is_foreign(node):
            log.warning("this is not the node that was lifted: fencing it")
            await self._lifter.fence()
        if await self._lifter.is_fenced():
            await self._lifter.fence()
            for cell_id in await self._lifter.lift(node):
                self._builders.start(cell_id)
            _lifts.inc()
        self._believed = node.replid
        if self.woken.is_set() or self._is_time("cells", CELLS_INTERVAL_S):
            self.woken.clear()
            await self._check_cells(node)
        if self._is_time("replicas", REPLICAS_INTERVAL_S):
            await self._flush_replicas(node)
        if self._is_time("edits", EDITS_INTERVAL_S):
            await self._lifter.apply_outstanding_edits(older_than_s=EDITS_AGE_S)
        if self._is_time("close", CLOSE_INTERVAL_S):
            await self._lifter.close_finished(self._stores.settings.cell_retention_s)

    async def _keep_closed(self, node: Node) -> None:
        """An operator has closed everything: nothing is looked at until it is opened again."""
        self.woken.clear()
        if await self._lifter.has_scripts():
            log.warning("an operator has closed everything: fencing the node")
            await self._lifter.fence()
        if self._is_time("replicas", REPLICAS_INTERVAL_S):
            await self._flush_replicas(node)

    def _is_time(self, what: str, interval_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_s[what]:
            return False
        self._next_s[what] = now_s + interval_s
        return True

    async def _is_foreign(self, node: Node) -> bool:
        """Whether the node may have scripts although its cells were last opened on another one.

        Where some were opened here it is the node that was lifted, and the others were brought to it.
        """
        opened = [row["replid"] for row in await self._own_cells() if row["epoch"]]
        return bool(opened) and node.replid not in opened

    async def _own_cells(self) -> list[asyncpg.Record]:
        """The cells that live on the node."""
        rows = queries.cells_to_recover(self._connection)
        return [row async for row in rows if self._owns(CellId(row["event_ref"], row["cell"]))]

    async def _check_cells(self, node: Node) -> None:
        """Bring back every cell whose `sale` is not there, or is of another epoch, or came from elsewhere."""
        rows = await self._own_cells()
        self._next_s["cells"] = time.monotonic() + max(CELLS_INTERVAL_S, len(rows) / CELLS_PER_SECOND_MAX)
        if not rows:
            return
        pipeline = self._client.pipeline(transaction=False)
        for row in rows:
            pipeline.hmget(CellKeys(CellId(row["event_ref"], row["cell"])).sale, SALE_FIELDS)
        for row, reply in zip(rows, await pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(reply, LEAVES_THE_NODE):
                continue
            if isinstance(reply, Exception):
                raise reply
            await self._check_cell(row, reply, node)

    async def _check_cell(self, row: asyncpg.Record, sale: list[bytes | None], node: Node) -> None:
        cell_id = CellId(row["event_ref"], row["cell"])
        epoch, seq, loaded, fenced_epoch = sale
        builders = self._builders
        if (
            epoch is None
            and builders.is_busy(cell_id)
            and (fenced_epoch is None or builders.is_starting(cell_id))
        ):
            # It has no `sale` yet, or still the one with which it could not be opened.
            return
        is_open = seq is not None and epoch is not None and int(epoch) == row["epoch"] != 0
        is_ours = is_open and row["replid"] == node.replid
        if not (epoch is None if row["fenced_at"] is not None else is_ours):
            await self._recover(cell_id, node)
        elif is_open and loaded is not None:
            await self._go_on_loading(cell_id)

    async def _go_on_loading(self, cell_id: CellId) -> None:
        """The cell sells, its records are not all there: whoever was loading them may have died."""
        if not self._builders.is_busy(cell_id) and not await self._lifter.is_in_other_hands(cell_id):
            self._builders.start(cell_id)

    async def _recover(self, cell_id: CellId, node: Node) -> None:
        with leaving(cell_id):
            match await self._lifter.recover_cell(cell_id, node):
                case Recovered.AS_IT_WAS:
                    pass
                case Recovered.OPENED:
                    log.info("brought %s back", tag(cell_id))
                    _cells.inc()
                case Recovered.TO_BUILD:
                    self._builders.start(cell_id)
                    _cells.inc()
                case other:
                    assert_never(other)

    async def _flush_replicas(self, node: Node) -> None:
        """A replica that is promoted must have no scripts, or nothing would fence it."""
        for host, port in node.replicas:
            try:
                async with open_replica(self._address.at(host, port)) as replica:
                    await replica.script_flush("SYNC")
                    failpoint("recovery.after_replica")
            except (redis.RedisError, OSError) as error:
                log.warning("the replica %s:%d could not be flushed: %s", host, port, error)


@contextlib.asynccontextmanager
async def open_lifter(stores: Stores, master: Master) -> AsyncIterator[Lifter]:
    """Hands with a connection of their own to each store."""
    connection = await connect_postgres(stores.settings, "rebuild")
    client = open_client(master.address, single=True)
    try:
        yield Lifter(stores, connection, client, master.owns)
    finally:
        await client.aclose()
        connection.terminate()


async def _work(stores: Stores, lease: Lease, master: Master, stop: asyncio.Event) -> None:
    """Recover one master until `stop`, through outages of either store."""
    backoff = Backoff(f"recovery of {master}")
    while not stop.is_set() and not lease.is_lost:
        try:
            await _work_connected(stores, lease, master, stop, backoff)
        except ERRORS as error:
            await sleep_unless(stop, backoff.failed(error))


async def _work_connected(
    stores: Stores, lease: Lease, master: Master, stop: asyncio.Event, backoff: Backoff
) -> None:
    """Recover with one connection to each store, until one breaks or the lease is lost."""
    connection = await connect_postgres(stores.settings, "recovery")
    client = open_client(master.address, single=True)
    builders = Builders(partial(open_lifter, stores, master))
    try:
        lifter = Lifter(stores, connection, client, master.owns)
        recovery = Recovery(stores, lifter, connection, client, master.owns, builders)
        await connection.add_listener(RECOVERY_CHANNEL, lambda *_: recovery.woken.set())
        while not stop.is_set() and not lease.is_lost:
            await recovery.step()
            backoff.succeeded()
            await _pause(recovery.woken, stop, stores.settings.recovery_poll_ms / 1000)
    finally:
        await builders.close()
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
                        backoff.succeeded()
                        await on_each_master(stores, stop, lease, partial(_work, stores, lease))
                    await sleep_unless(stop, LEASE_INTERVAL_S)
        except POSTGRES_ERRORS as error:
            await sleep_unless(stop, backoff.failed(error))
