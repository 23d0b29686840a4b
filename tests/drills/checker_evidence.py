"""What the checker judges: the history, and both stores as they were after the quiet time. Plain values."""

from functools import lru_cache
from typing import Any

import msgspec

from tests.drills.history import Entry, Items, Operation, Run

SEQ_BITS = 40
SEQ_MASK = (1 << SEQ_BITS) - 1


@lru_cache(maxsize=1 << 20)
def position_of(text: str) -> int:
    """`epoch-seq` as one number, so that places of one ledger compare as numbers do."""
    epoch, _, seq = text.partition("-")
    return int(epoch) << SEQ_BITS | int(seq)


def position_text(position: int) -> str:
    """The place as it is written."""
    return f"{position >> SEQ_BITS}-{position & SEQ_MASK}"


def tag_of(id_: str) -> str:
    """The cell that an id names: 48 bits of event in 12 hex digits, 12 bits of cell in decimal."""
    return f"{id_[:8]}{id_[9:13]}.{int(id_[15:18], 16)}"


class Booking(msgspec.Struct):
    """A booking as one store has it. What there is none of is None."""

    id: str
    user: str
    status: str
    version: int
    fingerprint: str | None
    quantity: int
    total_minor: int
    currency: str
    created_at_ms: int
    expires_at_ms: int
    confirmed_at_ms: int | None
    ended_at_ms: int | None
    code: str | None
    position: int
    items: Items
    """Sorted by zone."""

    @property
    def is_live(self) -> bool:
        """Whether it holds seats."""
        return self.status in ("reserved", "confirmed")


class Counters(msgspec.Struct):
    """A zone's counters."""

    capacity: int
    available: int
    reserved: int
    confirmed: int
    blocked: int


class Offset(msgspec.Struct):
    """A step of a cell's offset in Postgres."""

    before: int
    after: int


class DeadLetter(msgspec.Struct):
    """An entry that Postgres refused."""

    tag: str
    position: int
    booking: str | None
    reason: str
    is_returned: bool


class Edit(msgspec.Struct):
    """An organizer's intent."""

    version: int
    intent: dict[str, Any]
    outcome: str | None


class Postgres(msgspec.Struct):
    """All that Postgres knows."""

    bookings: dict[str, Booking] = {}
    zones: dict[str, Counters] = {}
    offsets: dict[str, int] = {}
    """Where each cell is."""
    steps: dict[str, list[Offset]] = {}
    """How each cell's offset came there, since the drill began."""
    dead_letters: list[DeadLetter] = []
    edits: dict[str, list[Edit]] = {}

    def rows_of(self, tag: str) -> dict[str, Booking]:
        """A cell's bookings."""
        event, _, cell = tag.partition(".")
        prefix = f"{event[:8]}-{event[8:]}-8{int(cell):03x}-"
        return {id_: row for id_, row in self.bookings.items() if id_.startswith(prefix)}


class Buyer(msgspec.Struct):
    """A field of `buyers`."""

    units: int
    holds: dict[str, int]
    """Booking to deadline."""


class Cell(msgspec.Struct):
    """All that Redis knows of a cell."""

    sale: dict[str, str] = {}
    zones: dict[str, Counters] = {}
    buyers: dict[str, Buyer] = {}
    bookings: dict[str, Booking] = {}
    deadlines: set[tuple[str, int, str]] = set()
    """Zone, deadline, booking."""
    ledger: list[tuple[str, str]] = []
    """Id and text."""
    now_ms: int = 0

    @property
    def position(self) -> int | None:
        """Where `sale` says that the ledger is; None for a cell that is not open."""
        if "epoch" not in self.sale or "seq" not in self.sale:
            return None
        return int(self.sale["epoch"]) << SEQ_BITS | int(self.sale["seq"])


class Evidence(msgspec.Struct):
    """All of it."""

    run: Run
    operations: list[Operation]
    entries: list[Entry]
    postgres: Postgres
    cells: dict[str, Cell]
