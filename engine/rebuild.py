"""Rebuilding a cell from Postgres, repairing Postgres from a cell, and taking a cell out of Redis.

Every write to Redis carries a build token: a newer rebuild makes all that an older one still sends void.
`sale` is written last, and until then the cell is not open.

A large cell is opened when its counters, limits and holds are there, and sells while its other records are
still being loaded, in the order of their ids. `loaded` in `sale` says how far they are: a verb that finds no
record behind it answers REBUILDING, so that no keyed id lives twice. Whoever finds `loaded` there, and nobody
at it, goes on from it.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio

from engine import ids
from engine.booking import Record, items_decoder, parse_record
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.ledger import parse_position
from engine.rebuild_queue import GAP_NUMBERS, QueueBuilder
from engine.rebuild_slices import Slices
from engine.settings import Settings
from engine.sql import load_queries
from engine.status import Status
from engine.stores import RunScript
from engine.times import from_ms, to_ms
from engine.waiting.settings import sale_fields, stored_room

log = logging.getLogger(__name__)
queries = load_queries("recovery")

WHOLE_RECORDS_MAX = 20_000
"""A cell that has no more is opened when all of it is there: in about a second."""
WHOLE_PLACES_MAX = 100_000
"""The same for the people in its waiting room."""
SCAN_COUNT = 1_000
CELL_FORMAT = "4"
"""The form of what a cell's keys hold. A lift rebuilds a cell of another one from Postgres, so that an update
of the program needs no conversion. Count it up when the form of a value or a member changes."""
PROGRESS_INTERVAL_S = 5.0


class BuildVoid(Exception):
    """A newer rebuild of this cell has begun."""


class Progress:
    """How far a rebuild is: told to `say` each time, or in a line of the log now and then."""

    def __init__(self, what: str, say: Callable[[int], None] | None) -> None:
        self._what = what
        self._say = say
        self._told_at_s = time.monotonic()
        self.records = 0
        self._people = 0

    def wrote(self, records: int, state: str) -> None:
        """So many more are written."""
        self.records += records
        if self._say is not None:
            self._say(self.records)
        elif time.monotonic() - self._told_at_s >= PROGRESS_INTERVAL_S:
            self._told_at_s = time.monotonic()
            log.info(
                "rebuilding %s: %s, %d bookings and %d people who wait are back",
                self._what,
                state,
                self.records,
                self._people,
            )

    def seated(self, people: int) -> None:
        """So many more people have their places."""
        self._people += people
        self.wrote(0, "not on sale yet")


class CellBuilder:
    """One rebuild of one cell, over one connection to each store."""

    def __init__(
        self,
        cell_id: CellId,
        connection: asyncpg.Connection,
        client: redis.asyncio.Redis,
        run: RunScript,
        settings: Settings,
    ) -> None:
        self._cell_id = cell_id
        self._keys = CellKeys(cell_id)
        self._connection = connection
        self._client = client
        self._run = run
        self._settings = settings
        self._slices = Slices(cell_id, connection)
        self._token = ""
        self._has_left_overs = True

    async def begin(self, epoch: int) -> None:
        """Make void what any older rebuild still sends.

        Who means to rebuild holds the lock on the cell's row: nobody else begins in the middle of this.
        Raises BuildVoid when the cell is open, or a rebuild for a later epoch has begun.
        """
        keys = self._keys
        # Whatever Redis has of a cell, `sale` or the token is there too: one script puts each in the place of
        # the other, and the token is the last to go. The other keys are for a cell whose `sale` somebody
        # deleted by hand. Asked before the token is written, which says that there may be something.
        of_queue = (keys.queue, keys.places, keys.passes, keys.spent, keys.waves, keys.gone)
        fixed = (keys.sale, keys.build, keys.ledger, keys.buyers, keys.deadlines, *of_queue)
        self._has_left_overs = bool(await self._client.exists(*fixed))
        self._token = f"{epoch}-{secrets.token_hex(16)}"
        await self._call("build_begin", [self._keys.sale, self._keys.build], self._token)
        failpoint("rebuild.after_token")

    async def is_large(self) -> bool:
        """Whether rebuilding it takes longer than others should wait."""
        event_ref, cell = self._cell_id
        room = await queries.waiting_room_to_rebuild(self._connection, event_ref=event_ref, cell=cell)
        # Most numbers may be those of gaps.
        if room is not None and room["tail"] > WHOLE_PLACES_MAX:
            people = await queries.places_up_to(
                self._connection, event_ref=event_ref, cell=cell, rows_max=WHOLE_PLACES_MAX + 1
            )
            if people > WHOLE_PLACES_MAX:
                return True
        return await self._slices.has_more_than(WHOLE_RECORDS_MAX)

    async def leave_gap(self) -> tuple[int, str]:
        """Leave out the numbers that people may have who joined in what was lost with Redis; the last of
        them, and all gaps. (0, "") without a waiting room.

        What Redis has may be in order and lack its end all the same: a cut file of commands, a replica that
        was behind. Nobody can see that, so every lift leaves a gap.
        """
        event_ref, cell = self._cell_id
        row = await queries.leave_gap(self._connection, numbers=GAP_NUMBERS, event_ref=event_ref, cell=cell)
        failpoint("rebuild.after_gap")
        return (0, "") if row is None else (row["tail"], row["gaps"])

    async def rebuild(self, event_id: UUID, epoch: int, say: Callable[[int], None] | None = None) -> int:
        """Write the whole cell from Postgres and open it in `epoch`; the number of bookings written.

        Raises BuildVoid when a newer rebuild has begun, or an operator has closed the cell.
        """
        progress = Progress(tag(self._cell_id), say)
        await self.wipe()
        is_large = await self.is_large()
        if is_large:
            keys = [self._keys.build, self._keys.buyers]
            async with contextlib.aclosing(self._slices.units()) as slices:
                async for row in slices:
                    await self._call("build_units", keys, self._token, row["text"])
                    failpoint("rebuild.after_units")
                    progress.wrote(0, "not on sale yet")
        keys = [self._keys.build, self._keys.buyers, self._keys.deadlines]
        records = self._slices.holds() if is_large else self._slices.whole()
        async with contextlib.aclosing(records) as slices:
            async for row in slices:
                await self._call("build_load", keys, self._token, row["text"])
                failpoint("rebuild.after_slice")
                progress.wrote(row["bookings"], "not on sale yet")
        event_ref, cell = self._cell_id
        sale = await queries.find_sale(self._connection, event_ref=event_ref, cell=cell)
        room = stored_room(sale["waiting_room"])
        if room is not None:
            waiting = QueueBuilder(self._cell_id, self._connection, self._slices, self._call)
            await waiting.rebuild(room, self._token, progress.seated)
        await self._open(event_id, epoch, is_complete=not is_large)
        if is_large:
            await self._load_rest("", progress)
        return progress.records

    async def resume(self, epoch: int, say: Callable[[int], None] | None = None) -> int:
        """Go on loading the records of a cell that sells already; the number of bookings looked at.

        Raises BuildVoid where nothing is to be loaded any more, or a newer one does it.
        """
        self._token = f"{epoch}-{secrets.token_hex(16)}"
        reply = await self._run("build_resume", [self._keys.sale, self._keys.build], self._token)
        failpoint("rebuild.after_resume")
        if reply[0] != Status.OK:
            raise BuildVoid(f"{self._keys.prefix}: all of it is there")
        progress = Progress(tag(self._cell_id), say)
        await self._load_rest(reply[1].decode(), progress)
        return progress.records

    async def _load_rest(self, loaded: str, progress: Progress) -> None:
        """Put back all records behind `loaded` but the holds, which are there."""
        keys = [self._keys.build, self._keys.sale]
        async with contextlib.aclosing(self._slices.others(loaded)) as slices:
            async for row in slices:
                await self._call("build_rest", keys, self._token, row["last_id"], row["text"])
                failpoint("rebuild.after_rest_slice")
                progress.wrote(row["bookings"], "on sale")
        await self._call("build_rest", keys, self._token, "", "")
        failpoint("rebuild.after_rest")

    async def wipe(self) -> None:
        """Remove all that Redis has of the cell, but for the token."""
        if not self._has_left_overs:
            # SCAN would look at every key of the node.
            return
        found: list[bytes] = []
        async for key in self._client.scan_iter(match=self._keys.prefix + "*", count=SCAN_COUNT):
            if key.decode() != self._keys.build:
                found.append(key)
            if len(found) >= SCAN_COUNT:
                await self._call("build_wipe", [self._keys.build, *found], self._token)
                failpoint("rebuild.after_wiped_slice")
                found.clear()
        await self._call("build_wipe", [self._keys.build, *found], self._token)
        failpoint("rebuild.after_wipe")

    async def forget(self) -> None:
        """Remove the token as well: nothing is left of the cell."""
        await self._call("build_wipe", [self._keys.build, self._keys.build], self._token)
        failpoint("rebuild.after_forgetting")

    async def _open(self, event_id: UUID, epoch: int, *, is_complete: bool) -> None:
        event_ref, cell = self._cell_id
        sale = await queries.find_sale(self._connection, event_ref=event_ref, cell=cell)
        zones = [zone async for zone in queries.find_zones(self._connection, event_id=event_id)]
        keys = [self._keys.build, self._keys.sale, self._keys.ledger]
        keys += [self._keys.zone(zone["id"]) for zone in zones]
        fields: dict[str, Any] = {
            "epoch": epoch,
            "format": CELL_FORMAT,
            "version": sale["applied_version"],
            "status": sale["status"],
            "sale_start_at_ms": to_ms(sale["sale_start_at"]),
            "sale_end_at_ms": to_ms(sale["sale_end_at"]) if sale["sale_end_at"] else 0,
            "max_per_user": sale["max_per_user"],
            "hold_ttl_ms": sale["hold_ttl_seconds"] * 1000,
            "currency": sale["currency"],
            "secret": sale["secret"],
            "ledger_max": self._settings.ledger_entries_max,
            "zones": " ".join(str(zone["id"]) for zone in zones),
            **sale_fields(stored_room(sale["waiting_room"])),
        }
        if not is_complete:
            fields["loaded"] = ""
        async with self._connection.transaction():
            # Who closes the cell by hand waits for this lock, or is seen here.
            row = await queries.lock_cell(self._connection, event_ref=event_ref, cell=cell)
            if row is None or row["fenced_at"] is not None or row["epoch"] != epoch:
                raise BuildVoid(f"{self._keys.prefix}: it is not to be opened any more")
            await self._call("build_open", keys, self._token, _json(fields), *[_zone(zone) for zone in zones])
            failpoint("rebuild.after_open")
        failpoint("rebuild.after_unlocking")

    async def _call(self, name: str, keys: list[Any], *arguments: Any) -> None:
        reply = await self._run(name, keys, *arguments)
        if reply[0] != Status.OK:
            raise BuildVoid(f"{self._keys.prefix}: {Status(reply[0]).name}")


def _json(fields: dict[str, Any]) -> str:
    # All values as text: a Lua number has fewer digits than an integer here may have.
    return msgspec.json.encode({name: str(value) for name, value in fields.items()}).decode()


def _zone(zone: asyncpg.Record) -> str:
    return _json(
        {
            "show": zone["show_id"],
            "kind": zone["kind"],
            "price_minor": zone["price_minor"],
            "max_per_order": zone["max_per_order"],
            "capacity": zone["capacity"],
            "available": zone["available_seats"],
            "reserved": zone["reserved"],
            "confirmed": zone["confirmed"],
            "blocked": zone["blocked"],
        }
    )


async def repair_from_redis(
    connection: asyncpg.Connection, client: redis.asyncio.Redis, cell_id: CellId, zone_ids: list[str]
) -> int:
    """Postgres was set back (a restored backup, a fail-over): write what Redis knows of a fenced cell.

    Runs in the caller's transaction; the number of bookings looked at.
    """
    keys = CellKeys(cell_id)
    count = 0
    async for key in client.scan_iter(match=keys.booking_prefix + "*", count=SCAN_COUNT):
        text: Any = await client.get(key)
        if text is not None:
            await _repair_booking(connection, UUID(key.decode()[-36:]), parse_record(text))
            count += 1
        await asyncio.sleep(0)
    for zone_id in zone_ids:
        fields = ("capacity", "available", "reserved", "confirmed", "blocked")
        counters: list[Any] = await client.hmget(keys.zone(zone_id), list(fields))
        await queries.repair_zone(
            connection,
            zone_id=UUID(zone_id),
            **{name: int(value) for name, value in zip(fields, counters, strict=True)},
        )
        failpoint("rebuild.after_repaired_zone")
    return count


async def _repair_booking(connection: asyncpg.Connection, booking_id: UUID, record: Record) -> None:
    position = parse_position(record.seq)
    await queries.repair_booking(
        connection,
        id=booking_id,
        event_id=ids.event_id_of(booking_id),
        user_id=UUID(record.user),
        status=record.status,
        version=record.version,
        fingerprint=record.fingerprint or None,
        quantity=record.quantity,
        total_minor=record.total_minor,
        currency=record.currency,
        created_at=from_ms(record.created_at_ms),
        expires_at=from_ms(record.expires_at_ms),
        confirmed_at=from_ms(record.confirmed_at_ms) if record.confirmed_at_ms else None,
        ended_at=from_ms(record.ended_at_ms) if record.ended_at_ms else None,
        code=record.code,
        epoch=position.epoch,
        seq=position.seq,
    )
    failpoint("rebuild.after_repaired_booking")
    for item in items_decoder.decode(record.items):
        await queries.repair_item(
            connection,
            booking_id=booking_id,
            zone_id=item.zone_id,
            quantity=item.quantity,
            price=item.unit_price_minor,
        )
        failpoint("rebuild.after_repaired_item")
