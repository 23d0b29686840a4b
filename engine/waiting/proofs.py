"""Proofs that people take part in a draw (RFC 6962, 2.1.1).

After a freeze everybody may come for theirs. Each reads one chunk of entrants and the roots of all chunks:
they never change any more, and are remembered.
"""

from uuid import UUID

import msgspec

from engine.errors import InvalidState, NotFound
from engine.ids import CellId
from engine.stores import Stores
from engine.waiting.entrants import Lottery, leaves_between, lottery_of, queries
from engine.waiting.lottery import (
    CHUNK_LEAVES,
    DIGEST_BYTES,
    leaf_hash,
    levels_of,
    proof_in,
    pseudonym,
)

CHUNKS_MAX = 1_024
"""Remembered, 64 KB each: those of a million entrants."""


class Proof(msgspec.Struct, frozen=True):
    """That a number takes part: the way from its leaf to the root."""

    number: int
    leaf: bytes
    path: list[bytes]
    lottery: Lottery


class Proofs:
    """Proves who takes part."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._remembered: dict[tuple[CellId, int], list[bytes]] = {}
        """The levels of the tree of each chunk; under -1 those above, over the roots of all chunks."""

    async def prove(self, event_id: UUID, number: int, user_id: UUID) -> Proof:
        """That this person takes part with this number.

        Raises NotFound where they do not (they joined after the freeze, or had left before), InvalidState
        before the root is there.
        """
        lottery = await lottery_of(self._stores.pool, event_id)
        if lottery.root is None or lottery.entrants is None:
            raise InvalidState("The entrants are not frozen yet", details={"status": "registered"})
        if not 1 <= number <= lottery.entrants:
            raise NotFound("Who joined after the freeze took no part in the draw")
        which, within = divmod(number - 1, CHUNK_LEAVES)
        chunk = self._recall(lottery, which) or await self._read_chunk(lottery, which)
        leaf = pseudonym(event_id, user_id)
        if chunk[0][within * DIGEST_BYTES : (within + 1) * DIGEST_BYTES] != leaf_hash(leaf):
            raise NotFound("Who had left before the freeze took no part in the draw")
        above = self._recall(lottery, -1) or await self._read_roots(lottery)
        return Proof(number, leaf, proof_in(chunk, above, number - 1), lottery)

    async def _read_chunk(self, lottery: Lottery, which: int) -> list[bytes]:
        first = which * CHUNK_LEAVES + 1
        leaves = await leaves_between(self._stores, lottery, first, first + CHUNK_LEAVES - 1)
        return self._remember(lottery, which, levels_of([leaf_hash(leaf) for leaf in leaves]))

    async def _read_roots(self, lottery: Lottery) -> list[bytes]:
        event_ref, cell = lottery.cell_id
        rows = queries.chunk_roots(self._stores.pool, event_ref=event_ref, cell=cell)
        return self._remember(lottery, -1, levels_of([row["root"] async for row in rows]))

    def _recall(self, lottery: Lottery, which: int) -> list[bytes] | None:
        return self._remembered.get((lottery.cell_id, which))

    def _remember(self, lottery: Lottery, which: int, levels: list[bytes]) -> list[bytes]:
        if len(self._remembered) >= CHUNKS_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[lottery.cell_id, which] = levels
        return levels
