"""What an organizer sends: new events, shows and zones, and changes of them.

The bounds stand in the types, so they are checked where the values are decoded and are told by the
schema. In a change, UNSET leaves as it is and None clears.
"""

import itertools
import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine import money
from engine.errors import ValidationFailed
from engine.moments import Moment
from engine.waiting.settings import WaitingRoom, WaitingRoomChange

SHOWS_MAX = 100
ZONES_MAX = 1_000
"""Of one event: a reserve names them one by one, and a rebuild loads them all."""
SEATS_MAX = 10_000_000
DESCRIPTION_CHARACTERS_MAX = 20_000

_UUID_LIKE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Title = Annotated[str, Meta(min_length=1, max_length=255)]
Slug = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,100}$(?!\n)")]
Description = Annotated[str, Meta(max_length=DESCRIPTION_CHARACTERS_MAX)]
Venue = Annotated[str, Meta(max_length=255)]
CategoryName = Annotated[str, Meta(min_length=1, max_length=100)]
ImageUrl = Annotated[str, Meta(pattern=r"^https?://[!-~]+$(?!\n)", max_length=2000)]
CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)", description="ISO 4217")]
MaxPerUser = Annotated[int, Meta(ge=1, le=1000)]
HoldTtlSeconds = Annotated[int, Meta(ge=1, le=3600)]
ZoneName = Annotated[str, Meta(min_length=1, max_length=100)]
Price = Annotated[str, Meta(max_length=20, description="decimal string with the currency's decimals")]
Seats = Annotated[int, Meta(ge=0, le=SEATS_MAX)]
MaxPerOrder = Annotated[int, Meta(ge=1, le=1000)]


class RefundStep(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Until so many days before the show, so much of the price comes back."""

    days_before: Annotated[int, Meta(ge=0, le=3650)]
    percent: Annotated[int, Meta(ge=0, le=100)]


RefundPolicy = Annotated[tuple[RefundStep, ...], Meta(max_length=20)]

REFUND_POLICY_DEFAULT = (RefundStep(7, 100), RefundStep(3, 50))


class NewZone(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A zone to be made."""

    name: ZoneName
    price: Price
    total_seats: Seats
    max_per_order: MaxPerOrder = 10
    kind: str = "counted"


class NewShow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A show to be made, with its zones."""

    show_date: Moment
    zones: Annotated[list[NewZone], Meta(max_length=ZONES_MAX)] = []


class NewEvent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An event to be made, as a draft."""

    title: Title
    currency: CurrencyCode
    sale_start_at: Moment
    slug: Slug | None = None
    description: Description | None = None
    venue: Venue | None = None
    category: CategoryName | None = None
    image_url: ImageUrl | None = None
    sale_end_at: Moment | None = None
    max_per_user: MaxPerUser = 4
    hold_ttl_seconds: HoldTtlSeconds = 600
    refund_policy: RefundPolicy | None = None
    waiting_room: WaitingRoom | None = None
    shows: Annotated[list[NewShow], Meta(max_length=SHOWS_MAX)] = []


class EventChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be changed of an event."""

    title: Title | UnsetType = UNSET
    slug: Slug | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    venue: Venue | UnsetType | None = UNSET
    category: CategoryName | UnsetType | None = UNSET
    image_url: ImageUrl | UnsetType | None = UNSET
    currency: CurrencyCode | UnsetType = UNSET
    sale_start_at: Moment | UnsetType = UNSET
    sale_end_at: Moment | UnsetType | None = UNSET
    max_per_user: MaxPerUser | UnsetType = UNSET
    hold_ttl_seconds: HoldTtlSeconds | UnsetType = UNSET
    refund_policy: RefundPolicy | UnsetType | None = UNSET
    waiting_room: WaitingRoomChange | UnsetType | None = UNSET


class ShowChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be changed of a show."""

    show_date: Moment | UnsetType = UNSET


class ZoneChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be changed of a zone. A price holds for new bookings."""

    name: ZoneName | UnsetType = UNSET
    price: Price | UnsetType = UNSET
    total_seats: Seats | UnsetType = UNSET
    blocked_seats: Seats | UnsetType = UNSET
    max_per_order: MaxPerOrder | UnsetType = UNSET


def check_slug(slug: str) -> None:
    """Raise ValidationFailed for a slug that could be taken for an id."""
    if _UUID_LIKE.fullmatch(slug):
        raise ValidationFailed("slug", "must not look like an id")


def check_currency(currency: str) -> None:
    """Raise ValidationFailed for a code that ISO 4217 does not have, or that has no minor unit."""
    try:
        money.exponent(currency)
    except ValueError:
        raise ValidationFailed("currency", "is not an ISO 4217 currency") from None


def check_refund_policy(policy: tuple[RefundStep, ...]) -> None:
    """Raise ValidationFailed unless the steps come in order, fewer days never giving more."""
    for i, (earlier, later) in enumerate(itertools.pairwise(policy)):
        if later.days_before >= earlier.days_before or later.percent > earlier.percent:
            raise ValidationFailed(
                f"refund_policy[{i + 1}]",
                "must have fewer days than the one before, and no higher percentage",
            )


def price_minor(field: str, price: str, currency: str) -> int:
    """The price in minor units; raises ValidationFailed."""
    try:
        minor = money.to_minor(price, currency)
    except ValueError as error:
        raise ValidationFailed(field, str(error)) from None
    if minor > money.PRICE_MINOR_MAX:
        highest = money.from_minor(money.PRICE_MINOR_MAX, currency)
        raise ValidationFailed(field, f"must not be higher than {highest}")
    return minor


def check_kind(field: str, kind: str) -> None:
    """Raise ValidationFailed for a kind of zone that is not built."""
    if kind in ("seats", "time"):
        raise ValidationFailed(field, f"zones of the kind {kind!r} are not available yet")
    if kind != "counted":
        raise ValidationFailed(field, "must be 'counted'")
