"""A large cell sells before all of its records are back, and no key lives twice meanwhile."""

from typing import Any
from uuid import UUID

import pytest

from engine.status import Status
from tests.lua.cellkit import Cell, Dump, digest
from tests.lua.model_records import record_text
from tests.lua.test_recovery_scripts import ALICE, BOB, NewCell, records_of, sale_and_zones_of

TOKEN = "2-large"


def open_early(cell: Cell) -> Dump:
    """Rebuild the cell up to where it sells: without its sold and its ended bookings. What it was before."""
    dump = cell.dump()
    records = records_of(dump)
    cell.fence()
    assert cell.build_begin(TOKEN).status == Status.OK
    cell.build_wipe(TOKEN, [name for name in cell.key_names() if name != cell.keys.build])
    sold = [(r["user"], int(r["quantity"])) for r in records.values() if r["status"] == "confirmed"]
    assert cell.build_units(TOKEN, sold).status == Status.OK
    holds = {booking: record for booking, record in records.items() if record["status"] == "reserved"}
    assert cell.build_load(TOKEN, holds).status == Status.OK
    sale, zones = sale_and_zones_of(dump, 2)
    assert cell.build_open(TOKEN, sale | {"loaded": ""}, zones).status == Status.OK
    return dump


def load(cell: Cell, dump: Dump, *bookings: str, token: str = TOKEN) -> Status:
    records = {booking: records_of(dump)[booking] for booking in sorted(bookings)}
    return cell.build_rest(token, max(bookings, default=""), records).status


def sold(cell: Cell, user: str, quantity: int = 1) -> str:
    booking = cell.hold(user, quantity, fingerprint=digest(user))
    assert cell.confirm(user, booking, paid=True).status == Status.OK
    return booking


def again(cell: Cell, user: str, booking: str) -> Status:
    """The same request with the same key."""
    return cell.reserve(user, [(cell.zones[0], 1)], booking=booking, fingerprint=digest(user))[1].status


def test_holds_counters_and_limits_are_there_before_the_records(new_cell: NewCell) -> None:
    cell = new_cell(max_per_user=4)
    sold(cell, ALICE, 3)
    held = cell.hold(ALICE)
    before = cell.counters()
    open_early(cell)
    assert cell.counters() == before
    assert cell.units() == {ALICE: 4}
    assert cell.holds(ALICE) == [held]
    assert cell.reserve(ALICE, [(cell.zones[0], 1)])[1].status == Status.OVER_USER_LIMIT
    assert cell.reserve(BOB, [(cell.zones[0], 1)])[1].status == Status.OK
    assert cell.confirm(ALICE, held, paid=True).status == Status.OK


