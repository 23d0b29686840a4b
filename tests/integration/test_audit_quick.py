"""What the full audit finds, the quick one finds as well: the same states broken on purpose.

Those of rule 4 are not among them: what buyers were told is for a rush to compare, which knows it.
"""

import asyncio
import contextlib
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine import audit_quick, ids
from engine.audit_report import EventReport, Report
from engine.audit_round import QuickAuditor
from engine.lease import Lease
from tests.integration.kit import Event, Rig, changed, until
from tests.integration.test_audit import (
    Sold,
    _press_for,
    refuse_to_confirm,
    test_a_booking_from_an_entry_that_is_not_durable_is_found,
    test_a_booking_missing_in_postgres_is_found,
    test_a_booking_that_differs_is_found,
    test_a_buyer_whom_the_limit_does_not_count_is_found,
    test_a_counter_below_zero_is_found_even_if_the_sum_is_right,
    test_a_deadline_without_its_hold_is_found,
    test_a_gap_in_the_ledger_is_found,
    test_a_hold_that_its_buyer_does_not_list_is_found,
    test_a_hold_without_its_deadline_is_found,
    test_a_living_booking_missing_in_redis_is_found,
    test_a_payment_for_what_is_not_sold_is_found,
    test_a_payment_that_nobody_finishes_is_found,
    test_a_refused_confirm_whose_seats_are_back_is_no_violation,
    test_a_trimmed_ledger_is_no_gap,
    test_a_zone_that_does_not_add_up_in_postgres_is_found,
    test_a_zone_that_does_not_add_up_in_redis_is_found,
    test_an_ended_booking_may_leave_redis_unless_it_has_a_key,
    test_an_entry_in_both_places_is_found,
    test_an_entry_that_postgres_does_not_have_is_found,
    test_another_price_in_redis_is_found,
    test_another_status_of_the_sale_is_found,
    test_counters_that_are_not_the_sums_over_the_bookings_are_found,
    test_items_without_their_booking_are_found,
    test_other_items_are_found,
    test_somebody_over_the_limit_is_found_unless_it_was_lowered_later,
    test_units_that_no_booking_holds_are_found,
    test_zones_that_add_up_but_differ_are_found,
)
from workers.relay import Relay

__all__ = [
    "test_a_booking_from_an_entry_that_is_not_durable_is_found",
    "test_a_booking_missing_in_postgres_is_found",
    "test_a_booking_that_differs_is_found",
    "test_a_buyer_whom_the_limit_does_not_count_is_found",
    "test_a_counter_below_zero_is_found_even_if_the_sum_is_right",
    "test_a_deadline_without_its_hold_is_found",
    "test_a_gap_in_the_ledger_is_found",
    "test_a_hold_that_its_buyer_does_not_list_is_found",
    "test_a_hold_without_its_deadline_is_found",
    "test_a_living_booking_missing_in_redis_is_found",
    "test_a_payment_for_what_is_not_sold_is_found",
    "test_a_payment_that_nobody_finishes_is_found",
    "test_a_refused_confirm_whose_seats_are_back_is_no_violation",
    "test_a_trimmed_ledger_is_no_gap",
    "test_a_zone_that_does_not_add_up_in_postgres_is_found",
    "test_a_zone_that_does_not_add_up_in_redis_is_found",
    "test_an_ended_booking_may_leave_redis_unless_it_has_a_key",
    "test_an_entry_in_both_places_is_found",
    "test_an_entry_that_postgres_does_not_have_is_found",
    "test_another_price_in_redis_is_found",
    "test_another_status_of_the_sale_is_found",
    "test_counters_that_are_not_the_sums_over_the_bookings_are_found",
    "test_items_without_their_booking_are_found",
    "test_other_items_are_found",
    "test_somebody_over_the_limit_is_found_unless_it_was_lowered_later",
    "test_units_that_no_booking_holds_are_found",
    "test_zones_that_add_up_but_differ_are_found",
]


class QuicklySold(Sold):
    """The same event, looked at by the quick audit."""

    async def report(self, **options: Any) -> EventReport:
        assert not options
        [event] = (await QuickAuditor(self.rig.stores).run(self.event.id)).events
        return event


@pytest.fixture
async def sold(rig: Rig) -> Sold:
    rig.work()
    event = await rig.sale([10, 20])
    sold = QuicklySold(rig, event, await rig.gateway())
    await sold.make()
    return sold


async def test_a_sound_event_is_clean(sold: Sold) -> None:
    report = await sold.report()
    assert (report.violations, report.problem) == ([], None)
    assert report.bookings == {"reserved": 1, "confirmed": 1, "cancelled": 2}
    assert (report.buyers, report.ledger_entries) == (2, 8)


