"""Recovery: looking at what a Redis node remembers, and opening its cells again.

A node that restarted, or was promoted, has no scripts: every verb gets NOSCRIPT. That is the fence. To
lift it is to look at each cell, begin a new epoch in it, and then load the scripts. Nobody else loads
them.

    sound      the cell is where Postgres believes it to be, or further: drained, opened in a new epoch
    behind     it has lost its end, or everything: rebuilt from Postgres
    ahead      Postgres was set back: its rows are repaired from Redis, then the cell is sound
"""

import logging
import secrets
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio

from engine import ids
from engine.cells import OPENED_CHANNEL
from engine.durability import announce
from engine.edits import Edits
from engine.edits import queries as edits_queries
from engine.errors import RushError
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.ledger import (
    Cancel,
    Confirm,
    Expire,
    Position,
    Reject,
    Reserve,
    parse_position,
)
from engine.lines import FIELD, Batch, decode_line, dense_lines
from engine.projection import commit_batch
from engine.rebuild import CELL_FORMAT, CellBuilder, repair_from_redis
from engine.sql import load_queries
from engine.status import Status
from engine.stores import Stores, script_runner
from engine.times import from_ms

log = logging.getLogger(__name__)
queries = load_queries("recovery")

CLOCK_DIFFERENCE_MAX_MS = 2_000


class NotLiftable(Exception):
    """The node cannot be lifted now; the message says why. Tried again later."""


class Node(msgspec.Struct, frozen=True):
    """What a Redis node says of itself."""

    replid: str
    is_master: bool
    replicas: list[tuple[str, int]]


class _Found(msgspec.Struct):
    """A cell in Redis, as recovery finds it."""

    position: Position | None
    """Epoch and seq that `sale` states; None without `sale`."""
    is_fenced: bool
    end: Position | None
    """The last id of the ledger."""
    version: int
    zone_ids: list[str]
    is_of_this_format: bool


