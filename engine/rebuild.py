"""Rebuilding a cell from Postgres, repairing Postgres from a cell, and taking a cell out of Redis.

Every write to Redis carries a build token: a newer rebuild makes all that an older one still sends void.
`sale` is written last, and until then the cell is not open.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio

from engine import ids
from engine.booking import RECORD_FIELDS, items_decoder
from engine.ids import CellId
from engine.keys import CellKeys
from engine.ledger import parse_position
from engine.settings import Settings
from engine.sql import load_queries
from engine.status import Status
from engine.stores import RunScript
from engine.times import from_ms, to_ms

log = logging.getLogger(__name__)
queries = load_queries("recovery")

SLICE_BOOKINGS_MAX = 200
"""One script call writes so many records: about 3 ms in which no other cell is served."""
SCAN_COUNT = 1_000
CELL_FORMAT = "2"
"""The form of what a cell's keys hold. A lift rebuilds a cell of another one from Postgres, so that an update
of the program needs no conversion. Count it up when the form of a value or a member changes."""
PROGRESS_EVERY = 50_000


class BuildVoid(Exception):
    """A newer rebuild of this cell has begun."""


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
        fixed = (keys.sale, keys.build, keys.ledger, keys.buyers, keys.deadlines)
        self._has_left_overs = bool(await self._client.exists(*fixed))
        self._token = f"{epoch}-{secrets.token_hex(16)}"
        await self._call("build_begin", [self._keys.sale, self._keys.build], self._token)

    async def rebuild(self, event_id: UUID, epoch: int) -> int:
        """Write the whole cell from Postgres and open it in `epoch`; the number of bookings written.

        Raises BuildVoid when a newer rebuild has begun.
        """
        await self.wipe()
        count = 0
        async for slice_ in self._bookings():
            await self._load(slice_)
            count += len(slice_)
            if count // PROGRESS_EVERY != (count - len(slice_)) // PROGRESS_EVERY:
                log.info("rebuilding %s: %d bookings so far", self._keys.prefix, count)
        await self._open(event_id, epoch)
        return count

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
                found.clear()
        await self._call("build_wipe", [self._keys.build, *found], self._token)

    async def forget(self) -> None:
        """Remove the token as well: nothing is left of the cell."""
        await self._call("build_wipe", [self._keys.build, self._keys.build], self._token)

    async def _bookings(self) -> AsyncIterator[list[asyncpg.Record]]:
        after, last = ids.id_range(self._cell_id)
        while True:
            rows = queries.bookings_to_rebuild(
                self._connection, after=after, last=last, rows_max=SLICE_BOOKINGS_MAX
            )
            slice_ = [row async for row in rows]
            if slice_:
                yield slice_
            if len(slice_) < SLICE_BOOKINGS_MAX:
                return
            after = slice_[-1]["id"]

    async def _load(self, rows: list[asyncpg.Record]) -> None:
        keys = [self._keys.build, self._keys.buyers, self._keys.deadlines]
        keys += [self._keys.booking(row["id"]) for row in rows]
        await self._call("build_load", keys, self._token, *[_record(row) for row in rows])

    async def _open(self, event_id: UUID, epoch: int) -> None:
        event_ref, cell = self._cell_id
        sale = await queries.find_sale(self._connection, event_ref=event_ref, cell=cell)
        zones = [zone async for zone in queries.find_zones(self._connection, event_id=event_id)]
        keys = [self._keys.build, self._keys.sale, self._keys.ledger]
        keys += [self._keys.zone(zone["id"]) for zone in zones]
        fields = {
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
        }
        await self._call("build_open", keys, self._token, _json(fields), *[_zone(zone) for zone in zones])

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


def _record(row: asyncpg.Record) -> str:
    fields = {
        "user": row["user_id"],
        "status": row["status"],
        "version": row["version"],
        "fingerprint": row["fingerprint"] or "",
        "items": _compact(row["items"]),
        "quantity": row["quantity"],
        "total_minor": row["total_minor"],
        "currency": row["currency"],
        "created_at_ms": to_ms(row["created_at"]),
        "expires_at_ms": to_ms(row["expires_at"]),
        "seq": f"{row['ledger_epoch']}-{row['ledger_seq']}",
    }
    if row["confirmed_at"] is not None:
        fields |= {"confirmed_at_ms": to_ms(row["confirmed_at"]), "code": row["confirmation_code"]}
    if row["ended_at"] is not None:
        fields["ended_at_ms"] = to_ms(row["ended_at"])
    return _json(fields)


def _compact(items: str) -> str:
    """The items spelled as reserve.lua spells them."""
    return msgspec.json.encode(items_decoder.decode(items)).decode()


async def repair_from_redis(
    connection: asyncpg.Connection, client: redis.asyncio.Redis, cell_id: CellId, zone_ids: list[str]
) -> int:
    """Postgres was set back (a restored backup, a fail-over): write what Redis knows of a fenced cell.

    Runs in the caller's transaction; the number of bookings looked at.
    """
    keys = CellKeys(cell_id)
    count = 0
    async for key in client.scan_iter(match=keys.booking_prefix + "*", count=SCAN_COUNT):
        values = await client.hmget(key, [*RECORD_FIELDS, "ended_at_ms"])
        if values[0] is not None:
            await _repair_booking(connection, UUID(key.decode()[-36:]), values)
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
    return count


async def _repair_booking(connection: asyncpg.Connection, booking_id: UUID, values: list[Any]) -> None:
    record = dict(zip((*RECORD_FIELDS, "ended_at_ms"), values, strict=True))
    position = parse_position(record["seq"])
    await queries.repair_booking(
        connection,
        id=booking_id,
        event_id=ids.event_id_of(booking_id),
        user_id=UUID(record["user"].decode()),
        status=record["status"].decode(),
        version=int(record["version"]),
        fingerprint=record["fingerprint"].decode() or None,
        quantity=int(record["quantity"]),
        total_minor=int(record["total_minor"]),
        currency=record["currency"].decode(),
        created_at=from_ms(int(record["created_at_ms"])),
        expires_at=from_ms(int(record["expires_at_ms"])),
        confirmed_at=from_ms(int(record["confirmed_at_ms"])) if record["confirmed_at_ms"] else None,
        ended_at=from_ms(int(record["ended_at_ms"])) if record["ended_at_ms"] else None,
        code=record["code"].decode() if record["code"] else None,
        epoch=position.epoch,
        seq=position.seq,
    )
    for item in items_decoder.decode(record["items"]):
        await queries.repair_item(
            connection,
            booking_id=booking_id,
            zone_id=item.zone_id,
            quantity=item.quantity,
            price=item.unit_price_minor,
        )
