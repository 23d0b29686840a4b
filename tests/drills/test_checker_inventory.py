"""The pass over the ledger: each rule finds a broken history and accepts the one that only looks like it."""

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from tests.drills.checker import check
from tests.drills.checker_evidence import Evidence
from tests.drills.history import Details, Operation
from tests.drills.toy_shop import HOLD_TTL_MS, TAG, Shop, user_id, zone_id


def rules(evidence: Evidence) -> set[str]:
    """Which rules were broken."""
    return set(check(evidence).found)


def rewrite(evidence: Evidence, number: int, change: Callable[[list[object]], object]) -> None:
    """Change the text of the entry of that number, wherever it stands."""
    entry = evidence.entries[number]
    values = msgspec.json.decode(entry.text)
    change(values)
    entry.text = msgspec.json.encode(values).decode()
    ledger = evidence.cells[TAG].ledger
    evidence.cells[TAG].ledger = [(id_, entry.text if id_ == entry.id else text) for id_, text in ledger]


def booking(operation: Operation) -> str:
    """The booking that was told."""
    assert operation.answer is not None
    assert operation.answer.booking is not None
    return operation.answer.booking


def tell(operation: Operation, **changes: object) -> None:
    """Change what was told."""
    for name, value in changes.items():
        setattr(operation.answer, name, value)


def test_a_history_of_everything_is_clean_and_is_counted() -> None:
    shop = Shop((4, 3))
    first = shop.reserve(1, [(0, 2)])
    keyed = shop.reserve(2, [(0, 2), (1, 1)], key="k")
    shop.reserve(2, [(0, 2), (1, 1)], key="k")
    shop.reserve(2, [(1, 1)], key="k")
    shop.reserve(3, [(0, 1)])
    shop.reserve(1, [(1, 3)])
    shop.confirm(booking(first))
    shop.confirm(booking(first))
    shop.cancel(booking(keyed))
    shop.confirm(booking(keyed))
    shop.cancel(booking(first))
    shop.reserve(4, [(1, 1)], fate="no reply")
    shop.reserve(5, [(1, 1)], fate="no request")
    late = shop.reserve(6, [(1, 1)])
    shop.pass_time(HOLD_TTL_MS)
    shop.confirm(booking(late))
    shop.reserve(7, [(1, 3)])
    report = check(shop.evidence())
    assert report.found == Counter()
    assert report.counts["operations"] == 16
    assert report.counts["unknown outcomes"] == 2
    assert report.counts["unknown outcomes that had happened"] == 1


def test_selling_more_than_there_is_is_found_and_selling_all_is_not() -> None:
    shop = Shop((2,))
    shop.reserve(1, [(0, 2)])
    assert rules(shop.evidence()) == set()
    evidence = shop.evidence()
    evidence.run.events[0].zones[0].capacity = 1
    assert "oversold" in rules(evidence)


def test_holding_more_than_the_limit_is_found_and_holding_all_of_it_is_not() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 2)])
    shop.reserve(1, [(0, 2)])
    assert rules(shop.evidence()) == set()
    evidence = shop.evidence()
    evidence.run.events[0].max_per_user = 3
    assert "limit" in rules(evidence)


@pytest.mark.parametrize(("available", "found"), [(1, set()), (0, {"refusal"}), (2, {"refusal"})])
def test_sold_out_is_right_where_it_was_so_then(available: int, found: set[str]) -> None:
    shop = Shop((3,))
    shop.reserve(1, [(0, 2)])
    refused = shop.reserve(2, [(0, 2)])
    tell(refused, details=Details(zone_id=zone_id(0), requested=2, available=available))
    shop.pass_time(1)
    assert rules(shop.evidence()) == found


def test_sold_out_at_a_place_where_it_was_not_is_found() -> None:
    shop = Shop((3,))
    shop.reserve(1, [(0, 2)])
    refused = shop.reserve(2, [(0, 2)])
    tell(refused, at="1-0")
    assert "refusal" in rules(shop.evidence())


def test_sold_out_while_a_hold_was_due_is_found() -> None:
    shop = Shop((1, 5))
    shop.reserve(1, [(0, 1)])
    refused = shop.reserve(2, [(0, 1)])
    shop.pass_time(HOLD_TTL_MS - 1)
    shop.reserve(3, [(1, 1)])
    tell(refused, at="1-2", answered_ns=shop.now_ns)
    shop.sweep()
    assert rules(shop.evidence()) == set()

    shop = Shop((1, 5))
    shop.reserve(1, [(0, 1)])
    refused = shop.reserve(2, [(0, 1)])
    shop.pass_time(HOLD_TTL_MS)
    shop.reserve(3, [(1, 1)])
    tell(refused, at="1-2", answered_ns=shop.now_ns)
    shop.sweep()
    assert rules(shop.evidence()) == {"refusal"}


