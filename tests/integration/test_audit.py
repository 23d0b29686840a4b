"""The audit is itself audited: for each rule a state broken on purpose, and exactly that is reported."""

import asyncio
import contextlib
import random
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from engine import ids
from engine.audit import audit, main
from engine.audit_report import EventReport, Report, render, to_json
from engine.audit_told import Told, ToldBooking
from engine.booking import parse_record
from engine.bookings import Answer, Bookings
from engine.edits import Edits, Intent, SaleEdit
from engine.errors import RushError
from tests.integration.kit import Event, Rig, confirm_patiently, until
from tests.records import spell_record


class Sold:
    """An event with bookings in every state, all of them durable, and the workers still."""

    def __init__(self, rig: Rig, event: Event, bookings: Bookings) -> None:
        self.rig, self.event, self.bookings = rig, event, bookings
        self.held: Answer
        self.confirmed: Answer
        self.cancelled: Answer

    async def make(self) -> None:
        reserve, event = self.bookings.reserve, self.event
        self.held = await reserve(uuid4(), event.items(2), "held")
        self.confirmed = await reserve(uuid4(), event.items(3, zone=1), "confirmed")
        self.cancelled = await reserve(uuid4(), event.items(), "cancelled")
        unkeyed = await reserve(uuid4(), event.items(), None)
        for answer in (self.cancelled, unkeyed):
            await self.bookings.cancel(answer.booking.user_id, answer.booking.id)
        await confirm_patiently(self.bookings, self.confirmed)
        await self.rig.caught_up(event)

    async def report(self, **options: Any) -> EventReport:
        [event] = (await audit(self.rig.stores, event_id=self.event.id, **options)).events
        return event

    async def found(self, **options: Any) -> list[tuple[int, str, str]]:
        """What is violated: rule, kind and subject."""
        report = await self.report(**options)
        assert report.problem is None
        return [(each.rule, each.what, each.subject) for each in report.violations]

    def record(self, answer: Answer) -> str:
        return self.event.keys.booking(answer.booking.id)

    def zone(self, number: int) -> str:
        return f"zone {number} ({self.event.zones[number]})"

    async def execute(self, statement: str, *arguments: object) -> None:
        """Change Postgres behind everybody's back, constraints or not."""
        await self.rig.pool.execute(statement, *arguments)


@pytest.fixture
async def sold(rig: Rig) -> Sold:
    rig.work()
    event = await rig.sale([10, 20])
    sold = Sold(rig, event, await rig.gateway())
    await sold.make()
    return sold


async def test_a_sound_event_is_clean_and_its_zones_are_shown(sold: Sold) -> None:
    report = await audit(sold.rig.stores)
    assert report.exit_status == 0
    [event] = report.events
    assert (event.state, event.bookings) == ("open", {"reserved": 1, "confirmed": 1, "cancelled": 2})
    assert sorted(zone.available for zone in event.zones) == [8, 17]
    assert (event.buyers, event.ledger_entries, event.dead_letters) == (2, 8, 0)
    assert "clean" in render(report)
    assert msgspec.json.decode(to_json(report))["exit_status"] == 0


# Rule 1


async def test_a_zone_that_does_not_add_up_in_redis_is_found(sold: Sold) -> None:
    await sold.rig.redis.hincrby(sold.event.keys.zone(sold.event.zones[1]), "available", 1)
    assert await sold.found() == [(1, "zone_does_not_add_up_in_redis", sold.zone(1))]


async def test_a_counter_below_zero_is_found_even_if_the_sum_is_right(sold: Sold) -> None:
    key = sold.event.keys.zone(sold.event.zones[0])
    await sold.rig.redis.hincrby(key, "available", -9)
    await sold.rig.redis.hincrby(key, "reserved", 9)
    assert await sold.found() == [(1, "zone_does_not_add_up_in_redis", sold.zone(0))]


async def test_a_zone_that_does_not_add_up_in_postgres_is_found(sold: Sold) -> None:
    await sold.execute("ALTER TABLE seat_zones DROP CONSTRAINT seat_zones_add_up")
    await sold.execute("UPDATE seat_zones SET capacity = 11 WHERE id = $1", sold.event.zones[0])
    assert (1, "zone_does_not_add_up_in_postgres", sold.zone(0)) in await sold.found()


# Rule 2


async def test_units_that_no_booking_holds_are_found(sold: Sold) -> None:
    user = str(sold.held.booking.user_id)
    units, _, rest = (await sold.rig.redis.hget(sold.event.keys.buyers, user)).partition(b" ")
    await sold.rig.redis.hset(sold.event.keys.buyers, user, b"%d %b" % (int(units) + 1, rest))
    assert await sold.found() == [(2, "units_differ", user)]


