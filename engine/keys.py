"""Every Redis key, spelled here and nowhere else.

All keys of a cell carry one hash tag, `{E.C}` (event reference in 12 hex digits, cell in
decimal), so that a script call touches one slot. The Lua side derives the keys of bookings and
zones that it discovers itself from the prefix of the key it was given.
"""

import re
from uuid import UUID

from engine.ids import CELL_MAX, EVENT_REF_MAX, CellId

ANNOUNCEMENTS = "rush:durable"
"""Pub/sub channel on which the relay announces what is durable."""


def tag(cell_id: CellId) -> str:
    """The text between the braces."""
    return f"{cell_id.event_ref:012x}.{cell_id.cell}"


def parse_tag(text: str) -> CellId:
    """The cell that a tag names; raises ValueError for anything else."""
    event_ref, _, cell = text.partition(".")
    cell_id = CellId(int(event_ref, 16), int(cell))
    # int() is generous with signs, blanks and underscores; a tag has one spelling.
    if tag(cell_id) != text or not (
        0 <= cell_id.event_ref <= EVENT_REF_MAX and 0 <= cell_id.cell <= CELL_MAX
    ):
        raise ValueError(f"not the tag of a cell: {text!r}")
    return cell_id


class CellKeys:
    """The keys of one cell."""

    __slots__ = (
        "booking_prefix",
        "build",
        "buyers",
        "deadlines",
        "gone",
        "ledger",
        "passes",
        "places",
        "prefix",
        "queue",
        "rate_prefix",
        "sale",
        "spent",
        "waves",
        "zone_prefix",
    )

    def __init__(self, cell_id: CellId) -> None:
        self.prefix = f"rush:{{{tag(cell_id)}}}:"
        self.sale = self.prefix + "sale"
        self.buyers = self.prefix + "buyers"
        self.deadlines = self.prefix + "deadlines"
        self.ledger = self.prefix + "ledger"
        self.build = self.prefix + "build"
        self.queue = self.prefix + "queue"
        self.places = self.prefix + "places"
        self.passes = self.prefix + "passes"
        self.spent = self.prefix + "spent"
        self.waves = self.prefix + "waves"
        self.gone = self.prefix + "gone"
        self.zone_prefix = self.prefix + "zone:"
        self.booking_prefix = self.prefix + "booking:"
        self.rate_prefix = self.prefix + "rate:"

    def zone(self, zone_id: UUID | str) -> str:
        """The hash with a zone's price, limits and counters."""
        return f"{self.zone_prefix}{zone_id}"

    def booking(self, booking_id: UUID | str) -> str:
        """The text of one booking."""
        return f"{self.booking_prefix}{booking_id}"

    @property
    def waiting_room(self) -> list[str]:
        """The KEYS of leave, claim and admit, in their order."""
        return [
            self.sale,
            self.queue,
            self.places,
            self.passes,
            self.spent,
            self.waves,
            self.gone,
            self.ledger,
        ]

    def rate(self, user_id: UUID | str) -> str:
        """The reserve rate limit of a user without units in this cell; with units it stands in `buyers`."""
        return f"{self.rate_prefix}{user_id}"


_BOOKING_KEY = re.compile(r"(rush:\{[0-9a-f]{12}\.[0-9]{1,4}\}:)booking:([0-9a-f-]{36})", re.ASCII)

BOOKINGS_PATTERN = "rush:{*}:booking:*"
"""What SCAN finds all bookings of all cells with."""


def parse_booking_key(key: str) -> tuple[str, UUID] | None:
    """The prefix of the cell and the booking that a key names, or None for a key that is no booking's."""
    match = _BOOKING_KEY.fullmatch(key)
    try:
        return (match[1], UUID(match[2])) if match else None
    except ValueError:
        return None


def rate(scope: str, subject: str) -> str:
    """A rate limit outside any cell, such as ("login", address)."""
    return f"rush:rate:{{{scope}:{subject}}}"
