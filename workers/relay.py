"""The relay: carries the ledger into Postgres, then announces what is durable.

Any number may run. A lease on shards keeps two from doing the same work, the offset's compare-and-set
keeps them from doing it twice. On a cluster one works on each master, with those cells that live there.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import redis

from engine.cells import OPENED_CHANNEL, RECOVERY_CHANNEL
from engine.durability import announce
from engine.errors import RushError
from engine.failpoints import failpoint
from engine.hotline import RedisReplyError
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.lease import RELAY_LOCKS, Lease
from engine.ledger import Position
from engine.lines import Batch, dense_lines
from engine.projection import StaleOffset, commit_batch, queries
from engine.redis_clients import LEAVES_THE_NODE
from engine.scripts import ScriptFailed
from engine.status import Status
from engine.stores import POSTGRES_ERRORS, Master, Stores, connect_postgres
from observability.metrics import counter, gauge
from workers.backoff import Backoff, sleep_unless
from workers.ledger_reader import BLOCK_MS, LedgerReader
from workers.masters import on_each_master

log = logging.getLogger(__name__)
_entries = counter("relay_entries_total")
_committed = counter("relay_batches_total", outcome="committed")
_stale = counter("relay_batches_total", outcome="stale")
_dead = counter("dead_letters_total")
_lag = gauge("relay_lag_entries")

CELLS_INTERVAL_S = 1.0
CELLS_PER_SECOND_MAX = 2_000
SHARDS_INTERVAL_S = 2.0
RETURN_INTERVAL_S = 5.0
RETURN_BOOKINGS_MAX = 100
"""Of one cell, each time."""
LAG_INTERVAL_S = 1.0
TRIM_INTERVAL_S = 10.0
REJECTED_SHOWN_MAX = 5
FEW_CELLS_MAX = 100
"""So many cells are read every time, however quiet they are."""
QUIET_AFTER_S = 10.0
QUIET_INTERVAL_S = 0.25
"""With more, one in which nothing has happened for a while is looked at only so often."""
COMMITS_MAX = 4
"""Cells that are committed at the same time."""
PAUSE_PER_ENTRY_S = 0.0005
PAUSE_MAX_S = 0.1
"""A batch costs a transaction and a look at Redis, however small it is. So the relay reads again only when
as much time has gone by since it last read as what it read is worth: a rush comes in large batches, and who
is alone does not wait."""


class _Cell(msgspec.Struct):
    """Where the relay stands in one cell."""

    id: CellId
    keys: CellKeys
    offset: Position
    replid: str | None
    history: deque[tuple[float, Position]]
    """When the offset was where: trimming stays behind it."""
    busy_s: float
    """When something of it was last carried."""


_lags: dict[str, int] = {}
"""Of each master that this process works on."""


class Relay:
    """One relay, for those cells of the shards that it holds that live on one master."""

    def __init__(self, stores: Stores, lease: Lease, master: Master) -> None:
        self._stores = stores
        self._lease = lease
        self._master = master
        self._shards: set[int] = set()
        self._cells: dict[str, _Cell] = {}
        self._busy: dict[str, _Cell] = {}
        """Those of them that are read every time."""
        self._next_s = dict.fromkeys(("cells", "shards", "return", "lag", "trim", "busy"), 0.0)
        self._commits = asyncio.Semaphore(COMMITS_MAX)
        self._ledgers = LedgerReader(stores.settings, master)
        self._connections: list[asyncpg.Connection] = []
        self._is_closed = False
        self._read_again_s = 0.0

    async def aclose(self) -> None:
        """Close what is this relay's own."""
        self._is_closed = True
        _lags.pop(self._master.name, None)
        await self._ledgers.aclose()
        for connection in self._connections:
            connection.terminate()

    def wake(self) -> None:
        """Look for new cells at the next step."""
        self._next_s["cells"] = 0.0

    async def step(self) -> int:
        """Carry one batch of each cell that has something; the number of entries."""
        if self._is_time("shards", SHARDS_INTERVAL_S):
            await self._take_shards()
        if self._is_time("cells", max(CELLS_INTERVAL_S, len(self._cells) / CELLS_PER_SECOND_MAX)):
            await self._refresh_cells()
        if self._is_time("busy", QUIET_INTERVAL_S):
            await self._find_busy_cells()
        if self._is_time("return", RETURN_INTERVAL_S):
            await self._return_seats()
        if self._is_time("lag", LAG_INTERVAL_S):
            await self._measure_lag()
        if self._is_time("trim", TRIM_INTERVAL_S):
            await self._trim()
        await asyncio.sleep(max(0.0, self._read_again_s - time.monotonic()))
        if not self._busy:
            await asyncio.sleep(BLOCK_MS / 1000)
            return 0
        began_s = time.monotonic()
        streams, replid = await self._ledgers.read(
            {key: str(cell.offset) for key, cell in self._busy.items()}
        )
        counts = await asyncio.gather(
            *[self._carry(self._busy[key], entries, replid) for key, entries in streams]
        )
        if max(counts, default=0) < self._stores.settings.relay_batch_entries_max:
            self._read_again_s = began_s + min(PAUSE_MAX_S, sum(counts) * PAUSE_PER_ENTRY_S)
        return sum(counts)

    def _is_time(self, what: str, interval_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_s[what]:
            return False
        self._next_s[what] = now_s + interval_s
        return True

    async def _take_shards(self) -> None:
        free = [shard for shard in range(self._stores.settings.relay_shards) if shard not in self._shards]
        if free:
            taken = await self._lease.take(RELAY_LOCKS, free)
            if taken:
                log.info("the relay takes %d of %d shards", len(taken), self._stores.settings.relay_shards)
                self.wake()
            self._shards.update(taken)

    async def _refresh_cells(self) -> None:
        """Learn of new, reopened and closed cells."""
        rows = [row async for row in queries.open_cells(self._stores.pool)]
        # A new sale begins with a rush; which of the older ones are busy, the next look finds out.
        busy_s = time.monotonic() if self._cells else 0.0
        seen = set()
        for row in rows:
            cell_id = CellId(row["event_ref"], row["cell"])
            is_held = row["event_ref"] % self._stores.settings.relay_shards in self._shards
            if is_held and self._master.owns(cell_id):
                seen.add(self._learn(cell_id, Position(row["epoch"], row["seq"]), row["replid"], busy_s))
        for key in self._cells.keys() - seen:
            del self._cells[key]
        self._next_s["busy"] = 0.0

    def _learn(self, cell_id: CellId, offset: Position, replid: str | None, busy_s: float) -> str:
        """Remember what Postgres says of a cell; the key of its ledger."""
        cell_keys = CellKeys(cell_id)
        cell = self._cells.get(cell_keys.ledger)
        if cell is None:
            cell = _Cell(
                id=cell_id, keys=cell_keys, offset=offset, replid=replid, history=deque(), busy_s=busy_s
            )
            self._cells[cell_keys.ledger] = cell
        elif offset > cell.offset or offset.epoch != cell.offset.epoch:
            cell.offset = offset
        cell.replid = replid
        return cell_keys.ledger

    async def _find_busy_cells(self) -> None:
        """A few cells are all read every time; of many, only those in which something has happened lately."""
        busy_since_s = time.monotonic() - QUIET_AFTER_S
        is_few = len(self._cells) <= FEW_CELLS_MAX
        self._busy = {key: cell for key, cell in self._cells.items() if is_few or cell.busy_s >= busy_since_s}
        quiet = {key: str(cell.offset) for key, cell in self._cells.items() if key not in self._busy}
        self._busy |= {key: self._cells[key] for key in await self._ledgers.find_busy(quiet)}

    async def _carry(self, cell: _Cell, entries: list[Any], replid: str) -> int:
        lines = dense_lines(cell.offset, entries)
        if replid != cell.replid or not lines:
            # Not the node that recovery opened, or not the entry that comes next.
            await self._doubt(cell, replid)
            return 0
        batch = Batch(cell_id=cell.id, epoch=cell.offset.epoch, from_seq=cell.offset.seq, lines=lines)
        async with self._commits:
            try:
                async with self._connection() as connection:
                    rejected = await commit_batch(connection, batch)
            except StaleOffset:
                _stale.inc()
                await self._reread(cell)
                return 0
        cell.offset, cell.busy_s = batch.after, time.monotonic()
        await announce(self._ledgers.client, cell.id, batch.before, batch.after, rejected)
        failpoint("relay.after_announcement")
        self._count(cell, batch, rejected)
        for booking_id in rejected:
            await self._give_back(cell.keys, booking_id)
        return len(lines)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of this relay's own: a pool asks a connection that comes back to reset itself."""
        if self._connections:
            connection = self._connections.pop()
        else:
            connection = await connect_postgres(self._stores.settings, "relay")
        try:
            yield connection
        except StaleOffset:
            self._keep(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        self._keep(connection)

    def _keep(self, connection: asyncpg.Connection) -> None:
        if self._is_closed:
            # Another cell's batch failed and ended this relay, while this one was being committed.
            connection.terminate()
        else:
            self._connections.append(connection)

    def _count(self, cell: _Cell, batch: Batch, rejected: list[UUID]) -> None:
        _entries.inc(len(batch.lines))
        _committed.inc()
        now_s = time.monotonic()
        if not cell.history or now_s - cell.history[-1][0] >= 1.0:
            cell.history.append((now_s, cell.offset))
        if rejected:
            _dead.inc(len(rejected))
            shown = ", ".join(map(str, rejected[:REJECTED_SHOWN_MAX]))
            log.error("%s: Postgres refused %d bookings: %s …", tag(cell.id), len(rejected), shown)

    async def _reread(self, cell: _Cell) -> bool:
        """Take the offset from Postgres; whether it was another than the relay believed."""
        row = await queries.cell_offset(self._stores.pool, event_ref=cell.id.event_ref, cell=cell.id.cell)
        before = (cell.offset, cell.replid)
        if row is None:
            self._cells.pop(cell.keys.ledger, None)
            return True
        cell.offset, cell.replid = Position(row["epoch"], row["seq"]), row["replid"]
        if cell.offset < before[0]:
            # Postgres was set back: what was durable then is not any more, and must not be trimmed.
            cell.history.clear()
        return (cell.offset, cell.replid) != before

    async def _doubt(self, cell: _Cell, replid: str) -> None:
        """The ledger does not continue what Postgres has: read again, and if that is so, close the cell."""
        if await self._reread(cell):
            return
        if replid == cell.replid:
            log.warning("the ledger of %s does not continue %s: fencing the cell", tag(cell.id), cell.offset)
            await self._stores.run("fence", [cell.keys.sale])
            failpoint("relay.after_fence")
        await self._stores.pool.execute("SELECT pg_notify($1, $2)", RECOVERY_CHANNEL, tag(cell.id))
        failpoint("relay.after_waking")
        await asyncio.sleep(BLOCK_MS / 1000)

    async def _give_back(self, cell_keys: CellKeys, booking_id: UUID) -> None:
        """Return a refused booking's seats; what fails here is tried again."""
        try:
            reply = await self._stores.run(
                "reject",
                [
                    cell_keys.sale,
                    cell_keys.buyers,
                    cell_keys.ledger,
                    cell_keys.deadlines,
                    cell_keys.booking(booking_id),
                ],
                str(booking_id),
            )
            failpoint("relay.after_reject")
        except RushError:
            return
        except ScriptFailed:
            log.exception("the seats of %s cannot be given back", booking_id)
            return
        if reply[0] not in (Status.NOT_OPEN, Status.REBUILDING):
            await queries.mark_returned(self._stores.pool, booking_id=booking_id)
            failpoint("relay.after_return")

    async def _return_seats(self) -> None:
        """Finish what a relay that died had begun."""
        cell_ids = [cell.id for cell in self._cells.values()]
        found = queries.dead_letters_to_return(
            self._stores.pool,
            event_refs=[cell_id.event_ref for cell_id in cell_ids],
            cells=[cell_id.cell for cell_id in cell_ids],
            bookings_max=RETURN_BOOKINGS_MAX,
        )
        for row in [row async for row in found]:
            cell = self._cells.get(CellKeys(CellId(row["event_ref"], row["cell"])).ledger)
            if cell is not None:
                await self._give_back(cell.keys, row["booking_id"])

    async def _measure_lag(self) -> None:
        """How many entries Postgres is behind, over all cells of this relay: a quiet one is at its end."""
        pipeline = self._ledgers.client.pipeline(transaction=False)
        cells = list(self._busy.values())
        for cell in cells:
            pipeline.hmget(cell.keys.sale, "epoch", "seq")
        lag = 0
        for cell, reply in zip(cells, await pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(reply, LEAVES_THE_NODE):
                continue
            if isinstance(reply, Exception):
                raise reply
            epoch, seq = reply
            if epoch is not None and seq is not None and int(epoch) == cell.offset.epoch:
                lag += int(seq) - cell.offset.seq
        _lags[self._master.name] = lag
        _lag.set(sum(_lags.values()))

    async def _trim(self) -> None:
        """Shorten the ledgers up to what has been durable for a while."""
        keep_since_s = time.monotonic() - self._stores.settings.ledger_trim_lag_s
        for cell in self._cells.values():
            position = None
            while cell.history and cell.history[0][0] <= keep_since_s:
                position = cell.history.popleft()[1]
            if position is not None and position.epoch == cell.offset.epoch:
                with contextlib.suppress(*LEAVES_THE_NODE):
                    await self._ledgers.client.xtrim(cell.keys.ledger, minid=str(position), approximate=True)
                failpoint("relay.after_trim")


async def _work(
    stores: Stores, lease: Lease, relays: set[Relay], master: Master, stop: asyncio.Event
) -> None:
    """Relay from one master until `stop`, through outages of either store."""
    backoff = Backoff(f"the relay of {master}")
    while not stop.is_set() and not lease.is_lost:
        try:
            async with contextlib.aclosing(Relay(stores, lease, master)) as relay:
                relays.add(relay)
                try:
                    while not stop.is_set() and not lease.is_lost:
                        await relay.step()
                        backoff.succeeded()
                finally:
                    relays.discard(relay)
        except (*POSTGRES_ERRORS, redis.RedisError, RedisReplyError, RushError) as error:
            await sleep_unless(stop, backoff.failed(error))


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Relay until `stop`, through outages of either store."""
    backoff = Backoff("the relay")
    while not stop.is_set():
        try:
            async with Lease(stores.settings, "relay") as lease:
                relays: set[Relay] = set()
                await lease.listen(OPENED_CHANNEL, partial(_wake, relays))
                backoff.succeeded()
                await on_each_master(stores, stop, lease, partial(_work, stores, lease, relays))
        except POSTGRES_ERRORS as error:
            await sleep_unless(stop, backoff.failed(error))


def _wake(relays: set[Relay]) -> None:
    for relay in relays:
        relay.wake()
