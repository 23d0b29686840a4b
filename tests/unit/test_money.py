"""Money: decimal strings in and out, integers between, never a float."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.money import PRICE_MINOR_MAX, exponent, from_minor, to_minor

CURRENCIES = ["GBP", "EUR", "USD", "JPY", "KRW", "BHD", "KWD", "CLF"]


@given(st.integers(0, 10**14), st.sampled_from(CURRENCIES))
def test_an_amount_survives_the_way_out_and_in(minor: int, currency: str) -> None:
    assert to_minor(from_minor(minor, currency), currency) == minor


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("135.00", "GBP", 13500),
        ("0.00", "GBP", 0),
        ("0.01", "EUR", 1),
        ("1500", "JPY", 1500),
        ("0", "JPY", 0),
        ("1.234", "BHD", 1234),
        ("0.0001", "CLF", 1),
        ("99999999.99", "USD", PRICE_MINOR_MAX),
    ],
)
def test_the_decimals_are_the_currencys(amount: str, currency: str, minor: int) -> None:
    assert to_minor(amount, currency) == minor
    assert from_minor(minor, currency) == amount


@pytest.mark.parametrize(
    "amount",
    [
        *["", ".", "1", "1.", "1.0", "1.000", ".50", "01.00", "00.00", "-1.00", "+1.00", "1,00"],
        *[
            "1.0e",
            "1e2",
            " 1.00",
            "1.00 ",
            "1.00\n",
            "1_0.00",
            "\u0661.\u0660\u0660",
            "\uff11.\uff10\uff10",
            "²",
            "1.²³",
        ],
        *["NaN", "Infinity", "0x1.00", "1.00.00", "1 000.00", "1.0\0"],
        "9" * 5000 + ".00",
    ],
)
def test_any_other_spelling_is_refused(amount: str) -> None:
    with pytest.raises(ValueError):
        to_minor(amount, "GBP")


@pytest.mark.parametrize("amount", ["1.", "1.0", "1.00", "", "01", "-1"])
def test_a_currency_without_decimals_takes_none(amount: str) -> None:
    with pytest.raises(ValueError):
        to_minor(amount, "JPY")


@pytest.mark.parametrize("currency", ["", "gbp", "XYZ", "GB", "GBPP", "XAU", "XTS", "826", "Pound Sterling"])
def test_an_unknown_currency_and_one_without_a_minor_unit_are_refused(currency: str) -> None:
    with pytest.raises(ValueError):
        exponent(currency)
    with pytest.raises(ValueError):
        to_minor("1.00", currency)


def test_a_negative_amount_keeps_its_sign_below_one() -> None:
    assert from_minor(-5, "GBP") == "-0.05"
    assert from_minor(-13500, "GBP") == "-135.00"
    assert from_minor(-7, "JPY") == "-7"


def test_the_highest_order_is_exact_in_a_lua_number() -> None:
    # A double holds integers up to 2**53; Lua writes 14 digits of it into JSON.
    assert 8 * 1000 * PRICE_MINOR_MAX < 10**14
