"""Passes: who gets one, when it is good, what it becomes, and what comes of it afterwards."""

from collections.abc import Callable

import pytest
import redis

from engine.status import Status
from tests.lua.cellkit import HOLD_TTL_MS, START_MS, Answer, Backend, Wish, Zone, digest
from tests.lua.queuekit import GRACE_MS, PASS_TTL_MS, Person, QueueCell
from tests.stores import RedisServer

NewQueue = Callable[..., QueueCell]


def booked(cell: QueueCell, person: Person, queue_pass: str, quantity: int = 1) -> Answer:
    """What this person's reservation with that pass is answered."""
    return cell.reserve(person.user, [(cell.zones[0], quantity)], queue_pass=queue_pass)[1]


def served(cell: QueueCell, count: int = 1) -> list[Person]:
    """So many people who are let in."""
    people = cell.people(count)
    assert cell.admit(count).people == count
    return people


# --- claiming


def test_a_slot_is_kept_until_its_time_is_over_to_the_millisecond(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], passes_max=2)
    first, second = served(cell, 2)
    cell.forward(GRACE_MS - 1)
    assert cell.claim(first).status == Status.OK
    cell.forward(1)
    # Nobody has swept it: the deadline decides. The second person is late, but there is room.
    assert cell.queue()["unclaimed"] == "1"
    assert cell.admit(0).out == 1
    assert cell.claim(second).status == Status.OK
    assert cell.queue()["unclaimed"] == "0"


def test_a_late_claim_counts_slots_that_nobody_has_swept_as_free(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], passes_max=2)
    people = served(cell, 2)
    cell.forward(GRACE_MS)
    assert [cell.claim(person).status for person in people] == [Status.OK, Status.OK]
    assert cell.admit(10).out == 2, "the two passes, and no slot twice"


def test_who_is_late_finds_no_room_while_others_are_in(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], passes_max=2)
    late, *others = cell.people(4)
    cell.admit()
    cell.forward(GRACE_MS)
    assert cell.admit() == (4, 2, 2, 4)
    assert cell.claim(late).status == Status.NO_ROOM
    [queue_pass, _] = [cell.passed(person) for person in others[1:]]
    assert booked(cell, others[1], queue_pass).status == Status.OK
    assert cell.claim(late).status == Status.OK, "one has booked: there is room"


def test_stock_is_a_bound_for_who_comes_late(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(4)], passes_max=100)
    first, late = served(cell, 2)
    cell.passed(first)
    cell.forward(GRACE_MS)
    cell.admit(basket_milli=2_000)
    assert cell.claim(late).status == Status.OK, "two people take four seats"
    third = served(new := new_queue([Zone(3)]), 2)
    new.passed(third[0])
    new.forward(GRACE_MS)
    new.admit(basket_milli=2_000)
    assert new.claim(third[1]).status == Status.NO_ROOM, "of three seats one is left"


def test_a_place_that_is_somebody_elses_or_burnt_gets_nothing(new_queue: NewQueue) -> None:
    cell = new_queue()
    first, second = served(cell, 2)
    assert cell.claim(Person(first.user, second.number)).status == Status.PLACE_UNKNOWN
    assert cell.claim(Person(cell.new_user(), 1)).status == Status.PLACE_UNKNOWN
    assert cell.leave(first).status == Status.OK
    assert cell.claim(first).status == Status.PLACE_UNKNOWN
    assert len(cell.ledger()) == 4, "open, join, admit, leave"


@pytest.mark.parametrize(
    ("sale", "status"),
    [
        ({"status": "paused"}, Status.SALE_NOT_OPEN),
        ({"sale_end_at_ms": START_MS}, Status.SALE_NOT_OPEN),
        ({"sale_end_at_ms": START_MS + 1}, Status.OK),
        ({"sale_start_at_ms": START_MS + 1}, Status.SALE_NOT_OPEN),
        ({"sale_start_at_ms": START_MS}, Status.OK),
        ({"queue_paused": 1}, Status.OK),
        ({"ledger_max": 0}, Status.LEDGER_FULL),
    ],
)
def test_who_is_served_claims_while_seats_are_sold(
    new_queue: NewQueue, sale: dict[str, object], status: Status
) -> None:
    cell = new_queue()
    [person] = served(cell)
    cell.client.hset(cell.keys.sale, mapping=sale)
    assert cell.claim(person).status == status


# --- what a pass is good for


def test_a_pass_is_good_until_it_runs_out_to_the_millisecond(new_queue: NewQueue) -> None:
    cell = new_queue()
    first, second = served(cell, 2)
    passes = [cell.passed(first), cell.passed(second)]
    cell.forward(PASS_TTL_MS - 1)
    assert booked(cell, first, passes[0]).status == Status.OK
    cell.forward(1)
    assert booked(cell, second, passes[1]).status == Status.PASS_INVALID
    # Nobody has swept it, and it has ended the place all the same.
    assert cell.claim(second).status == Status.PLACE_UNKNOWN
    assert cell.admit(0).out == 0
    [again] = cell.join(second.user)
    assert again.detail == (3,), "at the end"


