"""Ledger entries become rows, each exactly once, and what Postgres refuses is set aside alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import projection
from engine.fold import Changes, fold
from engine.fold_queue import Orphaned
from engine.ids import CellId
from engine.ledger import Position
from engine.lines import dense_lines
from engine.projection import StaleOffset, commit_batch
from engine.settings import Settings
from tests.unit.books import (
    CAPACITY,
    Event,
    Life,
    put_in_postgres,
    random_life,
    tables,
    to_batch,
    to_lines,
)

NOWHERE = Event(UUID(int=0), CellId(1, 0), uuid4(), [uuid4(), uuid4()])


@pytest.fixture
async def event(database: asyncpg.Connection) -> Event:
    return await put_in_postgres(database)


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A second connection."""
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


# --- fold

STEPS: list[tuple[list[Callable[[Life], list[Any]]], str, int, tuple[int, int, int]]] = [
    ([Life.reserve], "reserved", 1, (-2, 2, 0)),
    ([Life.reserve, Life.confirm], "confirmed", 2, (-2, 0, 2)),
    ([Life.reserve, lambda life: life.give_back("cancel")], "cancelled", 2, (0, 0, 0)),
    ([Life.reserve, lambda life: life.give_back("expire")], "expired", 2, (0, 0, 0)),
    (
        [Life.reserve, Life.confirm, lambda life: life.give_back("cancel", "confirmed")],
        "cancelled",
        3,
        (0, 0, 0),
    ),
]


@pytest.mark.parametrize(("steps", "status", "version", "moved"), STEPS)
def test_a_life_is_folded_into_one_row(
    steps: list[Callable[[Life], list[Any]]], status: str, version: int, moved: tuple[int, int, int]
) -> None:
    life = Life(NOWHERE, quantity=2)
    changes = fold(to_lines([step(life) for step in steps]))
    row = changes.bookings[str(life.id)]
    assert (row.status, row.version, row.version_before, row.seq) == (status, version, 0, len(steps))
    assert (row.confirmed_at_ms is not None) == (Life.confirm in steps)
    assert (row.ended_at_ms is not None) == (status in ("cancelled", "expired"))
    counters = changes.zone(str(NOWHERE.zones[0]))
    assert (counters.available, counters.reserved, counters.confirmed) == moved
    assert [event[1] for event in changes.events] == list(range(1, len(steps) + 1)), "one event each"


def test_the_end_of_an_earlier_booking_moves_the_row_that_is_there() -> None:
    life = Life(NOWHERE)
    life.reserve()
    changes = fold(to_lines([life.confirm(), life.give_back("cancel", "confirmed")], from_seq=7))
    row = changes.bookings[str(life.id)]
    assert (row.reserve, row.version_before, row.version, row.seq) == (None, 1, 3, 9)


def test_edits_add_up() -> None:
    zone = str(NOWHERE.zones[0])
    entries = [["edit", 5, 1, "applied", [[zone, 5, 3, 2]]], ["edit", 6, 2, "refused", []]]
    entries += [["edit", 7, 3, "applied", [[zone, -1, -1, 0]]]]
    changes = fold(to_lines(entries))
    counters = changes.zone(str(NOWHERE.zones[0]))
    assert (counters.capacity, counters.available, counters.blocked) == (4, 2, 2)
    assert [(edit.version, edit.outcome) for edit in changes.edits] == [
        (1, "applied"),
        (2, "refused"),
        (3, "applied"),
    ]


def test_an_opening_changes_nothing() -> None:
    assert fold(to_lines([["open", 5]])) == Changes()


def _gap(life: Life) -> list[list[Any]]:
    entries = [life.reserve()]
    life.version += 1
    return [*entries, life.confirm()]


@pytest.mark.parametrize(
    "entries",
    [
        lambda life: [life.reserve(), life.reserve()],
        _gap,
        lambda life: [life.reserve(), life.give_back("reject")],
        lambda life: [b"not json"],
        lambda life: [["stolen", 5]],
    ],
    ids=["reserved twice", "a version left out", "rejected", "no entry", "no verb of ours"],
)
def test_what_cannot_belong_to_a_row_is_an_orphan(entries: Callable[[Life], list[Any]]) -> None:
    with pytest.raises(Orphaned):
        fold(to_lines(entries(Life(NOWHERE))))


