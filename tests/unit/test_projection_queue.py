"""What happens in the waiting room becomes rows, each entry exactly once, however the ledger is cut."""

import hashlib
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import ids
from engine.cells import publish_cell
from engine.projection import StaleOffset, commit_batch
from engine.times import from_ms
from tests.unit.books import START_MS, Event, Life, offset, put_in_postgres, tables, to_batch
from tests.unit.queues import (
    PASS_TTL_MS,
    admit,
    claim,
    join,
    lapse,
    leave,
    open_waiting_room,
    queue_tables,
    random_queue,
    room,
    spend,
    strangers,
    user,
)

Connection = asyncpg.Connection


@pytest.fixture
async def event(database: Connection) -> Event:
    event = await put_in_postgres(database)
    await open_waiting_room(database, event)
    return event


async def commit(database: Connection, event: Event, entries: list[Any]) -> list[UUID]:
    """The next entries of the ledger."""
    return await commit_batch(database, to_batch(event, entries, (await offset(database, event)).seq))


async def place(database: Connection, number: int) -> tuple[UUID, Any, Any]:
    row = await database.fetchrow(
        "SELECT user_id, joined_at, ended_at FROM queue_places WHERE number = $1", number
    )
    return tuple(row)


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_queue_is_written_as_it_was(database: Connection, event: Event, in_one_batch: bool) -> None:
    reserve, life = spend(event, 2, quantity=3)
    entries = [join(1, 4), leave(1), admit(1, 3, people=2), claim(2), claim(3), reserve, lapse(3)]
    for run in [entries] if in_one_batch else [[entry] for entry in entries]:
        assert await commit(database, event, run) == []
    found = await room(database, event)
    assert {name: value for name, value in found.items() if value is not None} == {
        "tail": 4, "serving": 3, "admitted": 2, "claimed": 2, "spent": 1, "units": 3, "lapsed": 1,
    }  # fmt: skip
    joined_at, left_at = from_ms(START_MS), from_ms(START_MS + 1)
    lapsed_at, claimed_at = from_ms(START_MS + 4 + PASS_TTL_MS), from_ms(START_MS + 3)
    expires_at = from_ms(START_MS + 3 + PASS_TTL_MS)
    assert await queue_tables(database, event) == {
        "room": [tuple(found.values())],
        "places": [
            (1, UUID(user(1)), joined_at, left_at),
            (2, UUID(user(2)), joined_at, None),
            (3, UUID(user(3)), joined_at, lapsed_at),
            (4, UUID(user(4)), joined_at, None),
        ],
        "passes": [
            (UUID(user(2)), 2, 2, claimed_at, expires_at, life.id, None),
            (UUID(user(3)), 3, 3, claimed_at, expires_at, None, lapsed_at),
        ],
        "waves": [(3, 1, 2, from_ms(START_MS + 2))],
    }


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_new_pass_stands_in_the_place_of_the_old_one(
    database: Connection, event: Event, in_one_batch: bool
) -> None:
    reserve, life = spend(event, 1)
    again = claim(1, START_MS + 9_000)
    entries = [join(1), admit(1, 1), claim(1), reserve, life.give_back("cancel"), again]
    for run in [entries] if in_one_batch else [[entry] for entry in entries]:
        assert await commit(database, event, run) == []
    row = await database.fetchrow("SELECT claimed_at, expires_at, booking_id, ended_at FROM queue_passes")
    assert tuple(row) == (from_ms(again[1]), from_ms(again[5]), None, None)
    found = await room(database, event)
    assert (found["claimed"], found["spent"]) == (2, 1)


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_who_leaves_and_comes_again_has_the_end_of_both(
    database: Connection, event: Event, in_one_batch: bool
) -> None:
    entries = [join(1, 2), admit(1, 1), claim(1), leave(1), strangers(3, [user(1)], START_MS + 5)]
    for run in [entries] if in_one_batch else [[entry] for entry in entries]:
        assert await commit(database, event, run) == []
    assert await place(database, 1) == (UUID(user(1)), from_ms(START_MS), from_ms(START_MS + 1))
    assert await place(database, 3) == (UUID(user(1)), from_ms(START_MS + 5), None)
    assert await database.fetchval("SELECT ended_at FROM queue_passes") == from_ms(START_MS + 1)


async def test_a_draw_is_frozen_where_the_ledger_says_so(database: Connection, event: Event) -> None:
    entries = [join(1, 3), ["freeze", START_MS + 1, 3], join(4), ["draw", START_MS + 2]]
    assert await commit(database, event, entries) == []
    found = await room(database, event)
    assert [found[name] for name in ("entrants", "frozen_at", "frozen_epoch", "frozen_seq", "drawn_at")] == [
        3, from_ms(START_MS + 1), 1, 2, from_ms(START_MS + 2),
    ]  # fmt: skip
    assert await commit(database, event, [join(5)]) == []
    assert (await room(database, event))["frozen_seq"] == 2


async def test_a_number_from_the_gap_comes_back_behind_the_others(database: Connection, event: Event) -> None:
    assert await commit(database, event, [join(1, 2), join(10_003), strangers(5, 1)]) == []
    assert (await room(database, event))["tail"] == 10_003
    assert await database.fetchval("SELECT count(*) FROM queue_places") == 4


