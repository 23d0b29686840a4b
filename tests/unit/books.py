"""An event in Postgres without any Redis, a ledger written by hand, and the tables as plain data."""

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from engine import ids
from engine.ids import CellId
from engine.ledger import Position
from engine.lines import Batch, Line, decode_line
from engine.status import Status
from tests.lua.model import Model
from tests.lua.model_records import ModelZone

START_MS = 1_700_000_000_000
EDITS_MAX = 40
CAPACITY = 30


class Event(NamedTuple):
    """An event with its cell, opened in epoch 1."""

    id: UUID
    cell_id: CellId
    show: UUID
    zones: list[UUID]

    def new_id(self) -> UUID:
        """A fresh booking id."""
        return ids.new_id(self.cell_id.event_ref)


async def put_in_postgres(database: asyncpg.Connection, zones: int = 3) -> Event:
    """An event of which Postgres knows everything up to the opening of its first epoch."""
    event_id = ids.new_event_id()
    cell_id = ids.cell_of(event_id)
    event = Event(
        event_id,
        cell_id,
        ids.new_id(cell_id.event_ref),
        [ids.new_id(cell_id.event_ref) for _ in range(zones)],
    )
    await database.execute(
        "INSERT INTO events (id, organizer_id, title, slug, currency, sale_start_at, booking_secret) "
        "VALUES ($1, $2, 'Event', $3, 'GBP', now(), $4)",
        event_id,
        uuid4(),
        f"event-{event_id}",
        bytes(32),
    )
    await database.execute(
        "INSERT INTO shows (id, event_id, show_date) VALUES ($1, $2, now())", event.show, event_id
    )
    await database.executemany(
        "INSERT INTO seat_zones (id, show_id, event_id, name, price_minor, capacity, available_seats) "
        "VALUES ($1, $2, $3, 'Zone', 0, $4, $4)",
        [(zone, event.show, event_id, CAPACITY) for zone in event.zones],
    )
    await database.execute(
        "INSERT INTO cells (event_ref, cell, event_id, epoch, edit_version) VALUES ($1, $2, $3, 1, $4)",
        *cell_id,
        event_id,
        EDITS_MAX,
    )
    await database.executemany(
        "INSERT INTO edits (event_ref, cell, version, intent) VALUES ($1, $2, $3, '{}')",
        [(*cell_id, version) for version in range(1, EDITS_MAX + 1)],
    )
    return event


def to_lines(entries: Sequence[Any], from_seq: int = 0) -> list[Line]:
    """Entries (lists, or bytes as they are) as lines that follow `from_seq`."""
    texts = [entry if isinstance(entry, bytes) else json.dumps(entry).encode() for entry in entries]
    return [decode_line(seq, text) for seq, text in enumerate(texts, from_seq + 1)]


def to_batch(event: Event, entries: Sequence[Any], from_seq: int = 0, epoch: int = 1) -> Batch:
    """A batch of these entries."""
    return Batch(cell_id=event.cell_id, epoch=epoch, from_seq=from_seq, lines=to_lines(entries, from_seq))


class Life:
    """One booking's entries, made one after the other."""

    def __init__(self, event: Event, quantity: int = 1, zone: int = 0, at_ms: int = START_MS) -> None:
        self.id = event.new_id()
        self.user = uuid4()
        self.version = 0
        self.at_ms = at_ms
        self.expires_at_ms = at_ms + 600_000
        self.items = [[str(event.zones[zone]), quantity, 250, str(event.show)]]

    def reserve(self, **changes: Any) -> list[Any]:
        """Its first entry; `currency` and `items` may be wrong."""
        self.version = 1
        currency, items = changes.get("currency", "GBP"), changes.get("items", self.items)
        return [
            "reserve",
            self.at_ms,
            str(self.id),
            str(self.user),
            "f" * 32,
            self.expires_at_ms,
            currency,
            items,
        ]

    def confirm(self) -> list[Any]:
        """It is sold a second after it was reserved."""
        self.version += 1
        at_ms = self.at_ms + 1_000
        return ["confirm", at_ms, str(self.id), self.version, str(self.user), "CODE", self.items]

    def give_back(self, verb: str, was: str = "reserved") -> list[Any]:
        """It ends: cancel, expire or reject."""
        self.version += 1
        at_ms = self.expires_at_ms if verb == "expire" else self.at_ms + 2_000
        return [verb, at_ms, str(self.id), self.version, str(self.user), was, self.items]


