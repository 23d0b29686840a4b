"""The books: Redis, Postgres and arithmetic compared, and the zones and the ledger watched all the time."""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from uuid import UUID

import asyncpg
import redis

from engine import ids
from engine.booking import Record, parse_record
from engine.buyer import parse_buyer
from engine.settings import Settings
from engine.stores import open_redis
from tests.cluster import sync_client
from tests.integration.kit import COUNTERS, POLL_S, Event, Rig, zone_counters


async def differences(rig: Rig, event: Event, *, dead_letters: int = 0) -> list[str]:
    """Everything in which Redis, Postgres and arithmetic disagree once the relay has caught up."""
    await rig.caught_up(event)
    found: list[str] = []
    first, last = ids.id_range(event.cell)
    rows = {
        row["id"]: row
        for row in await rig.pool.fetch(
            "SELECT b.id, b.user_id, b.status, b.version, b.quantity, b.confirmation_code, "
            "array_agg(i.zone_id) AS zones, array_agg(i.quantity) AS quantities "
            "FROM bookings b JOIN booking_items i ON i.booking_id = b.id "
            "WHERE b.id BETWEEN $1 AND $2 GROUP BY b.id",
            first,
            last,
        )
    }
    holds: Counter[tuple[UUID, str]] = Counter()
    units: Counter[str] = Counter()
    for row in rows.values():
        if row["status"] in ("reserved", "confirmed"):
            units[str(row["user_id"])] += row["quantity"]
            for zone, quantity in zip(row["zones"], row["quantities"], strict=True):
                holds[zone, row["status"]] += quantity
    await _compare_zones(rig, event, holds, found)
    await _compare_bookings(rig, event, rows, found)
    buyers = {
        user.decode(): parse_buyer(value).units
        for user, value in (await rig.redis.hgetall(event.keys.buyers)).items()
    }
    if buyers != dict(units):
        found.append(f"buyers: Redis has {buyers}, the bookings add up to {dict(units)}")
    found += [f"{user} holds {count}" for user, count in units.items() if count > event.max_per_user]
    dead = await rig.pool.fetchval("SELECT count(*) FROM dead_letters")
    if dead != dead_letters:
        found.append(f"{dead} dead letters")
    return found


async def _compare_zones(rig: Rig, event: Event, holds: Counter[tuple[UUID, str]], found: list[str]) -> None:
    for zone in event.zones:
        row = await rig.pool.fetchrow(
            "SELECT capacity, available_seats AS available, reserved, confirmed, blocked FROM seat_zones "
            "WHERE id = $1",
            zone,
        )
        there, here = await zone_counters(rig.redis, event.keys, zone), dict(row)
        if there != here:
            found.append(f"zone {zone}: Redis {there}, Postgres {here}")
        if (here["reserved"], here["confirmed"]) != (holds[zone, "reserved"], holds[zone, "confirmed"]):
            found.append(f"zone {zone}: {here}, its bookings hold {holds}")
        if sum(here.values()) != 2 * here["capacity"] or min(here.values()) < 0:
            found.append(f"zone {zone} does not add up: {here}")


async def _compare_bookings(
    rig: Rig, event: Event, rows: dict[UUID, asyncpg.Record], found: list[str]
) -> None:
    records: dict[UUID, Record] = {}
    async for key in rig.redis.scan_iter(match=event.keys.booking_prefix + "*", count=1000):
        records[UUID(key.decode()[-36:])] = parse_record(await rig.redis.get(key))
    for booking_id, record in records.items():
        row = rows.get(booking_id)
        if row is None:
            found.append(f"{booking_id} is in Redis alone")
            continue
        here = (row["user_id"], row["status"], row["version"], row["quantity"], row["confirmation_code"])
        there = (UUID(record.user), record.status, record.version, record.quantity, record.code)
        if here != there:
            found.append(f"{booking_id}: Postgres {here}, Redis {there}")
    for booking_id, row in rows.items():
        if row["status"] in ("reserved", "confirmed") and booking_id not in records:
            found.append(f"{booking_id} ({row['status']}) is in Postgres alone")
    due = {member.decode()[-36:] for member in await rig.redis.zrange(event.keys.deadlines, 0, -1)}
    reserved = {str(booking_id) for booking_id, row in rows.items() if row["status"] == "reserved"}
    if due != reserved:
        found.append(f"deadlines of {due ^ reserved}")


class LedgerWatch:
    """Remembers every ledger entry that it sees: no id may ever come with two texts."""

    def __init__(self, settings: Settings, event: Event) -> None:
        self._client = open_redis(settings)
        self._ledger = event.keys.ledger
        self._is_closed = False
        self._task = asyncio.create_task(self._watch())
        self.seen: dict[bytes, bytes] = {}
        self.twice: list[bytes] = []

    async def look(self) -> None:
        """Read the ledger as it is now."""
        for id_, fields in await self._client.xrange(self._ledger):
            if self.seen.setdefault(id_, fields[b"e"]) != fields[b"e"]:
                self.twice.append(id_)

    async def _watch(self) -> None:
        # The client may turn a cancellation that comes with its time-out into an error of its own.
        while not self._is_closed:
            with contextlib.suppress(redis.RedisError, OSError):
                await self.look()
            await asyncio.sleep(POLL_S)

    @property
    def epochs(self) -> list[int]:
        """The epochs seen, in order."""
        return sorted({int(id_.split(b"-")[0]) for id_ in self.seen})

    async def close(self) -> None:
        """Stop looking."""
        self._is_closed = True
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._client.aclose()

    def bookings(self) -> set[str]:
        """Every booking that an entry ever named as reserved."""
        entries = [json.loads(text) for text in self.seen.values()]
        return {entry[2] for entry in entries if entry[0] == "reserve"}


class ZoneSampler:
    """Reads the zones of an event all the time from a thread of its own; each read is one atomic call."""

    PAUSE_S = 0.004

    def __init__(self, settings: Settings, event: Event) -> None:
        self._client = sync_client(settings.redis_url, event.keys.sale)
        self._keys = [event.keys.zone(zone) for zone in event.zones]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples = 0
        self.wrong: list[dict[str, int]] = []
        self.seconds = 0.0

    def _sample(self) -> None:
        started_s = time.monotonic()
        while not self._stop.is_set():
            for key in self._keys:
                values = self._client.hmget(key, list(COUNTERS))
                zone = {name: int(value) for name, value in zip(COUNTERS, values, strict=True)}
                if sum(zone.values()) != 2 * zone["capacity"] or min(zone.values()) < 0:
                    self.wrong.append(zone)
            self.samples += 1
            self.seconds = time.monotonic() - started_s
            self._stop.wait(self.PAUSE_S)

    def __enter__(self) -> "ZoneSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    @property
    def per_second(self) -> float:
        """How often all zones were read."""
        return self.samples / self.seconds
