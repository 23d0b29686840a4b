"""What Postgres has of a lottery: its row, and its entrants as the leaves of the tree.

Leaf `number - 1` is the pseudonym of whoever had the number at the freeze, and WITHDRAWN where nobody had it:
they had left, or Redis had lost its end and the number was never heard of again.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from engine.errors import NotFound
from engine.ids import CellId, cell_of
from engine.sql import load_queries
from engine.stores import Connection, Stores
from engine.times import to_ms
from engine.waiting.lottery import CHUNK_LEAVES, WITHDRAWN, permutation, pseudonym

queries = load_queries("lottery")

PAGE_LEAVES = 8 * CHUNK_LEAVES
"""So many entrants are read in one go."""


class Lottery(msgspec.Struct, frozen=True, kw_only=True):
    """A lottery as it stands."""

    event_id: UUID
    cell_id: CellId
    commitment: bytes
    seed: bytes
    """A secret until the key is there."""
    public_round: str | None
    opens_at_ms: int | None = None
    """When the entrants are to be frozen, as it was announced."""
    randomness: bytes | None
    signature: bytes | None
    is_signature_checked: bool = False
    """Whether a gateway did, when it was entered."""
    entrants: int | None
    """The numbers given before the freeze; None before it."""
    frozen_at_ms: int | None
    root: bytes | None
    key: bytes | None
    drawn_at_ms: int | None

    def place_of(self, number: int) -> int | None:
        """The place that this number drew, None before the draw."""
        if self.key is None or self.entrants is None:
            return None
        return permutation(self.key, self.entrants).place_of(number)


def lottery_from(cell_id: CellId, row: asyncpg.Record) -> Lottery:
    """The lottery of a row."""
    return Lottery(
        event_id=row["event_id"],
        cell_id=cell_id,
        commitment=row["commitment"],
        seed=row["seed"],
        public_round=row["public_round"],
        opens_at_ms=_ms(row["opens_at"]),
        randomness=row["randomness"],
        signature=row["signature"],
        is_signature_checked=row["is_signature_checked"],
        entrants=row["entrants"],
        frozen_at_ms=_ms(row["frozen_at"]),
        root=row["root"],
        key=row["key"],
        drawn_at_ms=_ms(row["drawn_at"]),
    )


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else to_ms(moment)


async def find_lottery(connection: asyncpg.Pool | Connection, cell_id: CellId) -> Lottery:
    """The lottery of a cell; raises NotFound where there is none."""
    row = await queries.find_lottery(connection, event_ref=cell_id.event_ref, cell=cell_id.cell)
    if row is None:
        raise NotFound("This event draws no lottery")
    return lottery_from(cell_id, row)


async def lottery_of(connection: asyncpg.Pool | Connection, event_id: UUID) -> Lottery:
    """The lottery of an event; raises NotFound where there is none."""
    lottery = await find_lottery(connection, cell_of(event_id))
    if lottery.event_id != event_id:
        raise NotFound
    return lottery


async def leaf_pages(stores: Stores, lottery: Lottery) -> AsyncIterator[list[bytes]]:
    """All leaves in the order of their numbers, a page at a time."""
    for first in range(1, (lottery.entrants or 0) + 1, PAGE_LEAVES):
        yield await leaves_between(stores, lottery, first, first + PAGE_LEAVES - 1)


async def leaves_between(stores: Stores, lottery: Lottery, first: int, last: int) -> list[bytes]:
    """The leaves of the numbers from `first` to `last`, or to the last one that there is."""
    last = min(last, lottery.entrants or 0)
    leaves = [WITHDRAWN] * (last - first + 1)
    event_ref, cell = lottery.cell_id
    async for row in queries.entrants_between(
        stores.pool, event_ref=event_ref, cell=cell, first=first, last=last
    ):
        leaves[row["number"] - first] = pseudonym(lottery.event_id, row["user_id"])
    return leaves
