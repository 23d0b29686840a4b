"""What people who wait are told: how long it will take, and whether it is likely to be worth it.

Pure functions of what Redis says of a queue. The simulator holds them to their word: `rush simulate`.
"""

from typing import Literal

import msgspec

Outlook = Literal["likely", "uncertain", "unlikely"]

WINDOW_MS = 60_000
"""The rate is that of the last minute."""
SPAN_MIN_MS, FIRST_SPAN_MIN_MS = 45_000, 58_000
"""So long a queue must have moved before what was measured counts; the longer one just after its begin."""
TURNAROUND_S = 60.0
"""How long a pass, with the slot that was kept for it, is usually out: to see it, to claim it, to choose."""
HOLD_S = 600.0
"""How long it takes until seats that nobody pays for come back."""
FIRST_SHARE = 0.95
WAIT_MAX_S = 86_400

PRIOR_PEOPLE = 40
"""What is presumed of people weighs as much as what so many of them did."""
BUYING_SHARE = 0.87
"""Of those who are let in, so many usually take seats."""
KEPT_SHARE = 0.93
"""Of the seats that are reserved, so many usually stay sold; the others come back while people still wait."""
UNUSED_SHARE = 0.2
"""Of the seats, so many usually go to people who are let in later, for seats that came back."""
SEATS_FEW = 0.5
"""Seats that somebody who is let in takes at least, presumed: some take none."""
SURE = 0.97
"""Those ahead are presumed to take this share of the seats that they seem to, before it is said that nothing
will be left: some of them will go."""
RETURNING_SHARE = 0.1
"""Of all seats ever reserved, so many may still come back, if they are still held."""
ROOM = 1.1
"""Seats that must be there for each one that those ahead may want, before it is said that enough are."""

POLLS_PER_WAIT = 10
POLL_MIN_MS = 1_000
POLL_MAX_MS = 40_000
"""With its jitter less than the usual grace: who asks as told does not miss their turn."""
LONG_POLL_MS = 300_000
"""Of who waits for a draw that is far away."""
OPENING_S = 30
NEAR_PEOPLE = 50
"""Who has so few ahead asks often, however slowly the queue moves."""
NEAR_POLL_MAX_MS = 5_000
JITTER = 0.25


class Stock(msgspec.Struct, frozen=True):
    """What is left of an event, and what people with passes have made of it so far."""

    available: int
    """Seats that nobody has."""
    reserved: int
    """Seats that are held and not confirmed."""
    out: int
    """Passes out, with the slots that are kept for people who have not claimed theirs yet."""
    basket_milli: int
    """Thousandths of a seat that one booking takes."""
    return_permille: int
    """Of a thousand reserved seats, so many come back."""
    admitted: int
    """People let in so far, those of `out` among them."""
    units: int
    """Seats that they have reserved so far."""
    spent: int
    """Passes that they have spent so far."""


class Pace(msgspec.Struct, frozen=True):
    """How fast a queue moves: three stretches, one behind the other."""

    at_once: int
    """People who may come as fast as is configured: so many passes are free, and so many seats left."""
    at_once_per_s: float
    in_turn: int
    """Those behind them for whom seats are left: they come as passes come back."""
    in_turn_per_s: float
    late_per_s: float
    """Everybody else: they come as seats come back."""


def pace(
    moves: list[tuple[int, int]], now_ms: int, configured_per_s: float, passes_max: int, stock: Stock
) -> Pace:
    """How fast people are going to be let in, from what was seen in the last minute.

    `moves` are (time in ms, people let in until then since the queue began), oldest first. The first people
    come as fast as is configured, later ones as passes come back, and when all seats are taken, as seats do:
    what is measured of one stretch says nothing of the next.
    """
    basket = stock.basket_milli / 1000
    seats = stock.available + stock.reserved * stock.return_permille / 1000
    limit = int(min(passes_max, seats / basket))
    at_once = max(limit - stock.out, 0)
    # Of the people who are out the quick ones buy first: until they all are done, what is usual counts.
    doubtful, settled = PRIOR_PEOPLE + stock.out, max(stock.admitted - stock.out, 0)
    buying = min((stock.spent + doubtful * BUYING_SHARE) / (settled + doubtful), 1.0)
    seats_each = basket * buying * KEPT_SHARE
    served = max(int(seats / max(seats_each, SEATS_FEW)) - stock.out, at_once)
    total = stock.available + stock.units
    in_turn_per_s = passes_max / TURNAROUND_S
    late_per_s = total * UNUSED_SHARE / basket / HOLD_S
    first_people = FIRST_SHARE * min(passes_max, total / basket)
    # The passes of the first people all come back at about the same time, and until then hardly any.
    span_min_ms = SPAN_MIN_MS if stock.admitted >= 2 * first_people else FIRST_SPAN_MIN_MS
    measured = _measured_per_s([move for move in moves if move[1] >= first_people], now_ms, span_min_ms)
    if measured is not None and served > at_once:
        in_turn_per_s = measured
    elif measured is not None:
        # Seats come back in fits and starts: what is usual counts as well.
        late_per_s = (measured + late_per_s) / 2
    return Pace(
        at_once=at_once,
        at_once_per_s=configured_per_s,
        in_turn=served - at_once,
        in_turn_per_s=min(in_turn_per_s, configured_per_s),
        late_per_s=min(late_per_s, configured_per_s),
    )


