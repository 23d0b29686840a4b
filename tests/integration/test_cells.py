"""Cells: published over an old row, half deleted, edited while closed, forged."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from engine import ids
from engine.booking import ItemRequest
from engine.cells import publish_cell, wait_until_open
from engine.edits import Edits, Intent, SaleEdit, ZoneEdit
from engine.errors import InsufficientStock, InvalidState, NotFound, SaleNotOpen, ServiceUnavailable
from tests.integration.books import differences
from tests.integration.kit import (
    OPEN_TIMEOUT_MS,
    Event,
    Impatience,
    Rig,
    confirm_patiently,
    confirmed_rows,
    insert_event,
    until,
)


async def test_publishing_over_an_old_row_asks_recovery_and_goes_on_behind_its_epoch(rig: Rig) -> None:
    event = await insert_event(rig.pool, publish=False)
    ref, cell = event.cell
    await rig.pool.execute(
        "INSERT INTO cells (event_ref, cell, event_id, epoch, seq, replid) "
        "VALUES ($1, $2, $3, 7, 40, 'gone')",
        ref,
        cell,
        event.id,
    )
    rig.work()
    async with rig.pool.acquire() as connection, connection.transaction():
        await publish_cell(connection, event.id)
    await wait_until_open(rig.stores, event.id, OPEN_TIMEOUT_MS)
    gateway = await rig.gateway()
    answer = await gateway.reserve(uuid4(), event.items(), None)
    assert answer.booking.position.epoch > 7
    await confirm_patiently(gateway, answer)
    assert await differences(rig, event) == []


async def test_publishing_twice_changes_nothing(rig: Rig) -> None:
    rig.work()
    event = await rig.sale()
    gateway = await rig.gateway()
    await gateway.reserve(uuid4(), event.items(), None)
    before = await rig.caught_up(event)
    async with rig.pool.acquire() as connection, connection.transaction():
        await publish_cell(connection, event.id)
    other = await rig.sale()  # recovery has been round
    await gateway.reserve(uuid4(), other.items(), None)
    assert await rig.caught_up(event) == before


async def _sale_alone(rig: Rig, event: Event) -> None:
    await rig.redis.delete(event.keys.sale)


async def _half_of_sale(rig: Rig, event: Event) -> None:
    await rig.redis.hdel(event.keys.sale, "seq", "time_ms")


async def _another_epoch(rig: Rig, event: Event) -> None:
    await rig.redis.hset(event.keys.sale, "epoch", 1_000_000)


@pytest.mark.parametrize("damage", [_sale_alone, _half_of_sale, _another_epoch])
async def test_a_damaged_cell_comes_back_by_itself(
    rig: Rig, damage: Callable[[Rig, Event], Awaitable[None]]
) -> None:
    rig.work()
    gateway = await rig.gateway()
    event, other = await rig.sale(), await rig.sale()
    sold = await gateway.reserve(uuid4(), event.items(), "sold")
    await confirm_patiently(gateway, sold)
    held = await gateway.reserve(uuid4(), event.items(2), "held")
    await rig.caught_up(event)
    before, elsewhere = await rig.offset(event), await rig.offset(other)
    await damage(rig, event)

    async def is_open_anew() -> bool:
        position = await rig.position(event)
        return before.epoch < (await rig.offset(event)).epoch == (position and position.epoch)

    await until(is_open_anew, "the cell is open in a new epoch")
    await Impatience().until_selling(gateway, event)
    await confirm_patiently(gateway, held)
    assert (await rig.offset(other)).epoch == elsewhere.epoch, "nobody else was disturbed"
    assert await differences(rig, event) == []


async def test_a_ledger_with_a_gap_is_fenced_and_nothing_of_it_is_lost(rig: Rig) -> None:
    """The entries are gone before the relay has seen them; the bookings themselves are still there."""
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale()
    answers = [await gateway.reserve(uuid4(), event.items(), f"key {number}") for number in range(5)]
    await rig.redis.delete(event.keys.ledger)
    answers.append(await gateway.reserve(uuid4(), event.items(), "the first after the gap"))
    epoch = (await rig.offset(event)).epoch
    rig.work("relay")
    for answer in answers:
        await confirm_patiently(gateway, answer)
    assert (await rig.offset(event)).epoch > epoch
    assert await confirmed_rows(rig, event) == {answer.booking.id for answer in answers}
    assert await differences(rig, event) == []


async def _flush_all(rig: Rig) -> None:
    await rig.redis.flushall()


async def _flush_all_and_scripts(rig: Rig) -> None:
    await rig.redis.flushall()
    await rig.redis.script_flush()


async def _flush_scripts(rig: Rig) -> None:
    await rig.redis.script_flush()


@pytest.mark.parametrize("break_it", [_flush_all, _flush_all_and_scripts, _flush_scripts])
async def test_an_edit_recorded_while_the_cell_was_closed_is_applied_by_recovery(
    rig: Rig, break_it: Callable[[Rig], Awaitable[None]]
) -> None:
    worker = rig.work()
    gateway = await rig.gateway()
    event, other = await rig.sale([10]), await rig.sale([10])
    await rig.caught_up(event)
    await worker.stop()
    await break_it(rig)
    edits = Edits(rig.stores)
    intent = Intent(sale=SaleEdit(max_per_user=2), zones=[ZoneEdit(zone_id=event.zones[0], capacity=30)])
    async with rig.pool.acquire() as connection, connection.transaction():
        version = await edits.record(connection, event.id, intent, uuid4())
        await connection.execute("UPDATE events SET max_per_user = 2 WHERE id = $1", event.id)
    with pytest.raises(ServiceUnavailable):
        await edits.apply(event.id, version)
    rig.work()
    await Impatience().until_selling(gateway, other)

    async def is_applied() -> bool:
        # The other event may live on another node and sell before this one's cell is there again.
        return await rig.redis.hget(event.keys.zone(event.zones[0]), "capacity") == b"30"

    await until(is_applied, "the intent is applied")
    await Impatience().until_selling(gateway, event)
    event = event._replace(max_per_user=2)
    assert await differences(rig, event) == []
    assert await rig.pool.fetchval("SELECT outcome FROM edits") == "applied"


async def test_edits_of_a_cell_that_goes_on_selling_meet_the_counters(rig: Rig) -> None:
    """Capacity goes up and down under a rush; the zone adds up, and never below what is in use."""
    rig.work()
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale([20])
    edits = Edits(rig.stores)

    async def edit(capacity: int) -> str:
        intent = Intent(zones=[ZoneEdit(zone_id=event.zones[0], capacity=capacity)])
        async with rig.pool.acquire() as connection, connection.transaction():
            version = await edits.record(connection, event.id, intent, uuid4())
        try:
            await edits.apply(event.id, version)
        except InvalidState:
            return "refused"
        return "applied"

    async def buy(number: int) -> None:
        async def press() -> object:
            try:
                return await gateways[number % 2].reserve(uuid4(), event.items(), None)
            except InsufficientStock:
                return None

        await until(press, "there are enough for everybody at last")

    outcomes, *_ = await asyncio.gather(
        _in_turn(edit, [40, 5, 60, 1, 80]), *[buy(number) for number in range(60)]
    )
    assert outcomes[-1] == "applied"
    assert "refused" in outcomes
    assert (await rig.counters(event))["capacity"] == 80
    assert await differences(rig, event) == []
    assert await rig.pool.fetchval("SELECT count(*) FROM edits WHERE outcome IS NULL") == 0


async def _in_turn(edit: Callable[[int], Awaitable[str]], capacities: list[int]) -> list[str]:
    return [await edit(capacity) for capacity in capacities]


async def test_a_paused_sale_takes_nothing_and_lets_what_is_held_be_confirmed(rig: Rig) -> None:
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale()
    held = await gateway.reserve(uuid4(), event.items(), None)
    edits = Edits(rig.stores)
    async with rig.pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE events SET status = 'paused' WHERE id = $1", event.id)
        version = await edits.record(connection, event.id, Intent(sale=SaleEdit(status="paused")), uuid4())
    await edits.apply(event.id, version)
    with pytest.raises(SaleNotOpen):
        await gateway.reserve(uuid4(), event.items(), None)
    await confirm_patiently(gateway, held)
    # A cell that is rebuilt is as paused as before.
    await rig.redis.delete(event.keys.sale)
    await until(lambda: _is_refused(gateway, event), "it is open again, and paused")
    assert await differences(rig, event) == []


async def _is_refused(gateway: object, event: Event) -> bool:
    try:
        await gateway.reserve(uuid4(), event.items(), None)  # type: ignore[attr-defined]
    except SaleNotOpen:
        return True
    except ServiceUnavailable:
        return False
    raise AssertionError("a paused sale has sold")


async def test_a_forged_id_is_unknown_wakes_nobody_and_is_remembered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.work()
    await rig.sale()
    gateway = await rig.gateway()
    asked = []
    fetch = type(rig.pool).fetchval

    async def counted(self: object, query: str, *args: object, **kwargs: object) -> object:
        asked.append(query)
        return await fetch(self, query, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(type(rig.pool), "fetchval", counted)
    listener = await rig.pool.acquire()
    woken: list[object] = []
    await listener.add_listener("rush_recovery", lambda *args: woken.append(args))
    ref = ids.event_ref_of(ids.new_event_id())
    zone = ids.new_id(ref)
    outcomes = await asyncio.gather(
        *[gateway.reserve(uuid4(), [ItemRequest(zone, 1)], "key") for _ in range(300)],
        *[gateway.confirm(uuid4(), ids.new_id(ref)) for _ in range(100)],
        *[gateway.cancel(uuid4(), ids.new_id(ref)) for _ in range(100)],
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {NotFound}
    assert len(asked) == 1
    # Another version of UUID is nobody's id either, and is not even looked up.
    with pytest.raises(NotFound):
        await gateway.confirm(uuid4(), UUID(int=zone.int ^ (1 << 77)))
    with pytest.raises(NotFound):
        await gateway.reserve(uuid4(), [ItemRequest(uuid4(), 1)], None)
    assert len(asked) == 1
    await rig.pool.execute("SELECT 1")
    assert woken == []
    await listener.close()
    await rig.pool.release(listener)


async def test_a_zone_of_another_event_is_no_zone_of_this_one(rig: Rig) -> None:
    rig.work()
    event = await rig.sale()
    gateway = await rig.gateway()
    with pytest.raises(NotFound):
        await gateway.reserve(uuid4(), [ItemRequest(ids.new_id(event.cell.event_ref), 1)], None)
    assert (await rig.counters(event))["available"] == 100
