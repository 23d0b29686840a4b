"""Reading ledgers: all that the cells of one master have to say, in one round trip."""

import asyncio
from collections.abc import Mapping
from typing import Any

from engine.errors import StoreUnavailable
from engine.hotline import HotLine, refuse
from engine.redis_clients import LEAVES_THE_NODE, open_client
from engine.redis_link import Redirected
from engine.settings import Settings
from engine.stores import Master

BLOCK_MS = 100
LOOK_TIMEOUT_MS = 5_000
QUIET_SLICE_CELLS_MAX = 1_000
"""One look is at so many: Redis serves others in between."""
PAUSE_MIN_S = 0.01
PAUSE_PER_CELL_S = 0.0002
"""Where nothing has come of many cells that had to be asked one by one, they are left alone for a while."""


class _Line(HotLine):
    """One to a node of a cluster: a cell may leave it."""

    def redirected(self, future: asyncio.Future[Any], error: Redirected) -> None:
        refuse(future, error)


class LedgerReader:
    """Reads from one master; a cell that has left it has nothing to say."""

    def __init__(self, settings: Settings, master: Master) -> None:
        self._master = master
        self._batch_entries_max = settings.relay_batch_entries_max
        self.client = open_client(master.address)
        # The replies as they come: redis-py would make a dict of every entry and of every line of INFO.
        self.client.set_response_callback("XREAD", _as_it_is)
        self.client.set_response_callback("INFO", _replid_in)
        # For what redis-py would pack ten times slower. Reading waits for no replica: a missing one must not
        # keep from Postgres what the ledger has.
        self._line = _Line(master.address, in_flight_max=QUIET_SLICE_CELLS_MAX, timeout_ms=LOOK_TIMEOUT_MS)

    async def aclose(self) -> None:
        """Hang up."""
        await self.client.aclose()
        await self._line.close()

    async def read(self, offsets: Mapping[str, str]) -> tuple[list[tuple[str, list[Any]]], str]:
        """The entries that come next in each ledger, and who the node was when it had answered.

        Waits a moment where there are none.
        """
        together = len(offsets) == 1 or self._master.has_one_slot
        asked: list[dict[Any, Any]] = (
            [dict(offsets)] if together else [{key: offsets[key]} for key in offsets]
        )
        pipeline = self.client.pipeline(transaction=False)
        for each in asked:
            pipeline.xread(each, count=self._batch_entries_max, block=BLOCK_MS if together else None)
        pipeline.info("replication")
        *replies, replid = await pipeline.execute(raise_on_error=False)
        if isinstance(replid, Exception):
            raise replid
        streams = []
        for reply in replies:
            if isinstance(reply, LEAVES_THE_NODE):
                continue
            if isinstance(reply, Exception):
                raise reply
            streams += [(key.decode(), entries) for key, entries in reply or ()]
        if not streams and not together:
            await asyncio.sleep(min(BLOCK_MS / 1000, max(PAUSE_MIN_S, PAUSE_PER_CELL_S * len(asked))))
        return streams, replid

    async def find_busy(self, offsets: Mapping[str, str]) -> list[str]:
        """Those of these ledgers that have anything behind their offset."""
        if offsets:
            await self._line.start()
        found = []
        names = list(offsets)
        for first in range(0, len(names), QUIET_SLICE_CELLS_MAX):
            keys = names[first : first + QUIET_SLICE_CELLS_MAX]
            asked = [keys] if self._master.has_one_slot else [[key] for key in keys]
            calls = [
                self._line.call("XREAD", "COUNT", 1, "STREAMS", *each, *[offsets[key] for key in each])
                for each in asked
            ]
            for reply in await asyncio.gather(*calls, return_exceptions=not self._master.has_one_slot):
                if isinstance(reply, StoreUnavailable):
                    continue
                if isinstance(reply, BaseException):
                    raise reply
                found += [key.decode() for key, _ in reply or ()]
        return found


def _as_it_is(response: Any, **kwargs: Any) -> Any:
    return response


def _replid_in(response: Any, **kwargs: Any) -> Any:
    """The replication id in what INFO says."""
    return response.partition(b"master_replid:")[2].partition(b"\r\n")[0].decode()
