"""What survived of a cell in Redis, and getting it into Postgres before anything else is done with the cell.

sound      the cell is where Postgres believes it to be, or further: drained to its end
behind     it has lost its end, or everything: what continues is drained
ahead      Postgres was set back: its rows are repaired from Redis, then the cell is sound
"""

import logging
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio

from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.ledger import (
    Admit,
    Cancel,
    Confirm,
    Expire,
    Position,
    Reject,
    Reserve,
    parse_position,
)
from engine.lines import FIELD, Batch, Claim, Join, Leave, decode_line, dense_lines
from engine.projection import commit_batch
from engine.rebuild import CELL_FORMAT, repair_from_redis
from engine.repair_queue import QueueRepair
from engine.settings import Settings
from engine.sql import load_queries
from engine.times import from_ms

log = logging.getLogger(__name__)
queries = load_queries("recovery")


class Found(msgspec.Struct):
    """A cell in Redis, as it is found."""

    position: Position | None
    """Epoch and seq that `sale` states; None without `sale`."""
    is_fenced: bool
    end: Position | None
    """The last id of the ledger."""
    version: int
    zone_ids: list[str]
    is_of_this_format: bool


class Drained(msgspec.Struct):
    """A cell after all that survived of it is in Postgres."""

    before: Position
    """From where on the entries have become durable by this."""
    offset: Position
    """Up to where Postgres has it now."""
    rejected: list[UUID]
    """Bookings among these entries that Postgres refused."""
    is_sound: bool
    """Redis stands exactly there, in the form that this release writes."""


class Drain:
    """Draining over one connection to each store; the cell is fenced and its row locked."""

    def __init__(
        self, connection: asyncpg.Connection, client: redis.asyncio.Redis, settings: Settings
    ) -> None:
        self._connection = connection
        self._client = client
        self._settings = settings

    async def run(self, cell_id: CellId, row: asyncpg.Record) -> Drained:
        """Bring what survived into Postgres, in the caller's transaction; `row` is the locked row."""
        keys = CellKeys(cell_id)
        before = Position(row["epoch"], row["seq"])
        found = await self.find(cell_id)
        drained = Drained(before=before, offset=before, rejected=[], is_sound=False)
        if await self._is_ahead(keys, found, before):
            drained.before = drained.offset = await self._repair(cell_id, found)
        elif await self._continues(cell_id, found, before):
            # What survived is kept, also where `sale` did not.
            drained.offset = await self._carry(cell_id, before, drained.rejected)
        else:
            return drained
        drained.is_sound = found.position == found.end == drained.offset and found.is_of_this_format
        return drained

    async def find(self, cell_id: CellId) -> Found:
        """Look at the cell in Redis."""
        keys = CellKeys(cell_id)
        values: list[Any] = await self._client.hmget(
            keys.sale, ["epoch", "fenced_epoch", "seq", "version", "zones", "format"]
        )
        epoch, fenced, seq, version, zones, form = values
        stated = epoch or fenced
        end: Any = None
        if await self._client.exists(keys.ledger):
            end = await self._client.xinfo_stream(keys.ledger)
        return Found(
            position=Position(int(stated), int(seq)) if stated is not None and seq is not None else None,
            is_fenced=epoch is None and fenced is not None,
            end=parse_position(end["last-generated-id"]) if end else None,
            version=int(version or 0),
            zone_ids=(zones or b"").decode().split(),
            is_of_this_format=form == CELL_FORMAT.encode(),
        )

    async def _is_ahead(self, keys: CellKeys, found: Found, offset: Position) -> bool:
        """Whether Postgres was set back, to where the ledger does not reach any more."""
        position = found.position
        if position is None or position <= offset or position != found.end:
            return False
        return position.epoch > offset.epoch or await self._has_gap(keys, offset)

    async def _continues(self, cell_id: CellId, found: Found, offset: Position) -> bool:
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
        in their place. An entry that leaves no row of its own proves nothing, and is believed.
        """
        ledger = CellKeys(cell_id).ledger
        found: Any = await self._client.xrange(ledger, min=str(offset), max=str(offset))
        line = decode_line(offset.seq, found[0][1].get(FIELD, b"")) if found else None
        if line is None:
            return True
        entry = line.entry
        if isinstance(entry, Join | Leave | Claim | Admit):
            return await self._is_same_queue(cell_id, offset, entry)
        if line.booking_id is None:
            return True
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

    async def _is_same_queue(
        self, cell_id: CellId, offset: Position, entry: Join | Leave | Claim | Admit
    ) -> bool:
        user_id: str | None = None
        match entry:
            case Join():
                number, user_id = entry.first_number, entry.users[0]
            case Leave() | Claim():
                number, user_id = entry.number, entry.user_id
            case Admit():
                number = entry.to_place
        return bool(
            await queries.is_committed_queue(
                self._connection,
                event_ref=cell_id.event_ref,
                cell=cell_id.cell,
                epoch=offset.epoch,
                seq=offset.seq,
                verb=type(entry).__name__.lower(),
                number=number,
                user_id=user_id,
                at=from_ms(entry.at_ms),
            )
        )

    async def _has_gap(self, keys: CellKeys, offset: Position) -> bool:
        """Whether the first entry after the offset is not the next one."""
        first: Any = await self._client.xrange(keys.ledger, min=f"({offset}", count=1)
        return not first or parse_position(first[0][0]) != Position(offset.epoch, offset.seq + 1)

    async def _carry(self, cell_id: CellId, offset: Position, rejected: list[UUID]) -> Position:
        """Commit what the relay has not; where that ends."""
        ledger = CellKeys(cell_id).ledger
        size = self._settings.relay_batch_entries_max
        while True:
            entries: Any = await self._client.xrange(ledger, min=f"({offset}", count=size)
            lines = dense_lines(offset, [(id_, (FIELD, fields.get(FIELD, b""))) for id_, fields in entries])
            if not lines:
                return offset
            batch = Batch(cell_id=cell_id, epoch=offset.epoch, from_seq=offset.seq, lines=lines)
            rejected += await commit_batch(self._connection, batch)
            offset = batch.after

    async def _repair(self, cell_id: CellId, found: Found) -> Position:
        """Write into Postgres what Redis knows; where Postgres is then."""
        assert found.position is not None
        log.warning("Postgres is behind the ledger of %s: repairing its rows from Redis", tag(cell_id))
        count = await repair_from_redis(self._connection, self._client, cell_id, found.zone_ids)
        repair = QueueRepair(self._connection, self._client, cell_id)
        people = await repair.run(found.position)
        await queries.set_position(
            self._connection,
            epoch=found.position.epoch,
            seq=found.position.seq,
            version=found.version,
            event_ref=cell_id.event_ref,
            cell=cell_id.cell,
        )
        failpoint("draining.after_position")
        log.warning("repaired %d bookings of %s and the places of %d people", count, tag(cell_id), people)
        return found.position
