"""A waiting room when Redis or the relay dies: order, passes and bound stay, and no number is given twice."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from engine import rebuild_queue, rebuild_slices
from engine.audit import audit
from engine.errors import InvalidState, QueuePassInvalid, RushError, ServiceUnavailable
from engine.lift import Lifter
from engine.settings import Settings
from tests.integration.books import differences
from tests.integration.by_hand import Crash, CrashBefore, recover, recovery_by_hand
from tests.integration.kit import Rig, changed, open_rig, until
from tests.integration.processes import Processes
from tests.integration.queues import ROOM, Person, Room, open_room
from tests.stores import RedisServer

Break = Callable[[RedisServer, Rig], Awaitable[None]]
PASSES_MAX = ROOM.passes_max
CALLS_MAX = 200


@pytest.fixture
def server(new_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis of this test's own."""
    return new_redis()


@pytest.fixture
async def rig(server: RedisServer, quick: Settings) -> AsyncIterator[Rig]:
    """On a Redis that may be broken."""
    async with open_rig(changed(quick, redis_url=server.url)) as opened:
        yield opened


async def restarted_with_its_data(server: RedisServer, rig: Rig) -> None:
    await server.restart_async(kill=True)


async def restarted_empty(server: RedisServer, rig: Rig) -> None:
    await server.restart_async(kill=True, empty=True)


async def flushed(server: RedisServer, rig: Rig) -> None:
    await rig.redis.flushall()


async def sound(rig: Rig, room: Room) -> None:
    """Nothing is violated, in Redis, in Postgres, or between them."""
    assert await differences(rig, room.event) == []
    report = (await audit(rig.stores, event_id=room.event.id)).events[0]
    assert (report.violations, report.problem) == ([], None)


async def stands(rig: Rig, room: Room, person: Person) -> bool:
    number = await rig.redis.hget(room.event.keys.places, person.user.bytes)
    return number is not None and int(number) == person.number


# In the middle of it.


class Crowd:
    """People who join, claim, reserve and leave, one behind the other, whatever dies meanwhile."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.people: list[Person] = []
        self.given: dict[int, UUID] = {}
        self.twice: list[int] = []
        self.outs: list[int] = []
        self._stop = asyncio.Event()

    async def joiner(self) -> None:
        """People come. Who is answered 503 asks again."""
        while not self._stop.is_set():
            person = await self.room.join()
            # A number is given twice if two people were ever told it.
            if self.given.setdefault(person.number, person.user) != person.user:
                self.twice.append(person.number)
            self.people.append(person)

    async def admitter(self) -> None:
        """What the admission worker does, all the time."""
        while not self._stop.is_set():
            self.outs.append((await self.room.admit()).out)
            await asyncio.sleep(0.005)

    async def buyer(self, every: int) -> None:
        """Of those who are let in everybody claims; some leave, some buy."""
        done = 0
        while not self._stop.is_set():
            await asyncio.sleep(0.005)
            if done >= len(self.people):
                continue
            person = self.people[done]
            with contextlib.suppress(RushError):
                # Somebody whose number was lost shows their ticket.
                person = await self.room.join(person.user, person.number)
                expires_at_ms = await self.room.claim(person)
                if done % every == 0:
                    await self.room.leave(person)
                else:
                    await self.room.reserve(person, expires_at_ms)
                done += 1

    async def run(self, breaks: Callable[[], Awaitable[None]], enough: int) -> None:
        """Until so many have come after it broke, and so many before."""
        tasks = [asyncio.create_task(self.joiner()) for _ in range(3)]
        tasks += [asyncio.create_task(self.admitter()), asyncio.create_task(self.buyer(4))]
        try:
            for _ in range(2):
                count = len(self.people) + enough
                await until(lambda count=count: len(self.people) >= count)  # type: ignore[misc]
                await breaks()
            count = len(self.people) + enough
            await until(lambda: len(self.people) >= count)
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "broken", [flushed, restarted_empty, restarted_with_its_data], ids=lambda each: each.__name__
)
async def test_in_the_middle_of_joins_claims_and_admissions_nobody_is_given_the_number_of_another(
    rig: Rig, server: RedisServer, broken: Break
) -> None:
    rig.work()
    room = await open_room(rig)
    crowd = Crowd(room)
    await crowd.run(lambda: broken(server, rig), 40)
    await rig.caught_up(room.event)
    assert crowd.twice == []
    assert max(crowd.outs) <= PASSES_MAX
    await sound(rig, room)
    # Each number has one owner in Postgres too, whoever lost theirs on the way.
    for person in crowd.people:
        owner = await rig.pool.fetchval(
            "SELECT user_id FROM queue_places WHERE event_ref = $1 AND number = $2",
            room.event.cell.event_ref,
            person.number,
        )
        assert owner in (None, person.user)


async def test_without_the_gap_a_number_is_given_twice(
    rig: Rig, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the same loss, and nothing left out."""
    monkeypatch.setattr("engine.rebuild.GAP_NUMBERS", 0)
    recovery = rig.work("recovery")
    room = await open_room(rig)
    lost = await room.people(3)
    await restarted_empty(server, rig)
    newcomer = await room.join()
    assert newcomer.number == lost[0].number
    assert newcomer.user != lost[0].user
    await recovery.stop()


