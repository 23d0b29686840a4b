"""Deadlines: the deadline decides, whether the sweeper works or not."""

import time
from uuid import uuid4

import pytest

from engine.errors import InsufficientStock, ReservationExpired
from tests.integration.books import differences
from tests.integration.kit import Rig, confirm_patiently, until

HOLD_S = 2
GRACE_S = 1.0
LATE_S = 0.5
"""What a busy machine may add to a measured time."""


async def test_a_hold_is_free_again_within_a_second_of_its_deadline(rig: Rig) -> None:
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([1], hold_ttl_s=HOLD_S)
    answer = await gateway.reserve(uuid4(), event.items(), None)
    assert answer.booking.expires_at_ms - answer.booking.created_at_ms == HOLD_S * 1000
    await until(lambda: _available(rig, event, 1), "the seat is back")
    late_s = time.time() - answer.booking.expires_at_ms / 1000
    assert 0 <= late_s < GRACE_S + LATE_S
    with pytest.raises(ReservationExpired):
        await gateway.confirm(answer.booking.user_id, answer.booking.id)
    await rig.caught_up(event)
    assert (await gateway.get(answer.booking.user_id, answer.booking.id)).status == "expired"
    assert await differences(rig, event) == []


async def test_without_a_sweeper_the_next_reserve_takes_the_seat_back(rig: Rig) -> None:
    rig.work("recovery", "relay")
    gateway = await rig.gateway()
    event = await rig.sale([1], hold_ttl_s=HOLD_S)
    first = await gateway.reserve(uuid4(), event.items(), None)

    async def press() -> object:
        try:
            return await gateway.reserve(uuid4(), event.items(), None)
        except InsufficientStock:
            return None

    second = await until(press, "somebody else gets the seat")
    late_s = time.time() - first.booking.expires_at_ms / 1000
    assert 0 <= late_s < GRACE_S + LATE_S
    with pytest.raises(ReservationExpired):
        await gateway.confirm(first.booking.user_id, first.booking.id)
    await confirm_patiently(gateway, second)
    assert await differences(rig, event) == []


async def test_a_confirm_after_the_deadline_is_refused_although_nobody_swept(rig: Rig) -> None:
    rig.work("recovery", "relay")
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale([10], hold_ttl_s=1)
    answer = await gateways[0].reserve(uuid4(), event.items(), None)
    await until(lambda: time.time() * 1000 > answer.booking.expires_at_ms)
    for gateway in gateways:
        with pytest.raises(ReservationExpired):
            await gateway.confirm(answer.booking.user_id, answer.booking.id)
        with pytest.raises(ReservationExpired):
            await gateway.cancel(answer.booking.user_id, answer.booking.id)
    assert (await rig.counters(event))["reserved"] == 1, "nobody took it back"


async def test_two_sweepers_give_back_each_hold_once(rig: Rig) -> None:
    rig.work("recovery", "relay")
    gateway = await rig.gateway()
    event = await rig.sale([200], hold_ttl_s=1)
    for _ in range(150):
        await gateway.reserve(uuid4(), event.items(), None)
    rig.work("expiry")
    rig.work("expiry")
    await until(lambda: _available(rig, event, 200), "all seats are back")
    assert await differences(rig, event) == []
    assert await rig.pool.fetchval("SELECT count(*) FROM bookings WHERE status = 'expired'") == 150


async def _available(rig: Rig, event: object, seats: int) -> bool:
    return (await rig.counters(event))["available"] == seats  # type: ignore[arg-type]