async def test_a_buyer_whom_the_limit_does_not_count_is_found(sold: Sold) -> None:
    user = str(sold.confirmed.booking.user_id)
    await sold.rig.redis.hdel(sold.event.keys.buyers, user)
    assert await sold.found() == [(2, "units_differ", user)]


async def test_a_hold_that_its_buyer_does_not_list_is_found(sold: Sold) -> None:
    buyers, user = sold.event.keys.buyers, str(sold.held.booking.user_id)
    value = await sold.rig.redis.hget(buyers, user)
    await sold.rig.redis.hset(buyers, user, value.rpartition(b" ")[0])
    assert await sold.found() == [
        (2, "hold_not_with_buyer", str(sold.held.booking.id)),
        (2, "holds_differ", user),
    ]
    other = str(sold.confirmed.booking.id).encode()
    await sold.rig.redis.hset(buyers, user, value + b" " + other)
    assert await sold.found() == [(2, "holds_differ", user)]
    await sold.rig.redis.hset(buyers, user, b"one")
    assert (2, "units_differ", user) in await sold.found()


async def test_somebody_over_the_limit_is_found_unless_it_was_lowered_later(sold: Sold) -> None:
    user = str(sold.confirmed.booking.user_id)
    edits, pool = Edits(sold.rig.stores), sold.rig.pool
    intent = Intent(sale=SaleEdit(max_per_user=2))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE events SET max_per_user = 2 WHERE id = $1", sold.event.id)
        version = await edits.record(connection, sold.event.id, intent, uuid4())
    await edits.apply(sold.event.id, version)
    await sold.rig.caught_up(sold.event)
    report = await sold.report()
    assert not report.violations
    assert any(user in note for note in report.notes)
    # The same, but the limit had been 2 before the booking was made.
    await sold.execute("UPDATE edits SET decided_at = decided_at - interval '1 hour'")
    assert await sold.found() == [(2, "over_the_limit", user)]


# Rule 3


async def test_zones_that_add_up_but_differ_are_found(sold: Sold) -> None:
    key = sold.event.keys.zone(sold.event.zones[0])
    await sold.rig.redis.hincrby(key, "available", 1)
    await sold.rig.redis.hincrby(key, "reserved", -1)
    assert await sold.found() == [(3, "zone_differs", sold.zone(0))]


async def test_counters_that_are_not_the_sums_over_the_bookings_are_found(sold: Sold) -> None:
    zone = sold.event.zones[0]
    await sold.execute("UPDATE seat_zones SET reserved = 1, available_seats = 9 WHERE id = $1", zone)
    key = sold.event.keys.zone(zone)
    await sold.rig.redis.hset(key, mapping={"reserved": 1, "available": 9})
    assert await sold.found() == [(3, "counters_differ_from_bookings", sold.zone(0))]


async def test_another_price_in_redis_is_found(sold: Sold) -> None:
    await sold.rig.redis.hset(sold.event.keys.zone(sold.event.zones[0]), "price_minor", 1)
    assert await sold.found() == [(3, "zone_terms_differ", sold.zone(0))]


async def test_another_status_of_the_sale_is_found(sold: Sold) -> None:
    await sold.rig.redis.hset(sold.event.keys.sale, "status", "paused")
    assert await sold.found() == [(3, "sale_terms_differ", "sale")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user", "11111111-2222-4333-8444-555555555555"),
        ("quantity", 1),
        ("version", 7),
        ("total_minor", 5),
        ("code", "X"),
    ],
)
async def test_a_booking_that_differs_is_found(sold: Sold, field: str, value: str | int) -> None:
    key = sold.record(sold.confirmed)
    record = parse_record(await sold.rig.redis.get(key))
    await sold.rig.redis.set(key, spell_record(record._replace(**{field: value})))
    assert await sold.found() == [(3, "booking_differs", str(sold.confirmed.booking.id))]


async def test_a_booking_that_is_none_is_found(sold: Sold) -> None:
    await sold.rig.redis.set(sold.record(sold.confirmed), "confirmed 2 of something else")
    assert await sold.found() == [(3, "booking_broken", str(sold.confirmed.booking.id))]


async def test_other_items_are_found(sold: Sold) -> None:
    await sold.execute(
        "UPDATE booking_items SET unit_price_minor = 1 WHERE booking_id = $1", sold.confirmed.booking.id
    )
    what = {(rule, what) for rule, what, _ in await sold.found()}
    assert what == {(3, "booking_differs"), (3, "items_do_not_add_up")}


