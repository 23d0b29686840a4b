"""Redis restarted, emptied, flushed, full: 503 at once, then selling again, nothing confirmed lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from engine.bookings import Answer, Bookings
from engine.errors import RushError
from engine.settings import Settings
from tests.integration.books import LedgerWatch, differences
from tests.integration.kit import (
    HANGS_S,
    Event,
    Impatience,
    Rig,
    changed,
    confirm_patiently,
    confirmed_rows,
    open_rig,
    reserve_patiently,
    until,
)
from tests.stores import RedisServer


@pytest.fixture
def server(new_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis of this test's own."""
    return new_redis()


@pytest.fixture
async def rig(server: RedisServer, quick: Settings) -> AsyncIterator[Rig]:
    """On a Redis that may be broken."""
    async with open_rig(changed(quick, redis_url=server.url)) as opened:
        yield opened


Break = Callable[[RedisServer, Rig], Awaitable[None]]


async def restarted_with_its_data(server: RedisServer, rig: Rig) -> None:
    await server.restart_async(kill=True)


async def stopped_and_started_in_order(server: RedisServer, rig: Rig) -> None:
    await server.restart_async()


async def restarted_empty(server: RedisServer, rig: Rig) -> None:
    await server.restart_async(kill=True, empty=True)


async def flushed(server: RedisServer, rig: Rig) -> None:
    await rig.redis.flushall()


async def scripts_flushed(server: RedisServer, rig: Rig) -> None:
    await rig.redis.script_flush()


BREAKS = [
    restarted_with_its_data,
    stopped_and_started_in_order,
    restarted_empty,
    flushed,
    scripts_flushed,
]
KEEPS_DATA = [restarted_with_its_data, stopped_and_started_in_order, scripts_flushed]


class Buyer:
    """Somebody who presses with a key until it is answered, and confirms what they got."""

    def __init__(self, bookings: Bookings, event: Event, impatience: Impatience) -> None:
        self._bookings, self._event, self._impatience = bookings, event, impatience
        self.reserved: list[Answer] = []
        self.told_confirmed: set[UUID] = set()

    async def buy(self, until_set: asyncio.Event) -> None:
        """One booking after the other."""
        while not until_set.is_set():
            answer = await self._impatience.ask(
                self._bookings.reserve(uuid4(), self._event.items(), str(uuid4()))
            )
            if answer is not None:
                self.reserved.append(answer)
                await self._confirm(answer)
            await asyncio.sleep(0.005)

    async def _confirm(self, answer: Answer) -> None:
        booking = answer.booking
        try:
            confirmed = await self._impatience.ask(self._bookings.confirm(booking.user_id, booking.id))
        except RushError:
            return  # lost with Redis before it was durable: its buyer learns so now
        if confirmed is not None and confirmed.booking.durable:
            self.told_confirmed.add(booking.id)


async def _press(bookings: Bookings, event: Event, impatience: Impatience, until_set: asyncio.Event) -> None:
    while not until_set.is_set():
        await impatience.ask(bookings.reserve(uuid4(), event.items(), None))
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda each: each.__name__)
async def test_it_answers_503_at_once_and_sells_again_by_itself(
    rig: Rig, server: RedisServer, break_it: Break
) -> None:
    rig.work()
    rig.work("relay")
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale([100_000], max_per_user=2)
    watch = LedgerWatch(rig.settings, event)
    epoch = (await rig.offset(event)).epoch
    impatience, stop = Impatience(), asyncio.Event()
    buyers = [Buyer(gateways[number % 2], event, impatience) for number in range(6)]
    buying = [asyncio.create_task(buyer.buy(stop)) for buyer in buyers]
    # Whoever confirms may wait for all of the outage: one presses the button alone, and is told 503.
    buying.append(asyncio.create_task(_press(gateways[0], event, impatience, stop)))

    def sold() -> int:
        return sum(len(buyer.told_confirmed) for buyer in buyers)

    await until(lambda: sold() >= 20)
    await break_it(server, rig)
    await until(lambda: _epoch_after(rig, event, epoch), "a new epoch")
    before = sold()
    await until(lambda: sold() >= before + 20, "selling again")
    stop.set()
    await asyncio.gather(*buying)
    assert impatience.refused > 0
    assert impatience.longest_s < HANGS_S, "an answer was waited for"
    await rig.caught_up(event)
    told = set().union(*[buyer.told_confirmed for buyer in buyers])
    assert told <= await confirmed_rows(rig, event), "who was told 200 is confirmed"
    if break_it in KEEPS_DATA:
        reserved = {answer.booking.id for buyer in buyers for answer in buyer.reserved}
        rows = await rig.pool.fetch("SELECT id FROM bookings")
        assert reserved <= {row["id"] for row in rows}, "who was told 201 has a booking"
    assert await differences(rig, event) == []
    assert not watch.twice
    assert max(watch.epochs) > epoch
    await watch.close()


