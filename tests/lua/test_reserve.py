"""reserve: who is refused and why, in which order, and that a refusal leaves no trace."""

import json
from collections.abc import Callable

import pytest

from engine.status import Status
from tests.lua.cellkit import HOLD_TTL_MS, RATE_INTERVAL_MS, START_MS, Cell, Zone, as_text, digest

NewCell = Callable[..., Cell]
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"


# --- what is granted


def test_all_items_are_taken_and_written_down_once(new_cell: NewCell) -> None:
    cell = new_cell([Zone(10, 500), Zone(5, 250, blocked=1, show=1)])
    first, second = cell.zones
    booking, answer = cell.reserve(
        ALICE, [(second, 1, cell.shows[1]), (first, 2)], fingerprint=digest("request")
    )
    items = [[second, 1, 250, cell.shows[1]], [first, 2, 500, cell.shows[0]]]
    expires_at_ms = START_MS + HOLD_TTL_MS
    assert answer[:2] == (Status.OK, "1-1")
    text, *rest = answer.detail
    assert json.loads(text) == items
    assert rest == [3, b"1250", b"GBP", str(START_MS).encode(), str(expires_at_ms).encode()]
    tail = f":{expires_at_ms}:{booking}"
    dump = cell.dump()
    assert cell.counters(0) == (10, 8, 2, 0, 0)
    assert cell.counters(1) == (5, 3, 1, 0, 1)
    assert dump["buyers"] == {ALICE: f"3 {START_MS + RATE_INTERVAL_MS} {booking}:{expires_at_ms}"}
    assert dump["deadlines"] == sorted([f"{first}{tail}", f"{second}{tail}"])
    assert dump[f"booking:{booking}"] == {
        "user": ALICE,
        "status": "reserved",
        "version": "1",
        "fingerprint": digest("request"),
        "items": json.dumps(items, separators=(",", ":")),
        "quantity": "3",
        "total_minor": "1250",
        "currency": "GBP",
        "created_at_ms": str(START_MS),
        "expires_at_ms": str(expires_at_ms),
        "seq": "1-1",
    }
    assert cell.ledger()[1:] == [
        ("1-1", ["reserve", START_MS, booking, ALICE, digest("request"), expires_at_ms, "GBP", items])
    ]


def test_eight_items_fit_and_the_last_seats_go(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1)] * 8)
    _, answer = cell.reserve(ALICE, [(zone, 1) for zone in cell.zones])
    assert answer.status == Status.OK
    assert {cell.counters(zone) for zone in range(8)} == {(1, 0, 1, 0, 0)}
    _, answer = cell.reserve(BOB, [(cell.zones[7], 1)])
    assert answer == (Status.INSUFFICIENT_STOCK, "1-1", (cell.zones[7].encode(), 1, 0))


def test_numbers_of_money_and_time_keep_all_their_digits(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1_000, 1_795_225_729_123, max_per_order=1_000)], max_per_user=1_000)
    booking, answer = cell.reserve(ALICE, [(cell.zones[0], 999)])
    total_minor = 999 * 1_795_225_729_123
    assert answer.detail[2] == str(total_minor).encode()
    assert cell.booking(booking)["total_minor"] == str(total_minor)
    assert cell.ledger()[-1][1][7] == [[cell.zones[0], 999, 1_795_225_729_123, cell.shows[0]]]
    assert cell.confirm(ALICE, booking, paid=True).detail[6] == str(total_minor).encode()


# --- the order of refusals

# Each makes its own refusal apply, on top of a request that would be granted. Two at once: the first wins.
REFUSALS = (
    Status.NOT_OPEN,
    Status.REPLAYED,
    Status.KEY_COLLISION,
    Status.KEY_REUSED,
    Status.SALE_NOT_OPEN,
    Status.RATE_LIMITED,
    Status.ZONE_UNKNOWN,
    Status.SHOW_MISMATCH,
    Status.OVER_ORDER_LIMIT,
    Status.OVER_USER_LIMIT,
    Status.INSUFFICIENT_STOCK,
    Status.LEDGER_FULL,
)
EXCLUSIVE = {Status.REPLAYED, Status.KEY_COLLISION, Status.KEY_REUSED}
"""Of these only one can apply: they are about the one booking that the key leads to."""