def _measured_per_s(moves: list[tuple[int, int]], now_ms: int, span_min_ms: int) -> float | None:
    """People let in a second over the last minute; None where too little was seen."""
    recent = [move for move in moves if move[0] >= now_ms - WINDOW_MS]
    if not recent:
        return 1000 / max(now_ms - moves[-1][0], 1) if moves else None
    span_ms = now_ms - recent[0][0]
    return (recent[-1][1] - recent[0][1]) * 1000 / span_ms if span_ms >= span_min_ms else None


def expected_wait_s(ahead: int, pace: Pace, sale_starts_in_s: float) -> int:
    """Seconds until somebody with so many people ahead is let in; a day at most.

    Nobody is let in before the sale begins; `sale_starts_in_s` is 0 where it has begun.
    """
    stretches = (
        (pace.at_once, pace.at_once_per_s),
        (pace.in_turn, pace.in_turn_per_s),
        (ahead + 1, pace.late_per_s),
    )
    people, wait_s = ahead + 1, max(sale_starts_in_s, 0.0)
    for most, per_s in stretches:
        here = min(people, most)
        if here > per_s * WAIT_MAX_S:
            return WAIT_MAX_S
        wait_s += here / per_s if here else 0.0
        people -= here
    return min(round(wait_s), WAIT_MAX_S)


def outlook(ahead: int, stock: Stock) -> Outlook:
    """Whether seats will be left for somebody with so many people ahead, as it looks now."""
    if _is_enough(ahead, stock):
        return "likely"
    return "unlikely" if _is_in_vain(ahead, stock) else "uncertain"


def _is_in_vain(ahead: int, stock: Stock) -> bool:
    """Whether nothing is left even if those ahead take no more than people took at least so far.

    Who is let in and has reserved nothing yet counts as one who never will: what is measured so is the least.
    """
    kept = stock.units * (1000 - stock.return_permille) / 1000
    seats_each = SURE * (kept + PRIOR_PEOPLE * SEATS_FEW) / (stock.admitted + PRIOR_PEOPLE)
    # What is still held after a while is mostly what nobody is going to pay for.
    returning = stock.reserved * stock.return_permille / 1000 + stock.units * RETURNING_SHARE
    return ahead * seats_each >= stock.available + min(returning, stock.reserved)


def _is_enough(ahead: int, stock: Stock) -> bool:
    """Whether something is left even if all who are let in, and those ahead, buy what is usual."""
    basket = stock.basket_milli / 1000
    taken = stock.units + (stock.out + PRIOR_PEOPLE) * basket
    seats_each = max(taken / (stock.admitted + PRIOR_PEOPLE), SEATS_FEW)
    return ROOM * (stock.out * basket + ahead * seats_each) + basket <= stock.available


def poll_after_ms(ahead: int, wait_s: float, random: float) -> int:
    """When to ask again: often near the front, seldom far behind.

    `random`, from 0 to 1, spreads people who were answered at the same moment.
    """
    longest_ms = NEAR_POLL_MAX_MS if ahead < NEAR_PEOPLE else POLL_MAX_MS
    usual_ms = min(max(wait_s * 1000 / POLLS_PER_WAIT, POLL_MIN_MS), longest_ms)
    return spread_ms(usual_ms, random)


def registered_poll_ms(opens_in_s: float, random: float) -> int:
    """When to ask again who waits for a draw: everybody does, and perhaps for hours. They come back in the
    half minute that follows the opening, while a wave of theirs would still keep their slots."""
    if opens_in_s <= 0:
        return spread_ms(POLL_MAX_MS, random)
    return min(round(1_000 * (opens_in_s + OPENING_S * random)), spread_ms(LONG_POLL_MS, random))


def spread_ms(usual_ms: float, random: float) -> int:
    """About so long; `random`, from 0 to 1, spreads people who were answered at the same moment."""
    return round(usual_ms * (1 - JITTER + 2 * JITTER * random))
