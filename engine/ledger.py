"""The ledger: its entries as the scripts write them (JSON arrays whose first element is the verb), its
places, and runs of entries."""

from collections.abc import Mapping, Sequence
from typing import Literal
from uuid import UUID

import msgspec

from engine.ids import CellId


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


class Unreadable(msgspec.Struct, frozen=True):
    """What stands in a ledger and no script of ours wrote."""

    reason: str


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


class Line(msgspec.Struct, frozen=True):
    """One ledger entry: its seq, what it says, and the text as it was."""

    seq: int
    entry: Entry | Unreadable
    text: bytes


class Batch(msgspec.Struct, frozen=True):
    """A run of entries of one epoch, dense, right after `from_seq`."""

    cell_id: CellId
    epoch: int
    from_seq: int
    lines: Sequence[Line]

    @property
    def before(self) -> Position:
        """The offset that the batch continues."""
        return Position(self.epoch, self.from_seq)

    @property
    def after(self) -> Position:
        """The offset once it is committed."""
        return Position(self.epoch, self.from_seq + len(self.lines))


def decode_line(seq: int, fields: Mapping[bytes, bytes]) -> Line:
    """Read one entry of the stream."""
    text = fields.get(b"e", b"")
    try:
        return Line(seq=seq, entry=decoder.decode(text), text=text)
    except (msgspec.MsgspecError, ValueError) as error:
        return Line(seq=seq, entry=Unreadable(str(error)), text=text)


def dense_lines(offset: Position, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Line]:
    """The entries that continue the offset, up to the first that does not."""
    lines: list[Line] = []
    for id_, fields in entries:
        seq = offset.seq + len(lines) + 1
        if parse_position(id_) != Position(offset.epoch, seq):
            break
        lines.append(decode_line(seq, fields))
    return lines
