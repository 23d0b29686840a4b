"""The rules beside the pass: who asked when and for what, what is durable, and what both stores hold."""

import ast
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.drills.checker import check
from tests.drills.checker_evidence import DeadLetter, Evidence, Offset
from tests.drills.history import Answered, Operation
from tests.drills.toy_shop import HOLD_TTL_MS, TAG, Shop, user_id, zone_id

HERE = Path(__file__).parent
PRODUCT = {"engine", "gateway", "workers", "loadtest", "rush", "observability"}


def rules(evidence: Evidence) -> set[str]:
    """Which rules were broken."""
    return set(check(evidence).found)


def booking(operation: Operation) -> str:
    """The booking that was told."""
    assert operation.answer is not None
    assert operation.answer.booking is not None
    return operation.answer.booking


def imported(path: Path) -> set[str]:
    """The packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_checker_is_independent_of_the_product() -> None:
    files = [*HERE.glob("checker*.py"), HERE / "history.py", HERE / "toy_shop.py"]
    assert len(files) > 10
    assert {path.name: imported(path) & PRODUCT for path in files if imported(path) & PRODUCT} == {}
    assert imported(HERE.parent / "integration" / "kit.py") & PRODUCT


# Real time.


def test_an_answer_from_an_earlier_state_is_found_and_one_that_overlaps_is_not() -> None:
    shop = Shop((1,))
    shop.reserve(1, [(0, 1)])
    shop.confirm(booking(shop.operations[0]))
    refused = shop.reserve(2, [(0, 1)])
    assert refused.answer is not None
    refused.answer.at = "1-1"
    assert rules(shop.evidence()) == {"real time"}
    assert shop.operations[1].answer is not None
    refused.asked.asked_ns = shop.operations[1].answer.answered_ns
    assert rules(shop.evidence()) == set()


@pytest.mark.parametrize(("may_lose", "found"), [(True, set()), (False, {"real time"})])
def test_a_master_that_was_replaced_may_answer_while_a_fault_that_may_lose_is_on(
    may_lose: bool, found: set[str]
) -> None:
    shop = Shop((1,))
    shop.reserve(1, [(0, 1)])
    shop.lose(1)
    shop.reserve(2, [(0, 1)])
    stale = shop.reserve(3, [(0, 1)])
    assert stale.answer is not None
    stale.answer.at = "1-1"
    shop.fault(may_lose=may_lose)
    shop.run.faults[0].begin_ns = 0
    assert rules(shop.evidence()) == found


# What was asked for.


def test_a_hold_that_nobody_asked_for_is_found_and_one_whose_answer_was_lost_is_not() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)], fate="no reply")
    assert rules(shop.evidence()) == set()
    shop.operations.clear()
    assert rules(shop.evidence()) == {"unasked"}


def test_one_question_without_an_answer_explains_one_hold() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)], fate="no reply")
    shop.reserve(1, [(0, 1)], fate="no reply")
    assert rules(shop.evidence()) == set()
    del shop.operations[0]
    assert rules(shop.evidence()) == {"unasked"}


def test_a_request_with_a_key_that_was_carried_out_without_it_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)], fate="no reply")
    shop.operations[0].asked.key = "k"
    assert rules(shop.evidence()) == {"unasked"}


def test_a_question_with_a_key_explains_one_hold_however_often_it_is_asked() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)], key="k", fate="no reply")
    shop.reserve(1, [(0, 1)], key="k", fate="no reply")
    shop.reserve(1, [(0, 1)], key="other", fate="no reply")
    assert rules(shop.evidence()) == set()
    shop.operations[2].asked.key = "k"
    assert rules(shop.evidence()) == {"unasked"}


@pytest.mark.parametrize("verb", ["confirm", "cancel"])
def test_a_verb_that_nobody_asked_for_is_found(verb: str) -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    moved = shop.confirm(held, fate="no reply") if verb == "confirm" else shop.cancel(held, fate="no reply")
    assert rules(shop.evidence()) == set()
    shop.operations.remove(moved)
    assert rules(shop.evidence()) == {"unasked"}


def test_one_key_with_two_bookings_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)], key="k")
    shop.reserve(1, [(0, 1)], key="k")
    assert rules(shop.evidence()) == set()
    shop.reserve(1, [(0, 1)], key="other")
    shop.operations[2].asked.key = "k"
    assert rules(shop.evidence()) == {"key"}


def test_an_answer_given_again_that_reads_otherwise_is_found_but_for_a_hold_that_was_lost() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)], key="k")
    again = shop.reserve(1, [(0, 1)], key="k")
    assert again.answer is not None
    again.answer.digest = "another"
    assert rules(shop.evidence()) == {"key"}

    shop = Shop()
    shop.reserve(1, [(0, 1)], key="k")
    shop.fault(may_lose=True)
    shop.lose(0)
    shop.pass_time(5)
    again = shop.reserve(1, [(0, 1)], key="k")
    assert again.answer is not None
    assert not again.answer.replayed
    assert rules(shop.evidence()) == set()


def test_a_key_that_was_not_used_for_another_request_and_is_refused_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)], key="k")
    refused = shop.reserve(1, [(0, 2)], key="k")
    assert refused.answer is not None
    assert refused.answer.http == 422
    assert rules(shop.evidence()) == set()
    refused.asked.items = ((zone_id(0), 1),)
    assert rules(shop.evidence()) == {"key"}


# What is durable.


@pytest.mark.parametrize(("may_lose", "found"), [(True, set()), (False, {"lost"})])
def test_a_hold_is_lost_only_where_something_may_lose_it(may_lose: bool, found: set[str]) -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    shop.reserve(2, [(0, 1)])
    shop.fault(may_lose=may_lose)
    shop.lose(1)
    shop.reserve(3, [(0, 1)])
    assert rules(shop.evidence()) == found


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_of_another_time_explains_no_loss(when: str) -> None:
    shop = Shop()
    if when == "before":
        shop.fault(may_lose=True)
    shop.reserve(1, [(0, 1)])
    shop.lose(0)
    if when == "after":
        shop.fault(may_lose=True)
    assert rules(shop.evidence()) == {"lost"}


def test_a_confirm_that_was_durable_is_never_lost() -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    confirm = shop.confirm(held, is_durable=False)
    shop.fault(may_lose=True)
    shop.lose(1)
    assert rules(shop.evidence()) == set()
    assert confirm.answer is not None
    confirm.answer.http, confirm.answer.durable = 200, True
    assert rules(shop.evidence()) == {"promise"}


def test_what_was_lost_and_confirmed_all_the_same_is_found() -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    held = booking(shop.reserve(2, [(0, 1)]))
    shop.fault(may_lose=True)
    shop.lose(1)
    shop.stock.bookings[held] = msgspec.structs.replace(
        shop.stock.bookings[booking(shop.operations[0])], id=held
    )
    shop.confirm(held)
    assert "transition" in rules(shop.evidence())


def test_another_confirmation_code_than_was_told_is_found() -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    told = shop.confirm(held).answer
    assert told is not None
    told.confirmation_code = "ANOTHER"
    assert rules(shop.evidence()) == {"promise", "answer"}


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([(0, 1 << 40), (1 << 40, 1 << 40 | 2)], set()),
        ([(0, 1 << 40), (1 << 40, 1 << 40 | 1), (1 << 40 | 1, 1 << 40 | 2)], set()),
        ([(0, 1 << 40), (1 << 40, 1 << 40 | 2), (1 << 40, 1 << 40 | 2)], {"offset"}),
        ([(0, 1 << 40), (1 << 40, 1 << 40 | 2), (1 << 40 | 2, 1 << 40 | 1)], {"offset"}),
        ([(0, 2 << 40)], {"offset"}),
        ([(0, 1 << 40 | 1)], {"offset"}),
    ],
)
def test_an_offset_that_does_not_go_on_is_found(steps: list[tuple[int, int]], found: set[str]) -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    shop.reserve(2, [(0, 1)])
    evidence = shop.evidence()
    evidence.postgres.steps[TAG] = [Offset(*step) for step in steps]
    assert rules(evidence) == found


def row_is_missing(evidence: Evidence, held: str) -> None:
    del evidence.postgres.bookings[held]


def row_is_older(evidence: Evidence, held: str) -> None:
    evidence.postgres.bookings[held].version = 1


def zone_was_counted_twice(evidence: Evidence, held: str) -> None:
    counters = evidence.postgres.zones[zone_id(0)]
    counters.available, counters.confirmed = counters.available - 1, counters.confirmed + 1


def row_has_another_owner(evidence: Evidence, held: str) -> None:
    evidence.postgres.bookings[held].user = user_id(9)


@pytest.mark.parametrize(
    "damage", [row_is_missing, row_is_older, zone_was_counted_twice, row_has_another_owner]
)
def test_rows_that_are_not_what_the_ledger_says_are_found(damage: Callable[[Evidence, str], None]) -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    shop.confirm(held)
    evidence = shop.evidence()
    damage(evidence, held)
    assert "rows" in rules(evidence)


def test_a_dead_letter_is_found_unless_the_drill_poisoned_the_entry() -> None:
    shop = Shop()
    shop.refuse_in_postgres(booking(shop.reserve(1, [(0, 1)])))
    assert rules(shop.evidence()) == {"dead letters"}
    shop.fault(may_lose=False, kind="poison")
    assert rules(shop.evidence()) == set()
    assert isinstance(shop.dead_letters[0], DeadLetter)
    shop.dead_letters[0].is_returned = False
    assert rules(shop.evidence()) == {"dead letters"}


def test_a_refused_booking_that_is_live_is_found() -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    shop.fault(may_lose=False, kind="poison")
    shop.dead_letters.append(DeadLetter(TAG, 1 << 40 | 1, held, "22000", True))
    assert "dead letters" in rules(shop.evidence())


# Both stores.


def sale_is_gone(evidence: Evidence) -> None:
    evidence.cells[TAG].sale.clear()


def relay_is_behind(evidence: Evidence) -> None:
    evidence.postgres.offsets[TAG] -= 1


def deadline_is_missing(evidence: Evidence) -> None:
    evidence.cells[TAG].deadlines.clear()


def deadline_is_left(evidence: Evidence) -> None:
    evidence.cells[TAG].deadlines.add((zone_id(0), 5, "somebody"))


def buyer_has_more(evidence: Evidence) -> None:
    evidence.cells[TAG].buyers[user_id(1)].units += 1


def buyer_forgot_a_hold(evidence: Evidence) -> None:
    evidence.cells[TAG].buyers[user_id(1)].holds.clear()


def record_is_gone(evidence: Evidence) -> None:
    evidence.cells[TAG].bookings.popitem()


def record_differs(evidence: Evidence) -> None:
    next(iter(evidence.cells[TAG].bookings.values())).total_minor += 1


def counters_leak(evidence: Evidence) -> None:
    evidence.cells[TAG].zones[zone_id(0)].available -= 1


def counters_are_below_zero(evidence: Evidence) -> None:
    counters = evidence.cells[TAG].zones[zone_id(0)]
    counters.available, counters.blocked = -1, counters.blocked + counters.available + 1


def nobody_has_swept(evidence: Evidence) -> None:
    evidence.cells[TAG].now_ms += HOLD_TTL_MS


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (sale_is_gone, "not caught up"),
        (relay_is_behind, "not caught up"),
        (deadline_is_missing, "deadlines"),
        (deadline_is_left, "deadlines"),
        (buyer_has_more, "buyers"),
        (buyer_forgot_a_hold, "buyers"),
        (record_is_gone, "stores"),
        (record_differs, "stores"),
        (counters_leak, "conservation"),
        (counters_are_below_zero, "conservation"),
        (nobody_has_swept, "overdue"),
    ],
)
def test_a_store_that_is_not_as_it_must_be_is_found(damage: Callable[[Evidence], None], rule: str) -> None:
    shop = Shop()
    shop.reserve(1, [(0, 1)])
    evidence = shop.evidence()
    damage(evidence)
    assert rule in rules(evidence)


def test_redis_may_forget_what_has_ended_and_had_no_key() -> None:
    shop = Shop()
    free, keyed = shop.reserve(1, [(0, 1)]), shop.reserve(2, [(0, 1)], key="k")
    shop.cancel(booking(free))
    shop.cancel(booking(keyed))
    evidence = shop.evidence()
    del evidence.cells[TAG].bookings[booking(free)]
    assert rules(evidence) == set()
    del evidence.cells[TAG].bookings[booking(keyed)]
    assert rules(evidence) == {"stores"}


@pytest.mark.parametrize(("late_ms", "found"), [(0, set()), (20, {"rows"})])
def test_a_hold_that_only_its_buyer_saw_is_as_they_were_told(late_ms: int, found: set[str]) -> None:
    shop = Shop()
    shop.pass_time(20)
    held = shop.reserve(1, [(0, 1)], key="k")
    assert held.answer is not None
    held.answer.created_at_ms = shop.now_ms
    held.answer.expires_at_ms = shop.now_ms + HOLD_TTL_MS + late_ms
    shop.lose(kept=1)
    evidence = shop.evidence()
    evidence.entries = [entry for entry in evidence.entries if entry.id != "1-1"]
    assert rules(evidence) & {"rows", "unasked", "lost"} == found


@pytest.mark.parametrize(("at", "found"), [(None, set()), ("1-1", {"unasked"})])
def test_a_confirm_may_be_lost_while_its_buyer_waits(at: str | None, found: set[str]) -> None:
    shop = Shop()
    held = booking(shop.reserve(1, [(0, 1)]))
    waiting = shop.confirm(held, fate="no reply")
    shop.lose(kept=0)
    shop.fault(may_lose=True)
    waiting.answer = Answered(waiting.asked.n, shop.now_ns, 409, "INVALID_STATE", at)
    assert rules(shop.evidence()) & {"unasked"} == found