def test_the_limit_is_told_before_the_stock() -> None:
    shop = Shop((4,))
    shop.reserve(1, [(0, 4)])
    refused = shop.reserve(1, [(0, 1)])
    assert rules(shop.evidence()) == set()
    details = Details(zone_id=zone_id(0), requested=1, available=0)
    tell(refused, code="INSUFFICIENT_STOCK", details=details)
    assert rules(shop.evidence()) == {"refusal"}


@pytest.mark.parametrize(("held", "found"), [(4, set()), (3, {"refusal"})])
def test_over_the_limit_is_right_where_they_held_so_much(held: int, found: set[str]) -> None:
    shop = Shop()
    shop.reserve(1, [(0, 4)])
    refused = shop.reserve(1, [(0, 1)])
    tell(refused, details=Details(requested=1, held=held, limit=4))
    assert rules(shop.evidence()) == found


def test_over_the_limit_within_the_limit_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 3)])
    refused = shop.reserve(1, [(0, 2)])
    assert rules(shop.evidence()) == set()
    refused.asked.items = ((zone_id(0), 1),)
    tell(refused, details=Details(requested=1, held=3, limit=4))
    assert rules(shop.evidence()) == {"refusal"}


def test_not_open_is_right_before_the_sale_and_wrong_after_it_began() -> None:
    shop = Shop()
    refused = shop.reserve(1, [(0, 1)])
    del shop.entries[1:], shop.ledger[1:], shop.stock.bookings[booking(refused)]
    shop.stock.zones[zone_id(0)].available, shop.stock.zones[zone_id(0)].reserved = 10, 0
    shop.position -= 1
    tell(refused, http=409, code="SALE_NOT_OPEN", at="1-0", booking=None, details=Details(status="published"))
    assert rules(shop.evidence()) == {"refusal"}
    shop.run.events[0].sale_start_at_ms = shop.now_ms + 1
    assert rules(shop.evidence()) == set()


def test_selling_before_the_sale_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    shop.run.events[0].sale_start_at_ms = shop.now_ms
    assert rules(shop.evidence()) == set()
    shop.run.events[0].sale_start_at_ms = shop.now_ms + 1
    assert rules(shop.evidence()) == {"not open"}


@pytest.mark.parametrize(("late_ms", "found"), [(-1, set()), (0, {"deadline"})])
def test_a_confirm_is_in_time_or_found(late_ms: int, found: set[str]) -> None:
    shop = Shop()
    held = shop.reserve(1, [(0, 1)])
    shop.confirm(booking(held))
    evidence = shop.evidence()
    at_ms = shop.now_ms + HOLD_TTL_MS + late_ms
    rewrite(evidence, 2, lambda values: values.__setitem__(1, at_ms))
    assert rules(evidence) == found


@pytest.mark.parametrize(("early_ms", "found"), [(0, set()), (1, {"deadline"})])
def test_a_hold_is_taken_back_when_it_is_due_or_found(early_ms: int, found: set[str]) -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    shop.pass_time(HOLD_TTL_MS)
    shop.sweep()
    evidence = shop.evidence()
    at_ms = shop.now_ms - early_ms
    rewrite(evidence, 2, lambda values: values.__setitem__(1, at_ms))
    assert rules(evidence) == found


def test_a_hold_that_is_too_long_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    shop.run.events[0].hold_ttl_ms = HOLD_TTL_MS - 1
    assert rules(shop.evidence()) == {"deadline"}


def test_expired_is_right_when_the_deadline_may_have_passed() -> None:
    shop = Shop()
    held = shop.reserve(1, [(0, 1)])
    refused = shop.confirm(booking(held), fate="no request")
    refused.answer = msgspec.structs.replace(held.answer, http=410, code="RESERVATION_EXPIRED", n=1)
    tell(refused, answered_ns=shop.now_ns)
    shop.pass_time(HOLD_TTL_MS)
    shop.sweep()
    assert rules(shop.evidence()) == set()
    shop.pass_time(-1)
    shop = Shop()
    held = shop.reserve(1, [(0, 1)])
    refused = shop.confirm(booking(held), fate="no request")
    refused.answer = msgspec.structs.replace(held.answer, http=410, code="RESERVATION_EXPIRED", n=1)
    tell(refused, answered_ns=shop.now_ns)
    shop.reserve(2, [(0, 1)])
    assert rules(shop.evidence()) == {"refusal"}


