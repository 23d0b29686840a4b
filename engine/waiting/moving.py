"""Who is gone, by place instead of by number: what a draw tells Redis."""

import asyncio
import re
from collections.abc import Iterator

from engine.waiting.lottery import permutation

SLICE = 1_000
"""So many are placed in one go: some milliseconds of computing, and others work in this process too."""

_NOT_ZERO = re.compile(rb"[^\0]")


def ones(bitmap: bytes) -> Iterator[int]:
    """The bits that are set, counted from 0, as Redis numbers them."""
    for match in _NOT_ZERO.finditer(bitmap):
        index = match.start()
        byte = bitmap[index]
        for bit in range(8):
            if byte & (0x80 >> bit):
                yield 8 * index + bit


class Moving:
    """A bitmap by place that follows one by number: whoever was placed once is not placed again.

    People leave while a draw is told to Redis, which takes it only from who knows all that are gone. To place
    a sixth of a million takes half a second, and whoever begins anew each time is always too late.
    """

    def __init__(self, key: bytes, entrants: int) -> None:
        self._place_of = permutation(key, entrants).place_of
        self._bytes = (entrants + 7) // 8
        self._beyond = 8 * self._bytes - entrants
        """The bits of the last byte that are of nobody who was drawn."""
        self._placed = 0
        """By number, as a number, who is in `_by_place`."""
        self._by_place = bytearray(self._bytes)

    async def follow(self, by_number: bytes) -> tuple[int, bytes]:
        """How many are gone in all, and the entrants among them as a bitmap by place."""
        drawn = by_number[: self._bytes].ljust(self._bytes, b"\0")
        now = int.from_bytes(drawn) >> self._beyond << self._beyond
        changed = (now ^ self._placed).to_bytes(self._bytes)
        for done, number_before in enumerate(ones(changed), 1):
            index, bit = divmod(self._place_of(number_before + 1) - 1, 8)
            # Nobody comes back, but a Redis that was lost meanwhile may know of fewer.
            self._by_place[index] ^= 0x80 >> bit
            if done % SLICE == 0:
                await asyncio.sleep(0)
        self._placed = now
        return int.from_bytes(by_number).bit_count(), bytes(self._by_place)