async def test_a_booking_missing_in_postgres_is_found(sold: Sold) -> None:
    booking = sold.cancelled.booking
    await sold.execute("DELETE FROM booking_items WHERE booking_id = $1", booking.id)
    await sold.execute("DELETE FROM bookings WHERE id = $1", booking.id)
    assert await sold.found() == [
        (3, "entry_lost", "1-3"),
        (3, "entry_lost", "1-5"),
        (3, "booking_missing_in_postgres", str(booking.id)),
    ]


async def test_a_living_booking_missing_in_redis_is_found(sold: Sold) -> None:
    await sold.rig.redis.delete(sold.record(sold.confirmed))
    assert await sold.found() == [(3, "booking_missing_in_redis", str(sold.confirmed.booking.id))]


async def test_an_ended_booking_may_leave_redis_unless_it_has_a_key(sold: Sold) -> None:
    async for key in sold.rig.redis.scan_iter(match=sold.event.keys.booking("*")):
        if not parse_record(await sold.rig.redis.get(key)).fingerprint:
            await sold.rig.redis.delete(key)
    assert await sold.found() == []
    await sold.rig.redis.delete(sold.record(sold.cancelled))
    assert await sold.found() == [(3, "key_forgotten", str(sold.cancelled.booking.id))]


async def test_a_hold_without_its_deadline_is_found(sold: Sold) -> None:
    keys = sold.event.keys
    [zone_member] = await sold.rig.redis.zrange(keys.deadlines, 0, -1)
    await sold.rig.redis.zrem(keys.deadlines, zone_member)
    assert await sold.found() == [(3, "deadline_missing", str(sold.held.booking.id))]


async def test_a_deadline_without_its_hold_is_found(sold: Sold) -> None:
    member = f"{sold.event.zones[0]}:9999999999999:{sold.confirmed.booking.id}"
    await sold.rig.redis.zadd(sold.event.keys.deadlines, {member: 0})
    assert await sold.found() == [(3, "deadline_without_hold", member)]


async def test_items_without_their_booking_are_found(sold: Sold) -> None:
    orphan = ids.new_id(*ids.cell_of(sold.held.booking.id))
    await sold.execute(
        "INSERT INTO booking_items (booking_id, zone_id, quantity, unit_price_minor) VALUES ($1, $2, 1, 0)",
        orphan,
        sold.event.zones[0],
    )
    assert await sold.found() == [(3, "items_without_booking", str(orphan))]


async def test_a_gap_in_the_ledger_is_found(sold: Sold) -> None:
    await sold.rig.redis.xdel(sold.event.keys.ledger, "1-3")
    assert await sold.found() == [(3, "ledger_gap", "1-4")]


async def test_a_trimmed_ledger_is_no_gap(sold: Sold) -> None:
    await sold.rig.redis.xtrim(sold.event.keys.ledger, minid="1-4", approximate=False)
    assert await sold.found() == []


async def test_an_entry_that_postgres_does_not_have_is_found(sold: Sold) -> None:
    await sold.execute(
        "UPDATE bookings SET status = 'reserved', version = 1, ended_at = NULL, ledger_seq = 3 WHERE id = $1",
        sold.cancelled.booking.id,
    )
    found = await sold.found()
    assert (3, "entry_lost", "1-5") in found
    assert (3, "booking_differs", str(sold.cancelled.booking.id)) in found


async def test_an_entry_in_both_places_is_found(sold: Sold) -> None:
    ref, cell = sold.event.cell
    await sold.execute(
        "INSERT INTO dead_letters "
        "(event_ref, cell, epoch, seq, booking_id, entry, sqlstate, reason, returned_at) "
        "VALUES ($1, $2, 1, 1, $3, '[]', '23514', 'by hand', now())",
        ref,
        cell,
        sold.held.booking.id,
    )
    assert set(await sold.found()) == {(3, "entry_counted_twice", "1-1")}


async def test_a_booking_from_an_entry_that_is_not_durable_is_found(sold: Sold) -> None:
    await sold.execute("UPDATE bookings SET ledger_seq = 99 WHERE id = $1", sold.held.booking.id)
    found = await sold.found()
    assert (3, "booking_ahead_of_offset", str(sold.held.booking.id)) in found