# What is durable stays.


@pytest.mark.parametrize(
    "broken", [flushed, restarted_empty, restarted_with_its_data], ids=lambda each: each.__name__
)
async def test_order_passes_and_bound_stay_as_they_were(rig: Rig, server: RedisServer, broken: Break) -> None:
    rig.work()
    room = await open_room(rig)
    people = await room.people(14)
    await room.leave(people[4])
    assert (await room.admit()).people == PASSES_MAX
    first = await room.claim(people[0])
    await room.reserve(people[1], await room.claim(people[1]))
    before = await rig.caught_up(room.event)
    await broken(server, rig)
    await until(lambda: _is_later(rig, room, before.epoch))
    assert all([await stands(rig, room, person) for person in people if person != people[4]])
    assert await room.claim(people[0]) == first, "the same pass"
    with pytest.raises(InvalidState):
        await room.claim(people[1])
    with pytest.raises(InvalidState):
        await room.claim(people[9])
    # One pass was spent and one slot is free, whatever broke.
    admitted = await room.admit()
    assert (admitted.people, admitted.out, admitted.serving) == (1, PASSES_MAX, 10)
    assert await room.claim(people[9])
    await room.reserve(people[0], first)
    with pytest.raises(QueuePassInvalid):
        await room.reserve(people[0], first)
    newcomer = await room.join()
    # Also where all data is there: that its end is not, nobody could see.
    assert newcomer.number == 15 + rebuild_queue.GAP_NUMBERS
    assert (await room.join(people[7].user, people[7].number)).number == people[7].number
    await sound(rig, room)


async def _is_later(rig: Rig, room: Room, epoch: int) -> bool:
    with contextlib.suppress(ServiceUnavailable, OSError, Exception):
        position = await rig.position(room.event)
        return position is not None and position.epoch > epoch
    return False


async def test_who_was_in_the_lost_end_gets_their_number_back_by_their_ticket(
    rig: Rig, server: RedisServer
) -> None:
    rig.work()
    room = await open_room(rig)
    durable = await room.people(3)
    await rig.caught_up(room.event)
    await rig.close_workers()
    lost = await room.people(4)
    await restarted_empty(server, rig)
    rig.work()
    newcomer = await room.join()
    assert newcomer.number == 3 + rebuild_queue.GAP_NUMBERS + 1
    # In another order than they had come: places are by number all the same.
    for person in reversed(lost[1:]):
        assert await room.join(person.user, person.number) == person
    assert (await room.join(uuid4(), lost[1].number)).number > newcomer.number, "not theirs"
    without_ticket = await room.join(lost[0].user)
    assert without_ticket.number > newcomer.number
    await room.admit(6)
    for person in (*durable, *lost[1:]):
        await room.claim(person)
    with pytest.raises(InvalidState):
        await room.claim(newcomer)
    await sound(rig, room)


async def test_a_pass_whose_end_was_lost_counts_as_out_until_it_lapses(rig: Rig, server: RedisServer) -> None:
    rig.work()
    room = await open_room(rig)
    people = await room.people(PASSES_MAX + 2)
    await room.admit()
    passes = {person: await room.claim(person) for person in people[:PASSES_MAX]}
    await rig.caught_up(room.event)
    await rig.close_workers()
    await room.reserve(people[0], passes[people[0]])
    await restarted_empty(server, rig)
    rig.work()
    assert (await room.admit()).people == 0, "as many are out as may be"
    assert await rig.redis.zcard(room.event.keys.passes) == PASSES_MAX
    # The booking was lost with Redis, and the pass is good for another.
    await room.reserve(people[0], passes[people[0]])
    assert (await room.admit()).people == 1
    await sound(rig, room)


