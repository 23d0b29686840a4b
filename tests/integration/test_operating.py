"""What an operator closes stays closed, and a rebuild by hand disturbs nobody else."""

import asyncio
import contextlib
from uuid import uuid4

import pytest

from engine.audit import audit
from engine.lease import REBUILD_LOCKS, Lease, rebuild_lock
from engine.operating import Operator, OperatorError, operate
from engine.stores import open_stores
from tests.integration.books import differences
from tests.integration.by_hand import Crash, CrashBefore, SleepBefore, recover, recovery_by_hand
from tests.integration.kit import (
    Event,
    Impatience,
    Rig,
    changed,
    confirm_patiently,
    confirmed_rows,
    insert_event,
    until,
)

WAIT_S = 20.0
CALLS_MAX = 150
LOOKS = 10
"""Recovery's steps that a closed sale is watched for."""


class Watched(Operator):
    """An operator whose progress is kept."""

    def __init__(self, rig: Rig) -> None:
        self.said: list[str] = []
        super().__init__(rig.stores, self.said.append)


async def _answers_503(rig: Rig, event: Event) -> bool:
    gateway = await rig.gateway()
    return await Impatience().ask(gateway.reserve(uuid4(), event.items(), None)) is None


async def _stays_closed(rig: Rig, event: Event) -> None:
    """Whatever recovery does in the meantime."""
    rig.work("recovery")
    for _ in range(LOOKS):
        assert await _answers_503(rig, event)
        await asyncio.sleep(rig.settings.recovery_poll_ms / 1000)
    await rig.close_workers()


async def test_everything_that_is_fenced_stays_so_until_it_is_unfenced(rig: Rig) -> None:
    worker = rig.work()
    gateway = await rig.gateway()
    event = await rig.sale()
    answer = await gateway.reserve(uuid4(), event.items(), "before")
    assert "503" in await Watched(rig).fence()
    assert await Impatience().ask(gateway.reserve(uuid4(), event.items(), None)) is None
    assert await Impatience().ask(gateway.confirm(answer.booking.user_id, answer.booking.id)) is None
    epoch = (await rig.offset(event)).epoch
    await worker.stop()
    await _stays_closed(rig, event)
    rig.work()
    assert "1 sales" in await Watched(rig).unfence(WAIT_S)
    await confirm_patiently(gateway, answer)
    assert (await rig.offset(event)).epoch == epoch + 1, "a lift, as after any fence"
    assert await differences(rig, event) == []
    assert await Watched(rig).unfence(WAIT_S) == "Nothing was closed by hand."


async def test_a_redis_that_comes_back_empty_is_not_opened_while_all_is_fenced(rig: Rig) -> None:
    rig.work()
    event = await rig.sale()
    await Watched(rig).fence()
    await rig.redis.flushall()
    await _stays_closed(rig, event)
    rig.work()
    await Watched(rig).unfence(WAIT_S)
    await Impatience().until_selling(await rig.gateway(), event)
    assert await differences(rig, event) == []


async def test_a_lift_that_had_looked_before_the_fence_does_not_open(rig: Rig) -> None:
    """Recovery sleeps between its look and loading the scripts; the operator need not wait for it."""
    rig.work("recovery")
    event = await rig.sale()
    await rig.close_workers()
    for number in range(1, CALLS_MAX):
        await rig.redis.script_flush()
        hook = SleepBefore(number)
        async with recovery_by_hand(rig, hook) as sleeper:
            step = asyncio.create_task(sleeper.step())
            nap = asyncio.create_task(hook.asleep.wait())
            await asyncio.wait({step, nap}, return_when=asyncio.FIRST_COMPLETED)
            nap.cancel()
            if step.done():
                await step
                break
            fence = asyncio.create_task(Watched(rig).fence())
            # It waits only where the lift is about to load the scripts for all to use, for that to be done.
            await asyncio.wait({fence}, timeout=0.1)
            hook.wake.set()
            with contextlib.suppress(Exception):
                await step
            await fence
        selling = [rig.stores.scripts[name].sha for name in ("reserve", "confirm", "cancel", "expire")]
        assert not any(await rig.redis.script_exists(*selling)), hook.calls[number - 1]
        await rig.pool.execute("DELETE FROM fence")
    else:
        pytest.fail("a step of recovery has too many calls")
    assert "SCRIPT LOAD" in " ".join(hook.calls)
    await recover(rig, event)


