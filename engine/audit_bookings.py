"""Bookings: each is the same in Redis and in Postgres, and the deadlines are exactly the holds."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio.client

from engine.audit_buyers import BuyerCheck
from engine.audit_look import CellView, Entries, Finding, Progress, queries, settle
from engine.booking import parse_record
from engine.ledger import Cancel, Confirm, Expire, Item, Position, Reject, Reserve
from engine.stores import Connection
from engine.times import to_ms

PAGE_ROWS = 1_000
SUSPECTS_MAX = 200
ORPHANS_MAX = 100
"""Bookings without a row that one report names."""
LIVE = ("reserved", "confirmed")

_items = msgspec.json.Decoder(list[tuple[str, int, int, str]])


class BookingState(msgspec.Struct):
    """A booking in the words of Redis and of Postgres alike, to be compared field by field."""

    user: str
    status: str
    version: int
    fingerprint: str
    items: str
    """`zone:quantity:price`, sorted by zone."""
    quantity: int
    total_minor: int
    currency: str
    created_at_ms: int
    expires_at_ms: int
    confirmed_at_ms: int | None
    code: str | None
    at: str
    """The ledger entry of its last transition."""


class RowReader(Protocol):
    """Who else wants to see every row that goes by."""

    def see(self, row: asyncpg.Record) -> None:
        """One booking in Postgres."""


def from_row(row: asyncpg.Record) -> BookingState:
    """The state in Postgres."""
    return BookingState(
        user=str(row["user_id"]),
        status=row["status"],
        version=row["version"],
        fingerprint=row["fingerprint"] or "",
        items=row["items"] or "",
        quantity=row["quantity"],
        total_minor=row["total_minor"],
        currency=row["currency"],
        created_at_ms=to_ms(row["created_at"]),
        expires_at_ms=to_ms(row["expires_at"]),
        confirmed_at_ms=to_ms(row["confirmed_at"]) if row["confirmed_at"] else None,
        code=row["confirmation_code"],
        at=f"{row['ledger_epoch']}-{row['ledger_seq']}",
    )


def from_record(text: bytes) -> BookingState:
    """The state in Redis; raises ValueError for a record that is none."""
    record = parse_record(text)
    try:
        return BookingState(
            user=record.user,
            status=record.status,
            version=record.version,
            fingerprint=record.fingerprint,
            items=spell_items(_items.decode(record.items)),
            quantity=record.quantity,
            total_minor=record.total_minor,
            currency=record.currency,
            created_at_ms=record.created_at_ms,
            expires_at_ms=record.expires_at_ms,
            confirmed_at_ms=record.confirmed_at_ms,
            code=record.code,
            at=record.seq,
        )
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def is_hold(text: bytes | None) -> bool:
    """Whether a record in Redis, if there is one, is a hold's."""
    return text is not None and text.startswith(b"reserved ")


def spell_items(items: Iterable[tuple[str, int, int, str]]) -> str:
    """The items as BookingState has them."""
    return ",".join(f"{zone_id}:{quantity}:{price}" for zone_id, quantity, price, _ in sorted(items))


def _spell_entry_items(items: list[Item]) -> str:
    return spell_items(
        (str(item.zone_id), item.quantity, item.unit_price_minor, str(item.show_id)) for item in items
    )


def advance(state: BookingState | None, position: Position, entry: Any) -> BookingState | None:
    """What a booking becomes by a ledger entry of its own; raises ValueError where it cannot follow."""
    match entry:
        case Reserve() if state is None:
            return BookingState(
                user=str(entry.user_id),
                status="reserved",
                version=1,
                fingerprint=entry.fingerprint,
                items=_spell_entry_items(entry.items),
                quantity=sum(item.quantity for item in entry.items),
                total_minor=sum(item.quantity * item.unit_price_minor for item in entry.items),
                currency=entry.currency,
                created_at_ms=entry.at_ms,
                expires_at_ms=entry.expires_at_ms,
                confirmed_at_ms=None,
                code=None,
                at=str(position),
            )
        case Confirm() | Cancel() | Expire() | Reject() if (
            state is not None and entry.version == state.version + 1
        ):
            changes: dict[str, Any] = {"version": entry.version, "at": str(position)}
            if isinstance(entry, Confirm):
                changes |= {"status": "confirmed", "confirmed_at_ms": entry.at_ms, "code": entry.code}
            else:
                changes["status"] = "expired" if isinstance(entry, Expire) else "cancelled"
            return msgspec.structs.replace(state, **changes)
        case _:
            raise ValueError(f"{type(entry).__name__.lower()} at {position} does not follow what was there")


def deadline_members(booking_id: str, state: BookingState) -> list[str]:
    """Where a hold stands in the index of deadlines."""
    tail = f":{state.expires_at_ms:013d}:{booking_id}"
    zones = [item.partition(":")[0] for item in state.items.split(",") if item]
    return [zone_id + tail for zone_id in zones]


