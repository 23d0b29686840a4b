"""Joins of one loop tick, gathered: those of one cell share a script call and an entry in the ledger."""

from collections.abc import Sequence
from typing import NamedTuple

from engine.gathering import Gatherer, Replied
from engine.keys import CellKeys

JOINS_MAX = 64
"""People in one call."""


class Join(NamedTuple):
    """One person who joins."""

    user_bytes: bytes
    about: str
    """The user's id."""
    asserted_number: int
    """That of a signed ticket, 0 without one."""
    replied: Replied


class Joining(Gatherer[Join]):
    """The joins that this process is about to send."""

    script = "join"
    gathered_max = JOINS_MAX

    def _of_call(self, keys: CellKeys, requests: Sequence[Join]) -> Sequence[str | bytes | int]:
        people: list[str | bytes | int] = []
        for user_bytes, user, asserted_number, _ in requests:
            people += (user_bytes, user, asserted_number)
        return (
            5,
            keys.sale,
            keys.queue,
            keys.places,
            keys.gone,
            keys.ledger,
            len(requests),
            *people,
        )