async def test_one_event_that_is_fenced_stays_so_and_the_others_sell(rig: Rig) -> None:
    worker = rig.work()
    gateway = await rig.gateway()
    event, other = await rig.sale(), await rig.sale()
    held = await gateway.reserve(uuid4(), event.items(), "before")
    slug = await rig.pool.fetchval("SELECT slug FROM events WHERE id = $1", event.id)
    await Watched(rig).fence_event(slug)
    assert await Impatience().ask(gateway.reserve(uuid4(), event.items(), None)) is None
    await gateway.reserve(uuid4(), other.items(), None)
    await worker.stop()
    await _stays_closed(rig, event)
    await gateway.reserve(uuid4(), other.items(), None)
    rig.work()
    assert "is open again" in await Watched(rig).unfence_event(str(event.id), WAIT_S)
    await confirm_patiently(gateway, held)
    assert await differences(rig, event) == []
    assert await differences(rig, other) == []


@pytest.mark.parametrize("is_emptied", [False, True])
async def test_a_fenced_event_stays_so_through_a_lift_of_its_node(rig: Rig, is_emptied: bool) -> None:
    worker = rig.work("recovery", "relay")
    gateway = await rig.gateway()
    event, other = await rig.sale(), await rig.sale()
    held = await gateway.reserve(uuid4(), event.items(), "held")
    await rig.caught_up(event)
    await Watched(rig).fence_event(str(event.id))
    before, lifts_before = (await rig.offset(event)).epoch, (await rig.offset(other)).epoch
    if is_emptied:
        await rig.redis.flushall()
    # As after a fail-over: recovery sees that this is not the node that it opened.
    await rig.pool.execute("UPDATE cells SET replid = 'of the node before'")
    await until(lambda: _epoch_is_past(rig, other, lifts_before), "the node is lifted")
    await Impatience().until_selling(gateway, other)
    await worker.stop()
    await _stays_closed(rig, event)
    rig.work()
    settled = (await rig.offset(other)).epoch
    await Watched(rig).unfence_event(str(event.id), WAIT_S)
    await confirm_patiently(gateway, held)
    assert (await rig.offset(other)).epoch == settled, "opening one disturbed nobody else"
    assert is_emptied or (await rig.offset(event)).epoch == before + 1, "opened as it was, not rebuilt"
    assert await differences(rig, event) == []


async def _epoch_is_past(rig: Rig, event: Event, epoch: int) -> bool:
    return (await rig.offset(event)).epoch > epoch


async def test_a_sale_that_somebody_opens_over_the_operators_head_is_closed_again(rig: Rig) -> None:
    """As a recovery does that was stopped in the middle of opening it, and woke up."""
    rig.work("recovery")
    event = await rig.sale()
    await Watched(rig).fence_event(str(event.id))
    epoch = await rig.redis.hget(event.keys.sale, "fenced_epoch")
    await rig.redis.hset(event.keys.sale, "epoch", epoch)

    async def is_closed() -> bool:
        return not await rig.redis.hexists(event.keys.sale, "epoch")

    await until(is_closed, "recovery has closed it")


@pytest.fixture
async def sold(rig: Rig) -> Event:
    """On sale, with a booking in each state, not all of them durable."""
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([50])
    confirmed = await gateway.reserve(uuid4(), event.items(2), "confirmed")
    await confirm_patiently(gateway, confirmed)
    ended = await gateway.reserve(uuid4(), event.items(), "ended")
    await gateway.cancel(ended.booking.user_id, ended.booking.id)
    await gateway.reserve(uuid4(), event.items(3), None)
    return event


