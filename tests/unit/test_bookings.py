"""The hot path without workers: what is asked of whom, and what is answered when a store knows better."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis

from engine import ids
from engine.booking import Booking, ItemRequest
from engine.bookings import Bookings
from engine.durability import Settled
from engine.errors import (
    Fenced,
    InvalidState,
    NotFound,
    ReservationExpired,
    RushError,
    SaleNotOpen,
    ServiceUnavailable,
    ValidationFailed,
)
from engine.ledger import Position
from engine.projection import commit_batch
from engine.reserving import ITEMS_MAX, QUANTITY_MAX, check_items, fingerprint
from engine.stores import Stores
from tests.lua.cellkit import Backend, Cell, Zone
from tests.unit.books import Event, Life, put_in_postgres, to_batch

REF = 77
ZONES = [ids.make_id(REF, 0, number) for number in range(10)]
ALICE = UUID("a11ce000-0000-4000-8000-000000000001")
BOB = UUID("b0b00000-0000-4000-8000-000000000002")


def wanting(*quantities: int) -> list[ItemRequest]:
    return [ItemRequest(zone, quantity) for zone, quantity in zip(ZONES, quantities, strict=False)]


# --- the request


@pytest.mark.parametrize("items", [wanting(1), wanting(QUANTITY_MAX), wanting(*range(1, ITEMS_MAX + 1))])
def test_a_basket_of_one_event_leads_to_its_cell(items: list[ItemRequest]) -> None:
    assert check_items(items) == (REF, 0)


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "items"),
        (wanting(*[1] * (ITEMS_MAX + 1)), "items"),
        (wanting(0), "quantity"),
        (wanting(1, -1), "quantity"),
        (wanting(QUANTITY_MAX + 1), "quantity"),
        (2 * wanting(1), "items"),
        ([*wanting(1), ItemRequest(ids.make_id(REF + 1, 0, 1), 1)], "items"),
        ([*wanting(1), ItemRequest(ids.make_id(REF, 1, 1), 1)], "items"),
    ],
)
def test_a_basket_that_does_not_go_together_is_refused(items: list[ItemRequest], field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        check_items(items)
    assert caught.value.details["field"] == field


@pytest.mark.parametrize("place", [0, 1])
def test_an_id_that_is_none_of_ours_is_no_zone(place: int) -> None:
    items = wanting(1)
    items.insert(place, ItemRequest(uuid4(), 1))
    with pytest.raises((NotFound, ValidationFailed)):
        check_items(items)


def test_a_fingerprint_is_of_what_is_asked_and_not_of_its_order() -> None:
    items = wanting(1, 2, 3)
    assert {fingerprint(order) for order in itertools.permutations(items)} == {fingerprint(items)}
    assert len({fingerprint(each) for each in (items, items[:2], wanting(1, 2, 4), wanting(2, 1, 3))}) == 4
    assert len(fingerprint(items)) == 32


# --- a cell in Redis, an event in Postgres, nobody at work


@pytest.fixture
async def event(database: asyncpg.Connection) -> Event:
    return await put_in_postgres(database)


@pytest.fixture
def cell(redis_url: str, event: Event) -> Iterator[Cell]:
    """The cell of that event, open in epoch 1."""
    with redis.Redis.from_url(redis_url) as client:
        yield Cell(Backend(client), [Zone(10, 0)], cell_id=event.cell_id, start_ms=1, secret="00" * 32)


@pytest.fixture
async def bookings(stores: Stores, event: Event) -> AsyncIterator[Bookings]:
    opened = Bookings(stores)
    await opened.start()
    async with asyncio.timeout(10):
        while not stores.line.connected:
            await asyncio.sleep(0.01)
    yield opened
    await opened.close()


def items_of(cell: Cell, quantity: int = 1) -> list[ItemRequest]:
    return [ItemRequest(UUID(cell.zones[0]), quantity)]


async def test_a_hold_is_seen_before_it_is_in_postgres(bookings: Bookings, cell: Cell) -> None:
    answer = await bookings.reserve(ALICE, items_of(cell, 2), None)
    assert (answer.ledger_seq, answer.replayed, answer.booking.durable) == ("1-1", False, False)
    assert await bookings.get(ALICE, answer.booking.id) == answer.booking
    assert await bookings.list(ALICE, status=None, event_id=None, page=1, per_page=20) == ([], 0)
    with pytest.raises(NotFound):
        await bookings.get(BOB, answer.booking.id)


async def test_a_replay_is_the_first_answer_also_after_a_cancel(bookings: Bookings, cell: Cell) -> None:
    first = await bookings.reserve(ALICE, items_of(cell), "key")
    cancelled = await bookings.cancel(ALICE, first.booking.id)
    assert (cancelled.booking.status, cancelled.booking.version) == ("cancelled", 2)
    again = await bookings.reserve(ALICE, items_of(cell), "key")
    assert again.replayed
    assert (again.booking.id, again.booking.status) == (first.booking.id, "reserved")
    assert again.booking.items == first.booking.items
    assert again.ledger_seq == "1-2"
    assert (await bookings.cancel(ALICE, first.booking.id)).replayed
    other = await bookings.reserve(BOB, items_of(cell), "key")
    assert other.booking.id != first.booking.id, "a key is its user's own"


async def test_without_scripts_a_node_is_fenced(bookings: Bookings, cell: Cell) -> None:
    cell.client.script_flush()
    with pytest.raises(Fenced):
        await bookings.reserve(ALICE, items_of(cell), None)
    with pytest.raises(Fenced):
        await bookings.confirm(ALICE, UUID(cell.new_id()))


async def test_a_cell_that_is_not_open_knows_nothing_of_its_bookings(bookings: Bookings, cell: Cell) -> None:
    booking = (await bookings.reserve(ALICE, items_of(cell), None)).booking
    cell.fence()
    for attempt in (
        bookings.reserve(ALICE, items_of(cell), None),
        bookings.confirm(ALICE, booking.id),
        bookings.cancel(ALICE, booking.id),
        bookings.confirm(ALICE, UUID(cell.new_id())),
    ):
        with pytest.raises(Fenced):
            await attempt


@pytest.mark.parametrize("booking", [uuid4(), ids.new_id(99)], ids=["no id of ours", "of no event"])
async def test_a_booking_of_no_cell_does_not_exist(bookings: Bookings, booking: UUID) -> None:
    for attempt in (
        bookings.confirm(ALICE, booking),
        bookings.cancel(ALICE, booking),
        bookings.get(ALICE, booking),
    ):
        with pytest.raises(NotFound):
            await attempt


# --- what Redis has forgotten


async def _in_postgres(database: asyncpg.Connection, event: Event, state: str) -> Life:
    life = Life(event)
    entries = [life.reserve()]
    if state == "confirmed":
        entries.append(life.confirm())
    elif state in ("cancelled", "expired"):
        entries.append(life.give_back({"cancelled": "cancel", "expired": "expire"}[state]))
    await commit_batch(database, to_batch(event, entries))
    return life


KNOWN_BY_ROW: list[tuple[str, str, type[RushError] | None]] = [
    ("confirmed", "confirm", None),
    ("confirmed", "cancel", InvalidState),
    ("cancelled", "confirm", InvalidState),
    ("cancelled", "cancel", None),
    ("expired", "confirm", ReservationExpired),
    ("expired", "cancel", ReservationExpired),
    ("reserved", "confirm", ReservationExpired),
    ("reserved", "cancel", ReservationExpired),
]


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize(("state", "verb", "error"), KNOWN_BY_ROW)
async def test_what_redis_forgot_is_answered_from_postgres(
    bookings: Bookings,
    database: asyncpg.Connection,
    event: Event,
    cell: Cell,
    state: str,
    verb: str,
    error: type[RushError] | None,
    is_closed: bool,
) -> None:
    life = await _in_postgres(database, event, state)
    if is_closed:
        cell.remove()
        await database.execute("UPDATE cells SET closed_at = now() WHERE event_id = $1", event.id)
    attempt = getattr(bookings, verb)(life.user, life.id)
    if error is not None:
        with pytest.raises(error):
            await attempt
        return
    answer = await attempt
    assert (answer.replayed, answer.booking.status, answer.booking.durable) == (True, state, True)
    assert answer.booking.confirmation_code == ("CODE" if state == "confirmed" else None)


async def test_a_closed_cell_sells_nothing_and_says_that_it_is_over(
    bookings: Bookings, database: asyncpg.Connection, event: Event, cell: Cell
) -> None:
    items = items_of(cell)
    cell.remove()
    await database.execute("UPDATE cells SET closed_at = now() WHERE event_id = $1", event.id)
    with pytest.raises(SaleNotOpen) as caught:
        await bookings.reserve(ALICE, items, None)
    assert caught.value.details["status"] == "ended"
    with pytest.raises(NotFound):
        await bookings.confirm(ALICE, UUID(cell.new_id()))


async def test_somebody_elses_row_is_unknown(
    bookings: Bookings, database: asyncpg.Connection, event: Event, cell: Cell
) -> None:
    life = await _in_postgres(database, event, "confirmed")
    with pytest.raises(NotFound):
        await bookings.confirm(BOB, life.id)
    with pytest.raises(NotFound):
        await bookings.get(BOB, life.id)
    assert (await bookings.get(life.user, life.id)).status == "confirmed"


# --- durable or not


@pytest.mark.parametrize(
    ("settled", "row", "expected"),
    [
        (Settled.DURABLE, None, ("confirmed", True, "CODE-IN-REDIS")),
        (Settled.NOT_YET, None, ("confirmed", False, None)),
        (Settled.REJECTED, "confirmed", ("confirmed", True, "CODE")),
        (Settled.REJECTED, "reserved", ServiceUnavailable),
        (Settled.REJECTED, "cancelled", InvalidState),
        (Settled.REJECTED, "expired", ReservationExpired),
        (Settled.REJECTED, None, InvalidState),
    ],
)
async def test_a_confirm_is_answered_by_what_became_of_its_entry(
    bookings: Bookings,
    database: asyncpg.Connection,
    event: Event,
    cell: Cell,
    monkeypatch: pytest.MonkeyPatch,
    settled: Settled,
    row: str | None,
    expected: tuple[str, bool, str | None] | type[RushError],
) -> None:
    waited: list[tuple[Position, int]] = []

    async def wait(_: object, position: Position, __: UUID, version: int, ___: int) -> Settled:
        waited.append((position, version))
        return settled

    monkeypatch.setattr(bookings._durability, "wait", wait)
    life = await _in_postgres(database, event, row) if row else Life(event)
    booking, _ = cell.reserve(str(life.user), [(cell.zones[0], 1)], booking=str(life.id))
    cell.confirm(str(life.user), booking, code="CODE-IN-REDIS")
    if isinstance(expected, tuple):
        answer = await bookings.confirm(life.user, life.id)
        found: Booking = answer.booking
        assert (found.status, found.durable, found.confirmation_code) == expected
    else:
        with pytest.raises(expected):
            await bookings.confirm(life.user, life.id)
    assert waited == [(Position(1, 2), 2)], "for the entry that the transition stored, also for a replay"
