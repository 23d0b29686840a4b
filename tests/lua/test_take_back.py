"""reserve takes holds back that are due, before it refuses for the limit or for stock."""

from collections.abc import Callable

import pytest

from engine.status import Status
from tests.lua.cellkit import DUE_MAX, HOLD_TTL_MS, Backend, Cell, Zone

NewCell = Callable[..., Cell]
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"


def _statuses(cell: Cell, bookings: list[str]) -> list[str]:
    return [cell.booking(booking)["status"] for booking in bookings]


def test_a_hold_is_due_exactly_at_its_deadline(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1)])
    held = cell.hold(BOB)
    cell.forward(HOLD_TTL_MS - 1)
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)])
    assert answer == (Status.INSUFFICIENT_STOCK, "1-1", (cell.zones[0].encode(), 1, 0))
    cell.forward(1)
    booking, answer = cell.reserve(ALICE, [(cell.zones[0], 1)])
    assert answer[:2] == (Status.OK, "1-3")
    assert [(seq, entry[0], entry[2]) for seq, entry in cell.ledger()[2:]] == [
        ("1-2", "expire", held),
        ("1-3", "reserve", booking),
    ]
    assert cell.booking(held)["status"] == "expired"
    cell.assert_adds_up()


def test_nothing_is_taken_back_without_need(new_cell: NewCell) -> None:
    cell = new_cell([Zone(4)])
    cell.hold(BOB, 2)
    cell.forward(HOLD_TTL_MS)
    cell.hold(ALICE, 2)
    assert [entry[0] for _, entry in cell.ledger()] == ["open", "reserve", "reserve"]


def test_no_more_is_taken_back_than_needed_and_the_oldest_first(new_cell: NewCell) -> None:
    cell = new_cell([Zone(3)])
    held = []
    for _ in range(3):
        held.append(cell.hold(BOB))
        cell.forward(10)
    cell.forward(HOLD_TTL_MS)
    cell.hold(ALICE, 2)
    assert _statuses(cell, held) == ["expired", "expired", "reserved"]


def test_the_buyers_own_holds_come_first(new_cell: NewCell) -> None:
    cell = new_cell([Zone(2)])
    others = cell.hold(BOB)
    cell.forward(10)
    own = cell.hold(ALICE)
    cell.forward(HOLD_TTL_MS)
    cell.hold(ALICE)
    assert _statuses(cell, [own, others]) == ["expired", "reserved"]


def test_own_due_holds_do_not_count_towards_the_limit(new_cell: NewCell) -> None:
    cell = new_cell([Zone(50), Zone(50)], max_per_user=3)
    own = [cell.hold(ALICE, 2, zone=1), cell.hold(ALICE, 1, zone=1)]
    assert cell.reserve(ALICE, [(cell.zones[0], 1)])[1].detail == (1, 3, 3)
    cell.forward(HOLD_TTL_MS)
    cell.hold(ALICE, 2)
    assert _statuses(cell, own) == ["expired", "reserved"], "one was enough for this"
    cell.hold(ALICE, 1)
    assert _statuses(cell, own) == ["expired", "expired"]
    assert cell.units() == {ALICE: 3}
    cell.assert_adds_up()


def test_a_buyers_many_holds_cost_no_look_at_each(real_backend: Backend) -> None:
    """They may be as many as the limit allows, and a script keeps everybody waiting."""
    cell = Cell(real_backend, [Zone(200)], max_per_user=100)

    def commands() -> int:
        cell.client.config_resetstat()
        _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)])
        assert answer.status in (Status.OK, Status.OVER_USER_LIMIT)
        stats = cell.client.info("commandstats")
        return sum(stat["calls"] for stat in stats.values())

    few = commands()
    for _ in range(99):
        cell.hold(ALICE)
    refused = commands()
    assert refused < few


def test_other_buyers_holds_are_left_alone_where_the_limit_refuses(new_cell: NewCell) -> None:
    cell = new_cell([Zone(4)], max_per_user=2)
    cell.hold(BOB, 2)
    cell.forward(HOLD_TTL_MS)
    cell.confirm(ALICE, cell.hold(ALICE, 2))
    before = cell.dump(rates=False)
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)])
    assert answer == (Status.OVER_USER_LIMIT, "1-3", (1, 2, 2))
    assert cell.dump(rates=False) == before


def test_a_basket_over_several_zones_frees_all_of_them(new_cell: NewCell) -> None:
    cell = new_cell([Zone(2), Zone(2), Zone(2)])
    first, second, third = cell.zones
    both, _ = cell.reserve(BOB, [(first, 2), (second, 2)])
    single = cell.hold(BOB, 2, zone=2)
    cell.forward(HOLD_TTL_MS)
    _, answer = cell.reserve(ALICE, [(second, 1), (first, 1), (third, 2)])
    assert answer.status == Status.OK
    assert _statuses(cell, [both, single]) == ["expired", "expired"]
    assert [cell.counters(zone) for zone in range(3)] == [(2, 1, 1, 0, 0), (2, 1, 1, 0, 0), (2, 0, 2, 0, 0)]
    assert len(cell.dump()["deadlines"]) == 3


