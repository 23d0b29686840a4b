"""The ledger: its entries as the scripts write them (JSON arrays whose first element is the verb), and its
places."""

from typing import Literal
from uuid import UUID

import msgspec


class Item(msgspec.Struct, array_like=True, frozen=True):
    """One item of a booking: `[zone, quantity, price_minor, show]`."""

    zone_id: UUID
    quantity: int
    unit_price_minor: int
    show_id: UUID


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    at_ms: int


class Open(_Entry, tag="open", frozen=True):
    """A new epoch began; its id is `<epoch>-0`."""


class Reserve(_Entry, tag="reserve", frozen=True):
    """A booking came to be."""

    booking_id: UUID
    user_id: UUID
    fingerprint: str
    expires_at_ms: int
    currency: str
    items: list[Item]


class Confirm(_Entry, tag="confirm", frozen=True):
    """A hold became a sale."""

    booking_id: UUID
    version: int
    user_id: UUID
    code: str
    items: list[Item]


class _Return(_Entry, frozen=True):
    booking_id: UUID
    version: int
    user_id: UUID
    was: Literal["reserved", "confirmed"]
    items: list[Item]


class Cancel(_Return, tag="cancel", frozen=True):
    """The buyer gave it back."""


class Expire(_Return, tag="expire", frozen=True):
    """The deadline passed."""


class Reject(_Return, tag="reject", frozen=True):
    """Postgres had refused it; its seats are back."""


class ZoneChange(msgspec.Struct, array_like=True, frozen=True):
    """By how much an edit moves a zone's counters."""

    zone_id: UUID
    capacity: int
    available: int
    blocked: int


class Edit(_Entry, tag="edit", frozen=True):
    """An organizer's intent was decided."""

    version: int
    outcome: Literal["applied", "refused"]
    changes: list[ZoneChange]


Entry = Open | Reserve | Confirm | Cancel | Expire | Reject | Edit
decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a ledger: `<epoch>-<seq>`."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


def parse_position(text: str | bytes) -> Position:
    """The place that a stream id or an X-Ledger-Seq header names; raises ValueError."""
    epoch, _, seq = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return Position(int(epoch), int(seq))
