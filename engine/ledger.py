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
    has_pass: int = 0
    """1 where a pass of the waiting room was spent on it."""


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


class Join(_Entry, tag="join", frozen=True):
    """People came into the queue, with numbers that follow each other."""

    first_number: int
    users: list[UUID]


class Leave(_Entry, tag="leave", frozen=True):
    """Somebody gave their place up; `place` is 0 before the draw."""

    user_id: UUID
    number: int
    place: int


class Freeze(_Entry, tag="freeze", frozen=True):
    """Who comes from here on is not in the draw."""

    entrants: int


class Draw(_Entry, tag="draw", frozen=True):
    """The entrants have their places, by the key that Postgres has."""


class Admit(_Entry, tag="admit", frozen=True):
    """A wave of people may enter."""

    from_place: int
    to_place: int
    people: int


class Claim(_Entry, tag="claim", frozen=True):
    """Somebody took the pass that was kept for them, or one that was left."""

    user_id: UUID
    number: int
    place: int
    expires_at_ms: int


class Lapsed(msgspec.Struct, array_like=True, frozen=True):
    """Somebody whose pass ran out, and their place with it."""

    user_id: UUID
    number: int


class Lapse(_Entry, tag="lapse", frozen=True):
    """Passes ran out unspent."""

    people: list[Lapsed]


QueueEntry = Join | Leave | Freeze | Draw | Admit | Claim | Lapse
"""What happens in the waiting room."""
Entry = Open | Reserve | Confirm | Cancel | Expire | Reject | Edit | QueueEntry
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