class Lifter:
    """Recovery's hands: one connection to Postgres and one to the node, neither ever replaced."""

    def __init__(self, stores: Stores, connection: asyncpg.Connection, client: redis.asyncio.Redis) -> None:
        self._stores = stores
        self._scripts = stores.scripts
        self._connection = connection
        self._client = client
        self._run = script_runner(client, stores.scripts)

    async def look(self) -> Node:
        """Ask the node who it is."""
        info = await self._client.info("replication")
        replicas = [
            value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)
        ]
        return Node(
            replid=info["master_replid"],
            is_master=info["role"] == "master",
            replicas=[(replica["ip"], int(replica["port"])) for replica in replicas],
        )

    async def is_fenced(self) -> bool:
        """Whether a script is missing on the node."""
        return not all(await self._client.script_exists(*[script.sha for script in self._scripts.values()]))

    async def fence(self) -> None:
        """Make the node refuse every verb."""
        await self._client.script_flush("SYNC")

    async def lift(self, node: Node) -> None:
        """Look at every cell, open the sound ones, load the scripts, rebuild the others.

        Raises NotLiftable while the clocks differ too much, or when somebody else got in between.
        """
        await self._check_clocks()
        await self._load("recovery")
        to_rebuild = []
        async for row in queries.cells_to_recover(self._connection):
            cell_id = CellId(row["event_ref"], row["cell"])
            if not await self._open_if_sound(cell_id, node):
                to_rebuild.append(cell_id)
        await self._client.script_load(self._scripts["edit"].source)
        await self.apply_outstanding_edits(older_than_s=0)
        if (now := await self.look()).replid != node.replid or not now.is_master:
            raise NotLiftable("the node changed its role while it was being lifted")
        await self._load("verb")
        log.info("lifted the node %s, %d cells to rebuild", node.replid[:8], len(to_rebuild))
        for cell_id in to_rebuild:
            await self.rebuild(cell_id, node)
        if to_rebuild:
            await self.apply_outstanding_edits(older_than_s=0)

    async def recover_cell(self, cell_id: CellId, node: Node) -> bool:
        """Bring one cell of a lifted node back if it is not open; whether anything had to be done."""
        row = await self._cell(cell_id, lock=False)
        if row is None:
            return False
        found = await self._find(cell_id)
        in_place = found.position is not None and found.position.epoch == row["epoch"] and not found.is_fenced
        if in_place and row["replid"] == node.replid:
            return False
        if not await self._open_if_sound(cell_id, node):
            await self.rebuild(cell_id, node)
        return True

    async def rebuild(self, cell_id: CellId, node: Node) -> None:
        """Begin a new epoch in Postgres, then write the cell from there.

        Raises BuildVoid when somebody else has opened the cell, or begun to rebuild it, in the meantime.
        """
        builder = CellBuilder(cell_id, self._connection, self._client, self._run, self._stores.settings)
        async with self._connection.transaction():
            row = await self._cell(cell_id, lock=True)
            if row is None:
                return
            epoch = row["epoch"] + 1
            # Before the commit: from the moment that Postgres knows the new epoch nobody can open the cell
            # in an older one any more.
            await builder.begin(epoch)
            await self._begin_epoch(cell_id, epoch, node)
        count = await builder.rebuild(row["event_id"], epoch)
        log.info("rebuilt %s from Postgres: %d bookings, epoch %d", tag(cell_id), count, epoch)

    async def apply_outstanding_edits(self, *, older_than_s: float) -> None:
        """Apply the intents that their requests did not get to apply."""
        edits = Edits(self._stores, self._run)
        rows = edits_queries.cells_with_undecided_edits(self._connection, older_than_s=older_than_s)
        for cell_id in [CellId(row["event_ref"], row["cell"]) async for row in rows]:
            try:
                await edits.apply_outstanding(cell_id)
            except RushError as error:
                # Of a cell that is not open yet, for instance. It must not keep the others from being lifted.
                log.info("the edits of %s wait: %r", tag(cell_id), error)

    async def close_finished(self, retention_s: int) -> None:
        """Take cells out of Redis whose sale has been over for long."""
        rows = queries.finished_cells(self._connection, retention_s=retention_s)
        for cell_id in [CellId(row["event_ref"], row["cell"]) async for row in rows]:
            await self._close(cell_id)

    async def _close(self, cell_id: CellId) -> None:
        first, last = ids.id_range(cell_id)
        if await queries.has_holds(self._connection, first=first, last=last):
            return
        builder = CellBuilder(cell_id, self._connection, self._client, self._run, self._stores.settings)
        async with self._connection.transaction():
            row = await self._cell(cell_id, lock=True)
            if row is None:
                return
            await self._fence_cell(cell_id)
            found = await self._find(cell_id)
            position = Position(row["epoch"], row["seq"])
            if found.position != position or found.end != position:
                return
            await queries.close_cell(
                self._connection,
                event_ref=cell_id.event_ref,
                cell=cell_id.cell,
                epoch=row["epoch"],
                seq=row["seq"],
            )
        await builder.begin(row["epoch"] + 1)
        await builder.wipe()
        await builder.forget()
        log.info("closed %s: its sale is over", tag(cell_id))

    async def _open_if_sound(self, cell_id: CellId, node: Node) -> bool:
        """Drain the cell and open it in a new epoch; False for one that must be rebuilt, left fenced."""
        keys = CellKeys(cell_id)
        async with self._connection.transaction():
            row = await self._cell(cell_id, lock=True)
            if row is None:
                return True
            # From here on nothing moves in the cell, and no other recovery that still believes to be the
            # one (it was stopped, and woke up again) can open it.
            token = await self._fence_cell(cell_id)
            before = Position(row["epoch"], row["seq"])
            found = await self._find(cell_id)
            rejected: list[UUID] = []
            offset = before
            if await self._is_ahead(keys, found, before):
                offset = before = await self._repair(cell_id, row["event_id"], found)
            elif await self._continues(cell_id, found, before):
                # What survived is kept, also where `sale` did not.
                offset = await self._drain(cell_id, before, rejected)
            else:
                found.position = None
            is_sound = found.position == found.end == offset and found.is_of_this_format
            if is_sound:
                await self._begin_epoch(cell_id, offset.epoch + 1, node)
        if is_sound or offset > before:
            await announce(self._client, cell_id, before, offset, rejected)
        if not is_sound:
            return False
        arguments = (offset.epoch, offset.seq, offset.epoch + 1, token)
        reply = await self._run("open", [keys.sale, keys.ledger], *arguments)
        if reply[0] != Status.OK:
            raise NotLiftable(f"somebody else is recovering {tag(cell_id)}")
        return True

    async def _fence_cell(self, cell_id: CellId) -> str:
        """Close the cell; the token that opens it again."""
        token = secrets.token_hex(16)
        await self._run("fence", [CellKeys(cell_id).sale], token)
        return token

    async def _is_ahead(self, keys: CellKeys, found: _Found, offset: Position) -> bool:
        """Whether Postgres was set back, to where the ledger does not reach any more."""
        position = found.position
        if position is None or position <= offset or position != found.end:
            return False
        return position.epoch > offset.epoch or await self._has_gap(keys, offset)

    async def _continues(self, cell_id: CellId, found: _Found, offset: Position) -> bool:
        """Whether the ledger goes on from where Postgres is."""
        if found.end is None or found.end.epoch != offset.epoch or found.end < offset:
            return False
        if await self._is_same_history(cell_id, offset):
            return True
        log.warning("the ledger of %s is not the one that Postgres has up to %s", tag(cell_id), offset)
        return False

    async def _is_same_history(self, cell_id: CellId, offset: Position) -> bool:
        """Whether the entry at the offset is the one that was committed.

        A replica that was promoted without its last entries, and served before it was fenced, has others
        in their place. An entry that is no transition of a booking proves nothing, and is believed.
        """
        ledger = CellKeys(cell_id).ledger
        found: Any = await self._client.xrange(ledger, min=str(offset), max=str(offset))
        line = decode_line(offset.seq, found[0][1].get(FIELD, b"")) if found else None
        if line is None or line.booking_id is None:
            return True
        entry = line.entry
        if not isinstance(entry, Reserve | Confirm | Cancel | Expire | Reject):
            return True
        return bool(
            await queries.is_committed(
                self._connection,
                event_ref=cell_id.event_ref,
                cell=cell_id.cell,
                epoch=offset.epoch,
                seq=offset.seq,
                booking_id=line.booking_id,
                version=1 if isinstance(entry, Reserve) else entry.version,
                at=from_ms(entry.at_ms),
            )
        )

    async def _find(self, cell_id: CellId) -> _Found:
        keys = CellKeys(cell_id)
        values: list[Any] = await self._client.hmget(
            keys.sale, ["epoch", "fenced_epoch", "seq", "version", "zones", "format"]
        )
        epoch, fenced, seq, version, zones, form = values
        stated = epoch or fenced
        end: Any = None
        if await self._client.exists(keys.ledger):
            end = await self._client.xinfo_stream(keys.ledger)
        return _Found(
            position=Position(int(stated), int(seq)) if stated is not None and seq is not None else None,
            is_fenced=epoch is None and fenced is not None,
            end=parse_position(end["last-generated-id"]) if end else None,
            version=int(version or 0),
            zone_ids=(zones or b"").decode().split(),
            is_of_this_format=form == CELL_FORMAT.encode(),
        )

    async def _has_gap(self, keys: CellKeys, offset: Position) -> bool:
        """Whether the first entry after the offset is not the next one."""
        first: Any = await self._client.xrange(keys.ledger, min=f"({offset}", count=1)
        return not first or parse_position(first[0][0]) != Position(offset.epoch, offset.seq + 1)

    async def _drain(self, cell_id: CellId, offset: Position, rejected: list[UUID]) -> Position:
        """Commit what the relay has not, in the transaction that holds the cell's row; where that ends."""
        ledger = CellKeys(cell_id).ledger
        size = self._stores.settings.relay_batch_entries_max
        while True:
            entries: Any = await self._client.xrange(ledger, min=f"({offset}", count=size)
            lines = dense_lines(offset, [(id_, (FIELD, fields.get(FIELD, b""))) for id_, fields in entries])
            if not lines:
                return offset
            batch = Batch(cell_id=cell_id, epoch=offset.epoch, from_seq=offset.seq, lines=lines)
            rejected += await commit_batch(self._connection, batch)
            offset = batch.after

    async def _repair(self, cell_id: CellId, event_id: UUID, found: _Found) -> Position:
        """Write into Postgres what Redis knows; where Postgres is then."""
        assert found.position is not None
        log.warning("Postgres is behind the ledger of %s: repairing its rows from Redis", tag(cell_id))
        count = await repair_from_redis(self._connection, self._client, cell_id, found.zone_ids)
        await queries.set_position(
            self._connection,
            epoch=found.position.epoch,
            seq=found.position.seq,
            version=found.version,
            event_ref=cell_id.event_ref,
            cell=cell_id.cell,
        )
        log.warning("repaired %d bookings of %s", count, tag(cell_id))
        return found.position

    async def _begin_epoch(self, cell_id: CellId, epoch: int, node: Node) -> None:
        await queries.begin_epoch(
            self._connection, epoch=epoch, replid=node.replid, event_ref=cell_id.event_ref, cell=cell_id.cell
        )
        await self._connection.execute("SELECT pg_notify($1, $2)", OPENED_CHANNEL, tag(cell_id))

    async def _cell(self, cell_id: CellId, *, lock: bool) -> asyncpg.Record | None:
        find = queries.lock_cell if lock else queries.find_cell
        row: asyncpg.Record | None = await find(
            self._connection, event_ref=cell_id.event_ref, cell=cell_id.cell
        )
        return row

    async def _load(self, group: str) -> None:
        for script in self._scripts.group(group):
            await self._client.script_load(script.source)

    async def _check_clocks(self) -> None:
        seconds, microseconds = await self._client.time()
        difference_ms = abs(seconds * 1000 + microseconds // 1000 - await queries.clock_ms(self._connection))
        if difference_ms > CLOCK_DIFFERENCE_MAX_MS:
            raise NotLiftable(
                f"the clocks of Redis and Postgres differ by {difference_ms} ms: set them right"
            )
