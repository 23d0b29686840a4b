"""confirm, cancel, expire, reject: one table of what each does in each state, and what it writes."""

from collections.abc import Callable

import pytest
import redis

from engine.status import Status
from tests.lua.cellkit import HOLD_TTL_MS, START_MS, Answer, Cell, Zone

NewCell = Callable[..., Cell]
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"
ENDED_TTL_S = 86_400


def bring(cell: Cell, state: str, *, fingerprint: str | None = None, quantity: int = 2) -> str:
    """A booking of Alice in that state."""
    booking = cell.hold(ALICE, quantity, fingerprint=fingerprint)
    match state:
        case "reserved":
            pass
        case "due":
            cell.forward(HOLD_TTL_MS)
        case "confirmed":
            assert cell.confirm(ALICE, booking, paid=True).status == Status.OK
        case "confirmed long ago":
            assert cell.confirm(ALICE, booking, paid=True).status == Status.OK
            cell.forward(10 * HOLD_TTL_MS)
        case "cancelled":
            assert cell.cancel(ALICE, booking).status == Status.OK
        case "expired":
            cell.forward(HOLD_TTL_MS)
            cell.expire()
            assert cell.booking(booking)["status"] == "expired"
        case "rejected":
            assert cell.reject(booking).status == Status.OK
        case _:
            raise ValueError(state)
    return booking


def act(cell: Cell, verb: str, booking: str, user: str = ALICE) -> Answer:
    match verb:
        case "confirm":
            return cell.confirm(user, booking)
        case "confirm paid":
            return cell.confirm(user, booking, paid=True)
        case "cancel":
            return cell.cancel(user, booking)
        case "reject":
            return cell.reject(booking)
        case _:
            raise ValueError(verb)


VERBS = ("confirm", "cancel", "reject")
TABLE = {
    "reserved": ("OK", "OK", "OK"),
    # The deadline decides, not the sweeper: this hold's deadline has passed and nobody has come yet.
    "due": ("BOOKING_EXPIRED", "BOOKING_EXPIRED", "OK"),
    "confirmed": ("REPLAYED", "BOOKING_ENDED", "OK"),
    "confirmed long ago": ("REPLAYED", "BOOKING_ENDED", "OK"),
    "cancelled": ("BOOKING_ENDED", "REPLAYED", "REPLAYED"),
    "expired": ("BOOKING_EXPIRED", "BOOKING_EXPIRED", "REPLAYED"),
    "rejected": ("BOOKING_ENDED", "REPLAYED", "REPLAYED"),
}
STATES = tuple(TABLE)
CASES = [
    (verb, state, expected) for state, row in TABLE.items() for verb, expected in zip(VERBS, row, strict=True)
]


@pytest.mark.parametrize(("verb", "state", "expected"), CASES)
def test_each_verb_in_each_state(new_cell: NewCell, verb: str, state: str, expected: str) -> None:
    cell = new_cell()
    booking = bring(cell, state)
    before = cell.dump()
    answer = act(cell, verb, booking)
    assert answer.status == Status[expected]
    assert answer.at == cell.ledger()[-1][0], "every answer says where the ledger stood"
    if answer.status != Status.OK:
        assert cell.dump() == before
    if verb != "reject":
        assert answer.detail[:2] == (ALICE.encode(), cell.booking(booking)["status"].encode())
        assert len(answer.detail) == 13
    cell.assert_adds_up()


@pytest.mark.parametrize("verb", ["confirm", "cancel", "reject"])
def test_an_unknown_booking_is_unknown(new_cell: NewCell, verb: str) -> None:
    cell = new_cell()
    before = cell.dump()
    assert act(cell, verb, cell.new_id()) == (Status.BOOKING_UNKNOWN, "1-0", ())
    assert cell.dump() == before


@pytest.mark.parametrize("verb", ["confirm", "cancel"])
@pytest.mark.parametrize("state", STATES)
def test_somebody_elses_booking_is_unknown_in_every_state(new_cell: NewCell, verb: str, state: str) -> None:
    cell = new_cell()
    booking = bring(cell, state)
    before = cell.dump()
    answer = act(cell, verb, booking, BOB)
    assert (answer.status, answer.detail) == (Status.BOOKING_UNKNOWN, ())
    assert cell.dump() == before