async def test_a_rebuild_by_hand_makes_the_same_cell_in_a_new_epoch(rig: Rig, sold: Event) -> None:
    before = (await rig.offset(sold)).epoch
    other = await rig.sale()
    others_epoch = (await rig.offset(other)).epoch
    # What only Redis knows wrongly does not survive.
    await rig.redis.hincrby(sold.keys.zone(sold.zones[0]), "available", 7)
    done = await Watched(rig).rebuild(str(sold.id))
    assert (done.bookings, done.epoch) == (3, before + 1)
    await Impatience().until_selling(await rig.gateway(), sold)
    assert await differences(rig, sold) == []
    assert (await rig.offset(sold)).epoch == done.epoch, "recovery has let it be"
    assert (await rig.offset(other)).epoch == others_epoch
    [report] = (await audit(rig.stores, event_id=sold.id)).events
    assert not report.violations


async def test_a_rebuild_drains_first(rig: Rig) -> None:
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale()
    held = [await gateway.reserve(uuid4(), event.items(), str(number)) for number in range(3)]
    assert await rig.pool.fetchval("SELECT count(*) FROM bookings") == 0
    assert (await Watched(rig).rebuild(str(event.id))).bookings == 3
    rig.work("relay")
    for answer in held:
        await confirm_patiently(gateway, answer)
    assert await confirmed_rows(rig, event) == {answer.booking.id for answer in held}
    assert await differences(rig, event) == []


async def test_a_rebuild_among_sales_that_go_on_loses_nothing(rig: Rig, sold: Event) -> None:
    gateway = await rig.gateway()
    other = await rig.sale([10_000])
    told, refused = [], 0
    stop = asyncio.Event()

    async def buy() -> None:
        nonlocal refused
        while not stop.is_set():
            answer = await Impatience().ask(gateway.reserve(uuid4(), sold.items(), None))
            refused += answer is None
            if answer is not None:
                told.append(answer.booking.id)
            await gateway.reserve(uuid4(), other.items(), None)

    buyer = asyncio.create_task(buy())
    try:
        for _ in range(3):
            await Watched(rig).rebuild(str(sold.id))
            count = len(told)
            await until(lambda count=count: len(told) > count or _is_sold_out(rig, sold), "it sells")
    finally:
        stop.set()
        with contextlib.suppress(Exception):
            await buyer
    await rig.caught_up(sold)
    rows = {row["id"] for row in await rig.pool.fetch("SELECT id FROM bookings")}
    assert set(told) <= rows
    assert await differences(rig, sold) == []
    assert await differences(rig, other) == []


async def _is_sold_out(rig: Rig, event: Event) -> bool:
    return (await rig.counters(event))["available"] == 0


async def test_recovery_leaves_a_cell_alone_that_an_operator_is_rebuilding(rig: Rig, sold: Event) -> None:
    await rig.caught_up(sold)
    epoch = (await rig.offset(sold)).epoch
    async with Lease(rig.settings, "test") as lease:
        assert await lease.take(REBUILD_LOCKS, [rebuild_lock(sold.cell)])
        await rig.redis.delete(sold.keys.sale)
        other = await rig.sale()  # recovery has been round
        await Impatience().until_selling(await rig.gateway(), other)
        assert (await rig.offset(sold)).epoch == epoch
        with pytest.raises(OperatorError, match="already"):
            await Watched(rig).rebuild(str(sold.id))
    await Impatience().until_selling(await rig.gateway(), sold)


