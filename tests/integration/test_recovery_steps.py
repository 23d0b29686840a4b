"""Recovery dies, or is stopped and wakes up later, before every single call it makes to a store.

What was answered 201 is never lost by that, where Redis itself lost nothing; what was durable is never
lost at all; and no ledger id comes twice.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import pytest

from engine.bookings import Bookings
from tests.integration.books import LedgerWatch, differences
from tests.integration.by_hand import (
    Crash,
    CrashBefore,
    SleepBefore,
    recover,
    recovery_by_hand,
    relay_all,
)
from tests.integration.kit import Event, Impatience, Rig, changed, until
from tests.integration.processes import Processes

CALLS_MAX = 150

Break = Callable[[Rig, Event], Awaitable[None]]


async def _flush_scripts(rig: Rig, event: Event) -> None:
    await rig.redis.script_flush()


async def _delete_sale(rig: Rig, event: Event) -> None:
    await rig.redis.delete(event.keys.sale)


async def _delete_sale_and_flush_scripts(rig: Rig, event: Event) -> None:
    await _delete_sale(rig, event)
    await _flush_scripts(rig, event)


async def _flush_all(rig: Rig, event: Event) -> None:
    await rig.redis.flushall()


async def _flush_all_and_scripts(rig: Rig, event: Event) -> None:
    await _flush_all(rig, event)
    await _flush_scripts(rig, event)


KEEPS_ALL = [_flush_scripts, _delete_sale, _delete_sale_and_flush_scripts]
LOSES_ALL = [_flush_all, _flush_all_and_scripts]
BREAKS = [
    _flush_scripts,
    _flush_all,
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in (_delete_sale, _delete_sale_and_flush_scripts, _flush_all_and_scripts)
    ),
]


class Sale:
    """An event, and what its buyers were told."""

    def __init__(self, rig: Rig, event: Event, gateway: Bookings, watch: LedgerWatch) -> None:
        self.rig = rig
        self.event = event
        self.gateway = gateway
        self.watch = watch
        self.reserved: set[UUID] = set()
        self.confirmed: set[UUID] = set()

    async def sell(self) -> None:
        """Two more are reserved, one of them is confirmed; nothing of it is durable yet."""
        answers = [await self.gateway.reserve(uuid4(), self.event.items(), None) for _ in range(2)]
        self.reserved |= {answer.booking.id for answer in answers}
        booking = answers[0].booking
        await self.gateway.confirm(booking.user_id, booking.id)
        self.confirmed.add(booking.id)
        await self.watch.look()

    async def forget_what_is_not_durable(self) -> None:
        """Redis is about to lose everything."""
        rows = await self.rig.pool.fetch("SELECT id, status FROM bookings")
        self.reserved &= {row["id"] for row in rows}
        self.confirmed &= {row["id"] for row in rows if row["status"] == "confirmed"}

    async def check(self, epoch_before: int) -> None:
        """The cell is open in a later epoch, sells, and has lost nothing."""
        await self.sell()
        await relay_all(self.rig, self.event)
        rows = await self.rig.pool.fetch("SELECT id, status FROM bookings")
        assert self.reserved <= {row["id"] for row in rows}
        assert self.confirmed <= {row["id"] for row in rows if row["status"] == "confirmed"}
        assert (await self.rig.offset(self.event)).epoch > epoch_before
        assert await differences(self.rig, self.event) == []
        assert not self.watch.twice


@pytest.fixture
async def sale(rig: Rig) -> AsyncIterator[Sale]:
    """On sale; nothing works but what the test drives by hand."""
    rig.settings = changed(rig.settings, confirm_wait_ms=1)
    gateway = await rig.gateway()
    rig.work("recovery")
    event = await rig.sale([100_000], max_per_user=10)
    await rig.close_workers()
    watch = LedgerWatch(rig.settings, event)
    yield Sale(rig, event, gateway, watch)
    await watch.close()


@pytest.mark.parametrize("break_it", BREAKS)
async def test_recovery_that_dies_anywhere_is_finished_by_the_next(sale: Sale, break_it: Break) -> None:
    rig, event = sale.rig, sale.event
    for number in range(1, CALLS_MAX):
        await sale.sell()
        epoch = (await rig.offset(event)).epoch
        if break_it in LOSES_ALL:
            await sale.forget_what_is_not_durable()
        await break_it(rig, event)
        hook = CrashBefore(number)
        try:
            async with recovery_by_hand(rig, hook) as recovery:
                await recovery.step()
        except Crash:
            await recover(rig, event)
            await sale.check(epoch)
        else:
            break
    else:
        pytest.fail("a step of recovery has too many calls")
    assert len(hook.calls) > 10


async def test_a_cell_in_another_releases_format_is_drained_and_rebuilt_in_ours(sale: Sale) -> None:
    rig, event = sale.rig, sale.event
    await sale.sell()
    epoch = (await rig.offset(event)).epoch
    buyers = set(await rig.redis.hkeys(event.keys.buyers))
    await rig.redis.hdel(event.keys.sale, "format")
    await rig.redis.hset(event.keys.buyers, mapping=dict.fromkeys(buyers, "as it was written then"))
    await _flush_scripts(rig, event)
    await recover(rig, event)
    assert len(sale.reserved) == 2, "what was not durable yet was drained first"
    await sale.check(epoch)
    assert buyers <= set(await rig.redis.hkeys(event.keys.buyers))


@pytest.mark.parametrize("break_it", BREAKS)
async def test_recovery_that_sleeps_anywhere_and_wakes_later_does_no_harm(
    sale: Sale, break_it: Break
) -> None:
    rig, event = sale.rig, sale.event
    for number in range(1, CALLS_MAX):
        await sale.sell()
        epoch = (await rig.offset(event)).epoch
        if break_it in LOSES_ALL:
            await sale.forget_what_is_not_durable()
        await break_it(rig, event)
        hook = SleepBefore(number)
        async with recovery_by_hand(rig, hook) as sleeper:
            step = asyncio.create_task(sleeper.step())
            nap = asyncio.create_task(hook.asleep.wait())
            await asyncio.wait({step, nap}, return_when=asyncio.FIRST_COMPLETED)
            nap.cancel()
            if step.done():
                await step
                break
            await _end_its_transaction(rig, sleeper.connection)
            await recover(rig, event)
            await sale.sell()
            hook.wake.set()
            with contextlib.suppress(Exception):
                await step
        await recover(rig, event)
        try:
            await sale.check(epoch)
        except AssertionError as error:
            raise AssertionError(f"asleep before {hook.calls[number - 1]!r}: {error}") from error
    else:
        pytest.fail("a step of recovery has too many calls")
    assert len(hook.calls) > 10


async def _end_its_transaction(rig: Rig, connection: asyncpg.Connection) -> None:
    """What idle_in_transaction_session_timeout does after some seconds."""
    await rig.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid = $1 AND state LIKE 'idle in transaction%'",
        connection.get_server_pid(),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "where"),
    [
        (_flush_scripts, "lift.after_script"),
        (_flush_scripts, "lift.after_cell_fence"),
        (_flush_scripts, "lift.after_drain"),
        (_flush_all_and_scripts, "rebuild.after_token"),
    ],
)
async def test_a_recovery_process_frozen_for_longer_than_its_lease_does_no_harm(
    sale: Sale, processes: Processes, break_it: Break, where: str
) -> None:
    rig, event = sale.rig, sale.event
    await sale.sell()
    if break_it in LOSES_ALL:
        await sale.forget_what_is_not_durable()
    epoch = (await rig.offset(event)).epoch
    await break_it(rig, event)
    frozen = processes.work_until(where, 1, rig.settings, "recovery", freeze=True)
    await until(lambda: frozen.code is None and frozen.is_frozen, "it is frozen")
    rig.work("recovery")
    await Impatience().until_selling(sale.gateway, event)
    await sale.sell()
    frozen.signal(signal.SIGCONT)
    for _ in range(20):
        await Impatience().until_selling(sale.gateway, event)
        await asyncio.sleep(0.05)
    await sale.sell()
    await sale.check(epoch)