@pytest.mark.parametrize("verb", ["confirm", "cancel", "reject"])
@pytest.mark.parametrize("state", [*STATES, "unknown"])
def test_a_cell_that_is_not_open_says_nothing_of_its_bookings(
    new_cell: NewCell, verb: str, state: str
) -> None:
    cell = new_cell()
    booking = cell.new_id() if state == "unknown" else bring(cell, state)
    cell.fence()
    before = cell.dump()
    assert act(cell, verb, booking) == (Status.NOT_OPEN, "0-0", ())
    assert cell.dump() == before
    cell.client.delete(cell.keys.sale)
    assert act(cell, verb, booking) == (Status.NOT_OPEN, "0-0", ())


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("reserved", "PAYMENT_REQUIRED"),
        ("due", "BOOKING_EXPIRED"),
        ("confirmed", "REPLAYED"),
        ("cancelled", "BOOKING_ENDED"),
        ("expired", "BOOKING_EXPIRED"),
    ],
)
def test_a_priced_booking_needs_a_payment_and_that_is_said_last(
    new_cell: NewCell, state: str, expected: str
) -> None:
    cell = new_cell([Zone(price_minor=500)])
    booking = bring(cell, state)
    before = cell.dump()
    assert cell.confirm(ALICE, booking).status == Status[expected]
    assert cell.dump() == before
    if state == "reserved":
        assert cell.confirm(ALICE, booking, paid=True).status == Status.OK


# --- what is written


def test_a_confirm_sells_the_seats_and_keeps_the_buyers_units(new_cell: NewCell) -> None:
    cell = new_cell([Zone(10), Zone(10, 5)])
    first, second = cell.zones
    booking, _ = cell.reserve(ALICE, [(first, 1), (second, 2)])
    at_ms = cell.forward(1_000)
    answer = cell.confirm(ALICE, booking, code="ABC234", paid=True)
    items = [[first, 1, 0, cell.shows[0]], [second, 2, 5, cell.shows[0]]]
    assert answer[:2] == (Status.OK, "1-2")
    assert answer.detail[10:] == (str(at_ms).encode(), b"ABC234", b"1-2")
    assert cell.ledger()[-1] == ("1-2", ["confirm", at_ms, booking, 2, ALICE, "ABC234", items])
    assert (cell.counters(0), cell.counters(1)) == ((10, 9, 0, 1, 0), (10, 8, 0, 2, 0))
    dump = cell.dump()
    assert (cell.units(), cell.holds(ALICE)) == ({ALICE: 3}, [])
    assert "deadlines" not in dump
    record = dump[f"booking:{booking}"]
    assert {name: record[name] for name in ("status", "version", "confirmed_at_ms", "code", "seq")} == {
        "status": "confirmed",
        "version": "2",
        "confirmed_at_ms": str(at_ms),
        "code": "ABC234",
        "seq": "1-2",
    }


