"""What one person is told of their place: values in, values out."""

from typing import Literal

import msgspec

from engine.errors import NotFound
from engine.waiting.estimate import (
    Outlook,
    expected_wait_s,
    poll_after_ms,
    registered_poll_ms,
    spread_ms,
)
from engine.waiting.view import View

StateName = Literal["registered", "waiting", "served", "admitted", "paused", "sold_out", "closed"]
Standing = Literal["waiting", "served", "admitted", "gone"]
"""How somebody stands: not served yet; may claim a pass; has one, or a booking made with one; nowhere."""

OVER_POLL_MS = 40_000
"""Nothing is expected to change any more."""
SERVED_POLL_MS = 2_000
MS_PER_S = 1_000


class QueueState(msgspec.Struct):
    """How somebody stands. `place`, `ahead` and the estimate are None before the draw."""

    ticket: str
    status: StateName
    place: int | None
    ahead: int | None
    estimated_wait_seconds: int | None
    outlook: Outlook | None
    opens_at_ms: int
    """From when people are let in."""
    poll_after_ms: int


def must_be_asked_for(view: View, number: int, *, is_fresh: bool = False) -> bool:
    """Whether Redis has to be asked how the person with this number stands: who was let in, who seems to have
    gone, and who has a number that the queue has not given. It may have lost that it did; not where it has
    just said so (`is_fresh`)."""
    if number > view.tail and not is_fresh:
        return True
    place = view.place_of(number)
    if place is not None and place <= view.serving:
        return True
    return view.gone.is_gone(number if place is None else place)


def state(view: View, ticket: str, number: int, standing: Standing, now_ms: int, random: float) -> QueueState:
    """How the person with this number stands; `standing` counts where `must_be_asked_for`, else it is
    "waiting". `random`, from 0 to 1, spreads those who are answered at the same moment.

    Raises NotFound for a place that was given up or has ended: its number is burnt, and joining again gives
    another.
    """
    place = view.place_of(number)
    if view.is_over(now_ms):
        return _told(view, ticket, "closed", place, spread_ms(OVER_POLL_MS, random))
    if standing == "gone":
        raise NotFound("This place was given up or has ended; join again for a new one")
    if standing == "admitted":
        return _told(view, ticket, "admitted", place, spread_ms(SERVED_POLL_MS, random))
    if view.is_sold_out:
        return _told(view, ticket, "sold_out", place, spread_ms(OVER_POLL_MS, random))
    starts_in_s = max(view.opens_at_ms - now_ms, 0) / MS_PER_S
    if place is None:
        return _told(view, ticket, "registered", None, registered_poll_ms(starts_in_s, random))
    if place <= view.serving:
        status: StateName = "paused" if view.sale_status == "paused" else "served"
        return _told(view, ticket, status, place, spread_ms(SERVED_POLL_MS, random))
    ahead = view.ahead_of(place)
    wait_s = expected_wait_s(ahead, view.pace, starts_in_s)
    return QueueState(
        ticket=ticket,
        status="paused" if view.is_paused else "waiting",
        place=place,
        ahead=ahead,
        estimated_wait_seconds=wait_s,
        outlook=view.outlook(ahead),
        opens_at_ms=view.opens_at_ms,
        poll_after_ms=poll_after_ms(ahead, wait_s, random),
    )


_OUTLOOKS: dict[StateName, Outlook | None] = {
    "sold_out": "unlikely",
    "closed": "unlikely",
    "registered": None,
}


def _told(view: View, ticket: str, status: StateName, place: int | None, poll_ms: int) -> QueueState:
    """How somebody stands who waits for nobody."""
    is_let_in = status in ("served", "admitted")
    return QueueState(
        ticket=ticket,
        status=status,
        place=place,
        ahead=None if place is None else view.ahead_of(place),
        estimated_wait_seconds=0 if is_let_in else None,
        outlook=_OUTLOOKS.get(status, view.outlook(0)),
        opens_at_ms=view.opens_at_ms,
        poll_after_ms=poll_ms,
    )