class Attempt:
    """A request on a cell in which the given refusals apply, and no other."""

    def __init__(self, new_cell: NewCell, applying: set[Status]) -> None:
        self.cell = cell = new_cell([Zone(10), Zone(10)])
        self.applying = applying
        first, second = cell.zones
        self.items: list[tuple[str, int] | tuple[str, int, str]] = [(first, 1), (second, 1, cell.shows[0])]
        self.booking = cell.hold(ALICE, 1, fingerprint="first")
        cell.set_attempts(ALICE, 0)
        self.is_keyed = bool(applying & EXCLUSIVE)
        self.user = BOB if Status.KEY_COLLISION in applying else ALICE
        self.fingerprint = "other" if Status.KEY_REUSED in applying else "first"
        self.rate = (1_000, 1)
        self._set_up()

    def _set_up(self) -> None:
        cell, keys = self.cell, self.cell.keys
        first, second = cell.zones
        for status in self.applying:
            match status:
                case Status.SALE_NOT_OPEN:
                    cell.client.hset(keys.sale, "status", "paused")
                case Status.RATE_LIMITED:
                    cell.set_attempts(self.user, cell.now_ms + 1_000)
                case Status.ZONE_UNKNOWN:
                    self.items.append((cell.new_id(), 1))
                case Status.SHOW_MISMATCH:
                    self.items[1] = (second, self.items[1][1], cell.new_id())
                case Status.OVER_ORDER_LIMIT:
                    cell.client.hset(keys.zone(first), "max_per_order", 0)
                case Status.OVER_USER_LIMIT:
                    cell.client.hset(keys.sale, "max_per_user", 2)
                    if self.user != ALICE:
                        cell.client.hset(keys.buyers, self.user, "1 0")
                case Status.INSUFFICIENT_STOCK:
                    cell.client.hset(keys.zone(second), mapping={"available": 0, "blocked": 10})
                case Status.LEDGER_FULL:
                    cell.client.hset(keys.sale, "ledger_max", 2)
                case _:
                    pass
        if Status.NOT_OPEN in self.applying:
            cell.client.hdel(keys.sale, "epoch")

    def answer(self) -> Status:
        """What the cell says, having checked that it left no trace but the rate."""
        before = self.cell.dump(rates=False)
        booking = self.booking if self.is_keyed else None
        fingerprint = self.fingerprint if self.is_keyed else None
        _, answer = self.cell.reserve(
            self.user, self.items, booking=booking, fingerprint=fingerprint, rate=self.rate
        )
        if answer.status != Status.OK:
            assert self.cell.dump(rates=False) == before
            assert answer.at == ("0-0" if answer.status == Status.NOT_OPEN else "1-1")
        return answer.status


def test_a_request_to_which_no_refusal_applies_is_granted(new_cell: NewCell) -> None:
    assert Attempt(new_cell, set()).answer() == Status.OK


@pytest.mark.parametrize("status", REFUSALS, ids=lambda status: status.name)
def test_each_refusal_is_answered_alone(new_cell: NewCell, status: Status) -> None:
    assert Attempt(new_cell, {status}).answer() == status


PAIRS = [
    (first, second)
    for position, first in enumerate(REFUSALS)
    for second in REFUSALS[position + 1 :]
    if not {first, second} <= EXCLUSIVE
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda status: status.name)
def test_of_two_refusals_the_earlier_is_answered(new_cell: NewCell, first: Status, second: Status) -> None:
    assert list(REFUSALS) == sorted(REFUSALS)
    assert Attempt(new_cell, {first, second}).answer() == first


def test_all_refusals_at_once_fall_away_in_order(new_cell: NewCell) -> None:
    chain = [status for status in REFUSALS if status not in EXCLUSIVE]
    for position, status in enumerate(chain):
        assert Attempt(new_cell, set(chain[position:])).answer() == status


# --- when it is open