def test_holds_of_other_zones_stay(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1), Zone(1)])
    elsewhere, here = cell.hold(BOB, zone=1), cell.hold(BOB, zone=0)
    cell.forward(HOLD_TTL_MS)
    cell.hold(ALICE, zone=0)
    assert _statuses(cell, [elsewhere, here]) == ["reserved", "expired"]


def test_seats_of_due_holds_that_are_too_few_are_given_back_all_the_same(new_cell: NewCell) -> None:
    cell = new_cell([Zone(3)])
    cell.confirm(BOB, cell.hold(BOB, 2))
    cell.hold(BOB, 1)
    cell.forward(HOLD_TTL_MS)
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 2)])
    assert answer == (Status.INSUFFICIENT_STOCK, "1-4", (cell.zones[0].encode(), 2, 1))
    assert cell.counters() == (3, 1, 0, 2, 0)
    assert [entry[0] for _, entry in cell.ledger()][-1] == "expire"
    cell.assert_adds_up()


@pytest.mark.parametrize("due", [DUE_MAX, DUE_MAX + 1, 3 * DUE_MAX, 3 * DUE_MAX + 1])
def test_more_due_holds_than_the_bound_mean_again_in_a_moment(new_cell: NewCell, due: int) -> None:
    cell = new_cell([Zone(due)], max_per_user=due)
    for _ in range(due):
        cell.hold(cell.new_user())
    cell.forward(HOLD_TTL_MS)
    taken_back = 0
    while True:
        _, answer = cell.reserve(ALICE, [(cell.zones[0], 8)] if due >= 8 else [(cell.zones[0], due)])
        if answer.status == Status.OK:
            break
        taken_back += DUE_MAX
        assert answer == (Status.HOLDS_DUE, f"1-{due + taken_back}", ()), "progress, and never sold out"
        assert cell.counters()[1] == taken_back
    needed = min(due, 8)
    assert taken_back == (needed - 1) // DUE_MAX * DUE_MAX
    cell.assert_adds_up()


def test_more_own_due_holds_than_the_bound_are_never_the_limit(new_cell: NewCell) -> None:
    cell = new_cell([Zone(50)], max_per_user=2 * DUE_MAX)
    for _ in range(2 * DUE_MAX):
        cell.hold(ALICE)
    cell.forward(HOLD_TTL_MS)
    item = [(cell.zones[0], DUE_MAX + 1)]
    assert cell.reserve(ALICE, item)[1].status == Status.HOLDS_DUE
    assert cell.units() == {ALICE: DUE_MAX}
    assert cell.reserve(ALICE, item)[1].status == Status.OK
    cell.assert_adds_up()


def test_sold_out_is_answered_once_nothing_due_is_left(new_cell: NewCell) -> None:
    due = DUE_MAX + 2
    cell = new_cell([Zone(due + 4)])
    cell.confirm(BOB, cell.hold(BOB, 4))
    for _ in range(due):
        cell.hold(cell.new_user())
    cell.forward(HOLD_TTL_MS)
    item = [(cell.zones[0], due + 1)]
    assert cell.reserve(ALICE, item)[1].status == Status.HOLDS_DUE
    _, answer = cell.reserve(ALICE, item)
    assert (answer.status, answer.detail) == (
        Status.INSUFFICIENT_STOCK,
        (cell.zones[0].encode(), due + 1, due),
    )


def test_the_bound_is_for_the_whole_basket(new_cell: NewCell) -> None:
    cell = new_cell([Zone(DUE_MAX), Zone(DUE_MAX)])
    for zone in (0, 1):
        for _ in range(DUE_MAX):
            cell.hold(cell.new_user(), zone=zone)
    cell.forward(HOLD_TTL_MS)
    items = [(zone, DUE_MAX) for zone in cell.zones]
    assert cell.reserve(ALICE, items)[1].status == Status.HOLDS_DUE
    assert (cell.counters(0)[1], cell.counters(1)[1]) == (DUE_MAX, 0)
    assert cell.reserve(ALICE, items)[1].status == Status.OK
    cell.assert_adds_up()


def test_a_full_ledger_still_takes_back_but_does_not_sell(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1)], ledger_max=2)
    cell.hold(BOB)
    cell.forward(HOLD_TTL_MS)
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)])
    assert answer == (Status.LEDGER_FULL, "1-2", ())
    assert cell.counters() == (1, 1, 0, 0, 0)
    cell.assert_adds_up()


def test_a_taken_back_hold_of_the_same_key_is_a_replay_and_not_a_new_life(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1)])
    booking = cell.hold(ALICE, fingerprint="f")
    cell.forward(HOLD_TTL_MS)
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)], booking=booking, fingerprint="f")
    assert answer.status == Status.REPLAYED
    assert cell.booking(booking)["version"] == "1"
