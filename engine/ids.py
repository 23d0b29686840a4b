"""Ids that know the way: every id names the Redis slot that holds it.

An event, show, zone or booking id is a UUID of version 8 (RFC 9562, section 5.8):

    48 bits  event reference
     4 bits  version (8)
    12 bits  cell
     2 bits  variant (binary 10)
    62 bits  the id's own

The id of the event itself has the cell 0 and own bits 0, so an event reference and an
event id are two spellings of one thing.
"""

import hashlib
import secrets
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import msgspec

EVENT_REF_BITS = 48
CELL_BITS = 12
OWN_BITS = 62

EVENT_REF_MAX = (1 << EVENT_REF_BITS) - 1
CELL_MAX = (1 << CELL_BITS) - 1
OWN_MAX = (1 << OWN_BITS) - 1

PREFIXES_MAX = 4096
"""Cells whose ids' common beginning is remembered."""

_encode = msgspec.json.Encoder().encode
_VERSION = 8
_VARIANT = 0b10


class CellId(NamedTuple):
    """The part of an event that lives in one Redis slot."""

    event_ref: int
    cell: int


def make_id(event_ref: int, cell: int, own: int) -> UUID:
    """Build an id from its three parts; raises ValueError when a part is out of range."""
    if not (0 <= event_ref <= EVENT_REF_MAX and 0 <= cell <= CELL_MAX and 0 <= own <= OWN_MAX):
        raise ValueError(f"out of range: event_ref={event_ref}, cell={cell}, own={own}")
    high = (event_ref << 16) | (_VERSION << 12) | cell
    low = (_VARIANT << OWN_BITS) | own
    return UUID(int=(high << 64) | low)


def new_event_id() -> UUID:
    """A fresh event id; 48 random bits, so the caller handles the rare collision."""
    return make_id(secrets.randbits(EVENT_REF_BITS), 0, 0)


def new_id(event_ref: int, cell: int = 0) -> UUID:
    """A fresh show, zone or booking id in that cell."""
    return make_id(event_ref, cell, secrets.randbits(OWN_BITS))


def keyed_booking_id(cell_id: CellId, secret: bytes, user_id: UUID, idempotency_key: str) -> UUID:
    """The booking id that (user, event, Idempotency-Key) always leads to.

    `secret` (16–64 bytes) belongs to the event and never changes: the same key finds the same
    booking for as long as the event exists. Keyed BLAKE2b, RFC 7693.
    """
    return UUID(keyed_booking_text(cell_id, secret, user_id, idempotency_key))


def keyed_booking_text(cell_id: CellId, secret: bytes, user_id: UUID, idempotency_key: str) -> str:
    """The same id as text: the hot path needs no more of it, and a UUID costs it ten times as much."""
    digest = hashlib.blake2b(
        user_id.int.to_bytes(16, "big") + idempotency_key.encode("ascii"), key=secret, digest_size=8
    ).hexdigest()
    return f"{_prefix(cell_id)}{_WITH_VARIANT[digest[0]]}{digest[1:4]}-{digest[4:]}"


def new_booking_text(cell_id: CellId) -> str:
    """A fresh booking id in that cell, as text."""
    own = secrets.token_hex(8)
    return f"{_prefix(cell_id)}{_WITH_VARIANT[own[0]]}{own[1:4]}-{own[4:]}"


_WITH_VARIANT = {f"{digit:x}": f"{_VARIANT << 2 | digit & 0b11:x}" for digit in range(16)}
"""The hex digit that begins an id's own half, from one of random or hashed bits."""


@lru_cache(maxsize=PREFIXES_MAX)
def _prefix(cell_id: CellId) -> str:
    return str(make_id(*cell_id, 0))[:19]


def text_of(value: UUID) -> str:
    """`str(value)`, three times as fast."""
    return _encode(value)[1:-1].decode()


def is_rush_id(value: UUID) -> bool:
    """Whether this UUID has the version and the variant of our ids."""
    return value.int >> 76 & 0xF == _VERSION and value.int >> OWN_BITS & 0b11 == _VARIANT


def event_ref_of(value: UUID) -> int:
    """The event reference in an id."""
    return value.int >> 80


def cell_of(value: UUID) -> CellId:
    """The cell that holds what this id names."""
    number = value.int
    return CellId(number >> 80, number >> 64 & CELL_MAX)


def event_id_of(value: UUID) -> UUID:
    """The id of the event that this show, zone or booking belongs to."""
    return make_id(event_ref_of(value), 0, 0)


def id_range(cell_id: CellId) -> tuple[UUID, UUID]:
    """The lowest and the highest id of a cell, both included: a range scan finds its bookings."""
    return make_id(*cell_id, 0), make_id(*cell_id, OWN_MAX)