BAD: dict[str, tuple[list[Any], str]] = {
    "a number twice": (strangers(2, 1), "23505"),
    "no number": (strangers(0, 1), "23514"),
    "a number that does not fit": (strangers(1 << 31, 1), "22000"),
    "no user": (["join", START_MS, 9, ["nobody"]], "22000"),
    "a time that no calendar has": (strangers(9, 1, 1 << 60), "22000"),
    "the place of nobody": (leave(99), "RU001"),
    "the place of another": (["leave", START_MS, user(1), 2, 2], "RU001"),
    "the pass of nobody": (lapse(99), "RU001"),
    "a wave of those who are not there": (admit(1, 99), "23514"),
    "more entrants than there are": (["freeze", START_MS, 99], "23514"),
    "a draw of nobody": (["draw", START_MS], "23514"),
    "not an entry": (["claim", START_MS], "RU001"),
}


@pytest.mark.parametrize(("bad", "sqlstate"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("where", [1, 3, 5])
async def test_the_single_bad_entry_is_found_and_the_others_are_written(
    database: Connection, event: Event, bad: list[Any], sqlstate: str, where: int
) -> None:
    good = [join(1, 3), admit(1, 2), claim(1), leave(3), Life(event).reserve()]
    assert await commit(database, event, [*good[:where], bad, *good[where:]]) == []
    found = await tables(database, event)
    assert [row[:4] for row in found["dead"]] == [(1, where + 1, None, sqlstate)]
    queue = await room(database, event)
    assert (queue["tail"], queue["serving"], queue["admitted"], queue["claimed"]) == (3, 2, 2, 1)
    assert await database.fetchval("SELECT count(*) FROM queue_places WHERE ended_at IS NULL") == 2
    assert len(found["bookings"]) == 1


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_place_ends_once(database: Connection, event: Event, in_one_batch: bool) -> None:
    entries = [join(1, 3), leave(3), leave(3, START_MS + 9), join(4)]
    for run in [entries] if in_one_batch else [[entry] for entry in entries]:
        assert await commit(database, event, run) == []
    assert [row[1] for row in (await tables(database, event))["dead"]] == [3]
    assert (await place(database, 3))[2] == from_ms(START_MS + 1)


async def test_a_queue_without_a_waiting_room_is_refused_and_nothing_else(
    database: Connection, event: Event
) -> None:
    await database.execute("DELETE FROM waiting_rooms")
    assert await commit(database, event, [join(1), Life(event).reserve(), join(2)]) == []
    found = await tables(database, event)
    assert [row[1] for row in found["dead"]] == [1, 3]
    assert len(found["bookings"]) == 1
    assert await database.fetchval("SELECT count(*) FROM queue_places") == 0


async def test_a_batch_of_people_is_written_once(database: Connection, event: Event) -> None:
    batch = to_batch(event, [join(1, 64), admit(1, 10), claim(1)])
    assert await commit_batch(database, batch) == []
    once = await queue_tables(database, event)
    with pytest.raises(StaleOffset):
        await commit_batch(database, batch)
    assert await queue_tables(database, event) == once


async def _commit_in_parts(
    database: Connection, event: Event, entries: list[Any], sizes: list[int]
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
        found = await queue_tables(database, event) | await tables(database, event)
        assert found["dead"] == []
        return found
    finally:
        await transaction.rollback()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6))
async def test_however_the_ledger_of_a_queue_is_cut_the_tables_are_the_same(
    database: Connection, seed: int, sizes: list[int]
) -> None:
    event = await put_in_postgres(database)
    await open_waiting_room(database, event)
    queue = random_queue(event, seed, 80)
    cut = await _commit_in_parts(database, event, queue.entries, sizes)
    assert cut == await _commit_in_parts(database, event, queue.entries, [1]), "as one by one"
    assert cut == await _commit_in_parts(database, event, queue.entries, [len(queue.entries) or 1]), "at once"
    assert cut["room"][0][:2] == (queue.tail, queue.serving)
    assert [row[0] for row in cut["places"] if row[3] is None] == sorted(queue.waiting)


# Publishing.


@pytest.mark.parametrize("mode", ["open", "lottery", None])
async def test_publishing_makes_the_room_and_commits_to_a_seed(
    database: Connection, mode: str | None
) -> None:
    event = await put_in_postgres(database)
    await database.execute("DELETE FROM edits")
    await database.execute("DELETE FROM cells")
    text = None if mode is None else f'{{"mode": "{mode}", "public_round": "round 7"}}'
    await database.execute("UPDATE events SET waiting_room = $1 WHERE id = $2", text, event.id)
    for _ in range(2):
        async with database.transaction():
            await publish_cell(database, event.id)
        rows = await database.fetch("SELECT * FROM waiting_rooms")
        if mode is None:
            assert rows == []
            continue
        (row,) = rows
        assert (row["event_ref"], row["cell"]) == ids.cell_of(event.id)
        assert (row["mode"], row["public_round"]) == (mode, "round 7")
        if mode == "open":
            assert (row["seed"], row["commitment"]) == (None, None)
        else:
            assert hashlib.sha256(row["seed"]).digest() == row["commitment"]
            assert any(row["seed"])