def test_a_pass_is_of_one_person_and_for_one_booking(new_queue: NewQueue) -> None:
    cell = new_queue()
    first, second = served(cell, 2)
    mine, theirs = cell.passed(first), cell.passed(second)
    cell.forward(1)
    for wrong in ("", "-", str(int(mine) + 1), str(int(mine) - 1), "0"):
        refused = booked(cell, first, wrong).status
        assert refused == (Status.PASS_REQUIRED if not wrong else Status.PASS_INVALID), wrong
    assert booked(cell, Person(cell.new_user(), 9), mine).status == Status.PASS_INVALID
    assert cell.counters()[1] == 10
    assert booked(cell, first, mine).status == Status.OK
    assert booked(cell, first, mine).status == Status.PASS_INVALID
    assert booked(cell, second, theirs).status == Status.OK


def test_a_refused_reservation_spends_no_pass(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(3, max_per_order=8)])
    [person] = served(cell)
    queue_pass = cell.passed(person)
    assert booked(cell, person, queue_pass, 4).status == Status.INSUFFICIENT_STOCK
    assert booked(cell, person, queue_pass, 3).status == Status.OK


def test_one_call_with_one_pass_twice_is_one_booking(new_queue: NewQueue) -> None:
    cell = new_queue()
    first, second = served(cell, 2)
    mine, theirs = cell.passed(first), cell.passed(second)
    basket = [(cell.zones[0], 1)]
    wishes = [
        Wish(person.user, basket, cell.new_id(), "", queue_pass)
        for person, queue_pass in ((first, mine), (first, mine), (second, theirs), (first, ""))
    ]
    answers = cell.reserve_all(wishes)
    expected = [Status.OK, Status.PASS_INVALID, Status.OK, Status.PASS_REQUIRED]
    assert [answer.status for answer in answers if isinstance(answer, Answer)] == expected
    assert cell.queue()["spent"] == "2"
    assert cell.queue()["units"] == "2"
    cell.assert_adds_up()


def test_a_replay_needs_no_pass(new_queue: NewQueue) -> None:
    cell = new_queue()
    [person] = served(cell)
    booking = cell.hold(person.user, queue_pass=cell.passed(person), fingerprint=digest("f"))
    basket = [(cell.zones[0], 1)]
    again = cell.reserve(person.user, basket, booking=booking, fingerprint=digest("f"))[1]
    assert again.status == Status.REPLAYED
    other = cell.reserve(person.user, basket, booking=booking, fingerprint=digest("g"))[1]
    assert other.status == Status.KEY_REUSED


@pytest.mark.parametrize(
    ("refused_by", "status"),
    [
        ({"status": "paused"}, Status.SALE_NOT_OPEN),
        ({}, Status.PASS_REQUIRED),
    ],
)
def test_a_sale_that_is_not_open_is_said_before_a_pass_is_asked_for(
    new_queue: NewQueue, refused_by: dict[str, str], status: Status
) -> None:
    cell = new_queue(sale=refused_by)
    assert booked(cell, Person(cell.new_user(), 1), "").status == status


def test_an_attempt_without_a_pass_counts_towards_the_rate(new_queue: NewQueue) -> None:
    cell = new_queue()
    user, basket = cell.new_user(), [("no-zone", 1)]
    statuses = [cell.reserve(user, basket, rate=(1_000, 2))[1].status for _ in range(3)]
    assert statuses == [Status.PASS_REQUIRED, Status.PASS_REQUIRED, Status.RATE_LIMITED]


@pytest.mark.parametrize(
    ("room", "status"),
    [
        ({"mode": "open", "opens_at_ms": START_MS + 1}, Status.OK),
        ({"mode": "open", "opens_at_ms": START_MS}, Status.PASS_REQUIRED),
        ({"mode": "open", "opens_at_ms": 0}, Status.PASS_REQUIRED),
        ({"mode": "lottery", "opens_at_ms": START_MS + 1}, Status.PASS_REQUIRED),
    ],
)
def test_a_pass_is_needed_from_the_opening_on_and_in_a_lottery_always(
    new_queue: NewQueue, room: dict[str, object], status: Status
) -> None:
    cell = new_queue(**room)
    assert booked(cell, Person(cell.new_user(), 1), "").status == status
    assert all(len(entry) == 8 for _, entry in cell.ledger() if entry[0] == "reserve"), "no pass was spent"


# --- what comes of it


@pytest.mark.parametrize("end", ["cancelled", "expired", "rejected", "due"])
def test_a_booking_that_ended_without_a_sale_gives_the_place_back(new_queue: NewQueue, end: str) -> None:
    cell = new_queue(passes_max=1)
    [person] = served(cell)
    booking = cell.hold(person.user, queue_pass=cell.passed(person))
    assert cell.claim(person).status == Status.PASS_SPENT
    match end:
        case "cancelled":
            cell.cancel(person.user, booking)
        case "expired":
            cell.forward(HOLD_TTL_MS - 1)
            assert cell.claim(person).status == Status.PASS_SPENT
            cell.forward(1)
            cell.expire()
        case "due":
            cell.forward(HOLD_TTL_MS)
        case "rejected":
            cell.reject(booking)
    claimed = cell.claim(person)
    assert claimed.status == Status.OK
    assert "spent" not in cell.dump()
    cell.hold(person.user, queue_pass=str(claimed.detail[0]))
    assert cell.claim(person).status == Status.PASS_SPENT