@pytest.mark.parametrize(
    ("sale", "is_granted"),
    [
        ({"sale_start_at_ms": START_MS + 1}, False),
        ({"sale_start_at_ms": START_MS}, True),
        ({"sale_end_at_ms": START_MS + 1}, True),
        ({"sale_end_at_ms": START_MS}, False),
        ({"sale_end_at_ms": 0}, True),
        ({"status": "paused"}, False),
        ({"status": "cancelled"}, False),
        ({"status": "draft"}, False),
    ],
)
def test_the_sale_is_open_from_its_start_until_before_its_end(
    new_cell: NewCell, sale: dict[str, object], is_granted: bool
) -> None:
    cell = new_cell(**sale)
    before = cell.dump()
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)])
    if is_granted:
        assert answer.status == Status.OK
        return
    fields = {"status": "published", "sale_start_at_ms": 0, "sale_end_at_ms": 0} | sale
    assert answer.status == Status.SALE_NOT_OPEN
    assert answer.detail == (
        str(fields["status"]).encode(),
        fields["sale_start_at_ms"],
        fields["sale_end_at_ms"],
        START_MS,
    )
    assert cell.dump() == before, "a closed sale does not even count towards the rate"


# --- limits


def test_the_order_limit_is_for_each_zone_and_its_edge_is_granted(new_cell: NewCell) -> None:
    cell = new_cell([Zone(max_per_order=2), Zone(max_per_order=3)], max_per_user=50)
    first, second = cell.zones
    assert cell.reserve(ALICE, [(first, 2), (second, 3)])[1].status == Status.OK
    _, answer = cell.reserve(BOB, [(first, 2), (second, 4)])
    assert answer == (Status.OVER_ORDER_LIMIT, "1-1", (second.encode(), 4, 3))


def test_the_limit_of_a_person_counts_all_zones_and_confirmed_bookings(new_cell: NewCell) -> None:
    cell = new_cell([Zone(), Zone()], max_per_user=4)
    first, second = cell.zones
    booking, _ = cell.reserve(ALICE, [(first, 1), (second, 1)])
    cell.confirm(ALICE, booking)
    cell.hold(ALICE, 1, zone=1)
    _, answer = cell.reserve(ALICE, [(first, 1), (second, 1)])
    assert answer == (Status.OVER_USER_LIMIT, "1-3", (2, 3, 4))
    assert cell.reserve(BOB, [(first, 2), (second, 2)])[1].status == Status.OK
    cell.hold(ALICE, 1)
    cell.assert_adds_up()


def test_what_is_given_back_may_be_taken_again(new_cell: NewCell) -> None:
    cell = new_cell(max_per_user=3)
    booking = cell.hold(ALICE, 3)
    assert cell.reserve(ALICE, [(cell.zones[0], 1)])[1].status == Status.OVER_USER_LIMIT
    cell.cancel(ALICE, booking)
    assert "buyers" not in cell.dump(), "who has nothing is not in the table"
    cell.hold(ALICE, 3)


def test_a_full_ledger_refuses_new_bookings_only(new_cell: NewCell) -> None:
    cell = new_cell(ledger_max=3)
    held, given_back = cell.hold(ALICE), cell.hold(ALICE, fingerprint="f")
    assert cell.reserve(BOB, [(cell.zones[0], 1)])[1].status == Status.LEDGER_FULL
    replay = cell.reserve(ALICE, [(cell.zones[0], 1)], booking=given_back, fingerprint="f")[1]
    assert replay.status == Status.REPLAYED
    assert cell.confirm(ALICE, held).status == Status.OK
    assert cell.cancel(ALICE, given_back).status == Status.OK


# --- replays


@pytest.mark.parametrize("then", ["reserved", "confirmed", "cancelled", "expired", "rejected"])
def test_a_replay_finds_its_booking_whatever_became_of_it(new_cell: NewCell, then: str) -> None:
    cell = new_cell()
    booking, first = cell.reserve(ALICE, [(cell.zones[0], 2)], fingerprint="f")
    match then:
        case "confirmed":
            cell.confirm(ALICE, booking)
        case "cancelled":
            cell.cancel(ALICE, booking)
        case "expired":
            cell.forward(HOLD_TTL_MS)
            cell.expire()
        case "rejected":
            cell.reject(booking)
    before = cell.dump()
    _, replay = cell.reserve(ALICE, [(cell.zones[0], 2)], booking=booking, fingerprint="f", rate=(60_000, 1))
    assert replay.status == Status.REPLAYED
    assert replay.detail[0] == ALICE.encode()
    assert replay.detail[1].decode() == {"rejected": "cancelled"}.get(then, then)
    assert as_text(replay).detail[4:10] == as_text(first).detail, "what was taken, for how much, until when"
    assert replay.at == cell.ledger()[-1][0]
    assert cell.dump() == before, "nothing is taken twice and no attempt is counted"


