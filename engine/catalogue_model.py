"""Events, shows and zones as the engine hands them out, and the states of an event."""

from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from engine.catalogue_forms import RefundStep
from engine.errors import InvalidState
from engine.times import to_ms
from engine.waiting.settings import StoredRoom, stored_room

Action = Literal["publish", "pause", "resume"]

TRANSITIONS: dict[Action, dict[str, str]] = {
    "publish": {"draft": "published", "published": "published", "paused": "paused"},
    "pause": {"published": "paused", "paused": "paused"},
    "resume": {"paused": "published", "published": "published"},
}
"""From which stored status an action leads to which; all that is not here is refused. `ended` is not
stored: it is how a published or paused event shows once `sale_end_at` has passed."""

ON_SALE = frozenset({"published", "paused"})
"""Statuses in which the event has a cell in Redis: prices and counters change by intents."""


class Zone(msgspec.Struct):
    """A sellable block of seats; `capacity` and `available` are live where Redis could be asked."""

    id: UUID
    show_id: UUID
    event_id: UUID
    name: str
    price_minor: int
    max_per_order: int
    capacity: int
    available: int
    reserved: int
    confirmed: int
    blocked: int


class Show(msgspec.Struct):
    """A date of an event."""

    id: UUID
    event_id: UUID
    show_date_ms: int
    status: str
    zones: list[Zone]


class Event(msgspec.Struct):
    """An event with its shows, oldest first."""

    id: UUID
    slug: str
    tenant_id: UUID | None
    organizer_id: UUID
    title: str
    description: str | None
    venue: str | None
    category: str | None
    image_url: str | None
    currency: str
    stored_status: str
    sale_start_at_ms: int
    sale_end_at_ms: int | None
    max_per_user: int
    hold_ttl_seconds: int
    refund_policy: list[RefundStep]
    waiting_room: StoredRoom | None
    created_at_ms: int
    shows: list[Show]

    def status_at(self, now_ms: int) -> str:
        """The status as it is shown."""
        is_over = self.sale_end_at_ms is not None and self.sale_end_at_ms <= now_ms
        return "ended" if is_over and self.stored_status in ON_SALE else self.stored_status


class Category(NamedTuple):
    """What events are grouped by."""

    id: UUID
    name: str
    slug: str


_refund_policy_decoder = msgspec.json.Decoder(list[RefundStep])


def next_status(status: str, action: Action) -> str:
    """Where an action leads; raises InvalidState."""
    following = TRANSITIONS[action].get(status)
    if following is None:
        raise InvalidState(f"An event that is {status} has no {action}", details={"status": status})
    return following


def check_editable(status: str) -> None:
    """Raise InvalidState for an event that is over for good."""
    if status == "cancelled":
        raise InvalidState("A cancelled event stays as it is", details={"status": status})


def event_from(row: asyncpg.Record) -> Event:
    """An event without its shows, from its row and the name of its category."""
    end = row["sale_end_at"]
    return Event(
        id=row["id"],
        slug=row["slug"],
        tenant_id=row["tenant_id"],
        organizer_id=row["organizer_id"],
        title=row["title"],
        description=row["description"],
        venue=row["venue"],
        category=row["category"],
        image_url=row["image_url"],
        currency=row["currency"],
        stored_status=row["status"],
        sale_start_at_ms=to_ms(row["sale_start_at"]),
        sale_end_at_ms=None if end is None else to_ms(end),
        max_per_user=row["max_per_user"],
        hold_ttl_seconds=row["hold_ttl_seconds"],
        refund_policy=_refund_policy_decoder.decode(row["refund_policy"]),
        waiting_room=stored_room(row["waiting_room"]),
        created_at_ms=to_ms(row["created_at"]),
        shows=[],
    )


def show_from(row: asyncpg.Record) -> Show:
    """A show without its zones."""
    return Show(
        id=row["id"],
        event_id=row["event_id"],
        show_date_ms=to_ms(row["show_date"]),
        status=row["status"],
        zones=[],
    )


def zone_from(row: asyncpg.Record) -> Zone:
    """A zone with the counters that Postgres knows."""
    return Zone(
        id=row["id"],
        show_id=row["show_id"],
        event_id=row["event_id"],
        name=row["name"],
        price_minor=row["price_minor"],
        max_per_order=row["max_per_order"],
        capacity=row["capacity"],
        available=row["available_seats"],
        reserved=row["reserved"],
        confirmed=row["confirmed"],
        blocked=row["blocked"],
    )
