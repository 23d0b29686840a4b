"""Every status of the scripts becomes an answer of the API, with the details that the script gave."""

from collections.abc import Callable
from typing import Any

import pytest

from engine import errors
from engine.outcomes import refusal
from engine.settings import Settings
from engine.status import Status
from tests.lua.cellkit import START_MS, Answer, Cell, Zone, fake_backend
from tests.lua.queuekit import GRACE_MS, Person, QueueCell

ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"
SETTINGS = Settings(env="development", reserve_rate_per_minute=20, reserve_burst=10)


@pytest.fixture
def cell() -> Cell:
    return Cell(fake_backend(), [Zone(10, 500, max_per_order=5)], max_per_user=6)


def _reserve(cell: Cell, quantity: int = 1, **options: Any) -> Answer:
    return cell.reserve(options.pop("user", ALICE), [(cell.zones[0], quantity)], **options)[1]


def _reserve_after(cell: Cell, **sale: Any) -> Answer:
    cell.client.hset(cell.keys.sale, mapping=sale)
    return _reserve(cell)


def _same_key(cell: Cell, user: str) -> Answer:
    booking = cell.hold(ALICE, fingerprint="f")
    return _reserve(cell, user=user, booking=booking, fingerprint="other")


def _holds_due(cell: Cell) -> Answer:
    for _ in range(10):
        cell.hold(cell.new_user())
    cell.forward(60_000)
    return _reserve(cell, 5, due_max=1)


def _sold_out(cell: Cell) -> Answer:
    cell.hold(BOB, 5)
    cell.hold(cell.new_user(), 4)
    return _reserve(cell, 3)


def _on_hold(cell: Cell, act: Callable[[Cell, str], Any], then: Callable[[Cell, str], Answer]) -> Answer:
    booking = cell.hold(ALICE)
    act(cell, booking)
    return then(cell, booking)


def _in_queue(act: Callable[[QueueCell], Answer]) -> Callable[[Cell], Answer]:
    """Act in a waiting room with one place, in the stead of the cell."""

    def attempt(cell: Cell) -> Answer:
        queue = QueueCell(cell.backend, [Zone(10)], cell_id=None, passes_max=1)
        cell.keys = queue.keys
        return act(queue)

    return attempt


def _late(cell: QueueCell) -> Answer:
    first, second = cell.people(2)
    cell.admit()
    cell.forward(GRACE_MS)
    cell.admit()
    cell.passed(second, 0)
    return cell.claim(first)


def _spent(cell: QueueCell) -> Answer:
    [person] = cell.people(1)
    cell.admit()
    cell.hold(person.user, queue_pass=cell.passed(person))
    return cell.claim(person)


def _still_loading(cell: Cell) -> Answer:
    cell.client.hset(cell.keys.sale, "loaded", "")
    return cell.confirm(ALICE, cell.new_id())