def test_a_key_without_a_booking_may_be_tried_again(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1)])
    other = cell.hold(BOB)
    booking, answer = cell.reserve(ALICE, [(cell.zones[0], 1)], fingerprint="f")
    assert answer.status == Status.INSUFFICIENT_STOCK
    cell.cancel(BOB, other)
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)], booking=booking, fingerprint="f")
    assert answer.status == Status.OK


# --- the rate


def test_a_burst_is_granted_and_then_one_each_interval(new_cell: NewCell) -> None:
    cell = new_cell([Zone(100)], max_per_user=100)
    item = [(cell.zones[0], 1)]
    rate = (1_000, 3)

    def attempt() -> tuple[Status, tuple[int, ...]]:
        answer = cell.reserve(ALICE, item, rate=rate)[1]
        return answer.status, answer.detail if answer.status == Status.RATE_LIMITED else ()

    assert [attempt()[0] for _ in range(3)] == [Status.OK] * 3
    assert attempt() == (Status.RATE_LIMITED, (1_000,))
    cell.forward(999)
    assert attempt() == (Status.RATE_LIMITED, (1,))
    cell.forward(1)
    assert attempt()[0] == Status.OK
    assert attempt() == (Status.RATE_LIMITED, (1_000,))
    assert cell.reserve(BOB, item, rate=rate)[1].status == Status.OK, "each person has a bucket"
    cell.forward(60_000)
    assert [attempt()[0] for _ in range(4)] == [Status.OK] * 3 + [Status.RATE_LIMITED]


@pytest.mark.parametrize(
    "refusal", [Status.ZONE_UNKNOWN, Status.OVER_USER_LIMIT, Status.INSUFFICIENT_STOCK, Status.LEDGER_FULL]
)
def test_a_refused_attempt_counts_towards_the_rate(new_cell: NewCell, refusal: Status) -> None:
    attempt = Attempt(new_cell, {refusal})
    assert attempt.answer() == refusal
    assert attempt.answer() == Status.RATE_LIMITED
    attempt.cell.forward(1_000)
    assert attempt.answer() == refusal


def test_an_attempt_refused_for_its_rate_does_not_lengthen_the_wait(new_cell: NewCell) -> None:
    cell = new_cell()
    for _ in range(5):
        answer = cell.reserve(ALICE, [(cell.zones[0], 1)], rate=(1_000, 1))[1]
    assert (answer.status, answer.detail) == (Status.RATE_LIMITED, (1_000,))


def test_the_bucket_is_forgotten_once_it_is_full(new_cell: NewCell) -> None:
    cell = new_cell()
    bookings = [cell.hold(ALICE, rate=(1_000, 5)) for _ in range(2)]
    assert cell.client.exists(cell.keys.rate(ALICE)) == 0, "it stands with what Alice has"
    for booking in bookings:
        assert cell.cancel(ALICE, booking).status == Status.OK
    assert 0 < cell.client.pttl(cell.keys.rate(ALICE)) <= 2_000
    refused = cell.reserve(BOB, [(cell.zones[0], 9)], rate=(1_000, 5))[1]
    assert refused.status == Status.OVER_ORDER_LIMIT
    assert 0 < cell.client.pttl(cell.keys.rate(BOB)) <= 1_000


def test_whoever_gives_everything_back_has_no_new_bucket(new_cell: NewCell) -> None:
    cell = new_cell()
    for _ in range(2):
        assert cell.cancel(ALICE, cell.hold(ALICE, rate=(1_000, 2))).status == Status.OK
    assert cell.reserve(ALICE, [(cell.zones[0], 1)], rate=(1_000, 2))[1].status == Status.RATE_LIMITED


def test_a_rate_without_an_interval_is_no_limit_and_no_error(new_cell: NewCell) -> None:
    cell = new_cell()
    for _ in range(3):
        cell.hold(ALICE, rate=(0, 1))
    assert cell.reserve(ALICE, [(cell.zones[0], 9)], rate=(0, 1))[1].status == Status.OVER_ORDER_LIMIT
    cell.assert_adds_up()