@pytest.fixture
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the cell were large: it does not fit into the samples, and no sums are taken."""
    for name, value in {
        "FIRST_BOOKINGS": 2,
        "WINDOWS": 2,
        "WINDOW_BOOKINGS": 2,
        "BUYERS": 2,
        "DEADLINES": 2,
        "END_ENTRIES": 3,
        "WINDOW_ENTRIES": 3,
        "SUM_BOOKINGS_MAX": 1,
    }.items():
        monkeypatch.setattr(audit_quick, name, value)


async def _filled(rig: Rig) -> tuple[Event, list[UUID]]:
    """A cell that is larger than those samples; the bookings."""
    event = await rig.sale([1_000])
    gateway = await rig.gateway()
    answers = [await gateway.reserve(uuid4(), event.items(), str(number)) for number in range(40)]
    await rig.caught_up(event)
    return event, [answer.booking.id for answer in answers]


@pytest.mark.usefixtures("small_samples")
async def test_in_a_large_cell_a_sample_finds_sooner_or_later_what_is_wrong_somewhere(rig: Rig) -> None:
    rig.work()
    event, bookings = await _filled(rig)
    auditor = QuickAuditor(rig.stores)
    for _ in range(10):
        [report] = (await auditor.run()).events
        assert not report.violations
    assert sum(report.bookings.values()) < len(bookings)
    await rig.redis.delete(event.keys.booking(sorted(bookings)[20]))

    async def is_found() -> bool:
        [report] = (await auditor.run()).events
        assert set(report.counts) <= {"booking_missing_in_redis", "deadline_without_hold"}
        return bool(report.counts)

    await until(is_found, "a sample has met it")


@pytest.mark.usefixtures("small_samples")
async def test_the_length_of_a_ledger_tells_of_a_gap_that_no_sample_has_met(rig: Rig) -> None:
    rig.work()
    event, _ = await _filled(rig)
    await rig.redis.xdel(event.keys.ledger, "1-20")
    for _ in range(10):
        [report] = (await QuickAuditor(rig.stores).run()).events
        assert list(report.counts) == ["ledger_gap"]


@pytest.mark.usefixtures("small_samples")
async def test_the_sums_of_a_large_cell_are_taken_now_and_then(rig: Rig) -> None:
    rig.work()
    event, _ = await _filled(rig)
    zone = event.zones[0]
    await rig.pool.execute(
        "UPDATE seat_zones SET reserved = reserved - 1, available_seats = available_seats + 1"
    )
    await rig.redis.hincrby(event.keys.zone(zone), "reserved", -1)
    await rig.redis.hincrby(event.keys.zone(zone), "available", 1)
    assert (await QuickAuditor(rig.stores).run()).exit_status == 0
    auditor = QuickAuditor(rig.stores, has_large_sums=True)
    [report] = (await auditor.run()).events
    assert list(report.counts) == ["counters_differ_from_bookings"]
    [report] = (await auditor.run()).events
    assert not report.counts, "so soon they are not taken again"


@pytest.mark.usefixtures("small_samples")
async def test_sums_that_take_too_long_keep_nobody_from_looking_at_the_rest(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.work()
    await _filled(rig)
    run = audit_quick.QuickCheck.run

    async def impatient(check: audit_quick.QuickCheck, *, has_sums: bool = False) -> bool:
        if has_sums:
            await asyncio.sleep(0.1)
            raise TimeoutError
        return await run(check)

    monkeypatch.setattr(audit_quick.QuickCheck, "run", impatient)
    auditor = QuickAuditor(rig.stores, has_large_sums=True)
    [report] = (await auditor.run()).events
    assert "too large" in (report.problem or "")
    again = await auditor.run()
    assert (again.exit_status, again.violations) == (0, []), "so soon they are not tried again"


async def test_a_ledger_whose_end_is_lost_is_found(sold: Sold) -> None:
    await sold.rig.close_workers()
    position = await sold.rig.position(sold.event)
    await sold.rig.redis.xdel(sold.event.keys.ledger, str(position))
    assert await sold.found() == [(3, "ledger_end_missing", str(position))]


async def test_entries_that_are_lost_before_postgres_has_them_are_found(sold: Sold) -> None:
    await sold.rig.close_workers()
    for _ in range(3):
        await sold.bookings.reserve(uuid4(), sold.event.items(), None)
    position = await sold.rig.position(sold.event)
    assert position is not None
    await sold.rig.redis.xdel(sold.event.keys.ledger, f"{position.epoch}-{position.seq - 1}")
    assert {(rule, what) for rule, what, _ in await sold.found()} == {(3, "ledger_gap")}


async def test_a_closed_cell_that_is_still_on_sale_is_found(sold: Sold) -> None:
    await sold.rig.close_workers()
    await sold.execute("UPDATE cells SET closed_at = now()")
    assert await sold.found() == [(3, "closed_and_on_sale", "sale")]


async def test_a_cell_that_is_fenced_proves_nothing(sold: Sold) -> None:
    await sold.rig.close_workers()
    await sold.rig.redis.hdel(sold.event.keys.sale, "epoch")
    await sold.rig.redis.hincrby(sold.event.keys.zone(sold.event.zones[0]), "available", 1)
    report = await QuickAuditor(sold.rig.stores).run()
    assert (report.exit_status, report.violations) == (2, [])


async def test_a_node_without_scripts_proves_nothing_though_its_cells_look_open(sold: Sold) -> None:
    """A replica that lacked the last entry became the master: recovery has not been there yet."""
    await sold.rig.close_workers()
    position = await sold.rig.position(sold.event)
    await sold.rig.redis.hincrby(sold.event.keys.sale, "seq", -1)
    await sold.rig.redis.xdel(sold.event.keys.ledger, str(position))
    assert {what for _, what, _ in await sold.found()} == {"ledger_end_missing", "ledger_gap"}
    await sold.rig.redis.script_flush()
    report = await QuickAuditor(sold.rig.stores).run()
    assert (report.exit_status, report.violations) == (2, [])


async def test_a_relay_that_is_far_behind_is_a_reason_and_no_violation(
    sold: Sold, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sold.rig.close_workers()
    monkeypatch.setattr(audit_quick, "LAG_ENTRIES_MAX", 1)
    for _ in range(2):
        await sold.bookings.reserve(uuid4(), sold.event.items(), None)
    report = await QuickAuditor(sold.rig.stores).run()
    assert (report.exit_status, report.violations) == (2, [])
    assert "2 entries behind" in report.problems[0]


async def test_seats_that_are_just_being_returned_are_no_violation_unless_it_takes_long(sold: Sold) -> None:
    """Postgres has refused a booking of one seat; the relay died before it had given the seat back."""
    await sold.rig.close_workers()
    await sold.execute(
        "INSERT INTO dead_letters (event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason) "
        "VALUES ($1, $2, 1, 1000, $3, '[]', '23514', 'by hand')",
        *sold.event.cell,
        ids.new_id(*sold.event.cell),
    )
    zone = sold.event.keys.zone(sold.event.zones[0])
    await sold.rig.redis.hincrby(zone, "available", -1)
    await sold.rig.redis.hincrby(zone, "reserved", 1)
    report = await QuickAuditor(sold.rig.stores).run()
    assert (report.exit_status, report.violations) == (2, [])
    assert "being returned" in report.problems[0]
    await sold.execute("UPDATE dead_letters SET created_at = now() - interval '1 hour'")
    assert await sold.found() == [(3, "zone_differs", sold.zone(0))]


async def test_seats_whose_return_is_not_durable_yet_are_no_violation(sold: Sold) -> None:
    """Postgres has refused a booking of one seat, and the relay died when the seat was back in Redis."""
    await sold.rig.close_workers()
    booking = (await sold.bookings.reserve(uuid4(), sold.event.items(), None)).booking
    await sold.execute(
        "INSERT INTO dead_letters "
        "(event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason, returned_at) "
        "VALUES ($1, $2, $3, $4, $5, '[]', '23514', 'by hand', now())",
        *sold.event.cell,
        booking.position.epoch,
        booking.position.seq,
        booking.id,
    )
    await sold.execute(
        "UPDATE cells SET seq = $1 WHERE event_ref = $2 AND cell = $3", booking.position.seq, *sold.event.cell
    )
    keys = sold.event.keys
    await sold.rig.stores.run(
        "reject",
        [keys.sale, keys.buyers, keys.ledger, keys.deadlines, keys.booking(booking.id)],
        str(booking.id),
    )
    assert await sold.found() == []


async def test_a_refused_confirm_whose_end_is_not_durable_yet_is_no_violation(sold: Sold) -> None:
    """The relay dies when Postgres has refused it and the seats are back in Redis."""
    rig, booking = sold.rig, sold.held.booking
    await rig.close_workers()
    await refuse_to_confirm(sold, booking.id)
    gateway = await rig.gateway(changed(rig.settings, confirm_wait_ms=1))
    await gateway.confirm(booking.user_id, booking.id)
    async with (
        Lease(rig.settings, "relay") as lease,
        contextlib.aclosing(Relay(rig.stores, lease, *rig.stores.line.masters())) as relay,
    ):
        await until(relay.step, "the confirmation is refused")
    assert await rig.status(sold.event, sold.held) == "cancelled"
    assert await rig.offset(sold.event) != await rig.position(sold.event)
    assert await sold.found() == []


async def test_a_busy_sale_is_clean_all_the_time(rig: Rig) -> None:
    rig.work()
    event = await rig.sale([3_000, 3_000], hold_ttl_s=1)
    bookings = await rig.gateway()
    stop = asyncio.Event()
    crowd = [asyncio.create_task(_press_for(bookings, event, stop, seed)) for seed in range(30)]
    reports: list[Report] = []
    auditor = QuickAuditor(rig.stores)
    for _ in range(15):
        await asyncio.sleep(0.1)
        reports.append(await auditor.run())
    stop.set()
    await asyncio.gather(*crowd)
    assert [violation for report in reports for violation in report.violations] == []
    assert [problem for report in reports for problem in report.problems] == []