def test_who_comes_back_takes_no_slot_that_is_kept_for_others(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], passes_max=2)
    first, second = served(cell, 2)
    booking = cell.hold(first.user, queue_pass=cell.passed(first))
    assert cell.admit(0).out == 1
    cell.people(1)
    assert cell.admit().out == 2
    cell.cancel(first.user, booking)
    assert cell.claim(first).status == Status.NO_ROOM, "both slots are kept for others"
    assert cell.claim(second).status == Status.OK


def test_a_sold_booking_keeps_the_pass_spent(new_queue: NewQueue) -> None:
    cell = new_queue()
    [person] = served(cell)
    booking = cell.hold(person.user, queue_pass=cell.passed(person))
    cell.confirm(person.user, booking)
    cell.forward(HOLD_TTL_MS * 2)
    assert cell.claim(person).status == Status.PASS_SPENT


def test_a_booking_whose_record_is_still_to_come_is_waited_for(new_queue: NewQueue) -> None:
    cell = new_queue()
    [person] = served(cell)
    cell.client.hset(cell.keys.spent, person.user, cell.new_id())
    cell.client.hset(cell.keys.sale, "loaded", "")
    assert cell.claim(person).status == Status.REBUILDING
    cell.client.hdel(cell.keys.sale, "loaded")
    assert cell.claim(person).status == Status.OK, "a record that is nowhere has ended long ago"


def test_what_runs_out_ends_the_place_a_bounded_number_a_call(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)])
    people = served(cell, 5)
    for person in people:
        cell.passed(person)
    cell.forward(PASS_TTL_MS)
    assert cell.admit(lapse_max=2).out == 0, "what ran out counts no more, swept or not"
    assert cell.client.zcard(cell.keys.passes) == 3
    cell.admit(lapse_max=9)
    lapses = [entry[2] for _, entry in cell.ledger() if entry[0] == "lapse"]
    assert sorted(pair for pairs in lapses for pair in pairs) == sorted([p.user, p.number] for p in people)
    assert [len(pairs) for pairs in lapses] == [2, 3]
    assert cell.queue()["lapsed"] == "5"
    assert "places" not in cell.dump()


# --- leaving


def test_who_leaves_gives_back_what_they_had(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)])
    waiting, unclaimed, claimed, spent = reversed(cell.people(4))
    cell.admit(3)
    cell.passed(claimed)
    booking = cell.hold(spent.user, queue_pass=cell.passed(spent))
    assert cell.admit(0).out == 2
    assert cell.leave(unclaimed).status == Status.OK
    assert cell.admit(0).out == 1, "no slot is kept for them any more"
    assert cell.leave(claimed).status == Status.OK
    assert cell.admit(0).out == 0
    assert cell.leave(spent).status == Status.OK
    assert cell.booking(booking)["status"] == "reserved", "the booking is theirs all the same"
    assert cell.leave(waiting).status == Status.OK
    assert cell.queue()["gone"] == "4"
    assert {"places", "passes", "spent", "waves"}.isdisjoint(cell.dump())
    assert "w:3" not in cell.queue()
    [again] = cell.join(spent.user)
    assert again.detail == (5,)
    assert cell.claim(Person(spent.user, 5)).status == Status.NOT_SERVED


def test_a_late_person_who_leaves_takes_no_slot_with_them(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], passes_max=1)
    late, _ = cell.people(2)
    cell.admit()
    cell.forward(GRACE_MS)
    assert cell.admit().people == 1
    assert cell.leave(late).status == Status.OK
    assert cell.admit(0).out == 1


# --- what it costs, and when memory is full


def test_the_pass_check_reads_nothing_where_no_pass_is_shown(real_backend: Backend) -> None:
    cell = QueueCell(real_backend)
    cell.client.config_resetstat()
    booked(cell, Person(cell.new_user(), 1), "-")
    assert "cmdstat_zmscore" not in cell.client.info("commandstats")


def test_with_memory_full_nobody_comes_in_and_everybody_may_leave(
    new_redis: Callable[[], RedisServer],
) -> None:
    with redis.Redis.from_url(new_redis().url) as client:
        cell = QueueCell(Backend(client), [Zone(100)], passes_max=2)
        first, second, third = cell.people(3)
        cell.admit()
        cell.passed(first)
        client.config_set("maxmemory", 1)
        before = cell.dump()
        for refused in (
            lambda: cell.join(cell.new_user()),
            lambda: cell.claim(second),
            cell.admit,
            lambda: cell.draw("5e" * 32, 0, b""),
        ):
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                refused()
        assert cell.dump() == before
        assert cell.leave(third).status == Status.OK
        assert cell.leave(first).status == Status.OK
        client.config_set("maxmemory", 0)
        assert cell.claim(second).status == Status.OK
        assert cell.admit() == (2, 0, 1, 3)