async def test_an_operator_who_rebuilds_a_sound_cell_leaves_no_gap(rig: Rig) -> None:
    recovery = rig.work()
    room = await open_room(rig)
    people = await room.people(3)
    before = await rig.caught_up(room.event)
    await recovery.stop()
    async with rebuilding(rig) as lifter:
        await lifter.rebuild_anew(room.event.cell, await lifter.look(), lambda _: None)
    rig.work()
    assert (await rig.caught_up(room.event)).epoch > before.epoch
    assert (await room.join()).number == 4
    assert all([await stands(rig, room, person) for person in people])
    await sound(rig, room)


@contextlib.asynccontextmanager
async def rebuilding(rig: Rig) -> AsyncIterator[Lifter]:
    """The hands of an operator."""
    async with rig.pool.acquire() as connection:
        yield Lifter(rig.stores, connection, rig.redis, lambda _: True)


# Postgres set back.


async def test_a_postgres_that_was_set_back_learns_the_queue_from_redis(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_slices, "PLACES_MAX", 1)
    recovery = rig.work()
    room = await open_room(rig)
    people = await room.people(6)
    await room.admit(4)
    first = await room.claim(people[0])
    await room.reserve(people[1], await room.claim(people[1]))
    await room.leave(people[2])
    position = await rig.caught_up(room.event)
    await recovery.stop()
    # As it was after five people of whom nobody had left, and what the ledger had from then on is trimmed.
    here = f"event_ref = {room.event.cell.event_ref}"
    await rig.pool.execute(f"UPDATE cells SET seq = 2 WHERE {here}")
    await rig.pool.execute(
        "UPDATE waiting_rooms SET tail = 5, serving = 0, admitted = 0, claimed = 0, spent = 0, units = 0 "
        f"WHERE {here}"
    )
    await rig.pool.execute(f"DELETE FROM queue_places WHERE number > 5 AND {here}")
    await rig.pool.execute(f"UPDATE queue_places SET ended_at = NULL WHERE {here}")
    await rig.pool.execute(f"DELETE FROM queue_passes WHERE {here}")
    await rig.pool.execute(f"DELETE FROM queue_waves WHERE {here}")
    await rig.pool.execute("DELETE FROM booking_items")
    await rig.pool.execute("DELETE FROM bookings")
    await rig.pool.execute(
        "UPDATE seat_zones SET available_seats = capacity, reserved = 0 WHERE event_id = $1", room.event.id
    )
    await rig.redis.xtrim(room.event.keys.ledger, minid=str(position), approximate=False)
    rig.work()
    await until(lambda: _is_later(rig, room, position.epoch))
    await sound(rig, room)
    # Nobody notices, also when Redis is then lost.
    await rig.redis.flushall()
    newcomer = await room.join()
    assert newcomer.number == 7 + 2 * rebuild_queue.GAP_NUMBERS
    assert await room.claim(people[0]) == first
    with pytest.raises(InvalidState):
        await room.claim(people[1])
    with pytest.raises(RushError):
        await room.claim(people[2])
    assert await stands(rig, room, people[5])
    await sound(rig, room)


# The relay.


WHERE = ["places", "ended_places", "claims", "passes", "waves", "waiting_room", "commit"]


@pytest.mark.parametrize("where", WHERE)
async def test_a_relay_killed_there_loses_nothing_and_counts_nothing_twice(
    rig: Rig, processes: Processes, where: str
) -> None:
    rig.settings = changed(rig.settings, relay_batch_entries_max=3)
    rig.work("recovery")
    room = await open_room(rig)
    people = await room.people(8)
    await room.leave(people[7])
    await room.admit(4)
    for person in people[:3]:
        expires_at_ms = await room.claim(person)
        if person != people[0]:
            await room.reserve(person, expires_at_ms)
    await room.leave(people[0])
    relay = processes.work_until(f"projection.after_{where}", 1, rig.settings, "relay")
    assert await relay.ended() == -signal.SIGKILL
    rig.work("relay")
    await rig.caught_up(room.event)
    totals = await rig.pool.fetchrow(
        "SELECT tail, serving, admitted, claimed, spent, units FROM waiting_rooms"
    )
    assert tuple(totals) == (8, 4, 4, 3, 2, 2)
    assert await rig.pool.fetchval("SELECT count(*) FROM queue_places WHERE ended_at IS NULL") == 6
    await sound(rig, room)


# A cell that is over.


