"""When a transition may be called durable: by announcements of its own epoch, or by its row."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from engine import durability, ids
from engine.durability import Announcement, Durability, Settled, announce
from engine.ids import CellId
from engine.keys import tag
from engine.ledger import Position
from engine.projection import commit_batch
from engine.stores import Stores
from tests.unit.books import Event, Life, put_in_postgres, to_batch

CELL = CellId(77, 0)
FAR_MS = 10_000


def heard(epoch: int, from_seq: int, seq: int, rejected: list[UUID] | None = None) -> Announcement:
    return Announcement(cell=tag(CELL), epoch=epoch, from_seq=from_seq, seq=seq, rejected=rejected or [])


@pytest.fixture
def deaf() -> Durability:
    """Neither listens nor asks: it knows only what a test lets it hear."""
    stores: Any = SimpleNamespace(line=SimpleNamespace(connections=1))
    return Durability(stores)


def waiting(durable: Durability, epoch: int, seq: int, booking: UUID | None = None) -> asyncio.Task[Settled]:
    wait = durable.wait(CELL, Position(epoch, seq), booking or uuid4(), 2, FAR_MS)
    return asyncio.create_task(wait)


async def settled(*tasks: asyncio.Task[Settled]) -> list[Settled | None]:
    """What each wait has come to by now; None: it still waits."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return [task.result() if task.done() else None for task in tasks]


@pytest.fixture(autouse=True)
async def nothing_waits_on() -> AsyncIterator[None]:
    yield
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        if task.get_coro().__qualname__ == "Durability.wait":  # type: ignore[union-attr]
            task.cancel()


# --- announcements


async def test_one_announcement_settles_every_waiter_up_to_there(deaf: Durability) -> None:
    tasks = [waiting(deaf, 1, seq) for seq in (3, 5, 6)]
    await settled(*tasks)
    deaf.hear(heard(1, 2, 5))
    assert await settled(*tasks) == [Settled.DURABLE, Settled.DURABLE, None]
    deaf.hear(heard(1, 5, 9))
    assert await settled(tasks[2]) == [Settled.DURABLE]


async def test_an_announcement_that_came_before_the_wait_settles_it_at_once(deaf: Durability) -> None:
    deaf.hear(heard(1, 2, 5))
    assert deaf.is_known(CELL, Position(1, 4))
    assert await settled(waiting(deaf, 1, 4), waiting(deaf, 1, 5)) == [Settled.DURABLE] * 2


@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize(("epoch", "seq"), [(1, 7), (3, 7), (2, 3), (2, 12)])
async def test_an_announcement_says_nothing_of_what_it_does_not_cover(
    deaf: Durability, epoch: int, seq: int, is_early: bool
) -> None:
    """Another epoch, what was before it, and what comes after it."""
    if is_early:
        deaf.hear(heard(2, 3, 9))
    task = waiting(deaf, epoch, seq)
    await settled(task)
    if not is_early:
        deaf.hear(heard(2, 3, 9))
    assert await settled(task) == [None]
    assert not deaf.is_known(CELL, Position(epoch, seq))


async def test_an_announcement_is_for_its_cell_only(deaf: Durability) -> None:
    task = asyncio.create_task(deaf.wait(CellId(78, 0), Position(1, 3), uuid4(), 2, FAR_MS))
    await settled(task)
    deaf.hear(heard(1, 0, 9))
    assert await settled(task) == [None]


async def test_after_a_gap_only_what_follows_it_is_known(deaf: Durability) -> None:
    deaf.hear(heard(1, 0, 5))
    deaf.hear(heard(1, 8, 10))
    assert [deaf.is_known(CELL, Position(1, seq)) for seq in (5, 6, 8, 9, 10, 11)] == [
        False,
        False,
        False,
        True,
        True,
        False,
    ]


async def test_an_old_announcement_that_comes_late_takes_nothing_back(deaf: Durability) -> None:
    deaf.hear(heard(2, 0, 5))
    deaf.hear(heard(1, 90, 99))
    deaf.hear(heard(2, 0, 3))
    assert deaf.is_known(CELL, Position(2, 5))
    assert not deaf.is_known(CELL, Position(1, 95))
    assert not deaf.is_known(CELL, Position(2, 6))