async def test_a_rebuild_by_hand_that_is_interrupted_is_finished_by_recovery(
    rig: Rig, sold: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    for step in ("wipe", "_open"):
        with monkeypatch.context() as patch:
            patch.setattr(f"engine.rebuild.CellBuilder.{step}", interrupt)
            with pytest.raises(asyncio.CancelledError):
                await Watched(rig).rebuild(str(sold.id))
        await Impatience().until_selling(await rig.gateway(), sold)
        assert await differences(rig, sold) == []


async def test_a_fence_in_the_middle_of_a_rebuild_keeps_it_closed(
    rig: Rig, sold: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.rebuild import CellBuilder

    wipe = CellBuilder.wipe

    async def fence_and_wipe(builder: CellBuilder) -> None:
        await Watched(rig).fence_event(str(sold.id))
        await wipe(builder)

    monkeypatch.setattr(CellBuilder, "wipe", fence_and_wipe)
    with pytest.raises(OperatorError, match="was closed"):
        await Watched(rig).rebuild(str(sold.id))
    await rig.close_workers()
    await _stays_closed(rig, sold)


async def test_what_cannot_be_done_says_why(rig: Rig) -> None:
    rig.work("recovery")
    event, draft = await rig.sale(), await insert_event(rig.pool, publish=False)

    async def refused(name: str) -> str:
        with pytest.raises(OperatorError) as caught:
            await Watched(rig).rebuild(name)
        return str(caught.value)

    assert "there is no event 'nothing'" in await refused("nothing")
    assert "there is no event" in await refused(str(uuid4()))
    assert "never published" in await refused(str(draft.id))
    await Watched(rig).fence_event(str(event.id))
    assert f"`rush unfence {event.id}` first" in await refused(str(event.id))
    await rig.pool.execute("UPDATE cells SET closed_at = now()")
    assert "has left Redis" in await refused(str(event.id))


async def test_without_recovery_unfencing_says_so(rig: Rig) -> None:
    rig.work("recovery")
    await rig.sale()
    await rig.close_workers()
    await Watched(rig).fence()
    with pytest.raises(OperatorError, match="no recovery works, start one"):
        await Watched(rig).unfence(0.3)


@pytest.mark.parametrize("away", ["redis", "postgres"])
async def test_a_store_that_is_away_is_named(rig: Rig, away: str) -> None:
    rig.work("recovery")
    event = await rig.sale()
    await rig.close_workers()
    nowhere = {"redis": "redis://127.0.0.1:1/0", "postgres": "postgresql://rush@127.0.0.1:1/rush"}
    field = {"redis": "redis_url", "postgres": "database_url"}[away]
    stores = await open_stores(changed(rig.settings, **{field: nowhere[away]}))

    async def told(act: str, *arguments: object) -> str:
        with pytest.raises(OperatorError) as caught:
            await operate(stores, lambda _: None, lambda operator: getattr(operator, act)(*arguments))
        return str(caught.value)

    try:
        rebuild = await told("rebuild", str(event.id))
        fence = await told("fence")
    finally:
        await stores.close()
    if away == "postgres":
        assert rebuild.startswith("Postgres does not answer")
        assert fence.startswith("Postgres does not answer")
    else:
        assert "a store does not answer" in rebuild
        assert "written down" in fence
        rig.work("recovery")
        await until(lambda: _answers_503(rig, event), "recovery has closed it")
        await rig.close_workers()
        await _stays_closed(rig, event)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
async def test_a_recovery_that_dies_while_it_takes_a_closed_cell_out_leaves_nothing_behind(
    rig: Rig, number: int
) -> None:
    rig.work("recovery", "relay")
    event = await rig.sale()
    gateway = await rig.gateway()
    answer = await gateway.reserve(uuid4(), event.items(), None)
    await gateway.cancel(answer.booking.user_id, answer.booking.id)
    await rig.caught_up(event)
    await rig.close_workers()
    await rig.pool.execute(
        "UPDATE events SET sale_start_at = now() - interval '9 days', sale_end_at = now() - interval '8 days'"
    )
    await _has_been_still(rig)
    seen = 0

    class Hook(CrashBefore):
        async def __call__(self, call: str) -> None:
            nonlocal seen
            # From the moment that the cell is being taken apart.
            seen += bool(seen) or rig.stores.scripts["build_begin"].sha in call
            if seen == self._number + 1:
                raise Crash(call)

    async with recovery_by_hand(rig, Hook(number)) as recovery:
        with contextlib.suppress(Crash):
            await recovery.step()
    assert seen > 1

    async def is_gone() -> bool:
        async with recovery_by_hand(rig) as recovery:
            await recovery.step()
        await _has_been_still(rig)
        closed = await rig.pool.fetchval("SELECT closed_at IS NOT NULL FROM cells")
        return closed and not [key async for key in rig.redis.scan_iter(match=event.keys.prefix + "*")]

    await until(is_gone, "nothing of it is left")


async def _has_been_still(rig: Rig) -> None:
    await rig.pool.execute("UPDATE cells SET updated_at = now() - interval '8 days'")