CASES: dict[Status, tuple[Callable[[Cell], Answer], type[errors.RushError], dict[str, Any]]] = {
    Status.NOT_OPEN: (lambda cell: (cell.fence(), _reserve(cell))[1], errors.Fenced, {}),
    Status.KEY_COLLISION: (lambda cell: _same_key(cell, BOB), errors.IdempotencyKeyReused, {}),
    Status.KEY_REUSED: (lambda cell: _same_key(cell, ALICE), errors.IdempotencyKeyReused, {}),
    Status.SALE_NOT_OPEN: (
        lambda cell: _reserve_after(cell, status="paused"),
        errors.SaleNotOpen,
        {"status": "paused", "opens_at": "1970-01-01T00:00:00.000Z"},
    ),
    Status.RATE_LIMITED: (
        lambda cell: [_reserve(cell, rate=(3_000, 1)) for _ in range(2)][1],
        errors.RateLimited,
        {},
    ),
    Status.ZONE_UNKNOWN: (
        lambda cell: cell.reserve(ALICE, [("no-zone", 1)])[1],
        errors.NotFound,
        {"zone_id": "no-zone"},
    ),
    Status.SHOW_MISMATCH: (
        lambda cell: cell.reserve(ALICE, [(cell.zones[0], 1, "no-show")])[1],
        errors.ValidationFailed,
        {"field": "show_id", "reason": "is not the zone's show"},
    ),
    Status.OVER_ORDER_LIMIT: (
        lambda cell: _reserve(cell, 6),
        errors.ValidationFailed,
        {"field": "quantity", "reason": "at most 5 in one order"},
    ),
    Status.OVER_USER_LIMIT: (
        lambda cell: [_reserve(cell, 4) for _ in range(2)][1],
        errors.MaxPerUserExceeded,
        {"requested": 4, "held": 4, "limit": 6},
    ),
    Status.INSUFFICIENT_STOCK: (_sold_out, errors.InsufficientStock, {"requested": 3, "available": 1}),
    Status.HOLDS_DUE: (_holds_due, errors.Overloaded, {}),
    Status.LEDGER_FULL: (lambda cell: _reserve_after(cell, ledger_max=0), errors.Overloaded, {}),
    Status.BOOKING_UNKNOWN: (lambda cell: cell.confirm(ALICE, cell.new_id()), errors.NotFound, {}),
    Status.BOOKING_ENDED: (
        lambda cell: _on_hold(cell, lambda c, b: c.cancel(ALICE, b), lambda c, b: c.confirm(ALICE, b)),
        errors.InvalidState,
        {"status": "cancelled"},
    ),
    Status.BOOKING_EXPIRED: (
        lambda cell: _on_hold(cell, lambda c, b: c.forward(60_000), lambda c, b: c.confirm(ALICE, b)),
        errors.ReservationExpired,
        {},
    ),
    Status.PAYMENT_REQUIRED: (
        lambda cell: _on_hold(cell, lambda c, b: None, lambda c, b: c.confirm(ALICE, b)),
        errors.PaymentRequired,
        {},
    ),
    Status.PASS_REQUIRED: (_in_queue(_reserve), errors.QueuePassRequired, {}),
    Status.PASS_INVALID: (
        _in_queue(lambda cell: _reserve(cell, queue_pass="-")),
        errors.QueuePassInvalid,
        {},
    ),
    Status.QUEUE_NONE: (
        _in_queue(
            lambda cell: (cell.client.hdel(cell.keys.sale, "queue_mode"), cell.claim(Person(ALICE, 1)))[1]
        ),
        errors.NotFound,
        {},
    ),
    Status.PLACE_UNKNOWN: (_in_queue(lambda cell: cell.claim(Person(ALICE, 1))), errors.NotFound, {}),
    Status.NOT_SERVED: (
        _in_queue(lambda cell: cell.claim(cell.people(1)[0])),
        errors.InvalidState,
        {"status": "waiting"},
    ),
    Status.PASS_SPENT: (_in_queue(_spent), errors.InvalidState, {"status": "admitted"}),
    Status.NO_ROOM: (_in_queue(_late), errors.InvalidState, {"status": "waiting"}),
    Status.VERSION_AHEAD: (lambda cell: cell.edit(2, {}), errors.Fenced, {}),
    Status.BELOW_IN_USE: (
        lambda cell: cell.edit(1, {"zones": [{"zone_id": "no-zone", "capacity": 1}]}),
        errors.InvalidState,
        {},
    ),
    Status.EPOCH_STALE: (lambda cell: cell.open(9, 9, 10), errors.Fenced, {}),
    Status.REBUILDING: (_still_loading, errors.Overloaded, {}),
    Status.BUILD_VOID: (lambda cell: cell.build_wipe("no token", []), errors.Fenced, {}),
}


@pytest.mark.parametrize("status", CASES, ids=lambda status: status.name)
def test_what_a_script_refuses_becomes_the_error_of_the_contract(cell: Cell, status: Status) -> None:
    attempt, expected, details = CASES[status]
    answer = attempt(cell)
    assert answer.status == status
    error = refusal(answer.status, answer.at, answer.detail, SETTINGS)
    assert type(error) is expected
    if status == Status.INSUFFICIENT_STOCK:
        details = details | {"zone_id": cell.zones[0]}
    assert error.details == details
    if expected is not errors.Fenced:
        assert error.ledger_seq == answer.at == cell.ledger()[-1][0]


def test_every_status_is_an_answer_or_a_refusal() -> None:
    assert set(CASES) | {Status.OK, Status.REPLAYED} == set(Status)


@pytest.mark.parametrize("status", [Status.OK, Status.REPLAYED])
def test_what_was_granted_is_not_a_refusal(status: Status) -> None:
    with pytest.raises(ValueError, match=status.name):
        refusal(status, "1-1", [], SETTINGS)


@pytest.mark.parametrize(
    ("sale", "status"),
    [
        ({"sale_start_at_ms": START_MS + 1}, "published"),
        ({"sale_end_at_ms": START_MS}, "ended"),
        ({"status": "cancelled", "sale_end_at_ms": START_MS}, "cancelled"),
    ],
)
def test_a_closed_sale_says_how_it_stands_and_when_it_opens(
    cell: Cell, sale: dict[str, Any], status: str
) -> None:
    answer = _reserve_after(cell, **sale)
    error = refusal(answer.status, answer.at, answer.detail, SETTINGS)
    opens_at = "2096-10-02T07:06:40.001Z" if "sale_start_at_ms" in sale else "1970-01-01T00:00:00.000Z"
    assert error.details == {"status": status, "opens_at": opens_at}


def test_a_limited_buyer_is_told_when_to_come_again(cell: Cell) -> None:
    _reserve(cell, rate=(3_000, 1))
    answer = _reserve(cell, rate=(3_000, 1))
    error = refusal(answer.status, answer.at, answer.detail, SETTINGS)
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after_s == 3
    assert error.policy == ("reserve", 10, 30, 0, 3)
