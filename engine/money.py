"""Money: integers in minor units inside, decimal strings at the edge, never a float."""

from functools import lru_cache

from iso4217 import Currency

PRICE_MINOR_MAX = 9_999_999_999
"""The highest unit price. Eight items of a thousand such units still fit the 14 digits that
survive a Lua number's way through JSON."""


@lru_cache(maxsize=256)
def exponent(currency: str) -> int:
    """Decimals of a currency's minor unit (ISO 4217); raises ValueError for an unknown code."""
    digits = Currency(currency).exponent
    if digits is None:
        raise ValueError(f"{currency} has no minor unit")
    return digits


def to_minor(amount: str, currency: str) -> int:
    """Parse a decimal string with exactly the currency's decimals; raises ValueError otherwise."""
    digits = exponent(currency)
    whole, point, fraction = amount.partition(".")
    well_formed = (
        amount.isascii()
        and whole.isdigit()
        and (len(whole) == 1 or whole[0] != "0")
        and len(fraction) == digits
        and (fraction.isdigit() if digits else not point)
    )
    if not well_formed:
        raise ValueError(f"not an amount of {currency} with {digits} decimals")
    return int(whole + fraction)


def from_minor(minor: int, currency: str) -> str:
    """Format an amount in minor units: 13500, GBP gives "135.00"."""
    digits = exponent(currency)
    if digits == 0:
        return str(minor)
    whole, fraction = divmod(abs(minor), 10**digits)
    return f"{'-' if minor < 0 else ''}{whole}.{fraction:0{digits}d}"
