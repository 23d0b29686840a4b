"""edit: an organizer's versioned intents, each taken once, whole or not at all."""

from collections.abc import Callable
from typing import Any

import pytest

from engine.status import Status
from tests.lua.cellkit import START_MS, Cell, Zone

NewCell = Callable[..., Cell]
ALICE = "a11ce000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "paused"),
        ("sale_start_at_ms", START_MS + 5),
        ("sale_end_at_ms", START_MS + 1_795_225_729_123),
        ("sale_end_at_ms", 0),
        ("max_per_user", 1),
        ("hold_ttl_ms", 1_000),
    ],
)
def test_an_edit_changes_one_field_of_the_sale_and_nothing_else(
    new_cell: NewCell, field: str, value: Any
) -> None:
    cell = new_cell(sale_end_at_ms=START_MS + 10)
    before = cell.hash("sale")
    assert cell.edit(1, {"sale": {field: value}}) == (Status.OK, "1-1", ())
    assert cell.hash("sale") == before | {field: str(value), "version": "1", "seq": "1"}
    assert cell.ledger()[-1] == ("1-1", ["edit", START_MS, 1, "applied", []])


@pytest.mark.parametrize(
    ("wish", "fields", "change"),
    [
        ({"price_minor": 999}, {"price_minor": 999}, [0, 0, 0]),
        ({"price_minor": 0}, {"price_minor": 0}, [0, 0, 0]),
        ({"max_per_order": 3}, {"max_per_order": 3}, [0, 0, 0]),
        ({"capacity": 15}, {"capacity": 15, "available": 11}, [5, 5, 0]),
        ({"capacity": 4}, {"capacity": 4, "available": 0}, [-6, -6, 0]),
        ({"blocked": 0}, {"blocked": 0, "available": 7}, [0, 1, -1]),
        ({"blocked": 7}, {"blocked": 7, "available": 0}, [0, -6, 6]),
        ({"capacity": 20, "blocked": 10}, {"capacity": 20, "blocked": 10, "available": 7}, [10, 1, 9]),
    ],
)
def test_an_edit_changes_one_zone_and_the_ledger_has_the_differences(
    new_cell: NewCell, wish: dict[str, int], fields: dict[str, int], change: list[int]
) -> None:
    cell = new_cell([Zone(10, 500, blocked=1), Zone(7)])
    cell.confirm(ALICE, cell.hold(ALICE, 2), paid=True)
    cell.hold(ALICE, 1)
    edited, other = cell.zones
    before = cell.dump(rates=False)
    assert cell.edit(1, {"zones": [{"zone_id": edited} | wish]}) == (Status.OK, "1-4", ())
    after = cell.dump(rates=False)
    changed = {name: str(value) for name, value in fields.items()}
    assert after[f"zone:{edited}"] == before[f"zone:{edited}"] | changed
    assert after[f"zone:{other}"] == before[f"zone:{other}"]
    assert cell.ledger()[-1] == ("1-4", ["edit", START_MS, 1, "applied", [[edited, *change]]])
    cell.assert_adds_up()


def test_a_new_price_is_for_new_bookings(new_cell: NewCell) -> None:
    cell = new_cell([Zone(10, 500)])
    old = cell.hold(ALICE)
    cell.edit(1, {"zones": [{"zone_id": cell.zones[0], "price_minor": 900}]})
    new = cell.hold(ALICE)
    assert [cell.booking(booking)["total_minor"] for booking in (old, new)] == ["500", "900"]
    cell.confirm(ALICE, old, paid=True)
    assert cell.ledger()[-1][1][6][0][2] == 500


