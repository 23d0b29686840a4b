"""What Redis keeps of one buyer of a cell: a value of the hash `buyers`, as lua/lib/buyers.lua writes it."""

from typing import NamedTuple


class Buyer(NamedTuple):
    """`<units> <full_at_ms> <booking>:<expires_at_ms>...`"""

    units: int
    """Reserved and confirmed: what the per-user limit counts."""
    full_at_ms: int
    """When the reserve rate limit's bucket is full again."""
    holds: tuple[str, ...]
    """The bookings that are still holds."""


def parse_buyer(value: bytes) -> Buyer:
    """The buyer of a value of `buyers`; raises ValueError for one that no script of ours wrote."""
    units, full_at_ms, *holds = value.decode().split(" ")
    return Buyer(int(units), int(full_at_ms), tuple(hold.partition(":")[0] for hold in holds))
