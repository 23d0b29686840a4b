"""The relay killed at any point, doubled, frozen and woken: nothing twice, nothing missing."""

import asyncio
import signal
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine import projection
from engine.bookings import Answer, Bookings
from engine.lease import Lease
from engine.projection import StaleOffset
from tests.integration.books import differences
from tests.integration.kit import Event, Rig, changed, confirm_patiently, confirmed_rows, until
from tests.integration.processes import Processes
from workers import relay


async def _live(bookings: Bookings, event: Event, count: int) -> list[Answer]:
    """Some bookings in every state; those to be confirmed."""
    kept = []
    for number in range(count):
        answer = await bookings.reserve(uuid4(), event.items(), f"key-{number}")
        if number % 3:
            kept.append(answer)
        else:
            await bookings.cancel(answer.booking.user_id, answer.booking.id)
    return kept


async def _outbox_is_whole(rig: Rig, event: Event) -> None:
    """Every version of every booking once, in the outbox as well: no publisher empties it here."""
    rows = await rig.pool.fetch("SELECT aggregate_id, version FROM outbox")
    versions = await rig.pool.fetch("SELECT id, version FROM bookings")
    expected = {(row["id"], version) for row in versions for version in range(1, row["version"] + 1)}
    assert sorted((row["aggregate_id"], row["version"]) for row in rows) == sorted(expected)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize(
    "where",
    [
        "projection.after_offset",
        "projection.after_events",
        "projection.after_commit",
        "relay.after_announcement",
    ],
)
async def test_killed_there_it_loses_nothing_and_counts_nothing_twice(
    rig: Rig, processes: Processes, where: str, number: int
) -> None:
    rig.settings = changed(rig.settings, relay_batch_entries_max=4, confirm_wait_ms=20_000)
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale()
    relay = processes.work_until(where, number, rig.settings, "relay")
    kept = await _live(gateway, event, 12)
    waiting = [
        asyncio.create_task(gateway.confirm(answer.booking.user_id, answer.booking.id)) for answer in kept
    ]
    assert await relay.ended() == -signal.SIGKILL
    rig.work("relay")
    confirmed = await asyncio.gather(*waiting)
    assert all(answer.booking.durable for answer in confirmed)
    assert {answer.booking.id for answer in kept} == await confirmed_rows(rig, event)
    assert await differences(rig, event) == []
    await _outbox_is_whole(rig, event)


async def test_a_confirm_whose_announcement_never_came_is_answered_from_postgres(
    rig: Rig, processes: Processes
) -> None:
    rig.settings = changed(rig.settings, confirm_wait_ms=20_000)
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale()
    answer = await gateway.reserve(uuid4(), event.items(), None)
    waiting = asyncio.create_task(gateway.confirm(answer.booking.user_id, answer.booking.id))
    await until(lambda: _is_status(rig, event, answer, "confirmed"))
    relay = processes.work_until("projection.after_commit", 1, rig.settings, "relay")
    assert await relay.ended() == -signal.SIGKILL
    confirmed = await waiting
    assert confirmed.booking.durable
    assert confirmed.booking.confirmation_code
    assert await confirmed_rows(rig, event) == {answer.booking.id}


async def _is_status(rig: Rig, event: Event, answer: Answer, status: str) -> bool:
    return await rig.status(event, answer) == status


async def test_with_the_relay_stopped_a_confirm_is_not_durable_and_says_so(rig: Rig) -> None:
    rig.settings = changed(rig.settings, confirm_wait_ms=200)
    rig.work("recovery", "expiry")
    gateway = await rig.gateway()
    event = await rig.sale()
    answer = await gateway.reserve(uuid4(), event.items(), None)
    for _ in range(3):
        confirmed = await gateway.confirm(answer.booking.user_id, answer.booking.id)
        assert confirmed.booking.status == "confirmed"
        assert not confirmed.booking.durable
        assert confirmed.booking.confirmation_code is None
    rig.work("relay")
    durable = await confirm_patiently(gateway, answer)
    assert durable.booking.confirmation_code
    assert await differences(rig, event) == []


async def _give_all(self: Lease, family: int, numbers: list[int]) -> list[int]:
    return numbers


async def test_two_relays_that_both_believe_to_hold_the_lock_count_nothing_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.settings = changed(rig.settings, relay_batch_entries_max=5)
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale([200])
    stale = _count_stale(monkeypatch)
    monkeypatch.setattr(Lease, "take", _give_all)
    for _ in range(3):
        rig.work("relay")
    for _ in range(4):
        kept = await _live(gateway, event, 30)
        await asyncio.gather(*[confirm_patiently(gateway, answer) for answer in kept])
    assert stale, "they did get into each other's way"
    assert await differences(rig, event) == []
    await _outbox_is_whole(rig, event)


def _count_stale(monkeypatch: pytest.MonkeyPatch) -> list[StaleOffset]:
    stale: list[StaleOffset] = []
    before = StaleOffset.__init__

    def counted(self: StaleOffset, *args: Any) -> None:
        stale.append(self)
        before(self, *args)

    monkeypatch.setattr(StaleOffset, "__init__", counted)
    return stale