def test_a_new_limit_and_hold_time_are_for_the_next_request(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = cell.hold(ALICE, 5)
    expires_at_ms = cell.booking(booking)["expires_at_ms"]
    cell.edit(1, {"sale": {"max_per_user": 4, "hold_ttl_ms": 1_000}})
    assert cell.reserve(ALICE, [(cell.zones[0], 1)])[1].detail == (1, 5, 4)
    assert cell.booking(booking)["expires_at_ms"] == expires_at_ms
    other = cell.hold(cell.new_user())
    assert cell.booking(other)["expires_at_ms"] == str(START_MS + 1_000)


def test_a_new_zone_is_on_sale_at_once(new_cell: NewCell) -> None:
    cell = new_cell()
    zone_id, show = cell.new_id(), cell.new_id()
    wish = {
        "zone_id": zone_id,
        "show_id": show,
        "price_minor": 5,
        "max_per_order": 2,
        "capacity": 9,
        "blocked": 1,
    }
    assert cell.edit(1, {"zones": [wish]}).status == Status.OK
    assert cell.ledger()[-1][1][4] == [[zone_id, 9, 8, 1]]
    assert cell.hash("sale")["zones"].split() == [*cell.zones, zone_id]
    assert cell.hash(f"zone:{zone_id}") == {
        "show": show,
        "kind": "counted",
        "price_minor": "5",
        "max_per_order": "2",
        "capacity": "9",
        "available": "8",
        "reserved": "0",
        "confirmed": "0",
        "blocked": "1",
    }
    _, answer = cell.reserve(ALICE, [(zone_id, 2, show)])
    assert answer.status == Status.OK
    cell.forward(60_000)
    assert cell.expire().detail[0] == 1, "its holds are found by their zone"
    cell.assert_adds_up()


def test_the_first_zone_of_a_cell_can_come_by_an_edit(new_cell: NewCell) -> None:
    cell = new_cell([])
    assert cell.expire().status == Status.OK
    zone_id = cell.new_id()
    cell.edit(1, {"zones": [{"zone_id": zone_id, "show_id": cell.new_id(), "capacity": 1}]})
    assert cell.hash("sale")["zones"] == zone_id
    assert cell.reserve(ALICE, [(zone_id, 1)])[1].status == Status.OK


@pytest.mark.parametrize(
    "wish", [{"capacity": 3}, {"blocked": 7}, {"capacity": 5, "blocked": 2}, {"capacity": 0}], ids=str
)
def test_an_edit_below_what_is_in_use_is_refused_as_a_whole_and_uses_its_version(
    new_cell: NewCell, wish: dict[str, int]
) -> None:
    cell = new_cell([Zone(10), Zone(10)])
    first, second = cell.zones
    cell.confirm(ALICE, cell.hold(ALICE, 2))
    cell.hold(ALICE, 2)
    before = cell.dump(rates=False)
    intent = {
        "sale": {"max_per_user": 1},
        "zones": [{"zone_id": second, "capacity": 99, "price_minor": 7}, {"zone_id": first} | wish],
    }
    assert cell.edit(1, intent) == (Status.BELOW_IN_USE, "1-4", ())
    after = cell.dump(rates=False)
    assert after["ledger"].pop() == ["1-4", {"e": f'["edit",{START_MS},1,"refused",[]]'}]
    sale = before["sale"] | {"version": "1", "seq": "4"}
    assert after == before | {"sale": sale}
    assert cell.edit(1, intent).status == Status.REPLAYED
    assert cell.edit(2, {"sale": {"max_per_user": 9}}).status == Status.OK


def test_a_zone_that_nobody_knows_is_refused(new_cell: NewCell) -> None:
    cell = new_cell()
    assert cell.edit(1, {"zones": [{"zone_id": cell.new_id(), "capacity": 5}]}).status == Status.BELOW_IN_USE
    assert cell.ledger()[-1][1] == ["edit", START_MS, 1, "refused", []]


def test_each_version_is_taken_once_and_in_order(new_cell: NewCell) -> None:
    cell = new_cell()
    intent = {"zones": [{"zone_id": cell.zones[0], "capacity": 11}]}
    before = cell.dump()
    assert cell.edit(2, intent) == (Status.VERSION_AHEAD, "1-0", ())
    assert cell.dump() == before
    assert cell.edit(1, {"zones": [{"zone_id": cell.zones[0], "capacity": 20}]}).status == Status.OK
    assert cell.edit(2, intent).status == Status.OK
    after = cell.dump()
    for version in (0, 1, 2):
        assert cell.edit(version, {"sale": {"status": "cancelled"}}) == (Status.REPLAYED, "1-2", ())
    assert cell.dump() == after
    assert cell.counters() == (11, 11, 0, 0, 0)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_edit_refuses_first_where_the_cell_is_not_open(new_cell: NewCell, version: int) -> None:
    cell = new_cell()
    cell.fence()
    before = cell.dump()
    assert cell.edit(version, {"sale": {"status": "paused"}}) == (Status.NOT_OPEN, "0-0", ())
    assert cell.dump() == before


def test_a_paused_sale_takes_edits_and_gives_seats_back(new_cell: NewCell) -> None:
    cell = new_cell()
    kept, given_back = cell.hold(ALICE), cell.hold(ALICE)
    cell.edit(1, {"sale": {"status": "paused"}})
    assert cell.reserve(ALICE, [(cell.zones[0], 1)])[1].status == Status.SALE_NOT_OPEN
    assert cell.confirm(ALICE, kept).status == Status.OK
    assert cell.cancel(ALICE, given_back).status == Status.OK
    assert cell.edit(2, {"sale": {"status": "published"}}).status == Status.OK
    cell.hold(ALICE)
