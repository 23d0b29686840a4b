"""The same Idempotency-Key, pressed many times at once."""

import asyncio
from uuid import uuid4

import msgspec
import pytest

from engine.errors import IdempotencyKeyReused
from tests.integration.books import differences
from tests.integration.kit import Rig, confirm_patiently


async def test_one_key_a_hundred_times_across_two_gateways_is_one_booking(rig: Rig) -> None:
    rig.work()
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale([1000])
    user = uuid4()
    answers = await asyncio.gather(
        *[gateways[number % 2].reserve(user, event.items(2), "again") for number in range(100)]
    )
    assert [answer.replayed for answer in answers].count(False) == 1
    assert len({msgspec.json.encode(answer.booking) for answer in answers}) == 1
    counters = await rig.counters(event)
    assert (counters["reserved"], counters["available"]) == (2, 998)
    with pytest.raises(IdempotencyKeyReused):
        await gateways[0].reserve(user, event.items(1), "again")
    with pytest.raises(IdempotencyKeyReused):
        await gateways[1].reserve(user, event.items(3), "again")
    assert await differences(rig, event) == []


async def test_a_key_belongs_to_its_user_and_its_event(rig: Rig) -> None:
    rig.work()
    gateway = await rig.gateway()
    events = [await rig.sale(), await rig.sale()]
    users = [uuid4(), uuid4()]
    answers = [await gateway.reserve(user, event.items(), "mine") for user in users for event in events]
    assert len({answer.booking.id for answer in answers}) == 4
    assert not any(answer.replayed for answer in answers)


async def test_confirming_a_hundred_times_at_once_sells_once(rig: Rig) -> None:
    rig.work()
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale()
    answer = await gateways[0].reserve(uuid4(), event.items(), "mine")
    confirmed = await asyncio.gather(
        *[confirm_patiently(gateways[number % 2], answer) for number in range(100)]
    )
    assert len({msgspec.json.encode(each.booking) for each in confirmed}) == 1
    assert (await rig.counters(event))["confirmed"] == 1
    # Pressing reserve again shows the booking as it was first answered.
    replay = await gateways[1].reserve(answer.booking.user_id, event.items(), "mine")
    assert replay.replayed
    assert (replay.booking.status, replay.booking.confirmation_code) == ("reserved", None)
    assert await differences(rig, event) == []
