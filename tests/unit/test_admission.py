"""What bounds how many are let in, from totals chosen by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.waiting.admission import Counters, usage


def test_before_anything_is_known_a_booking_is_two_seats_and_none_comes_back() -> None:
    assert usage(Counters(spent=0, units=0, reserved=0, confirmed=0)) == (2000, 0)


def test_what_people_do_outweighs_what_was_presumed() -> None:
    basket_milli, _ = usage(Counters(spent=10_000, units=31_000, reserved=31_000, confirmed=0))
    assert basket_milli == pytest.approx(3_100, rel=0.01)


def test_the_first_bookings_do_not() -> None:
    basket_milli, _ = usage(Counters(spent=2, units=16, reserved=16, confirmed=0))
    assert basket_milli < 2_700


def test_held_seats_say_nothing_of_what_comes_back() -> None:
    assert usage(Counters(spent=500, units=1_000, reserved=1_000, confirmed=0))[1] == 0


def test_the_share_that_comes_back_is_nearly_what_came_back_and_never_more() -> None:
    _, permille = usage(Counters(spent=5_000, units=11_000, reserved=1_000, confirmed=8_000))
    assert 180 <= permille < 200


def test_seats_sold_without_a_pass_do_not_make_it_negative() -> None:
    assert usage(Counters(spent=5, units=10, reserved=40, confirmed=700))[1] == 0


totals = st.integers(0, 1_000_000)


@given(totals, totals, totals, totals)
def test_whatever_the_totals_the_bound_can_be_reckoned(
    spent: int, units: int, reserved: int, confirmed: int
) -> None:
    basket_milli, permille = usage(Counters(spent, units, reserved, confirmed))
    assert basket_milli > 0
    assert 0 <= permille <= 900