def test_a_confirm_is_answered_again_with_its_first_code_and_place(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = cell.hold(ALICE)
    first = cell.confirm(ALICE, booking, code="FIRST")
    cell.hold(BOB)
    again = cell.confirm(ALICE, booking, code="SECOND")
    assert again == (Status.REPLAYED, "1-3", first.detail)
    assert again.detail[-2:] == (b"FIRST", b"1-2")


def test_the_deadline_is_the_first_moment_that_is_too_late(new_cell: NewCell) -> None:
    cell = new_cell()
    in_time, too_late = cell.hold(ALICE), cell.hold(ALICE)
    cell.forward(HOLD_TTL_MS - 1)
    assert cell.confirm(ALICE, in_time).status == Status.OK
    cell.forward(1)
    assert cell.confirm(ALICE, too_late).status == Status.BOOKING_EXPIRED
    assert cell.cancel(ALICE, too_late).status == Status.BOOKING_EXPIRED


@pytest.mark.parametrize(
    ("verb", "state", "word", "was", "becomes"),
    [
        ("cancel", "reserved", "cancel", "reserved", "cancelled"),
        ("reject", "reserved", "reject", "reserved", "cancelled"),
        ("reject", "due", "reject", "reserved", "cancelled"),
        ("reject", "confirmed", "reject", "confirmed", "cancelled"),
    ],
)
def test_what_is_given_back_is_free_again(
    new_cell: NewCell, verb: str, state: str, word: str, was: str, becomes: str
) -> None:
    cell = new_cell()
    booking = bring(cell, state)
    version = int(cell.booking(booking)["version"]) + 1
    at_ms = cell.now_ms
    assert act(cell, verb, booking).status == Status.OK
    entry_id, entry = cell.ledger()[-1]
    items = [[cell.zones[0], 2, 0, cell.shows[0]]]
    assert entry == [word, at_ms, booking, version, ALICE, was, items]
    dump = cell.dump()
    assert cell.counters() == (10, 10, 0, 0, 0)
    assert "buyers" not in dump
    assert "deadlines" not in dump
    record = dump[f"booking:{booking}"]
    assert (record["status"], record["version"]) == (becomes, str(version))
    assert (record["ended_at_ms"], record["seq"]) == (str(at_ms), entry_id)


@pytest.mark.parametrize("verb", ["cancel", "reject", "expire"])
@pytest.mark.parametrize("fingerprint", [None, "f"])
def test_only_an_ended_booking_without_a_key_is_forgotten_after_a_day(
    new_cell: NewCell, verb: str, fingerprint: str | None
) -> None:
    cell = new_cell()
    booking = cell.hold(ALICE, fingerprint=fingerprint)
    assert cell.client.ttl(cell.keys.booking(booking)) == -1
    if verb == "expire":
        cell.forward(HOLD_TTL_MS)
        cell.expire()
    else:
        act(cell, verb, booking)
    ttl_s = cell.client.ttl(cell.keys.booking(booking))
    assert (ttl_s == -1) if fingerprint else (ENDED_TTL_S - 60 < ttl_s <= ENDED_TTL_S)


def test_a_confirmed_booking_is_never_forgotten(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = bring(cell, "confirmed")
    assert cell.client.ttl(cell.keys.booking(booking)) == -1


# --- expire


def test_expire_takes_back_what_is_due_and_says_when_to_come_again(new_cell: NewCell) -> None:
    cell = new_cell([Zone(), Zone()])
    assert cell.expire().detail == (0, 0, START_MS, HOLD_TTL_MS), "no hold, so nothing to come for"
    first = cell.hold(ALICE, 2)
    cell.forward(10)
    second, _ = cell.reserve(BOB, [(cell.zones[1], 1), (cell.zones[0], 1)])
    first_due_at_ms, second_due_at_ms = START_MS + HOLD_TTL_MS, START_MS + HOLD_TTL_MS + 10
    assert cell.expire() == (Status.OK, "1-2", (0, first_due_at_ms, START_MS + 10, HOLD_TTL_MS))
    cell.set_time(first_due_at_ms - 1)
    assert cell.expire().detail[:2] == (0, first_due_at_ms)
    cell.set_time(first_due_at_ms)
    assert cell.expire() == (Status.OK, "1-3", (1, second_due_at_ms, first_due_at_ms, HOLD_TTL_MS))
    assert cell.ledger()[-1] == (
        "1-3",
        ["expire", first_due_at_ms, first, 2, ALICE, "reserved", [[cell.zones[0], 2, 0, cell.shows[0]]]],
    )
    assert cell.booking(first)["status"] == "expired"
    assert cell.booking(second)["status"] == "reserved"
    cell.set_time(second_due_at_ms)
    assert cell.expire().detail[:2] == (1, 0)
    assert "deadlines" not in cell.dump()
    cell.assert_adds_up()


def test_expire_takes_back_a_bounded_number_and_goes_on_where_it_stopped(new_cell: NewCell) -> None:
    cell = new_cell([Zone(), Zone()], max_per_user=20)
    for number in range(7):
        cell.hold(ALICE, 1, zone=number % 2)
    both, _ = cell.reserve(ALICE, [(zone, 1) for zone in cell.zones])
    cell.forward(HOLD_TTL_MS)
    due_at_ms = START_MS + HOLD_TTL_MS
    answers = [cell.expire(3).detail[:2] for _ in range(4)]
    assert answers == [(3, due_at_ms), (3, due_at_ms), (2, 0), (0, 0)]
    assert cell.booking(both)["version"] == "2", "a hold of two zones ends once"
    assert cell.hash("buyers") == {}
    cell.assert_adds_up()


def test_expire_leaves_confirmed_and_cancelled_bookings_alone(new_cell: NewCell) -> None:
    cell = new_cell()
    bring(cell, "confirmed")
    bring(cell, "cancelled")
    cell.forward(HOLD_TTL_MS)
    before = cell.dump()
    assert cell.expire().detail[:2] == (0, 0)
    assert cell.dump() == before


def test_a_deadline_without_its_hold_does_not_stand_in_the_way(new_cell: NewCell) -> None:
    cell = new_cell()
    held = cell.hold(ALICE)
    stray = f"{cell.zones[0]}:{START_MS:013}:{cell.new_id()}"
    cell.client.zadd(cell.keys.deadlines, {stray: 0})
    cell.forward(HOLD_TTL_MS)
    assert cell.expire(1).detail[0] == 0
    assert cell.expire(1).detail[0] == 1
    assert cell.booking(held)["status"] == "expired"
    assert "deadlines" not in cell.dump()


def test_expire_refuses_where_the_cell_is_not_open(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.hold(ALICE)
    cell.forward(HOLD_TTL_MS)
    cell.fence()
    before = cell.dump()
    assert cell.expire() == (Status.NOT_OPEN, "0-0", ())
    assert cell.dump() == before


# --- the ledger


def test_seq_is_dense_and_time_never_goes_back(new_cell: NewCell) -> None:
    cell = new_cell(max_per_user=50)
    for state in STATES:
        bring(cell, state, quantity=1)
    cell.edit(1, {"sale": {"max_per_user": 51}})
    ledger = cell.ledger()
    assert [entry_id for entry_id, _ in ledger] == [f"1-{seq}" for seq in range(len(ledger))]
    assert cell.hash("sale")["seq"] == str(len(ledger) - 1)
    # The server's clock is a lifetime behind the cell's, and each time is what the cell's was.
    times = [entry[1] for _, entry in ledger[1:]]
    assert times == sorted(times)
    assert times[0] == START_MS


def test_a_cell_in_the_past_takes_the_time_of_the_server(new_cell: NewCell) -> None:
    cell = new_cell(start_ms=1)
    seconds, microseconds = cell.client.time()
    booking = cell.hold(ALICE)
    created_at_ms = int(cell.booking(booking)["created_at_ms"])
    assert seconds * 1_000 + microseconds // 1_000 <= created_at_ms < seconds * 1_000 + 60_000
    assert cell.now_ms == created_at_ms


WRITERS = {
    "reserve": lambda cell, bookings: cell.reserve(BOB, [(cell.zones[0], 1)]),
    "reserve that takes back": lambda cell, bookings: (
        cell.forward(HOLD_TTL_MS),
        cell.reserve(BOB, [(cell.zones[0], 8)]),
    ),
    "confirm": lambda cell, bookings: cell.confirm(ALICE, bookings[0]),
    "cancel": lambda cell, bookings: cell.cancel(ALICE, bookings[0]),
    "expire": lambda cell, bookings: (cell.forward(HOLD_TTL_MS), cell.expire()),
    "reject": lambda cell, bookings: cell.reject(bookings[0]),
    "edit": lambda cell, bookings: cell.edit(
        1, {"sale": {"max_per_user": 3}, "zones": [{"zone_id": cell.zones[0], "capacity": 12}]}
    ),
    "edit that is refused": lambda cell, bookings: cell.edit(
        1, {"zones": [{"zone_id": cell.zones[0], "capacity": 0}]}
    ),
    "open": lambda cell, bookings: cell.open(1, 2, 2),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_where_the_ledger_is_ahead_nothing_is_written(new_cell: NewCell, writer: str) -> None:
    cell = new_cell()
    bookings = [cell.hold(ALICE, 2), cell.hold(ALICE, 2, fingerprint="f")]
    cell.client.xadd(cell.keys.ledger, {"e": '["open",0]'}, id="9-9")
    before: dict[str, object] = {}

    def forward(ms: int) -> int:
        at_ms = Cell.forward(cell, ms)
        before.update(cell.dump())
        return at_ms

    cell.forward = forward  # type: ignore[method-assign]
    before.update(cell.dump())
    with pytest.raises(redis.ResponseError):
        WRITERS[writer](cell, bookings)
    assert cell.dump() == before


def test_a_ledger_that_lost_its_end_goes_on_with_a_gap_that_is_seen(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.hold(ALICE)
    cell.client.hset(cell.keys.sale, "seq", 5)
    cell.hold(ALICE)
    assert [entry_id for entry_id, _ in cell.ledger()] == ["1-0", "1-1", "1-6"]