def _is_hold_of(buyer: bytes | None, booking_id: UUID) -> bool:
    """Whether a value of `buyers` lists this booking."""
    return buyer is not None and str(booking_id).encode() in buyer


class _Rows(msgspec.Struct):
    bookings: dict[UUID, asyncpg.Record]
    dead: set[UUID]


class BookingCheck:
    """Rule 3 for the bookings of one open cell."""

    def __init__(
        self, view: CellView, buyers: BuyerCheck, readers: Sequence[RowReader], progress: Progress
    ) -> None:
        self._view = view
        self._buyers = buyers
        self._readers = readers
        self._progress = progress
        self._suspects: dict[UUID, None] = {}

    async def run(self) -> None:
        """Go through all bookings in Postgres."""
        async for rows in booking_pages(self._view):
            for row in rows:
                for reader in self._readers:
                    reader.see(row)
            await self.compare(rows)
            counts = self._view.report.bookings
            for row in rows:
                counts[row["status"]] = counts.get(row["status"], 0) + 1
            await self._progress(f"{sum(counts.values()):,} bookings")
        await self.examine_suspects()
        await self._find_orphans()

    async def _find_orphans(self) -> None:
        view = self._view
        rows = queries.items_without_booking(view.stores.pool, rows_max=ORPHANS_MAX, **view.in_range)
        async for row in rows:
            view.report.violated(
                3, "items_without_booking", row["booking_id"], "Postgres has its items alone"
            )

    async def suspect(self, booking_id: UUID) -> None:
        """Have one booking examined exactly."""
        self._suspects[booking_id] = None
        if len(self._suspects) >= SUSPECTS_MAX:
            await self.examine_suspects()

    async def compare(self, rows: list[asyncpg.Record]) -> None:
        """A first look at a page: what differs, for whatever reason, is suspect."""
        keys = self._view.keys
        states = [from_row(row) for row in rows]
        records = await self._view.ask(("GET", keys.booking(row["id"])) for row in rows)
        holds = [
            (row["id"], state) for row, state in zip(rows, states, strict=True) if state.status == "reserved"
        ]
        scores = await self._view.ask(
            ("ZMSCORE", keys.deadlines, *deadline_members(str(booking_id), state))
            for booking_id, state in holds
        )
        living = list({state.user for state in states if state.status in LIVE})
        buyers = (await self._view.ask([("HMGET", keys.buyers, *living)]))[0] if living else []
        by_user = dict(zip(living, buyers, strict=True))
        for row, state, record in zip(rows, states, records, strict=True):
            if not _is_same(row, state, record):
                await self.suspect(row["id"])
        for (booking_id, state), found in zip(holds, scores, strict=True):
            if any(score != b"0" for score in found) or not _is_hold_of(by_user[state.user], booking_id):
                await self.suspect(booking_id)
        for user, value in by_user.items():
            if value is None:
                await self._buyers.suspect(user)

    async def examine_suspects(self) -> None:
        """Look at the suspects exactly, in one moment of both stores."""
        suspects = list(self._suspects)
        self._suspects.clear()
        await settle(self._view.report, suspects, self._examine)

    async def _examine(self, suspects: Sequence[UUID]) -> list[tuple[UUID, Finding]]:
        view = self._view

        async def read_rows(connection: Connection) -> _Rows:
            rows = queries.bookings_by_id(connection, booking_ids=list(suspects))
            dead = queries.dead_bookings(connection, booking_ids=list(suspects))
            return _Rows(
                bookings={row["id"]: row async for row in rows},
                dead={row["booking_id"] async for row in dead},
            )

        def queue(pipeline: redis.asyncio.client.Pipeline, _: _Rows) -> None:
            for booking_id in suspects:
                pipeline.get(view.keys.booking(booking_id))

        look = await view.look(read_rows, queue)
        later = _entries_of(look.entries, set(suspects))
        findings: list[tuple[UUID, Finding]] = []
        for booking_id, record in zip(suspects, look.replies, strict=True):
            row = look.rows.bookings.get(booking_id)
            is_dead = booking_id in look.rows.dead
            found = [
                *_examine_row(view, row),
                *_examine_record(row, record, later.get(booking_id, []), is_dead),
            ]
            findings += [(booking_id, finding) for finding in found]
        broken = {booking_id for booking_id, _ in findings}
        findings += await self._examine_deadlines([each for each in suspects if each not in broken])
        return findings

    async def _examine_deadlines(self, suspects: Sequence[UUID]) -> list[tuple[UUID, Finding]]:
        """Whether those that are holds stand in the index; in one transaction each, Redis alone."""
        findings: list[tuple[UUID, Finding]] = []
        client, keys = self._view.stores.redis, self._view.keys
        for booking_id in suspects:
            record: Any = await client.get(keys.booking(booking_id))
            if not is_hold(record):
                continue
            hold = from_record(record)
            members = deadline_members(str(booking_id), hold)
            pipeline = client.pipeline(transaction=True)
            pipeline.get(keys.booking(booking_id))
            pipeline.zmscore(keys.deadlines, members)
            pipeline.hget(keys.buyers, hold.user)
            record, scores, buyer = await pipeline.execute()
            # A score that is not 0 puts a member where no range finds it.
            missing = [member for member, score in zip(members, scores, strict=True) if score != 0]
            if is_hold(record) and missing:
                findings.append((booking_id, (3, "deadline_missing", f"a hold without {', '.join(missing)}")))
            elif is_hold(record) and buyer is not None and not _is_hold_of(buyer, booking_id):
                findings.append((booking_id, (2, "hold_not_with_buyer", "its buyer does not list it")))
        return findings