async def test_without_the_compare_and_set_two_relays_do_count_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: these checks find a relay that moves the offset blindly."""
    rig.settings = changed(rig.settings, relay_batch_entries_max=5)
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale([200])
    monkeypatch.setattr(Lease, "take", _give_all)
    monkeypatch.setattr(projection, "commit_batch", projection.commit_batch)

    async def blind(connection: Any, *, to_seq: int, event_ref: int, cell: int, **_: int) -> str:
        await connection.execute(
            "UPDATE cells SET seq = $1 WHERE event_ref = $2 AND cell = $3", to_seq, event_ref, cell
        )
        return "UPDATE 1"

    monkeypatch.setattr(projection.queries, "advance_offset", blind)
    for _ in range(3):
        rig.work("relay")

    async def is_found() -> bool:
        await _live(gateway, event, 30)
        return bool(await rig.pool.fetchval("SELECT count(*) FROM dead_letters"))

    await until(is_found, "an entry is counted twice")


@pytest.mark.slow
async def test_a_relay_that_was_frozen_for_longer_than_its_lease_does_no_harm(
    rig: Rig, processes: Processes
) -> None:
    rig.settings = changed(rig.settings, relay_batch_entries_max=4)
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale([500])
    frozen = processes.work(rig.settings, "relay")
    await frozen.said("the relay takes")
    confirmed: set[UUID] = set()

    async def sell(count: int) -> None:
        kept = await _live(gateway, event, count)
        await asyncio.gather(*[confirm_patiently(gateway, answer) for answer in kept])
        confirmed.update(answer.booking.id for answer in kept)

    await sell(12)
    for _ in range(2):
        frozen.signal(signal.SIGSTOP)
        await gateway.reserve(uuid4(), event.items(), None)
        heir = processes.work(rig.settings, "relay")
        await heir.said("the relay takes")
        await sell(12)
        frozen.signal(signal.SIGCONT)
        await sell(12)
        heir.kill()
        await sell(12)
    assert confirmed == await confirmed_rows(rig, event)
    assert await differences(rig, event) == []
    await _outbox_is_whole(rig, event)


async def test_refused_bookings_of_a_closed_sale_keep_no_other_from_its_seats(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RETURN_INTERVAL_S", 0.1)
    worker = rig.work()
    gateway = await rig.gateway()
    closed, event = await rig.sale(), await rig.sale()
    answer = await gateway.reserve(uuid4(), event.items(), None)
    await rig.caught_up(event)
    await worker.stop()
    await rig.pool.execute("UPDATE cells SET fenced_at = now() WHERE event_ref = $1", closed.cell.event_ref)
    await rig.pool.execute(
        "INSERT INTO dead_letters (event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason) "
        "SELECT $1, $2, 1, seq, gen_random_uuid(), '[]', '23514', 'by hand' "
        "FROM generate_series(1000, 4000) AS seq",
        *closed.cell,
    )
    await rig.pool.execute(
        "INSERT INTO dead_letters (event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason) "
        "VALUES ($1, $2, 1, 1000, $3, '[]', '23514', 'by hand')",
        *event.cell,
        answer.booking.id,
    )
    rig.work()
    await until(lambda: _is_status(rig, event, answer, "cancelled"), "its seats are back")


async def test_a_cell_in_which_nothing_happened_for_long_is_still_carried(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "FEW_CELLS_MAX", 0)
    monkeypatch.setattr(relay, "QUIET_AFTER_S", -1.0)
    rig.work()
    gateway = await rig.gateway()
    quiet, busy = await rig.sale(), await rig.sale()
    for event in (quiet, busy, quiet):
        answer = await gateway.reserve(uuid4(), event.items(), None)
        assert (await confirm_patiently(gateway, answer)).booking.durable
    assert await differences(rig, quiet) == []


async def test_a_missing_replica_keeps_nothing_from_postgres(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "FEW_CELLS_MAX", 0)
    monkeypatch.setattr(relay, "QUIET_AFTER_S", -1.0)
    rig.work("recovery")
    gateway = await rig.gateway()
    event = await rig.sale()
    answer = await gateway.reserve(uuid4(), event.items(), None)
    rig.work("relay", settings=changed(rig.settings, redis_replicas_min=1))
    assert (await confirm_patiently(gateway, answer)).booking.durable


async def test_of_many_cells_only_the_busy_are_asked_every_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "FEW_CELLS_MAX", 1)
    monkeypatch.setattr(relay, "QUIET_INTERVAL_S", 3_600.0)
    rig.work("recovery")
    gateway = await rig.gateway()
    quiet, busy = await rig.sale(), await rig.sale()
    async with Lease(rig.settings, "relay") as lease:
        worker = relay.Relay(rig.stores, lease, *rig.stores.line.masters())
        try:
            await gateway.reserve(uuid4(), busy.items(), None)
            assert await worker.step() >= 1, "all of them are looked at, this once"
            await gateway.reserve(uuid4(), quiet.items(), None)
            assert await worker.step() == 0, "it is not this cell's turn"
            await gateway.reserve(uuid4(), busy.items(), None)
            assert await worker.step() >= 1
        finally:
            await worker.aclose()
