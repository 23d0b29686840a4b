"""What people who wait are told, from numbers chosen by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.waiting.estimate import (
    POLL_MAX_MS,
    TURNAROUND_S,
    WAIT_MAX_S,
    Pace,
    Stock,
    expected_wait_s,
    outlook,
    pace,
    poll_after_ms,
    registered_poll_ms,
)

NOW_MS = 1_000_000
ORDER = ["likely", "uncertain", "unlikely"]


def steady(per_s: float, seconds: int, before: int = 20_000) -> list[tuple[int, int]]:
    """A queue that has moved steadily until now, with so many let in before that."""
    return [(NOW_MS - 1000 * (seconds - i), before + round(per_s * i)) for i in range(seconds + 1)]


def stock(**changes: int) -> Stock:
    """An event of 1,000 seats on which nobody has been let in, but for the changes."""
    values = {
        "available": 1_000,
        "reserved": 0,
        "out": 0,
        "basket_milli": 2_000,
        "return_permille": 0,
        "admitted": 0,
        "units": 0,
        "spent": 0,
    }
    return Stock(**(values | changes))


def the_pace(moves: list[tuple[int, int]], seen: Stock | None = None, per_s: float = 100.0) -> Pace:
    """Of a queue with 600 passes at most."""
    return pace(moves, NOW_MS, per_s, 600, seen or stock(available=100_000))


def under_way(**changes: int) -> Stock:
    """A large sale in its midst: all passes are out."""
    return stock(available=50_000, out=600, admitted=20_600, units=40_000, spent=20_000, **changes)


def test_before_anything_moved_the_first_come_as_configured_and_the_others_as_passes_usually_come_back() -> (
    None
):
    first = the_pace([])
    assert (first.at_once, first.at_once_per_s) == (600, 100.0)
    assert first.in_turn_per_s == 600 / TURNAROUND_S


def test_what_is_configured_is_never_exceeded() -> None:
    assert the_pace([], per_s=5.0).in_turn_per_s == 5.0
    assert the_pace(steady(200, 60), under_way(), per_s=100.0).in_turn_per_s == 100.0


def test_a_steady_queue_is_measured() -> None:
    assert the_pace(steady(20, 60), under_way()).in_turn_per_s == pytest.approx(20, rel=0.02)


def test_only_the_last_minute_counts() -> None:
    slow = steady(2, 60)
    fast = [(at_ms - 61_000, people) for at_ms, people in steady(100, 60, 14_000)]
    assert the_pace([*fast, *slow], under_way()).in_turn_per_s == pytest.approx(2, rel=0.05)


def test_the_rush_of_the_first_people_says_nothing_of_those_behind_them() -> None:
    rush = steady(60, 10, 0)
    seen = stock(available=100_000, out=600, admitted=600)
    assert the_pace(rush, seen).in_turn_per_s == 600 / TURNAROUND_S


def test_a_queue_that_stands_still_gets_slower_and_slower() -> None:
    moves = steady(20, 60)
    rates = [
        pace(moves, NOW_MS + wait_ms, 100.0, 600, under_way()).in_turn_per_s
        for wait_ms in (0, 30_000, 90_000, 600_000)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01


def test_few_seats_let_few_in_at_once() -> None:
    seen = the_pace([], stock(available=100))
    assert seen.at_once == 50
    assert seen.late_per_s < 1


@given(
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 1000)), max_size=64),
    st.integers(0, 200_000),
    st.floats(0.01, 100_000),
    st.integers(1, 100_000),
    st.integers(0, 100_000),
    st.integers(0, 5_000),
)
def test_no_rate_is_negative_or_above_the_configured_one_and_no_wait_longer_than_a_day(
    steps: list[tuple[int, int]],
    later_ms: int,
    configured: float,
    passes_max: int,
    available: int,
    out: int,
) -> None:
    at_ms = people = 0
    moves = []
    for pause_ms, more in steps:
        at_ms, people = at_ms + pause_ms, people + more
        moves.append((at_ms, people))
    seen = stock(available=available, out=out, admitted=people, units=2 * people)
    found = pace(moves, at_ms + later_ms, configured, passes_max, seen)
    assert 0 <= found.in_turn_per_s <= configured
    assert 0 <= found.late_per_s <= configured
    waits = [expected_wait_s(ahead, found, 0) for ahead in (0, 10, 1_000, 1_000_000)]
    assert waits == sorted(waits)
    assert waits[0] >= 0
    assert waits[-1] <= WAIT_MAX_S


def test_the_wait_adds_up_the_stretches_behind_the_start_of_the_sale() -> None:
    queue = Pace(at_once=100, at_once_per_s=50.0, in_turn=200, in_turn_per_s=10.0, late_per_s=0.5)
    assert expected_wait_s(49, queue, 0) == 1
    assert expected_wait_s(199, queue, 0) == 2 + 10
    assert expected_wait_s(309, queue, 0) == 2 + 20 + 20
    assert expected_wait_s(199, queue, 60) == 72
    assert expected_wait_s(199, queue, -60) == 12


def test_who_waits_for_what_does_not_come_waits_for_a_day() -> None:
    assert expected_wait_s(5, Pace(0, 1.0, 0, 1.0, 0.0), 0) == WAIT_MAX_S


def test_the_first_is_likely_and_the_millionth_is_not() -> None:
    assert outlook(0, stock()) == "likely"
    assert outlook(1_000_000, stock()) == "unlikely"
    assert outlook(1_000, stock()) == "uncertain"


def test_nothing_left_and_nothing_to_come_is_unlikely_for_everyone() -> None:
    assert outlook(0, stock(available=0, admitted=500, units=1_000, spent=500)) == "unlikely"


def test_what_people_take_decides() -> None:
    few = stock(available=700, admitted=300, units=300, spent=290)
    many = stock(available=700, admitted=300, units=1_200, spent=290, basket_milli=4_000)
    assert outlook(500, few) == "likely"
    assert outlook(500, many) == "unlikely"


def test_holds_that_will_come_back_are_counted() -> None:
    gone = stock(available=0, reserved=0, admitted=500, units=1_000, spent=500)
    coming = stock(available=0, reserved=900, return_permille=300, admitted=500, units=1_000, spent=500)
    assert outlook(20, gone) == "unlikely"
    assert outlook(20, coming) == "uncertain"


counts = st.integers(0, 100_000)


@given(counts, counts, counts, counts, st.integers(1000, 8000), st.integers(0, 900), counts, counts, counts)
def test_the_outlook_never_gets_better_with_more_people_ahead(
    ahead: int,
    more: int,
    available: int,
    reserved: int,
    basket: int,
    returned: int,
    out: int,
    further: int,
    units: int,
) -> None:
    seen = Stock(available, reserved, out, basket, returned, out + further, units, further)
    assert ORDER.index(outlook(ahead, seen)) <= ORDER.index(outlook(ahead + more, seen))


def test_who_is_near_asks_often_and_who_is_far_seldom() -> None:
    assert poll_after_ms(0, 1, 0.5) == 1_000
    assert poll_after_ms(3, 3_600, 0.5) == 5_000
    assert poll_after_ms(50_000, 3_600, 0.5) == POLL_MAX_MS
    assert poll_after_ms(5_000, 100, 0.0) == 7_500
    assert poll_after_ms(5_000, 100, 1.0) == 12_500


def test_who_waits_for_a_draw_comes_back_spread_over_the_time_behind_the_opening() -> None:
    assert registered_poll_ms(600, 0.5) == 300_000
    assert [registered_poll_ms(100, share) for share in (0.0, 0.5, 1.0)] == [100_000, 115_000, 130_000]
    assert [registered_poll_ms(0, share) for share in (0.0, 1.0)] == [30_000, 50_000]