async def booking_pages(view: CellView) -> AsyncIterator[list[asyncpg.Record]]:
    """All bookings of a cell in Postgres, page by page."""
    after = UUID(int=view.first.int - 1)
    while True:
        rows = queries.bookings_page(view.stores.pool, after=after, last=view.last, rows_max=PAGE_ROWS)
        page = [row async for row in rows]
        if page:
            yield page
        if len(page) < PAGE_ROWS:
            return
        after = page[-1]["id"]


def _is_same(row: asyncpg.Record, state: BookingState, record: bytes | None) -> bool:
    """The cheap comparison, which may only err on the side of suspicion."""
    if record is None:
        return row["status"] not in LIVE and row["fingerprint"] is None
    try:
        return (
            from_record(record) == state
            and row["items_quantity"] == row["quantity"]
            and row["items_total_minor"] == row["total_minor"]
        )
    except ValueError:
        return False


def _entries_of(entries: Entries, booking_ids: set[UUID]) -> dict[UUID, Entries]:
    found: dict[UUID, Entries] = {}
    for position, entry in entries:
        booking_id = getattr(entry, "booking_id", None)
        if booking_id in booking_ids:
            found.setdefault(booking_id, []).append((position, entry))
    return found


def _examine_row(view: CellView, row: asyncpg.Record | None) -> Iterable[Finding]:
    if row is None:
        return
    if row["items_quantity"] != row["quantity"] or row["items_total_minor"] != row["total_minor"]:
        yield (
            3,
            "items_do_not_add_up",
            f"the booking says {row['quantity']} seats for {row['total_minor']}, "
            f"its items {row['items_quantity']} for {row['items_total_minor']}",
        )
    if row["event_id"] != view.event_id:
        yield 3, "booking_of_another_event", f"its row says {row['event_id']}"


def _examine_record(
    row: asyncpg.Record | None, record: bytes | None, later: Entries, is_dead: bool
) -> Iterable[Finding]:
    """The record against what row and ledger make of it."""
    if row is None and is_dead:
        if record is not None and record.partition(b" ")[0].decode() in LIVE:
            yield (
                3,
                "refused_and_still_held",
                "Postgres refused it (dead letter), Redis still holds its seats",
            )
        return
    expected = from_row(row) if row is not None else None
    try:
        for position, entry in later:
            if is_dead and expected is not None and isinstance(entry, Cancel | Expire | Reject):
                # What was refused had the version in between.
                expected.version = entry.version - 1
            expected = advance(expected, position, entry)
        live = from_record(record) if record is not None else None
    except ValueError as error:
        yield 3, "booking_broken", str(error)
        return
    if (
        is_dead
        and live is not None
        and expected is not None
        and "confirmed"
        not in (
            live.status,
            expected.status,
        )
    ):
        # Redis had confirmed what Postgres refused to confirm, and both have ended it.
        live.confirmed_at_ms = live.code = expected.confirmed_at_ms = expected.code = None
    if live is None:
        if expected is not None and expected.status in LIVE:
            yield 3, "booking_missing_in_redis", f"{expected.status} in Postgres, not in Redis"
        elif expected is not None and expected.fingerprint:
            yield 3, "key_forgotten", "an ended booking with an Idempotency-Key must stay in Redis"
    elif expected is None:
        yield 3, "booking_missing_in_postgres", f"{live.status} in Redis (entry {live.at}), not in Postgres"
    elif live != expected:
        names = [
            f"{name} is {getattr(live, name)!r} in Redis, "
            f"{getattr(expected, name)!r} by Postgres and the ledger"
            for name in BookingState.__struct_fields__
            if getattr(live, name) != getattr(expected, name)
        ]
        yield 3, "booking_differs", "; ".join(names)