def random_life(event: Event, seed: int, steps: int) -> Model:
    """A cell that lived through random operations; its ledger is what the scripts would have written."""
    chance = random.Random(seed)
    zones = {str(zone): ModelZone(str(event.show), 250, 10, CAPACITY, 0) for zone in event.zones}
    sale = {"status": "published", "sale_start_at_ms": 0, "sale_end_at_ms": 0, "currency": "GBP"}
    sale |= {"max_per_user": 12, "hold_ttl_ms": 60_000, "ledger_max": 10_000}
    model = Model(sale, zones, START_MS)
    users = [str(UUID(int=number)) for number in range(1, 6)]
    while len(model.ledger) <= steps:
        verb = chance.choice(
            ["reserve", "reserve", "reserve", "confirm", "confirm", "cancel", "time", "edit"]
        )
        booking = chance.choice(list(model.bookings.values())) if model.bookings else None
        match verb:
            case "reserve":
                chosen = chance.sample(list(zones), chance.randint(1, 3))
                items = [(zone, chance.randint(1, 4), "") for zone in chosen]
                new = str(ids.make_id(*event.cell_id, chance.getrandbits(62)))
                model.reserve(chance.choice(users), items, new, chance.choice(["", "f" * 32]), (1, 1_000), 4)
            case "confirm" if booking:
                model.confirm(booking.user, booking.id, "CODE", True)
            case "cancel" if booking:
                model.cancel(booking.user, booking.id)
            case "time":
                model.now_ms += chance.randint(1, 30_000)
                model.expire(3)
            case "edit" if model.version < EDITS_MAX:
                wish = {"zone_id": chance.choice(list(zones)), "capacity": chance.randint(10, 60)}
                status = model.edit(model.version + 1, {"zones": [wish]}).status
                assert status in (Status.OK, Status.BELOW_IN_USE)
    return model


async def tables(database: asyncpg.Connection, event: Event) -> dict[str, Any]:
    """All that the relay writes, without the times at which it did."""
    here = "WHERE event_ref = $1 AND cell = $2"
    queries = {
        "cell": f"SELECT epoch, seq, applied_version FROM cells {here}",
        "edits": f"SELECT version, outcome, decided_at FROM edits {here} ORDER BY version",
        "dead": f"SELECT epoch, seq, booking_id, sqlstate, entry FROM dead_letters {here} ORDER BY seq",
    }
    found = {
        name: [tuple(row) for row in await database.fetch(sql, *event.cell_id)]
        for name, sql in queries.items()
    }
    first, last = ids.id_range(event.cell_id)
    of_bookings = {
        "bookings": "SELECT to_jsonb(b) - 'updated_at' FROM bookings b "
        "WHERE id BETWEEN $1 AND $2 ORDER BY id",
        "items": "SELECT to_jsonb(i) FROM booking_items i WHERE booking_id BETWEEN $1 AND $2 ORDER BY 1",
        "outbox": "SELECT event_type, aggregate_id, version, payload FROM outbox "
        "WHERE aggregate_id BETWEEN $1 AND $2 ORDER BY aggregate_id, version",
        "zones": "SELECT id, capacity, available_seats, reserved, confirmed, blocked FROM seat_zones "
        "WHERE id BETWEEN $1 AND $2 ORDER BY id",
    }
    for name, sql in of_bookings.items():
        found[name] = [tuple(row) for row in await database.fetch(sql, first, last)]
    return found


async def offset(database: asyncpg.Connection, event: Event) -> Position:
    """How far Postgres is."""
    row = await database.fetchrow(
        "SELECT epoch, seq FROM cells WHERE event_ref = $1 AND cell = $2", *event.cell_id
    )
    return Position(row["epoch"], row["seq"])
