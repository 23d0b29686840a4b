"""Admission with real stores: two workers and two gateways keep the bound, whatever dies."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis

from engine.bookings import Bookings
from engine.cells import CellDirectory, publish_cell, wait_until_open
from engine.errors import InvalidState, NotFound, RushError, ServiceUnavailable
from engine.settings import Settings
from engine.stores import Stores, open_stores
from engine.waiting.calls import QueueCalls
from engine.waiting.settings import StoredRoom, room_text
from loadtest.simulation.observer import Observer
from loadtest.simulation.options import Plan
from tests.integration.kit import OPEN_TIMEOUT_MS, Event, Rig, changed, insert_event, open_rig, until
from tests.integration.processes import Processes
from tests.stores import RedisServer

PEOPLE, SEATS, PASSES_MAX = 40, 200, 4
ROOM = StoredRoom(
    mode="open",
    admissions_per_second=1_000.0,
    passes_max=PASSES_MAX,
    pass_ttl_seconds=5,
    claim_grace_seconds=1,
)
NO_SHOWS = 4
WAIT_S = 0.05
"""Before somebody who waits asks again."""


async def put_on_sale(rig: Rig, room: StoredRoom = ROOM, seats: int = SEATS) -> Event:
    """An event with a waiting room; a recovery must be working."""
    event = await insert_event(rig.pool, (seats,), publish=False)
    await rig.pool.execute("UPDATE events SET waiting_room = $2 WHERE id = $1", event.id, room_text(room))
    async with rig.pool.acquire() as connection, connection.transaction():
        await publish_cell(connection, event.id)
    await wait_until_open(rig.stores, event.id, OPEN_TIMEOUT_MS)
    return event


class Gate:
    """What a gateway process has: the queue and the bookings, on stores of their own."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.queue = QueueCalls(stores, CellDirectory(stores))
        self.bookings = Bookings(stores)

    async def close(self) -> None:
        await self.bookings.close()
        await self._stores.close()


@contextlib.asynccontextmanager
async def two_gates(settings: Settings) -> AsyncIterator[list[Gate]]:
    gates = [Gate(await open_stores(settings)) for _ in range(2)]
    try:
        for gate in gates:
            await gate.bookings.start()
        yield gates
    finally:
        for gate in gates:
            await gate.close()


async def patiently(ask: Callable[[], Any]) -> Any:
    """The answer, asked for again after every 503."""
    while True:
        try:
            return await ask()
        except ServiceUnavailable:
            await asyncio.sleep(0.02)


class Crowd:
    """People who join one after the other, wait, claim and reserve; those who do not come are the first."""

    def __init__(self, event: Event, gates: list[Gate]) -> None:
        self._event = event
        self._gates = gates
        self.numbers: dict[UUID, int] = {}
        self.with_seats: list[int] = []
        self.passed_over: list[UUID] = []

    async def join(self, people: int = PEOPLE) -> None:
        for turn in range(people):
            user, queue = uuid4(), self._gates[turn % 2].queue
            joined = await patiently(lambda user=user, queue=queue: queue.join(self._event.id, user))
            self.numbers[user] = joined.number

    async def want_seats(self, no_shows: int = NO_SHOWS) -> None:
        """Everybody but the first ones, at the same time."""
        people = list(self.numbers)
        self.passed_over = people[:no_shows]
        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            for turn, user in enumerate(people[no_shows:]):
                group.create_task(self._go(user, self._gates[turn % 2]))

    async def _go(self, user: UUID, gate: Gate) -> None:
        number, event = self.numbers[user], self._event
        while True:
            try:
                claimed = await patiently(lambda: gate.queue.claim(event.id, user, number, number))
                break
            except InvalidState:
                await asyncio.sleep(WAIT_S)
        shown = str(claimed.expires_at_ms)
        await patiently(lambda: gate.bookings.reserve(user, event.items(1), "key", queue_pass=shown))
        self.with_seats.append(number)


class Counted:
    """Counts from the outside what is out while it runs, and afterwards once more, by the ledger."""

    def __init__(self, rig: Rig, event: Event) -> None:
        self._rig = rig
        self._event = event
        self._is_over = False
        self._task = asyncio.create_task(self._count())
        self.most = self.looks = 0

    async def _count(self) -> None:
        keys = self._event.keys
        while not self._is_over:
            with contextlib.suppress(redis.RedisError, OSError):
                async with self._rig.redis.pipeline(transaction=True) as pipeline:
                    pipeline.time()
                    pipeline.zrange(keys.passes, 0, -1, withscores=True)
                    pipeline.hget(keys.queue, "unclaimed")
                    (seconds, micros), passes, unclaimed = await pipeline.execute()
                now_ms = seconds * 1000 + micros / 1000
                living = sum(expires_at_ms > now_ms for _, expires_at_ms in passes)
                self.most = max(self.most, living + int(unclaimed or 0))
                self.looks += 1
            await asyncio.sleep(0.02)

    async def observer(self, people: int = PEOPLE) -> Observer:
        """What the ledger says of the whole sale."""
        self._is_over = True
        await self._task
        entries = await self._rig.redis.xrange(self._event.keys.ledger)
        plan = Plan(people=people, seats=SEATS, passes_max=PASSES_MAX, claim_grace_s=ROOM.claim_grace_seconds)
        seen = Observer(plan, lambda number: number)
        for _, fields in entries:
            seen.read(fields[b"e"])
        return seen


