"""Runs of ledger entries, as the relay and recovery carry them into Postgres.

Here the ids of an entry stay the text that they are in the ledger. Making a UUID of each would cost more
than all else that is done with an entry, and Postgres takes the sixteen bytes.
"""

from collections.abc import Sequence
from itertools import count
from uuid import UUID

import msgspec

from engine import ledger
from engine.ids import CellId
from engine.ledger import Admit, Draw, Edit, Freeze, Open, Position, parse_position

FIELD = b"e"
"""The one field of an entry of the stream."""


class Item(ledger.Item, frozen=True, gc=False):
    """One item of a booking."""

    zone_id: str  # type: ignore[assignment]
    show_id: str  # type: ignore[assignment]


class Reserve(ledger.Reserve, frozen=True, gc=False):
    """A booking came to be."""

    booking_id: str  # type: ignore[assignment]
    user_id: str  # type: ignore[assignment]
    items: list[Item]  # type: ignore[assignment]


class Confirm(ledger.Confirm, frozen=True, gc=False):
    """A hold became a sale."""

    booking_id: str  # type: ignore[assignment]
    user_id: str  # type: ignore[assignment]
    items: list[Item]  # type: ignore[assignment]


class Cancel(ledger.Cancel, frozen=True, gc=False):
    """The buyer gave it back."""

    booking_id: str  # type: ignore[assignment]
    user_id: str  # type: ignore[assignment]
    items: list[Item]  # type: ignore[assignment]


class Expire(ledger.Expire, frozen=True, gc=False):
    """The deadline passed."""

    booking_id: str  # type: ignore[assignment]
    user_id: str  # type: ignore[assignment]
    items: list[Item]  # type: ignore[assignment]


class Reject(ledger.Reject, frozen=True, gc=False):
    """Postgres had refused it; its seats are back."""

    booking_id: str  # type: ignore[assignment]
    user_id: str  # type: ignore[assignment]
    items: list[Item]  # type: ignore[assignment]


class Join(ledger.Join, frozen=True, gc=False):
    """People came into the queue, with numbers that follow each other."""

    users: list[str]  # type: ignore[assignment]


class Leave(ledger.Leave, frozen=True, gc=False):
    """Somebody gave their place up."""

    user_id: str  # type: ignore[assignment]


class Claim(ledger.Claim, frozen=True, gc=False):
    """Somebody took a pass."""

    user_id: str  # type: ignore[assignment]


class Lapsed(ledger.Lapsed, frozen=True, gc=False):
    """Somebody whose pass ran out."""

    user_id: str  # type: ignore[assignment]


class Lapse(ledger.Lapse, frozen=True, gc=False):
    """Passes ran out unspent."""

    people: list[Lapsed]  # type: ignore[assignment]


class Unreadable(msgspec.Struct, frozen=True):
    """What stands in a ledger and no script of ours wrote."""

    reason: str


QueueEntry = Join | Leave | Freeze | Draw | Admit | Claim | Lapse
"""What happens in the waiting room."""
Entry = Open | Reserve | Confirm | Cancel | Expire | Reject | Edit | QueueEntry
_decode = msgspec.json.Decoder(Entry).decode


class Line(msgspec.Struct, frozen=True, gc=False):
    """One ledger entry: its seq, what it says, and the text as it was."""

    seq: int
    entry: Entry | Unreadable
    text: bytes

    @property
    def booking_id(self) -> UUID | None:
        """The booking that the entry is about."""
        try:
            return UUID(getattr(self.entry, "booking_id", ""))
        except ValueError:
            return None


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


def decode_line(seq: int, text: bytes) -> Line:
    """Read one entry."""
    try:
        return Line(seq, _decode(text), text)
    except (msgspec.MsgspecError, ValueError) as error:
        return Line(seq, Unreadable(str(error)), text)


def dense_lines(offset: Position, entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Line]:
    """The entries that continue the offset, up to the first that does not.

    An entry is what Redis answers: its id, and a list of the field's name and its value.
    """
    dense = entries[: _dense_count(offset, entries)]
    texts = [fields[1] if fields[0] == FIELD else b"" for _, fields in dense]
    try:
        return list(map(Line, count(offset.seq + 1), map(_decode, texts), texts))
    except (msgspec.MsgspecError, ValueError):
        return [decode_line(seq, text) for seq, text in enumerate(texts, offset.seq + 1)]


def _dense_count(offset: Position, entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> int:
    def is_next(number: int) -> bool:
        return parse_position(entries[number][0]) == Position(offset.epoch, offset.seq + number + 1)

    size = len(entries)
    # The ids of a stream rise strictly: where the first and the last are in their places, all others are.
    if size and is_next(0) and is_next(size - 1):
        return size
    return next((number for number in range(size) if not is_next(number)), size)
