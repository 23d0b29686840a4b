"""What people who wait are told, from numbers chosen by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.waiting.estimate import (
    POLL_MAX_MS,
    WAIT_MAX_S,
    Stock,
    admission_rate,
    estimated_wait_s,
    outlook,
    poll_after_ms,
)

NOW_MS = 1_000_000
ORDER = ["likely", "uncertain", "unlikely"]


def steady(per_s: float, seconds: int) -> list[tuple[int, int]]:
    """A queue that has moved steadily until now."""
    return [(NOW_MS - 1000 * (seconds - i), round(per_s * i)) for i in range(seconds + 1)]


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


def test_before_anything_moved_the_rate_is_the_configured_one() -> None:
    assert admission_rate([], NOW_MS, 100.0) == 100.0
    assert admission_rate([(NOW_MS, 7)], NOW_MS, 100.0) == 100.0


def test_few_passes_make_the_expected_rate_lower() -> None:
    assert admission_rate([], NOW_MS, 100.0, passes_max=600) == 10.0
    assert admission_rate([], NOW_MS, 5.0, passes_max=600) == 5.0


def test_a_steady_queue_is_measured() -> None:
    assert admission_rate(steady(20, 60), NOW_MS, 100.0) == pytest.approx(20, rel=0.02)


def test_only_the_last_minute_counts() -> None:
    slow = steady(2, 60)
    fast = [(at_ms - 61_000, people - 6_000) for at_ms, people in steady(100, 60)]
    assert admission_rate([*fast, *slow], NOW_MS, 100.0) == pytest.approx(2, rel=0.05)


def test_a_queue_that_has_just_begun_to_move_is_half_believed() -> None:
    rate = admission_rate(steady(20, 5), NOW_MS, 100.0)
    assert rate == pytest.approx((20 * 5 + 100 * 5) / 10)


def test_a_queue_that_stands_still_gets_slower_and_slower() -> None:
    moves = steady(20, 60)
    rates = [admission_rate(moves, NOW_MS + wait_ms, 100.0) for wait_ms in (0, 30_000, 90_000, 600_000)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1


def test_a_slow_queue_is_not_called_stuck_before_anybody_was_due() -> None:
    assert admission_rate([(NOW_MS - 50_000, 1), (NOW_MS, 2)], NOW_MS, 0.02) == 0.02


@given(
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 1000)), max_size=64),
    st.integers(0, 200_000),
    st.floats(0.01, 100_000),
)
def test_no_rate_is_negative_or_above_the_configured_one(
    steps: list[tuple[int, int]], later_ms: int, configured: float
) -> None:
    at_ms = people = 0
    moves = []
    for pause_ms, more in steps:
        at_ms, people = at_ms + pause_ms, people + more
        moves.append((at_ms, people))
    rate = admission_rate(moves, at_ms + later_ms, configured)
    assert 0 <= rate <= configured
    assert 0 <= estimated_wait_s(10, rate, 0) <= WAIT_MAX_S


def test_the_wait_is_the_people_ahead_by_the_rate_behind_the_start_of_the_sale() -> None:
    assert estimated_wait_s(999, 10.0, 0) == 100
    assert estimated_wait_s(999, 10.0, 60) == 160
    assert estimated_wait_s(999, 10.0, -60) == 100
    assert estimated_wait_s(5, 0.0, 0) == WAIT_MAX_S


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
    gone = stock(available=0, reserved=900, admitted=500, units=1_000, spent=500)
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
