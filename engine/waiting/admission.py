"""How much people with passes buy, and how much of it comes back: what bounds how many are let in."""

import math

import msgspec

BASKET_PRIOR = 2.0
"""Seats in a booking, before anything is known."""
BASKET_PRIOR_PEOPLE = 20
RETURN_PRIOR_UNITS = 100
"""Seats, none of which came back, that are presumed beside those whose end is known."""
RETURN_MAX = 0.9


class Counters(msgspec.Struct, frozen=True):
    """Totals of a queue and of its event's zones."""

    spent: int
    """Passes that were spent."""
    units: int
    """Seats that were reserved with them."""
    reserved: int
    """Seats that are held now."""
    confirmed: int
    """Seats that are sold now."""


def usage(counters: Counters) -> tuple[int, int]:
    """(basket_milli, return_permille): thousandths of a seat that a booking takes, and of a thousand
    reserved seats those that come back.

    The share that comes back is meant to be too low rather than too high: who is let in for seats that do
    not come back has waited in vain. It is what has come back, less two standard deviations, of all that
    is settled; seats reserved without a pass make it lower still.
    """
    basket = (counters.units + BASKET_PRIOR * BASKET_PRIOR_PEOPLE) / (counters.spent + BASKET_PRIOR_PEOPLE)
    settled = max(counters.units - counters.reserved, 0)
    returned = max(settled - counters.confirmed, 0)
    surely = max(returned - 2 * math.sqrt(returned), 0.0)
    share = min(surely / (settled + RETURN_PRIOR_UNITS), RETURN_MAX)
    return max(round(1000 * basket), 1), int(1000 * share)
