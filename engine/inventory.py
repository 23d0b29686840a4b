"""Live counters: what Redis says of zones, many in one round trip."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from engine import ids
from engine.catalogue_model import Zone
from engine.errors import Fenced, ServiceUnavailable, StoreUnavailable
from engine.keys import CellKeys
from engine.redis_clients import REDIS_ERRORS
from engine.stores import Stores

READ_TIMEOUT_S = 1.0
AWAY_PAUSE_S = 1.0
"""After a failure public reads do without Redis for so long, instead of waiting for it each time."""
COUNTERS = ("capacity", "available", "reserved", "confirmed", "blocked")


class Inventory:
    """The counters of zones in Redis."""

    def __init__(self, stores: Stores) -> None:
        self._redis = stores.redis
        self._away_until_s = 0.0

    async def refresh(self, zones: Iterable[Zone]) -> None:
        """Put live counters into those zones whose cell is open; the others keep Postgres' ones."""
        wanted = list(zones)
        if not wanted or time.monotonic() < self._away_until_s:
            return
        try:
            await self._read(wanted)
        except ServiceUnavailable:
            self._away_until_s = time.monotonic() + AWAY_PAUSE_S

    async def require(self, zones: Iterable[Zone]) -> None:
        """The same, but raises Fenced where a cell is not open, StoreUnavailable where Redis is away."""
        wanted = list(zones)
        if len(await self._read(wanted)) < len(wanted):
            raise Fenced

    async def _read(self, zones: list[Zone]) -> set[UUID]:
        """Fill in what Redis has, and return the zones that it has of open cells."""
        by_cell: dict[ids.CellId, list[Zone]] = defaultdict(list)
        for zone in zones:
            by_cell[ids.cell_of(zone.id)].append(zone)
        replies = iter(await self._ask(by_cell))
        found = set()
        for cell_zones in by_cell.values():
            is_open = next(replies)
            for zone in cell_zones:
                values = next(replies)
                if is_open and None not in values:
                    zone.capacity, zone.available, zone.reserved, zone.confirmed, zone.blocked = map(
                        int, values
                    )
                    found.add(zone.id)
        return found

    async def _ask(self, by_cell: dict[ids.CellId, list[Zone]]) -> list[Any]:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S), self._redis.pipeline(transaction=False) as pipeline:
                for cell_id, zones in by_cell.items():
                    keys = CellKeys(cell_id)
                    pipeline.hexists(keys.sale, "epoch")
                    for zone in zones:
                        pipeline.hmget(keys.zone(zone.id), COUNTERS)
                replies: list[Any] = await pipeline.execute()
        except (*REDIS_ERRORS, OSError, TimeoutError):
            raise StoreUnavailable from None
        return replies