async def _epoch_after(rig: Rig, event: Event, epoch: int) -> bool:
    return (await rig.offset(event)).epoch > epoch


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda each: each.__name__)
async def test_a_waiting_confirm_is_answered_by_what_postgres_says(
    rig: Rig, server: RedisServer, break_it: Break
) -> None:
    """The relay is still: the confirm waits while Redis dies, and comes back or does not."""
    recovery = rig.work("recovery")
    relay = rig.work("relay")
    gateway = await rig.gateway(changed(rig.settings, confirm_wait_ms=20_000))
    event = await rig.sale()
    answer = await reserve_patiently(gateway, event, uuid4(), "mine")
    await rig.caught_up(event)
    await relay.stop()
    waiting = asyncio.create_task(gateway.confirm(answer.booking.user_id, answer.booking.id))
    await until(lambda: _status(rig, event, answer, "confirmed"), "confirmed in Redis")
    epoch = (await rig.offset(event)).epoch
    await break_it(server, rig)
    await until(lambda: _epoch_after(rig, event, epoch), "a new epoch")
    rig.work("relay")
    # Entries of the new epoch are announced, further than the waiter's own: they must not settle it.
    for _ in range(6):
        await reserve_patiently(gateway, event, uuid4(), str(uuid4()))
    await rig.caught_up(event)
    [outcome] = await asyncio.gather(waiting, return_exceptions=True)
    survived = answer.booking.id in await confirmed_rows(rig, event)
    assert survived == (break_it in KEEPS_DATA)
    if survived:
        assert isinstance(outcome, Answer)
        assert outcome.booking.durable
    else:
        # Either Redis never said that it was confirmed, or Postgres says that it was lost.
        assert isinstance(outcome, RushError)
        assert outcome.http_status == 503
    confirmed = await confirm_patiently(gateway, answer)
    assert answer.booking.id in await confirmed_rows(rig, event)
    assert confirmed.booking.durable
    await recovery.stop()
    assert await differences(rig, event) == []


async def _status(rig: Rig, event: Event, answer: Answer, status: str) -> bool:
    return await rig.status(event, answer) == status


async def test_a_hold_that_was_lost_before_it_was_durable_sold_nothing(rig: Rig, server: RedisServer) -> None:
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale([5])
    lost = [await gateway.reserve(uuid4(), event.items(), str(number)) for number in range(3)]
    await restarted_empty(server, rig)
    again = await reserve_patiently(gateway, event, uuid4(), "later", 4)
    assert again.booking.id not in {answer.booking.id for answer in lost}
    assert (await rig.counters(event))["available"] == 1
    with pytest.raises(RushError) as refused:
        await gateway.confirm(lost[0].booking.user_id, lost[0].booking.id)
    assert refused.value.http_status in (404, 410)
    # The same key finds out, and may be used again: it took nothing.
    retried = await gateway.reserve(lost[0].booking.user_id, event.items(), "0")
    assert not retried.replayed
    rig.work("relay")
    assert await differences(rig, event) == []


async def test_when_memory_is_full_seats_are_given_back_but_not_taken(rig: Rig, server: RedisServer) -> None:
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([100], hold_ttl_s=2)
    sold, given_back, _left = [await gateway.reserve(uuid4(), event.items(), None) for _ in range(3)]
    await rig.redis.config_set("maxmemory", 1)
    impatience = Impatience()
    assert await impatience.ask(gateway.reserve(uuid4(), event.items(), None)) is None
    assert (await confirm_patiently(gateway, sold)).booking.status == "confirmed"
    await gateway.cancel(given_back.booking.user_id, given_back.booking.id)
    await until(lambda: _counters_are(rig, event, available=99, confirmed=1), "the third has expired")
    assert impatience.longest_s < HANGS_S
    await rig.redis.config_set("maxmemory", 0)
    await impatience.until_selling(gateway, event)
    assert await differences(rig, event) == []


async def _counters_are(rig: Rig, event: Event, **expected: int) -> bool:
    counters = await rig.counters(event)
    return all(counters[name] == value for name, value in expected.items())


async def test_while_redis_hangs_nobody_is_told_anything_wrong(rig: Rig, server: RedisServer) -> None:
    rig.work()
    gateway = await rig.gateway(changed(rig.settings, hot_line_timeout_ms=300))
    event = await rig.sale()
    server.pause()
    impatience = Impatience()
    users = [uuid4() for _ in range(5)]
    for user in users:
        assert await impatience.ask(gateway.reserve(user, event.items(), "mine")) is None
    assert impatience.longest_s < HANGS_S
    server.resume()
    # The outcome was unknown; the key finds out, and nobody has two.
    for user in users:
        await reserve_patiently(gateway, event, user, "mine")
    assert (await rig.counters(event))["reserved"] == len(users)
    assert await differences(rig, event) == []