async def test_what_postgres_refused_is_a_dead_letter_and_no_violation(sold: Sold) -> None:
    """Oversold by hand in Redis: the last guard refuses, the seats come back."""
    keys, zone = sold.event.keys, sold.event.zones[1]
    await sold.rig.redis.hincrby(keys.zone(zone), "available", 10)
    answers = [await sold.bookings.reserve(uuid4(), sold.event.items(4, zone=1), None) for _ in range(6)]
    await sold.rig.caught_up(sold.event)
    await until(lambda: _are_returned(sold.rig))
    await sold.rig.redis.hincrby(keys.zone(zone), "available", -10)
    report = await sold.report()
    assert not report.violations
    assert report.dead_letters > 0
    # Those buyers were told 201, though: with what they were told, it is one.
    told = Told({a.booking.id: ToldBooking(a.booking.user_id, 4, 1) for a in answers}, await _all_users(sold))
    found = await sold.found(told=told)
    assert {(rule, what) for rule, what, _ in found} == {(4, "reserved_and_lost")}


async def refuse_to_confirm(sold: Sold, booking_id: UUID) -> None:
    """Postgres will not take this booking's confirmation."""
    await sold.execute(f"ALTER TABLE bookings ADD CHECK (status <> 'confirmed' OR id <> '{booking_id}')")


async def test_a_refused_confirm_whose_seats_are_back_is_no_violation(sold: Sold) -> None:
    await refuse_to_confirm(sold, sold.held.booking.id)
    with contextlib.suppress(RushError):
        await sold.bookings.confirm(sold.held.booking.user_id, sold.held.booking.id)
    await until(lambda: _are_returned(sold.rig))
    await sold.rig.caught_up(sold.event)
    report = await sold.report()
    assert (report.violations, report.problem) == ([], None)
    assert report.bookings == {"confirmed": 1, "cancelled": 3}
    record = parse_record(await sold.rig.redis.get(sold.record(sold.held)))
    await sold.rig.redis.set(sold.record(sold.held), spell_record(record._replace(quantity=1)))
    assert await sold.found() == [(3, "booking_differs", str(sold.held.booking.id))]


async def _are_returned(rig: Rig) -> bool:
    return bool(await rig.pool.fetchval("SELECT bool_and(returned_at IS NOT NULL) FROM dead_letters"))


async def _all_users(sold: Sold) -> set[UUID]:
    return {row["user_id"] for row in await sold.rig.pool.fetch("SELECT user_id FROM bookings")}


# Rule 4


def _told_of(sold: Sold) -> Told:
    told = Told()
    for answer in (sold.held, sold.confirmed, sold.cancelled):
        booking = answer.booking
        told.bookings[booking.id] = ToldBooking(booking.user_id, booking.quantity, 1)
    told.bookings[sold.confirmed.booking.id].is_confirm_asked = True
    told.bookings[sold.confirmed.booking.id].is_confirmed = True
    told.bookings[sold.cancelled.booking.id].is_cancelled = True
    return told


async def test_what_everybody_was_told_is_true(sold: Sold) -> None:
    told = _told_of(sold)
    told.users_in_doubt = await _all_users(sold)
    assert await sold.found(told=told) == []


async def test_a_confirm_that_was_answered_and_is_not_there_is_found(sold: Sold) -> None:
    told = _told_of(sold)
    told.users_in_doubt = await _all_users(sold)
    told.bookings[sold.held.booking.id].is_confirm_asked = True
    told.bookings[sold.held.booking.id].is_confirmed = True
    assert await sold.found(told=told) == [(4, "confirmed_and_lost", str(sold.held.booking.id))]


async def test_a_reservation_that_was_answered_and_is_not_there_is_found(sold: Sold) -> None:
    told = _told_of(sold)
    told.users_in_doubt = await _all_users(sold)
    lost = ids.new_id(*sold.event.cell)
    told.bookings[lost] = ToldBooking(uuid4(), 1, 1)
    assert await sold.found(told=told) == [(4, "reserved_and_lost", str(lost))]


async def test_a_confirmation_that_nobody_asked_for_is_found(sold: Sold) -> None:
    told = _told_of(sold)
    told.users_in_doubt = await _all_users(sold)
    told.bookings[sold.confirmed.booking.id].is_confirm_asked = False
    told.bookings[sold.confirmed.booking.id].is_confirmed = False
    assert await sold.found(told=told) == [(4, "confirmed_unasked", str(sold.confirmed.booking.id))]


async def test_a_booking_that_nobody_was_told_of_is_found(sold: Sold) -> None:
    told = _told_of(sold)
    told.users_in_doubt = await _all_users(sold) - {sold.held.booking.user_id}
    del told.bookings[sold.held.booking.id]
    assert await sold.found(told=told) == [(4, "nobody_was_told", str(sold.held.booking.id))]


# Rule 5


