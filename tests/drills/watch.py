"""Reads the ledger all the time, on every Redis that runs: what was seen was there, whatever happens next."""

import asyncio
import contextlib
import time
from pathlib import Path
from uuid import UUID

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine import ids
from engine.keys import CellKeys, tag
from engine.lines import FIELD
from tests.drills.history import Entry, EntryWriter, Event
from tests.drills.stack import Stack
from tests.stores import RedisServer

PAUSE_S = 0.025
BLOCK_MS = 100
LOOK_S = 0.1
BEGINNING = b"0-0"
TIMEOUT_S = 1.0


class Watch:
    """Writes every entry of the event's ledger into the run's folder."""

    def __init__(self, stack: Stack, event: Event, folder: Path) -> None:
        cell_id = ids.cell_of(UUID(event.id))
        self._stack = stack
        self._keys = CellKeys(cell_id)
        self._tag = tag(cell_id)
        self._writer = EntryWriter(folder)
        self._readers: dict[int, asyncio.Task[None]] = {}
        self._is_closed = False
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            for server in self._stack.redis_servers:
                if server.is_running and server.port not in self._readers:
                    self._readers[server.port] = asyncio.create_task(self._read(server))
            await asyncio.sleep(PAUSE_S)

    async def _read(self, server: RedisServer) -> None:
        client = redis.asyncio.Redis.from_url(
            server.url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        )
        last, looked_s = BEGINNING, 0.0
        try:
            # The client may turn a cancellation that comes with its time-out into an error of its own.
            while not self._is_closed:
                if time.monotonic() - looked_s > LOOK_S:
                    # A ledger that ends before what was seen is another one: it is read from its beginning.
                    end = await client.xrevrange(self._keys.ledger, count=1)
                    if not end or _position(end[0][0]) < _position(last):
                        last = BEGINNING
                    looked_s = time.monotonic()
                # Redis sends an entry together with the answer that it belongs to: what died next was seen.
                found = await client.xread({self._keys.ledger: last}, block=BLOCK_MS)
                seen_ns = time.monotonic_ns()
                for id_, fields in found[0][1] if found else []:
                    text = fields.get(FIELD, b"").decode()
                    self._writer.write(Entry(self._tag, id_.decode(), text, seen_ns, str(server.port)))
                    last = id_
        except (redis.RedisError, OSError, TimeoutError):
            await asyncio.sleep(PAUSE_S)
        finally:
            with contextlib.suppress(Exception):
                await client.aclose()
            # Whoever connects anew begins anew: it may be another history.
            self._readers.pop(server.port, None)

    async def close(self) -> None:
        """Stop, with all that was seen in the file."""
        self._is_closed = True
        tasks = [self._task, *self._readers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=TIMEOUT_S)
        self._writer.close()


def _position(id_: bytes) -> tuple[int, int]:
    epoch, _, seq = id_.partition(b"-")
    return int(epoch), int(seq)