def test_who_may_have_a_record_in_postgres_is_asked_to_come_again(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = sold(cell, ALICE)
    dump = open_early(cell)
    before = cell.dump()
    assert again(cell, ALICE, booking) == Status.REBUILDING
    assert again(cell, BOB, cell.new_id()) == Status.REBUILDING, "a new key may be an old one"
    for answer in (cell.confirm(ALICE, booking), cell.cancel(ALICE, booking), cell.reject(booking)):
        assert (answer.status, answer.at) == (Status.REBUILDING, "2-0")
    assert cell.dump() == before
    assert load(cell, dump, booking) == Status.OK
    assert again(cell, ALICE, booking) == Status.REPLAYED
    assert cell.confirm(ALICE, booking).status == Status.REPLAYED


def test_up_to_where_records_are_loaded_what_is_not_there_is_unknown(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = sold(cell, ALICE)
    dump = open_early(cell)
    lower = str(UUID(int=UUID(booking).int - 1))
    assert load(cell, dump, booking) == Status.OK
    assert cell.confirm(BOB, lower).status == Status.BOOKING_UNKNOWN
    assert again(cell, BOB, lower) == Status.OK


def test_a_record_that_is_there_is_never_overwritten(new_cell: NewCell) -> None:
    """A hold that was sold after the cell had been opened, and after Postgres was read."""
    cell = new_cell()
    held = cell.hold(ALICE, fingerprint=digest(ALICE))
    dump = open_early(cell)
    cell.confirm(ALICE, held, paid=True)
    before = cell.booking(held)
    assert load(cell, dump, held) == Status.OK
    assert cell.booking(held) == before
    assert before["status"] == "confirmed"


def test_what_is_all_loaded_is_as_if_it_had_been_opened_whole(new_cell: NewCell) -> None:
    cell = new_cell()
    bookings = sorted(sold(cell, user) for user in (ALICE, BOB))
    ended = cell.hold(ALICE, fingerprint=digest("ended"))
    cell.cancel(ALICE, ended)
    dump = open_early(cell)
    rest = sorted([*bookings, ended])
    for booking in rest:
        assert load(cell, dump, booking) == Status.OK
        assert cell.hash("sale")["loaded"] == booking
    assert load(cell, dump) == Status.OK
    after = cell.dump(rates=False)
    assert "loaded" not in after["sale"]
    assert "build" not in after
    for booking in rest:
        assert after[f"booking:{booking}"] == dump[f"booking:{booking}"]
    assert cell.confirm(ALICE, cell.new_id()).status == Status.BOOKING_UNKNOWN
    cell.assert_adds_up()


def test_a_loader_whose_work_another_took_over_writes_nothing_more(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = sold(cell, ALICE)
    dump = open_early(cell)
    assert cell.build_resume("2-other") == (Status.OK, "", ())
    before = cell.dump()
    for arguments in ((booking,), ()):
        assert load(cell, dump, *arguments) == Status.BUILD_VOID
    assert cell.dump() == before
    assert load(cell, dump, booking, token="2-other") == Status.OK
    assert cell.build_resume("2-third") == (Status.OK, booking, ())


@pytest.mark.parametrize("state", ["whole", "being rebuilt", "gone"])
def test_where_nothing_is_to_be_loaded_nobody_goes_on(new_cell: NewCell, state: str) -> None:
    cell = new_cell()
    booking = sold(cell, ALICE)
    dump = open_early(cell)
    if state == "whole":
        load(cell, dump)
    elif state == "being rebuilt":
        cell.fence()
        cell.build_begin("3-newer")
    else:
        cell.remove()
    before = cell.dump()
    assert cell.build_resume("9-late").status == Status.BUILD_VOID
    assert load(cell, dump, booking) == Status.BUILD_VOID
    assert cell.dump() == before


def test_a_lift_in_the_middle_of_loading_keeps_how_far_it_is(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = sold(cell, ALICE)
    dump = open_early(cell)
    cell.fence("lift")
    assert cell.confirm(ALICE, booking).status == Status.NOT_OPEN
    assert cell.open(2, 0, 3, "lift").status == Status.OK
    assert again(cell, ALICE, booking) == Status.REBUILDING
    assert load(cell, dump, booking) == Status.OK
    assert again(cell, ALICE, booking) == Status.REPLAYED


def test_units_of_one_buyer_come_in_several_calls(new_cell: NewCell) -> None:
    cell = new_cell()
    dump = cell.dump()
    cell.fence()
    cell.build_begin(TOKEN)
    assert cell.build_units("2-older", [(ALICE, 1)]).status == Status.BUILD_VOID
    for units in ([(ALICE, 1), (BOB, 2), (ALICE, 1)], [(ALICE, 3)]):
        assert cell.build_units(TOKEN, units).status == Status.OK
    sale, zones = sale_and_zones_of(dump, 2)
    cell.build_open(TOKEN, sale, zones)
    assert cell.units() == {ALICE: 5, BOB: 2}


def test_a_record_takes_its_place_as_it_is(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = sold(cell, ALICE)
    dump = open_early(cell)
    load(cell, dump, booking)
    record: dict[str, Any] = records_of(dump)[booking]
    assert cell.client.get(cell.keys.booking(booking)) == record_text(record).encode()
    assert cell.client.ttl(cell.keys.booking(booking)) == -1
