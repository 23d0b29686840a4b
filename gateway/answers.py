"""What answers carry. Every field is always there; what there is none of is null."""

import time
from functools import lru_cache
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from engine import times
from engine.accounts import Account, Session
from engine.booking import Booking
from engine.catalogue_forms import RefundStep
from engine.catalogue_model import Category, Event, Show, Zone
from engine.ledger import Item
from engine.money import from_minor
from engine.times import to_ms
from engine.waiting.settings import StoredRoom
from engine.waiting.state import QueueState

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Money = Annotated[str, Meta(description="decimal string with the currency's decimals")]

encoder = msgspec.json.Encoder()


@lru_cache(maxsize=4096)
def _second(at_s: int) -> str:
    return times.rfc3339(at_s * 1000)[:-4]


def rfc3339(at_ms: int) -> str:
    """UTC with milliseconds and `Z`; the seconds of now are asked for again and again."""
    at_s, ms = divmod(at_ms, 1000)
    return f"{_second(at_s)}{ms:03d}Z"


def _time_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


class UserAnswer(msgspec.Struct):
    """An account."""

    id: UUID
    email: str
    full_name: str
    role: Literal["user", "organizer", "admin"]
    tenant_id: UUID | None
    email_verified: bool
    created_at: Time

    @classmethod
    def of(cls, account: Account) -> "UserAnswer":
        """The account as it is shown."""
        return cls(
            account.id,
            account.email,
            account.full_name,
            account.role,
            account.tenant_id,
            account.email_verified,
            rfc3339(account.created_at_ms),
        )


class SessionAnswer(msgspec.Struct):
    """Who logged in, and the tokens."""

    user: UserAnswer
    access_token: str
    refresh_token: str
    expires_in: Annotated[int, Meta(description="seconds")]

    @classmethod
    def of(cls, session: Session) -> "SessionAnswer":
        """The session as it is shown."""
        user = UserAnswer.of(session.account)
        return cls(user, session.access_token, session.refresh_token, session.expires_in_s)


class TokensAnswer(msgspec.Struct):
    """A new pair of tokens."""

    access_token: str
    refresh_token: str
    expires_in: Annotated[int, Meta(description="seconds")]

    @classmethod
    def of(cls, session: Session) -> "TokensAnswer":
        """The session's tokens."""
        return cls(session.access_token, session.refresh_token, session.expires_in_s)


class ZoneAnswer(msgspec.Struct):
    """A zone with its live `available_seats`."""

    id: UUID
    show_id: UUID
    name: str
    price: Money
    total_seats: int
    available_seats: int
    max_per_order: int

    @classmethod
    def of(cls, zone: Zone, currency: str) -> "ZoneAnswer":
        """The zone as it is shown."""
        price = from_minor(zone.price_minor, currency)
        return cls(zone.id, zone.show_id, zone.name, price, zone.capacity, zone.available, zone.max_per_order)


class ShowAnswer(msgspec.Struct):
    """A show with its zones."""

    id: UUID
    show_date: Time
    status: Literal["active", "cancelled"]
    zones: list[ZoneAnswer]

    @classmethod
    def of(cls, show: Show, currency: str) -> "ShowAnswer":
        """The show as it is shown."""
        zones = [ZoneAnswer.of(zone, currency) for zone in show.zones]
        return cls(show.id, rfc3339(show.show_date_ms), show.status, zones)  # type: ignore[arg-type]


class WaitingRoomAnswer(msgspec.Struct):
    """The settings of a waiting room."""

    mode: Literal["open", "lottery"]
    opens_at: Time | None
    admissions_per_second: float
    passes_max: int
    pass_ttl_seconds: int
    claim_grace_seconds: int
    public_round: str | None

    @classmethod
    def of(cls, room: StoredRoom) -> "WaitingRoomAnswer":
        """The waiting room as it is shown."""
        return cls(
            mode=room.mode,
            opens_at=None if room.opens_at is None else rfc3339(to_ms(room.opens_at)),
            admissions_per_second=room.admissions_per_second,
            passes_max=room.passes_max,
            pass_ttl_seconds=room.pass_ttl_seconds,
            claim_grace_seconds=room.claim_grace_seconds,
            public_round=room.public_round,
        )