async def test_without_the_comparison_of_epochs_a_lost_confirm_would_be_called_durable(
    deaf: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(epoch: int, seq: int) -> Position:
        return Position(0, seq)

    monkeypatch.setattr(durability, "Position", blind)
    task = asyncio.create_task(deaf.wait(CELL, blind(1, 7), uuid4(), 2, FAR_MS))
    await settled(task)
    deaf.hear(heard(2, 0, 9))
    assert await settled(task) == [Settled.DURABLE], "the wrong answer that the epoch is there to prevent"


# --- rejected bookings


async def test_a_rejected_booking_is_never_durable(deaf: Durability) -> None:
    bad, good = uuid4(), uuid4()
    tasks = [waiting(deaf, 1, 3, bad), waiting(deaf, 1, 4, good)]
    await settled(*tasks)
    deaf.hear(heard(1, 2, 5, [bad]))
    assert await settled(*tasks) == [Settled.REJECTED, Settled.DURABLE]
    replay = waiting(deaf, 1, 3, bad)
    assert await settled(replay) == [Settled.REJECTED], "also for a replay that comes later"
    deaf.hear(heard(1, 5, 6))
    assert await settled(waiting(deaf, 1, 6, bad)) == [Settled.REJECTED], "and for its later entries"
    assert not deaf.is_durable(CELL, Position(1, 6), bad), "a cancel of it is told the same"
    assert deaf.is_durable(CELL, Position(1, 4), good)


async def test_where_a_rejected_one_is_forgotten_nothing_is_known_any_more(
    deaf: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "REJECTED_MAX", 2)
    bad = [uuid4() for _ in range(3)]
    deaf.hear(heard(1, 0, 5, bad[:2]))
    assert deaf.is_known(CELL, Position(1, 5))
    deaf.hear(heard(1, 5, 6, bad[2:]))
    assert not deaf.is_known(CELL, Position(1, 3)), "the first of them could be answered as durable"


async def test_a_new_connection_of_the_hot_line_may_lead_to_another_history(deaf: Durability) -> None:
    deaf.hear(heard(1, 0, 5))
    deaf._stores.line.connections += 1  # type: ignore[misc]
    assert not deaf.is_known(CELL, Position(1, 3))
    assert await settled(waiting(deaf, 1, 3)) == [None]


# --- time


async def test_silence_is_answered_by_not_yet(deaf: Durability) -> None:
    assert await deaf.wait(CELL, Position(1, 3), uuid4(), 2, 20) == Settled.NOT_YET
    assert deaf._waiters == {}, "nobody is left behind"


async def test_a_cancelled_wait_leaves_nothing_behind(deaf: Durability) -> None:
    tasks = [waiting(deaf, 1, 3), waiting(deaf, 1, 3)]
    await settled(*tasks)
    tasks[0].cancel()
    assert (await asyncio.gather(*tasks[:1], return_exceptions=True))[0].__class__ is asyncio.CancelledError
    deaf.hear(heard(1, 2, 3))
    assert await settled(tasks[1]) == [Settled.DURABLE]
    assert deaf._waiters == {}


# --- what Postgres says


@pytest.fixture
async def durable(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Durability]:
    """Listens to the real Redis and asks the real Postgres, at once after a short silence."""
    monkeypatch.setattr(durability, "SILENCE_MAX_S", 0.05)
    monkeypatch.setattr(durability, "POLL_INTERVAL_S", 0.02)
    opened = Durability(stores)
    await opened.start()
    async with asyncio.timeout(10):
        while (await stores.redis.pubsub_numsub(durability.keys.ANNOUNCEMENTS))[0][1] == 0:
            await asyncio.sleep(0.01)
    yield opened
    await opened.close()


@pytest.fixture
async def event(database: asyncpg.Connection) -> Event:
    return await put_in_postgres(database)


async def begin_epoch(database: asyncpg.Connection, event: Event, epoch: int) -> None:
    await database.execute("UPDATE cells SET epoch = $2, seq = 0 WHERE event_id = $1", event.id, epoch)


async def test_a_real_announcement_settles_a_real_wait(
    durable: Durability, stores: Stores, event: Event
) -> None:
    wait = asyncio.create_task(durable.wait(event.cell_id, Position(1, 2), uuid4(), 2, FAR_MS))
    await announce(stores.redis, event.cell_id, Position(1, 0), Position(1, 2), [])
    assert await wait == Settled.DURABLE


async def test_what_nobody_announced_is_asked_of_postgres(
    durable: Durability, database: asyncpg.Connection, event: Event
) -> None:
    life = Life(event)
    await commit_batch(database, to_batch(event, [life.reserve(), life.confirm()]))
    assert await durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS) == Settled.DURABLE


async def test_what_is_not_committed_is_not_yet_durable(
    durable: Durability, database: asyncpg.Connection, event: Event
) -> None:
    life = Life(event)
    await commit_batch(database, to_batch(event, [life.reserve()]))
    assert await durable.wait(event.cell_id, Position(1, 2), life.id, 2, 300) == Settled.NOT_YET


