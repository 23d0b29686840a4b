"""What requests carry, beside the catalogue's forms (engine.catalogue_forms)."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.moments import Moment
from engine.reserving import ITEMS_MAX, QUANTITY_MAX

PAGE_MAX = 1_000_000

Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
Page = Annotated[int, Meta(ge=1, le=PAGE_MAX)]
PerPage = Annotated[int, Meta(ge=1, le=100)]
Text = Annotated[str, Meta(max_length=1000)]
SearchText = Annotated[str, Meta(max_length=255)]


class Register(msgspec.Struct, forbid_unknown_fields=True):
    """A new account."""

    email: Text
    password: Annotated[str, Meta(max_length=1000, description="8 characters to 72 bytes")]
    full_name: Text


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """E-mail and password."""

    email: Text
    password: Text


class RefreshToken(msgspec.Struct, forbid_unknown_fields=True):
    """A refresh token: for a new pair, or to log out."""

    refresh_token: Text


class AccountChange(msgspec.Struct, forbid_unknown_fields=True):
    """What a user may change of the own account."""

    full_name: Text | UnsetType = UNSET


class ReserveItem(msgspec.Struct, forbid_unknown_fields=True):
    """So many seats of one zone."""

    zone_id: UUID
    quantity: Quantity


class Reserve(msgspec.Struct, forbid_unknown_fields=True):
    """Either `items`, or `show_id`, `zone_id` and `quantity` for one zone."""

    items: Annotated[list[ReserveItem], Meta(min_length=1, max_length=ITEMS_MAX)] | UnsetType = UNSET
    show_id: UUID | UnsetType = UNSET
    zone_id: UUID | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET


class Join(msgspec.Struct, forbid_unknown_fields=True):
    """Whose queue to join."""

    event_id: UUID


class TicketQuery(msgspec.Struct):
    """For clients that cannot send a header of their own."""

    ticket: Annotated[str, Meta(description="instead of the header X-Queue-Ticket")] | None = None


class PageQuery(msgspec.Struct):
    """Which page of a list."""

    page: Page = 1
    per_page: PerPage = 20


class EventsQuery(PageQuery):
    """Which events. Dates are those of their shows."""

    q: SearchText | None = None
    category: SearchText | None = None
    date_from: Moment | None = msgspec.field(default=None, name="from")
    date_to: Moment | None = msgspec.field(default=None, name="to")


class PendingQuery(PageQuery):
    """Which of one's own bookings that wait to be confirmed."""

    event_id: UUID | None = None


class BookingsQuery(PendingQuery):
    """Which of one's own bookings."""

    status: Literal["reserved", "confirmed", "cancelled", "expired"] | None = None


HexText = Annotated[str, Meta(pattern="^([0-9a-fA-F]{2})+$", max_length=2048)]


class Randomness(msgspec.Struct, forbid_unknown_fields=True):
    """What a public round said; of drand, `randomness` is the SHA-256 of `signature`."""

    round: Annotated[str, Meta(max_length=200, description="as it was named beforehand")]
    randomness: HexText
    signature: HexText | None = None
