"""What people do in a waiting room, through gateways that know nothing of each other, on real stores."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from engine.cells import CellDirectory, publish_cell, wait_until_open
from engine.errors import (
    InvalidState,
    NotFound,
    QueuePassInvalid,
    QueuePassRequired,
    RushError,
    SaleNotOpen,
)
from engine.stores import Stores, open_stores
from engine.waiting.calls import QueueCalls
from engine.waiting.joining import JOINS_MAX
from tests.integration.kit import OPEN_TIMEOUT_MS, Event, Rig, insert_event

ROOM: dict[str, Any] = {"mode": "open", "admissions_per_second": 100_000, "passes_max": 1_000}


async def queue_on_sale(rig: Rig, capacity: int = 100, **room: Any) -> Event:
    """An event on sale that has a waiting room; a recovery must be working."""
    event = await insert_event(rig.pool, [capacity], publish=False)
    text = msgspec.json.encode(ROOM | room).decode()
    async with rig.pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE events SET waiting_room = $2 WHERE id = $1", event.id, text)
        await publish_cell(connection, event.id)
    await wait_until_open(rig.stores, event.id, OPEN_TIMEOUT_MS)
    return event


@pytest.fixture
async def gateways(rig: Rig) -> AsyncIterator[list[QueueCalls]]:
    """Two of them, each with stores of its own."""
    stores: list[Stores] = [await open_stores(rig.settings) for _ in range(2)]
    try:
        yield [QueueCalls(each, CellDirectory(each)) for each in stores]
    finally:
        for each in stores:
            await each.close()


async def admit(rig: Rig, event: Event, people_max: int = 1_000) -> int:
    """Let people in; how many."""
    reply = await rig.stores.run("admit", event.keys.waiting_room, 1_000, 0, 100, people_max)
    return int(reply[3])


async def told(call: Any) -> str:
    """The name of what a call raises, or "" for an answer."""
    try:
        await call
    except RushError as error:
        return type(error).__name__
    return ""


async def test_one_person_has_one_number_whatever_gateway_they_ask(
    rig: Rig, gateways: list[QueueCalls]
) -> None:
    rig.work()
    event = await queue_on_sale(rig)
    users = [uuid4() for _ in range(150)]
    answers = await asyncio.gather(
        *[gateway.join(event.id, user) for user in users for gateway in gateways for _ in range(2)]
    )
    numbers = {user: {each.number for each in answers[4 * i : 4 * i + 4]} for i, user in enumerate(users)}
    assert {len(each) for each in numbers.values()} == {1}
    assert sorted(number for each in numbers.values() for number in each) == list(range(1, 151))
    assert sum(each.is_new for each in answers) == 150
    await rig.caught_up(event)


async def test_joins_of_one_tick_share_a_call_and_an_entry(rig: Rig, gateways: list[QueueCalls]) -> None:
    rig.work("recovery")
    event = await queue_on_sale(rig)
    await gateways[0].meet(event.id)
    before = await rig.redis.xlen(event.keys.ledger)
    await asyncio.gather(*[gateways[0].join(event.id, uuid4()) for _ in range(2 * JOINS_MAX + 1)])
    assert await rig.redis.xlen(event.keys.ledger) == before + 3


async def test_what_is_not_there_or_not_open_is_told(rig: Rig, gateways: list[QueueCalls]) -> None:
    rig.work("recovery")
    plain = await rig.sale()
    gateway, user = gateways[0], uuid4()
    for event_id in (uuid4(), plain.id, plain.show):
        for call in (gateway.join(event_id, user), gateway.leave(event_id, user, 1, 1)):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(NotFound):
            await gateway.claim(event_id, user, 1, 1)
    event = await queue_on_sale(rig, opens_at="2096-01-01T00:00:00Z")
    with pytest.raises(SaleNotOpen) as refused:
        await gateway.join(event.id, user)
    assert refused.value.details == {"status": "published", "opens_at": "2096-01-01T00:00:00.000Z"}


async def test_a_person_goes_all_the_way(rig: Rig, gateways: list[QueueCalls]) -> None:
    rig.work()
    event = await queue_on_sale(rig, passes_max=1)
    gateway, other = gateways
    bookings = await rig.gateway()
    alice, bob = uuid4(), uuid4()
    first, second = await gateway.join(event.id, alice), await gateway.join(event.id, bob)
    with pytest.raises(InvalidState) as waiting:
        await gateway.claim(event.id, alice, first.number, first.number)
    assert waiting.value.details == {"status": "waiting"}
    assert await admit(rig, event) == 1
    claimed = await gateway.claim(event.id, alice, first.number, first.number)
    again = await other.claim(event.id, alice, first.number, first.number)
    assert (claimed.is_new, again.is_new) == (True, False)
    assert again.expires_at_ms == claimed.expires_at_ms
    with pytest.raises(QueuePassRequired):
        await bookings.reserve(alice, event.items(), "k")
    with pytest.raises(QueuePassInvalid):
        await bookings.reserve(bob, event.items(), "k", str(claimed.expires_at_ms))
    answer = await bookings.reserve(alice, event.items(), "k", str(claimed.expires_at_ms))
    assert (await bookings.reserve(alice, event.items(), "k")).replayed
    with pytest.raises(InvalidState) as admitted:
        await gateway.claim(event.id, alice, first.number, first.number)
    assert admitted.value.details == {"status": "admitted"}
    await bookings.cancel(alice, answer.booking.id)
    assert await admit(rig, event) == 1
    with pytest.raises(InvalidState) as no_room:
        await gateway.claim(event.id, alice, first.number, first.number)
    assert no_room.value.retry_after_s == 1
    await other.leave(event.id, bob, second.number, second.number)
    assert (await gateway.claim(event.id, alice, first.number, first.number)).is_new
    with pytest.raises(NotFound):
        await gateway.leave(event.id, bob, second.number, second.number)
    await rig.caught_up(event)


async def test_one_pass_is_one_booking_in_two_gateways(rig: Rig, gateways: list[QueueCalls]) -> None:
    rig.work()
    event = await queue_on_sale(rig)
    bookings = [await rig.gateway() for _ in range(2)]
    users = [uuid4() for _ in range(20)]
    joined = await asyncio.gather(*[gateways[0].join(event.id, user) for user in users])
    assert await admit(rig, event) == 20

    async def push(user: UUID, number: int) -> list[str]:
        claimed = await gateways[number % 2].claim(event.id, user, number, number)
        shown = str(claimed.expires_at_ms)
        calls = [each.reserve(user, event.items(), None, shown) for each in bookings for _ in range(2)]
        return list(await asyncio.gather(*[told(call) for call in calls]))

    outcomes = await asyncio.gather(
        *[push(user, each.number) for user, each in zip(users, joined, strict=True)]
    )
    assert Counter(name for each in outcomes for name in each) == {"": 20, "QueuePassInvalid": 60}
    assert all(each.count("") == 1 for each in outcomes)
    await rig.caught_up(event)
    assert await rig.pool.fetchval("SELECT count(*) FROM bookings WHERE event_id = $1", event.id) == 20


async def test_a_restarted_redis_keeps_places_and_passes(rig: Rig, gateways: list[QueueCalls]) -> None:
    """All of it lost, and rebuilt: who has a number has it still, and a pass that was out is good."""
    rig.work()
    event = await queue_on_sale(rig, passes_max=2)
    gateway, bookings = gateways[0], await rig.gateway()
    users = [uuid4() for _ in range(5)]
    for user in users:
        await gateway.join(event.id, user)
    assert await admit(rig, event) == 2
    claimed = await gateway.claim(event.id, users[0], 1, 1)
    await rig.caught_up(event)
    await rig.redis.flushall()
    await rig.redis.script_flush()
    assert await told(gateway.join(event.id, users[0])) in ("Fenced", "StoreUnavailable", "")
    await wait_until_open(rig.stores, event.id, OPEN_TIMEOUT_MS)
    again = [await gateway.join(event.id, user) for user in users]
    assert [(each.number, each.is_new) for each in again] == [(number, False) for number in range(1, 6)]
    assert (await gateway.join(event.id, uuid4())).number == 10_006, "behind a gap"
    assert (await gateway.join(event.id, uuid4(), 7)).number == 7, "a signed number of the gap"
    assert await admit(rig, event) == 0, "the bound holds"
    assert (await gateway.claim(event.id, users[1], 2, 2)).is_new
    await bookings.reserve(users[0], event.items(), None, str(claimed.expires_at_ms))
    assert await admit(rig, event) == 1
    await rig.caught_up(event)