class EventAnswer(msgspec.Struct):
    """An event with its shows."""

    id: UUID
    slug: str
    tenant_id: UUID | None
    title: str
    description: str | None
    venue: str | None
    category: str | None
    image_url: str | None
    currency: str
    status: Literal["draft", "published", "paused", "cancelled", "ended"]
    sale_start_at: Time
    sale_end_at: Time | None
    max_per_user: int
    hold_ttl_seconds: int
    refund_policy: list[RefundStep]
    waiting_room: WaitingRoomAnswer | None
    shows: list[ShowAnswer]
    created_at: Time

    @classmethod
    def of(cls, event: Event) -> "EventAnswer":
        """The event as it is shown now."""
        return cls(
            id=event.id,
            slug=event.slug,
            tenant_id=event.tenant_id,
            title=event.title,
            description=event.description,
            venue=event.venue,
            category=event.category,
            image_url=event.image_url,
            currency=event.currency,
            status=event.status_at(int(time.time() * 1000)),  # type: ignore[arg-type]
            sale_start_at=rfc3339(event.sale_start_at_ms),
            sale_end_at=_time_or_none(event.sale_end_at_ms),
            max_per_user=event.max_per_user,
            hold_ttl_seconds=event.hold_ttl_seconds,
            refund_policy=event.refund_policy,
            waiting_room=WaitingRoomAnswer.of(event.waiting_room) if event.waiting_room else None,
            shows=[ShowAnswer.of(show, event.currency) for show in event.shows],
            created_at=rfc3339(event.created_at_ms),
        )


class QueueStateAnswer(msgspec.Struct):
    """How somebody stands in a queue. `place` and `ahead` are null before the draw, the estimate where there
    is nothing to wait for; `opens_at` is from when people are let in."""

    ticket: str
    status: Literal["registered", "waiting", "served", "admitted", "paused", "sold_out", "closed"]
    place: int | None
    ahead: int | None
    estimated_wait_seconds: int | None
    outlook: Literal["likely", "uncertain", "unlikely"] | None
    opens_at: Time | None
    poll_after_ms: int

    @classmethod
    def of(cls, state: QueueState) -> "QueueStateAnswer":
        """The state as it is shown."""
        opens_at = rfc3339(state.opens_at_ms) if state.opens_at_ms else None
        return cls(
            state.ticket,
            state.status,
            state.place,
            state.ahead,
            state.estimated_wait_seconds,
            state.outlook,
            opens_at,
            state.poll_after_ms,
        )


class PassAnswer(msgspec.Struct):
    """A pass: sent as `X-Queue-Pass` with a reservation until it runs out."""

    queue_pass: str = msgspec.field(name="pass")
    expires_at: Time


class CategoryAnswer(msgspec.Struct):
    """A category."""

    id: UUID
    name: str
    slug: str

    @classmethod
    def of(cls, category: Category) -> "CategoryAnswer":
        """The category as it is shown."""
        return cls(*category)


class ZoneSalesAnswer(msgspec.Struct):
    """A zone's counters: `available + reserved + confirmed + blocked == capacity`."""

    zone_id: UUID
    show_id: UUID
    name: str
    capacity: int
    available: int
    reserved: int
    confirmed: int
    blocked: int


class SalesAnswer(msgspec.Struct):
    """How an event sells, live."""

    event_id: UUID
    zones: list[ZoneSalesAnswer]

    @classmethod
    def of(cls, event_id: UUID, zones: list[Zone]) -> "SalesAnswer":
        """The zones' counters as they are shown."""
        rows = [
            ZoneSalesAnswer(
                zone.id,
                zone.show_id,
                zone.name,
                zone.capacity,
                zone.available,
                zone.reserved,
                zone.confirmed,
                zone.blocked,
            )
            for zone in zones
        ]
        return cls(event_id, rows)


class BookingItemAnswer(msgspec.Struct):
    """So many seats of one zone."""

    show_id: UUID | None
    zone_id: UUID
    quantity: int
    unit_price: Money


class BookingAnswer(msgspec.Struct):
    """A booking; `confirmation_code` only once it is durable."""

    id: UUID
    status: Literal["reserved", "confirmed", "cancelled", "expired"]
    durable: bool
    event_id: UUID
    items: list[BookingItemAnswer]
    quantity: int
    total_amount: Money
    currency: str
    expires_at: Time
    confirmed_at: Time | None
    confirmation_code: str | None
    created_at: Time

    @classmethod
    def of(cls, booking: Booking) -> "BookingAnswer":
        """The booking as it is shown."""
        currency = booking.currency
        return cls(
            booking.id,
            booking.status,  # type: ignore[arg-type]
            booking.durable,
            booking.event_id,
            [
                BookingItemAnswer(
                    item.show_id,
                    item.zone_id,
                    item.quantity,
                    from_minor(item.unit_price_minor, currency),
                )
                for item in _by_zone(booking.items)
            ],
            booking.quantity,
            from_minor(booking.total_minor, currency),
            currency,
            rfc3339(booking.expires_at_ms),
            _time_or_none(booking.confirmed_at_ms),
            booking.confirmation_code if booking.durable else None,
            rfc3339(booking.created_at_ms),
        )


def _by_zone(items: list[Item]) -> list[Item]:
    # Redis has them as they were sent, Postgres as a set: one order for both.
    return items if len(items) == 1 else sorted(items, key=lambda item: item.zone_id)


class Paging(msgspec.Struct):
    """Which page of a list this is, and how many rows there are in all."""

    page: int
    per_page: int
    total: int


class HealthAnswer(msgspec.Struct):
    """The process, or all it needs, is fine."""

    status: Literal["ok"] = "ok"
