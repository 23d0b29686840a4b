"""What Postgres refuses is found by bisection, and only what can never be right is refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from engine.projection import StaleOffset, commit_batch
from engine.settings import Settings
from tests.unit.books import CAPACITY, Event, Life, offset, put_in_postgres, random_life, tables, to_batch

Connection = asyncpg.Connection


@pytest.fixture
async def event(database: Connection) -> Event:
    return await put_in_postgres(database)


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Connection]:
    """A second connection."""
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


def oversold(event: Event) -> list[Any]:
    return Life(event, quantity=CAPACITY + 1).reserve()


def twice_the_same_zone(event: Event) -> list[Any]:
    life = Life(event)
    return life.reserve(items=2 * life.items)


def of_an_unknown_zone(event: Event) -> list[Any]:
    return Life(event).reserve(items=[[str(uuid4()), 1, 0, str(event.show)]])


def with_a_text_that_postgres_cannot_hold(event: Event) -> list[Any]:
    return Life(event).reserve(currency="G\x00P")


def with_a_number_that_does_not_fit(event: Event) -> list[Any]:
    return Life(event, quantity=1 << 40).reserve()


def at_a_time_that_no_calendar_has(event: Event) -> list[Any]:
    return Life(event, at_ms=1 << 60).reserve()


def expired_too_early(event: Event) -> list[Any]:
    life = Life(event)
    life.expires_at_ms = life.at_ms
    life.version = 5
    return life.give_back("expire")


def of_an_unknown_booking(event: Event) -> list[Any]:
    life = Life(event)
    life.version = 1
    return life.confirm()


def rejected(event: Event) -> list[Any]:
    life = Life(event)
    life.version = 1
    return life.give_back("reject")


BAD: dict[Callable[[Event], list[Any]], str] = {
    oversold: "23514",
    twice_the_same_zone: "23505",
    of_an_unknown_zone: "RU001",
    with_a_text_that_postgres_cannot_hold: "22021",
    with_a_number_that_does_not_fit: "22000",
    at_a_time_that_no_calendar_has: "22000",
    expired_too_early: "RU001",
    of_an_unknown_booking: "RU001",
    rejected: "RU001",
}


@pytest.mark.parametrize(
    ("bad", "sqlstate"), BAD.items(), ids=lambda value: getattr(value, "__name__", value)
)
@pytest.mark.parametrize("place", [0, 3, 6])
async def test_the_single_bad_entry_is_found_and_the_others_are_written(
    database: Connection, event: Event, bad: Callable[[Event], list[Any]], sqlstate: str, place: int
) -> None:
    good = [Life(event).reserve() for _ in range(6)]
    entry = bad(event)
    refused = await commit_batch(database, to_batch(event, [*good[:place], entry, *good[place:]]))
    assert [str(booking) for booking in refused] == [entry[2]]
    found = await tables(database, event)
    assert [row[:2] + row[3:4] for row in found["dead"]] == [(1, place + 1, sqlstate)]
    assert len(found["bookings"]) == 6
    assert await offset(database, event) == to_batch(event, [*good, entry]).after
    assert await database.fetchval("SELECT sum(reserved) FROM seat_zones") == 6
    assert len(found["outbox"]) == 6


async def test_every_later_entry_of_a_refused_booking_is_set_aside(
    database: Connection, event: Event
) -> None:
    bad, good = Life(event, quantity=CAPACITY + 1), Life(event)
    first = [bad.reserve(), good.reserve(), bad.confirm()]
    assert await commit_batch(database, to_batch(event, first)) == [bad.id]
    second = [good.confirm(), bad.give_back("cancel", "confirmed")]
    assert await commit_batch(database, to_batch(event, second, from_seq=3)) == [bad.id]
    third = [bad.give_back("reject")]
    assert await commit_batch(database, to_batch(event, third, from_seq=5)) == [bad.id]
    found = await tables(database, event)
    assert [(row[1], row[2]) for row in found["dead"]] == [(1, bad.id), (3, bad.id), (5, bad.id), (6, bad.id)]
    assert await database.fetchval("SELECT status FROM bookings") == "confirmed"
    assert await database.fetchval("SELECT count(*) FROM bookings") == 1
    returned = await database.fetch("SELECT seq FROM dead_letters WHERE returned_at IS NOT NULL")
    assert [row["seq"] for row in returned] == [6], "the entry that gave the seats back needs no other"


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_booking_that_is_refused_late_is_ended_and_its_seats_are_counted_back(
    database: Connection, event: Event, in_one_batch: bool
) -> None:
    late = Life(event, quantity=3)
    reserve = late.reserve()
    late.at_ms = late.expires_at_ms
    entries = [reserve, late.confirm(), late.give_back("reject", "confirmed")]
    refused = []
    for from_seq, run in [(0, entries)] if in_one_batch else [(i, [entries[i]]) for i in range(3)]:
        refused += await commit_batch(database, to_batch(event, run, from_seq=from_seq))
    assert refused == [late.id], "the confirm is refused, the reservation and its end are not"
    found = await tables(database, event)
    assert [(row[1], row[2]) for row in found["dead"]] == [(2, late.id)]
    assert await database.fetchval("SELECT status FROM bookings WHERE id = $1", late.id) == "cancelled"
    assert await database.fetchval("SELECT sum(reserved + confirmed) FROM seat_zones") == 0
    assert await database.fetchval("SELECT count(*) FROM outbox WHERE event_type = 'booking.cancelled'") == 1


async def test_an_end_that_postgres_refuses_ends_the_booking_all_the_same(
    database: Connection, event: Event
) -> None:
    life = Life(event, quantity=3)
    assert await commit_batch(database, to_batch(event, [life.reserve()])) == []
    early = life.give_back("expire")
    early[1] = life.expires_at_ms - 1
    assert await commit_batch(database, to_batch(event, [early], from_seq=1)) == []
    assert await database.fetchval("SELECT status FROM bookings WHERE id = $1", life.id) == "cancelled"
    assert await database.fetchval("SELECT sum(reserved) FROM seat_zones") == 0


async def test_an_end_that_cannot_even_be_undone_is_refused_alone(database: Connection, event: Event) -> None:
    life, other = Life(event), Life(event)
    assert await commit_batch(database, to_batch(event, [life.reserve()])) == []
    await database.execute("ALTER TABLE bookings ADD CHECK (status <> 'cancelled')")
    life.version = 5
    entries = [life.give_back("cancel"), other.reserve()]
    assert await commit_batch(database, to_batch(event, entries, from_seq=1)) == [life.id]
    found = await tables(database, event)
    assert [(row[1], row[2]) for row in found["dead"]] == [(2, life.id)]
    assert len(found["bookings"]) == 2


async def test_what_nobody_can_read_is_kept_for_those_who_can(database: Connection, event: Event) -> None:
    entries = [Life(event).reserve(), b"no json", ["stolen", 1], ["reserve", "x"], Life(event).reserve()]
    assert await commit_batch(database, to_batch(event, entries)) == []
    found = await tables(database, event)
    assert [(row[1], row[2], row[3]) for row in found["dead"]] == [(seq, None, "RU001") for seq in (2, 3, 4)]
    assert len(found["bookings"]) == 2


@pytest.mark.parametrize("name", ["x", "x" * 36, "0" * 31 + "-----", "0" * 33 + "---", "0" * 36])
@pytest.mark.parametrize("verb", ["reserve", "cancel"])
async def test_what_is_no_id_is_refused_alone(
    database: Connection, event: Event, name: str, verb: str
) -> None:
    bad = Life(event)
    entry = bad.reserve() if verb == "reserve" else bad.give_back(verb)
    entry[2] = name
    entries = [Life(event).reserve(), entry, Life(event).reserve()]
    assert await commit_batch(database, to_batch(event, entries)) == []
    found = await tables(database, event)
    assert [(row[1], row[2]) for row in found["dead"]] == [(2, None)]
    assert len(found["bookings"]) == 2
    assert len(found["items"]) == 2
    assert len(found["outbox"]) == 2


async def test_an_end_at_a_time_that_no_calendar_has_is_refused_alone(
    database: Connection, event: Event
) -> None:
    life = Life(event)
    entries = [life.reserve(), life.give_back("cancel")]
    entries[1][1] = 1 << 60
    assert await commit_batch(database, to_batch(event, entries[:1])) == []
    assert await commit_batch(database, to_batch(event, entries[1:], from_seq=1)) == [life.id]
    assert await database.fetchval("SELECT status FROM bookings") == "reserved"


@pytest.mark.parametrize("seed", range(3))
async def test_refused_bookings_in_the_middle_of_a_life_change_nothing_else(
    database: Connection, event: Event, seed: int
) -> None:
    model = random_life(event, seed, 80)
    entries = [entry for _, entry in model.ledger[1:]]
    bad = [Life(event, quantity=1_000) for _ in range(3)]
    for number, life in enumerate(bad):
        entries[10 * number : 10 * number] = [life.reserve()]
        entries[10 * number + 5 : 10 * number + 5] = [life.confirm()]
    refused = await commit_batch(database, to_batch(event, entries))
    assert set(refused) == {life.id for life in bad}
    found = await tables(database, event)
    for zone_id, *counters in found["zones"]:
        zone = model.zone_fields(str(zone_id))
        names = ("capacity", "available", "reserved", "confirmed", "blocked")
        assert counters == [int(zone[name]) for name in names]
    assert len(found["bookings"]) == len(model.bookings)
    assert len(found["dead"]) == 6


# --- what is not the entries' fault


async def _until_it_waits(other: Connection, pid: int) -> None:
    async with asyncio.timeout(10):
        while not await other.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')", pid
        ):
            await asyncio.sleep(0.01)


async def _lock_timeout(database: Connection, other: Connection) -> None:
    await database.execute("SET lock_timeout = '50ms'")


async def _statement_timeout(database: Connection, other: Connection) -> None:
    await database.execute("SET statement_timeout = '50ms'")


async def _nothing(database: Connection, other: Connection) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "is_killed", "error"),
    [
        (_lock_timeout, False, asyncpg.LockNotAvailableError),
        (_statement_timeout, False, asyncpg.QueryCanceledError),
        (_nothing, True, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)),
    ],
    ids=["lock timeout", "statement timeout", "backend killed"],
)
async def test_an_error_that_is_not_the_entries_fault_leaves_the_whole_batch_for_later(
    database: Connection,
    other: Connection,
    event: Event,
    settings: Settings,
    prepare: Callable[[Connection, Connection], Awaitable[None]],
    is_killed: bool,
    error: Any,
) -> None:
    batch = to_batch(event, [Life(event).reserve() for _ in range(4)])
    before = await tables(other, event)
    worker = await asyncpg.connect(settings.database_url)
    try:
        await prepare(worker, other)
        async with other.transaction():
            await other.execute("SELECT 1 FROM seat_zones FOR UPDATE")
            committing = asyncio.create_task(commit_batch(worker, batch))
            if is_killed:
                pid = worker.get_server_pid()
                await _until_it_waits(database, pid)
                await database.execute("SELECT pg_terminate_backend($1)", pid)
            with pytest.raises(error):
                await committing
        assert await tables(other, event) == before
        assert await commit_batch(database, batch) == []
        with pytest.raises(StaleOffset):
            await commit_batch(database, batch)
    finally:
        worker.terminate()
    assert (await tables(other, event))["dead"] == []
    assert await other.fetchval("SELECT count(*) FROM bookings") == 4