def test_only_entries_without_a_gap_are_taken() -> None:
    entries = [(b"2-5", [b"e", b'["open",1]']), (b"2-6", [b"e", b"?"]), (b"2-8", [b"e", b'["open",1]'])]
    assert [line.seq for line in dense_lines(Position(2, 4), entries)] == [5, 6]
    assert dense_lines(Position(2, 3), entries) == []
    assert dense_lines(Position(2, 5), entries) == [], "the last is where it would be without the first"
    assert dense_lines(Position(1, 4), entries) == []


# --- exactly once


async def test_a_batch_is_written_once_however_often_it_is_committed(
    database: asyncpg.Connection, event: Event
) -> None:
    life = Life(event, quantity=3)
    batch = to_batch(event, [life.reserve(), life.confirm()])
    assert await commit_batch(database, batch) == []
    once = await tables(database, event)
    assert once["cell"] == [(1, 2, 0)]
    assert len(once["outbox"]) == 2
    for _ in range(2):
        with pytest.raises(StaleOffset):
            await commit_batch(database, batch)
    assert await tables(database, event) == once


async def test_of_two_relays_at_once_one_is_told_that_it_is_late(
    database: asyncpg.Connection, other: asyncpg.Connection, event: Event
) -> None:
    batch = to_batch(event, [Life(event).reserve() for _ in range(20)])
    outcomes = await asyncio.gather(
        commit_batch(database, batch), commit_batch(other, batch), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["StaleOffset", "list"]
    assert (await tables(database, event))["zones"][0][1:] in (
        (CAPACITY, CAPACITY - 20, 20, 0, 0),
        (CAPACITY, CAPACITY, 0, 0, 0),
    )
    assert len((await tables(database, event))["bookings"]) == 20


@pytest.mark.parametrize(("from_seq", "epoch"), [(1, 1), (0, 2), (0, 0)])
async def test_a_batch_that_does_not_continue_the_offset_is_stale(
    database: asyncpg.Connection, event: Event, from_seq: int, epoch: int
) -> None:
    before = await tables(database, event)
    with pytest.raises(StaleOffset):
        await commit_batch(database, to_batch(event, [Life(event).reserve()], from_seq, epoch))
    assert await tables(database, event) == before


async def test_without_the_compare_and_set_an_entry_counts_twice(
    database: asyncpg.Connection, event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def always(*_: Any, **__: Any) -> str:
        return "UPDATE 1"

    monkeypatch.setattr(projection.queries, "advance_offset", always)
    batch = to_batch(event, [["edit", 5, 1, "applied", [[str(event.zones[0]), 5, 5, 0]]]])
    await commit_batch(database, batch)
    await commit_batch(database, batch)
    assert await database.fetchval("SELECT sum(capacity) FROM seat_zones") == 3 * CAPACITY + 10


# --- however the ledger is cut


async def _commit_in_parts(
    database: asyncpg.Connection, event: Event, entries: list[Any], sizes: list[int]
) -> dict[str, Any]:
    """The tables after a ledger was committed in batches of these sizes, which is then undone."""
    transaction = database.transaction()
    await transaction.start()
    try:
        begin, turn = 0, 0
        while begin < len(entries):
            size = sizes[turn % len(sizes)]
            assert await commit_batch(database, to_batch(event, entries[begin : begin + size], begin)) == []
            begin, turn = begin + size, turn + 1
        return await tables(database, event)
    finally:
        await transaction.rollback()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6))
async def test_however_a_ledger_is_cut_into_batches_the_tables_are_the_same(
    database: asyncpg.Connection, seed: int, sizes: list[int]
) -> None:
    event = await put_in_postgres(database)
    model = random_life(event, seed, 60)
    entries = [entry for _, entry in model.ledger[1:]]
    cut = await _commit_in_parts(database, event, entries, sizes)
    assert cut == await _commit_in_parts(database, event, entries, [1]), "as one by one"
    assert cut == await _commit_in_parts(database, event, entries, [len(entries)]), "as all at once"
    for zone_id, capacity, *counters in cut["zones"]:
        zone = model.zone_fields(str(zone_id))
        assert [capacity, *counters] == [
            int(zone[name]) for name in ("capacity", "available", "reserved", "confirmed", "blocked")
        ]
    assert cut["cell"] == [(1, model.seq, model.version)]
    assert len(cut["bookings"]) == len(model.bookings)
    assert len(cut["outbox"]) == sum(booking.version for booking in model.bookings.values())