@pytest.mark.parametrize(
    ("place", "value"), [(3, 7), (4, user_id(9)), (6, [[zone_id(0), 2, 0, "show"]]), (2, "another")]
)
def test_a_transition_that_does_not_continue_its_booking_is_found(place: int, value: object) -> None:
    shop = Shop()
    shop.confirm(booking(shop.reserve(1, [(0, 1)])))
    evidence = shop.evidence()
    rewrite(evidence, 2, lambda values: values.__setitem__(place, value))
    assert "transition" in rules(evidence)


def test_selling_what_was_given_back_is_found() -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    shop.cancel(held)
    shop.confirm(held)
    assert rules(shop.evidence()) == set()
    evidence = shop.evidence()
    values = msgspec.json.decode(evidence.entries[2].text)
    text = msgspec.json.encode(["confirm", values[1], held, 3, user_id(1), "CODE", values[6]]).decode()
    evidence.entries.append(msgspec.structs.replace(evidence.entries[2], id="1-3", text=text))
    evidence.cells[TAG].ledger.append(("1-3", text))
    assert "transition" in rules(evidence)


def test_an_id_with_a_second_life_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    shop.reserve(1, [(0, 1)])
    evidence = shop.evidence()
    first = msgspec.json.decode(evidence.entries[1].text)[2]
    rewrite(evidence, 2, lambda values: values.__setitem__(2, first))
    assert "transition" in rules(evidence)


def test_an_id_with_two_texts_is_found_and_the_same_text_twice_is_not() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    evidence = shop.evidence()
    evidence.entries.append(msgspec.structs.replace(evidence.entries[1], node="another"))
    assert rules(evidence) == set()
    evidence.entries[-1].text = evidence.entries[-1].text.replace("reserve", "cancel", 1)
    assert "two texts" in rules(evidence)


def test_a_gap_is_found_and_an_end_that_nobody_saw_is_not() -> None:
    shop = Shop()
    for number in range(3):
        shop.reserve(number, [(0, 1)])
    evidence = shop.evidence()
    del evidence.entries[3:]
    assert rules(evidence) == set()
    evidence = shop.evidence()
    del evidence.entries[1], evidence.cells[TAG].ledger[1]
    assert "gap" in rules(evidence)


def test_time_that_goes_back_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    shop.reserve(2, [(0, 1)])
    evidence = shop.evidence()

    def earlier(values: list[object]) -> None:
        values[1], values[5] = shop.now_ms - 1, shop.now_ms - 1 + HOLD_TTL_MS

    rewrite(evidence, 2, earlier)
    assert "time" in rules(evidence)


def test_being_told_of_what_is_not_in_the_ledger_is_found() -> None:
    shop = Shop()
    first, second = shop.reserve(1, [(0, 1)]), shop.reserve(2, [(0, 1)])
    assert first.answer is not None
    assert second.answer is not None
    first.answer.booking, second.answer.booking = second.answer.booking, first.answer.booking
    assert "answer" in rules(shop.evidence())


def test_being_told_other_items_than_were_taken_is_found() -> None:
    shop = Shop()
    tell(shop.reserve(1, [(0, 1)]), told=((zone_id(0), 2),))
    assert rules(shop.evidence()) == {"answer"}


def test_two_who_are_told_the_same_place_are_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    tell(shop.reserve(2, [(0, 1)]), at="1-1")
    assert "answer" in rules(shop.evidence())


def test_a_confirm_that_did_not_happen_is_found() -> None:
    shop = Shop()
    held = shop.reserve(1, [(0, 1)])
    confirm = shop.confirm(booking(held), is_durable=False)
    assert rules(shop.evidence()) == set()
    tell(confirm, at="1-1")
    assert rules(shop.evidence()) == {"answer"}


def test_a_state_that_was_not_so_is_found() -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    shop.confirm(held)
    cancel = shop.cancel(held)
    assert rules(shop.evidence()) == set()
    tell(cancel, details=Details(status="cancelled"))
    assert rules(shop.evidence()) == {"refusal"}