async def _check(counted: Counted, crowd: Crowd) -> None:
    """All who came have seats, in order, and never were more out than may be."""
    seen = await counted.observer()
    assert seen.problems == []
    assert 0 < counted.most <= PASSES_MAX
    assert 0 < seen.out_most <= PASSES_MAX
    assert counted.looks > 20
    came = sorted(number for user, number in crowd.numbers.items() if user not in crowd.passed_over)
    assert sorted(crowd.with_seats) == came
    assert sorted(crowd.numbers.values()) == list(range(1, PEOPLE + 1))


async def test_two_workers_and_two_gateways_let_in_no_more_than_the_bound(rig: Rig) -> None:
    rig.work("recovery", "relay")
    event = await put_on_sale(rig)
    async with two_gates(rig.settings) as gates:
        crowd, counted = Crowd(event, gates), Counted(rig, event)
        await crowd.join()
        rig.work("admission")
        rig.work("admission")
        await crowd.want_seats()
        await _check(counted, crowd)


@pytest.mark.parametrize("freeze", [False, True], ids=["killed", "frozen"])
@pytest.mark.parametrize("number", [1, 3])
async def test_a_worker_that_dies_or_freezes_after_it_let_people_in_changes_nothing(
    rig: Rig, processes: Processes, number: int, freeze: bool
) -> None:
    rig.work("recovery", "relay")
    event = await put_on_sale(rig)
    async with two_gates(rig.settings) as gates:
        crowd, counted = Crowd(event, gates), Counted(rig, event)
        await crowd.join()
        struck = processes.work_until(
            "admission.after_admit", number, rig.settings, "admission", freeze=freeze
        )
        wanting = asyncio.create_task(crowd.want_seats())
        await until(lambda: struck.is_frozen if freeze else struck.code is not None, "the blow")
        rig.work("admission")
        if freeze:
            await until(lambda: len(crowd.with_seats) > PEOPLE // 4, "others go on")
            struck.signal(signal.SIGCONT)
        await wanting
        await _check(counted, crowd)


async def test_after_a_restart_of_redis_the_queue_goes_on_where_it_was(
    new_redis: Callable[..., RedisServer], quick: Settings
) -> None:
    server = new_redis()
    async with open_rig(changed(quick, redis_url=server.url)) as rig:
        rig.work("recovery", "relay", "admission")
        rig.work("admission")
        event = await put_on_sale(rig)
        async with two_gates(rig.settings) as gates:
            crowd, counted = Crowd(event, gates), Counted(rig, event)
            await crowd.join()
            wanting = asyncio.create_task(crowd.want_seats())
            await until(lambda: len(crowd.with_seats) >= PEOPLE // 4, "some have seats")
            await server.restart_async(kill=True)
            await wanting
            await _check(counted, crowd)
            for user, number in crowd.numbers.items():
                if user not in crowd.passed_over:
                    again = await patiently(lambda user=user: gates[0].queue.join(event.id, user))
                    assert (again.number, again.is_new) == (number, False)


async def test_who_does_not_come_is_passed_over_and_may_come_late(rig: Rig) -> None:
    rig.work("recovery", "relay", "admission")
    event = await put_on_sale(rig)
    async with two_gates(rig.settings) as gates:
        crowd = Crowd(event, gates)
        await crowd.join(PASSES_MAX + 2)
        # Those behind can only come once the slots of the first ones are free again.
        await crowd.want_seats(no_shows=PASSES_MAX)
        late = crowd.passed_over[0]
        claimed = await gates[0].queue.claim(event.id, late, crowd.numbers[late], crowd.numbers[late])
        assert claimed.is_new


async def test_a_pass_that_runs_out_ends_the_place(rig: Rig) -> None:
    rig.work("recovery", "relay", "admission")
    event = await put_on_sale(rig)
    async with two_gates(rig.settings) as (gate, _):
        user = uuid4()
        number = (await gate.queue.join(event.id, user)).number

        async def claim() -> bool:
            try:
                return bool(await gate.queue.claim(event.id, user, number, number))
            except InvalidState:
                return False

        await until(claim, "served")

        async def has_lapsed() -> bool:
            return int(await rig.redis.hget(event.keys.queue, "lapsed") or 0) == 1

        await until(has_lapsed, "the worker takes the pass back")
        with pytest.raises(NotFound):
            await gate.queue.claim(event.id, user, number, number)
        assert (await gate.queue.join(event.id, user)).number == number + 1


async def test_a_sold_out_sale_lets_nobody_in(rig: Rig) -> None:
    rig.work("recovery", "relay", "admission")
    event = await put_on_sale(rig, seats=2)
    async with two_gates(rig.settings) as gates:
        crowd = Crowd(event, gates)
        await crowd.join(6)
        first = list(crowd.numbers)[:1]

        async def take_all() -> bool:
            number = crowd.numbers[first[0]]
            try:
                claimed = await gates[0].queue.claim(event.id, first[0], number, number)
            except InvalidState:
                return False
            shown = str(claimed.expires_at_ms)
            await gates[0].bookings.reserve(first[0], event.items(2), "key", queue_pass=shown)
            return True

        await until(take_all, "the first one has both seats")
        serving = int(await rig.redis.hget(event.keys.queue, "serving") or 0)
        # The basket that is presumed lets one in for two seats.
        assert serving == 1
        for user, number in list(crowd.numbers.items())[1:]:
            with pytest.raises(RushError):
                await gates[1].queue.claim(event.id, user, number, number)