async def _pay(sold: Sold, answer: Answer, status: str, age_s: int = 0) -> UUID:
    payment_id: UUID = await sold.rig.pool.fetchval(
        "INSERT INTO payments (booking_id, amount_minor, currency, status, updated_at) "
        "VALUES ($1, 0, 'GBP', $2, now() - make_interval(secs => $3)) RETURNING id",
        answer.booking.id,
        status,
        age_s,
    )
    return payment_id


async def test_a_payment_for_what_is_not_sold_is_found(sold: Sold) -> None:
    await _pay(sold, sold.confirmed, "succeeded")
    await _pay(sold, sold.held, "pending")
    payment_id = await _pay(sold, sold.cancelled, "succeeded")
    assert await sold.found() == [(5, "paid_for_nothing", str(payment_id))]


async def test_a_payment_that_nobody_finishes_is_found(sold: Sold) -> None:
    payment_id = await _pay(sold, sold.held, "authorized", age_s=3600)
    assert await sold.found() == [(5, "payment_unfinished", str(payment_id))]


# Looking at all


async def test_a_fenced_cell_is_reported_as_such(rig: Rig) -> None:
    worker = rig.work()
    event = await rig.sale()
    await rig.caught_up(event)
    await worker.stop()
    await rig.redis.hdel(event.keys.sale, "epoch")
    report = await audit(rig.stores)
    assert report.exit_status == 2
    assert report.events[0].state == "not open"
    assert "not open" in render(report)


async def test_a_relay_that_stands_still_is_a_reason_and_no_violation(rig: Rig) -> None:
    rig.work("recovery")
    event = await rig.sale()
    bookings = await rig.gateway()
    await bookings.reserve(uuid4(), event.items(), None)
    report = await audit(rig.stores, relay_wait_s=0.2)
    assert report.exit_status == 2
    assert "1 entries are not in Postgres" in report.problems[0]


async def test_a_store_that_is_away_is_a_reason(sold: Sold, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUSH_ENV", "development")
        patch.setenv("RUSH_DATABASE_URL", "postgresql://rush@127.0.0.1:9/rush")
        patch.setenv("RUSH_REDIS_URL", sold.rig.settings.redis_url)
        status = await asyncio.to_thread(main, ["--quiet"])
    assert status == 2
    assert "could not look" in capsys.readouterr().out.lower()


async def test_the_command_says_what_it_found(sold: Sold, capsys: pytest.CaptureFixture[str]) -> None:
    settings = sold.rig.settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUSH_ENV", "development")
        patch.setenv("RUSH_DATABASE_URL", settings.database_url)
        patch.setenv("RUSH_REDIS_URL", settings.redis_url)
        assert await asyncio.to_thread(main, ["--event", str(sold.event.id)]) == 0
        await sold.rig.redis.hincrby(sold.event.keys.zone(sold.event.zones[1]), "confirmed", 1)
        assert await asyncio.to_thread(main, ["--json", "--quiet"]) == 1
        assert await asyncio.to_thread(main, ["--event", str(uuid4()), "--quiet"]) == 2
    text, _, rest = capsys.readouterr().out.partition("{")
    assert "clean" in text
    assert "zone_does_not_add_up_in_redis" in rest
    assert "does not exist" in rest


async def _press_for(bookings: Bookings, event: Event, stop: asyncio.Event, seed: int) -> None:
    """One of many who reserve, confirm, cancel and forget, without a pause."""
    choice = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(RushError):
            key = uuid4().hex if choice.random() < 0.5 else None
            zone = choice.randrange(2)
            answer = await bookings.reserve(uuid4(), event.items(choice.randint(1, 3), zone), key)
            act = choice.random()
            if act < 0.5:
                await bookings.confirm(answer.booking.user_id, answer.booking.id)
            elif act < 0.7:
                await bookings.cancel(answer.booking.user_id, answer.booking.id)


async def test_a_sound_event_is_clean_also_while_it_is_being_sold(rig: Rig) -> None:
    rig.work()
    event = await rig.sale([3_000, 3_000], hold_ttl_s=1)
    bookings = await rig.gateway()
    stop = asyncio.Event()
    crowd = [asyncio.create_task(_press_for(bookings, event, stop, seed)) for seed in range(30)]
    reports: list[Report] = []
    for _ in range(5):
        await asyncio.sleep(0.2)
        reports.append(await audit(rig.stores))
    stop.set()
    await asyncio.gather(*crowd)
    assert [violation for report in reports for violation in report.violations] == []
    assert [problem for report in reports for problem in report.problems] == []
    assert reports[-1].events[0].ledger_entries > reports[0].events[0].ledger_entries