async def test_what_comes_to_postgres_during_the_wait_is_found(
    durable: Durability, database: asyncpg.Connection, event: Event
) -> None:
    life = Life(event)
    wait = asyncio.create_task(durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS))
    await asyncio.sleep(0.1)
    await commit_batch(database, to_batch(event, [life.reserve(), life.confirm()]))
    assert await wait == Settled.DURABLE


async def test_before_a_gap_in_the_announcements_postgres_is_asked_without_waiting_for_silence(
    durable: Durability, database: asyncpg.Connection, event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "SILENCE_MAX_S", 3_600)
    life = Life(event)
    wait = asyncio.create_task(durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS))
    await asyncio.sleep(0)
    await commit_batch(database, to_batch(event, [life.reserve(), life.confirm()]))
    durable.hear(Announcement(cell=tag(event.cell_id), epoch=1, from_seq=5, seq=6))
    assert await wait == Settled.DURABLE


async def test_an_entry_that_was_lost_with_its_epoch_is_rejected(
    durable: Durability, database: asyncpg.Connection, stores: Stores, event: Event
) -> None:
    life = Life(event)
    await commit_batch(database, to_batch(event, [life.reserve()]))
    wait = asyncio.create_task(durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS))
    await begin_epoch(database, event, 2)
    await announce(stores.redis, event.cell_id, Position(2, 0), Position(2, 5), [])
    assert await wait == Settled.REJECTED


async def test_an_entry_that_survived_its_epoch_is_durable_by_its_row(
    durable: Durability, database: asyncpg.Connection, stores: Stores, event: Event
) -> None:
    life = Life(event)
    await commit_batch(database, to_batch(event, [life.reserve(), life.confirm()]))
    await begin_epoch(database, event, 2)
    await announce(stores.redis, event.cell_id, Position(2, 0), Position(2, 5), [])
    assert await durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS) == Settled.DURABLE


async def test_a_rejected_booking_is_rejected_by_postgres_as_well(
    durable: Durability, database: asyncpg.Connection, event: Event
) -> None:
    life = Life(event, quantity=1_000)
    assert await commit_batch(database, to_batch(event, [life.reserve(), life.confirm()])) == [life.id]
    assert await durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS) == Settled.REJECTED


@pytest.mark.parametrize("verb", ["cancel", "expire"])
async def test_another_transition_with_the_same_version_is_not_the_one_that_was_lost(
    durable: Durability, database: asyncpg.Connection, event: Event, verb: str
) -> None:
    """The confirm was lost with Redis; in the next epoch the hold ended, and that made version 2 too."""
    life = Life(event)
    await commit_batch(database, to_batch(event, [life.reserve()]))
    await begin_epoch(database, event, 2)
    await commit_batch(database, to_batch(event, [life.give_back(verb)], epoch=2))
    assert await durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS) == Settled.REJECTED


async def test_a_later_transition_of_the_same_epoch_stands_for_the_earlier(
    durable: Durability, database: asyncpg.Connection, event: Event
) -> None:
    life = Life(event)
    lines = [life.reserve(), life.confirm(), life.give_back("cancel", "confirmed")]
    await commit_batch(database, to_batch(event, lines))
    assert await durable.wait(event.cell_id, Position(1, 2), life.id, 2, FAR_MS) == Settled.DURABLE


async def test_who_waits_while_it_closes_is_told_that_it_is_not_known(stores: Stores, event: Event) -> None:
    closing = Durability(stores)
    await closing.start()
    wait = asyncio.create_task(closing.wait(event.cell_id, Position(1, 2), uuid4(), 2, FAR_MS))
    await asyncio.sleep(0.05)
    await closing.close()
    assert await wait == Settled.NOT_YET


async def test_many_waiters_are_settled_by_one_question(
    durable: Durability, database: asyncpg.Connection, event: Event
) -> None:
    lives = [Life(event) for _ in range(20)]
    entries = [life.reserve() for life in lives]
    await commit_batch(database, to_batch(event, entries))
    waits = [
        durable.wait(event.cell_id, Position(1, seq), life.id, 1, FAR_MS) for seq, life in enumerate(lives, 1)
    ]
    absent = durable.wait(ids.cell_of(ids.new_event_id()), Position(1, 1), uuid4(), 1, 300)
    assert await asyncio.gather(*waits, absent) == [Settled.DURABLE] * 20 + [Settled.NOT_YET]