async def test_a_closed_cell_leaves_nothing_of_its_queue_in_redis(rig: Rig) -> None:
    worker = rig.work()
    room = await open_room(rig)
    people = await room.people(5)
    await room.admit(2)
    await room.claim(people[0])
    await room.leave(people[1])
    await rig.caught_up(room.event)
    await worker.stop()
    await rig.pool.execute(
        "UPDATE events SET sale_start_at = now() - interval '9 days', sale_end_at = now() - interval '8 days'"
    )
    await rig.pool.execute("UPDATE cells SET updated_at = now() - interval '8 days'")
    async with rebuilding(rig) as lifter:
        await lifter.close_finished(1)
    assert await rig.pool.fetchval("SELECT closed_at IS NOT NULL FROM cells")
    assert [key async for key in rig.redis.scan_iter(match=room.event.keys.prefix + "*")] == []


# Recovery.


async def test_a_recovery_that_dies_anywhere_in_a_waiting_room_is_finished_by_the_next(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its calls to both stores: whatever was written by then, the waiting room is whole in the end."""
    monkeypatch.setattr(rebuild_slices, "PLACES_MAX", 3)
    # Many gaps are many numbers, and a cell with many numbers is rebuilt beside other work.
    monkeypatch.setattr("engine.rebuild.GAP_NUMBERS", 10)
    worker = rig.work()
    room = await open_room(rig)
    people = await room.people(7)
    await room.admit(3)
    expires_at_ms = await room.claim(people[0])
    await room.reserve(people[1], await room.claim(people[1]))
    await room.leave(people[5])
    await rig.caught_up(room.event)
    await worker.stop()
    keys = room.event.keys

    async def shape() -> tuple[object, ...]:
        queue = await rig.redis.hgetall(keys.queue)
        names = (b"serving", b"admitted", b"claimed", b"spent", b"units", b"unclaimed", b"w:3")
        return (
            await rig.redis.hgetall(keys.places),
            await rig.redis.zrange(keys.passes, 0, -1, withscores=True),
            await rig.redis.hgetall(keys.spent),
            await rig.redis.zrange(keys.waves, 0, -1),
            [queue.get(name) for name in names],
            int(queue[b"gone"]) == await rig.redis.bitcount(keys.gone),
        )

    before = await shape()
    for number in range(1, CALLS_MAX):
        await rig.redis.flushall()
        await rig.redis.script_flush()
        hook = CrashBefore(number)
        async with recovery_by_hand(rig, hook) as dying:
            with contextlib.suppress(Crash):
                await dying.step()
            calls = len(hook.calls)
            # The slice that was being read ahead is cancelled: that is over with the next answer.
            dying.connection.hook = None
            await dying.connection.fetchval("SELECT 1")
        await recover(rig, room.event)
        assert await shape() == before, hook.calls[number - 1 :]
        if calls < number:
            break
    else:
        pytest.fail("a step of recovery has too many calls")
    assert number > 20
    rig.work()
    assert await room.claim(people[0]) == expires_at_ms
    assert (await room.join()).number > 7 + 10
    await sound(rig, room)


# Another history.


@pytest.mark.parametrize("last", ["join", "leave", "claim", "admit"])
async def test_a_ledger_whose_last_entry_is_another_is_not_believed(rig: Rig, last: str) -> None:
    """So it is with a replica that was promoted without its end, and served before it was fenced."""
    worker = rig.work()
    room = await open_room(rig)
    people = await room.people(5)
    await room.admit(2)
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "join": room.join,
        "leave": lambda: room.leave(people[4]),
        "claim": lambda: room.claim(people[0]),
        "admit": lambda: room.admit(1),
    }
    await acts[last]()
    before = await rig.caught_up(room.event)
    await worker.stop()
    ledger = room.event.keys.ledger
    *entries, (end, fields) = await rig.redis.xrange(ledger)
    said = json.loads(fields[b"e"])
    assert said[0] == last
    said[{"join": 3, "leave": 2, "claim": 2, "admit": 3}[last]] = {
        "join": [str(uuid4())],
        "leave": str(people[3].user),
        "claim": str(people[1].user),
        "admit": 4,
    }[last]
    await rig.redis.delete(ledger)
    for position, one in [*entries, (end, {b"e": json.dumps(said).encode()})]:
        await rig.redis.xadd(ledger, one, id=position)
    await rig.redis.script_flush()
    rig.work()
    await until(lambda: _is_later(rig, room, before.epoch))
    gaps = await rig.redis.hget(room.event.keys.queue, "gaps")
    assert gaps, "it was rebuilt from Postgres"
    await sound(rig, room)
