"""Redis as the checker reads it: its own spelling of the keys and of what they hold, with no help from the
engine."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import msgspec
import redis.asyncio

from tests.drills.checker_evidence import Booking, Buyer, Cell, Counters, Postgres, position_of, tag_of
from tests.drills.checker_postgres import read_postgres

Client = redis.asyncio.Redis | redis.asyncio.RedisCluster
ClientOf = Callable[[str], Client]
"""The client to ask about a cell."""

SLICE_MAX = 1_000
POLL_S = 0.1
ATTEMPTS_MAX = 5
COUNTERS = ("capacity", "available", "reserved", "confirmed", "blocked")
ZONE_LENGTH = BOOKING_LENGTH = 36


async def read_cell(client: Client, tag: str) -> Cell:
    """All that Redis has of one cell, read again where the ledger went on meanwhile."""
    for _ in range(ATTEMPTS_MAX):
        cell = await _read_cell(client, tag)
        if await client.hget(f"rush:{{{tag}}}:sale", "seq") == cell.sale.get("seq", "").encode():
            break
    return cell


async def _read_cell(client: Client, tag: str) -> Cell:
    # The time first: what is overdue then is overdue.
    prefix = f"rush:{{{tag}}}:"
    seconds, microseconds = await client.time()
    sale = {name.decode(): value.decode() for name, value in (await client.hgetall(prefix + "sale")).items()}
    cell = Cell(sale=sale, now_ms=seconds * 1000 + microseconds // 1000)
    for zone in sale.get("zones", "").split():
        values = await client.hmget(f"{prefix}zone:{zone}", list(COUNTERS))
        if values[0] is not None:
            cell.zones[zone] = Counters(*map(int, values))
    for user, value in (await client.hgetall(prefix + "buyers")).items():
        cell.buyers[user.decode()] = _buyer(value.decode())
    cell.deadlines = {
        _deadline(member.decode()) for member in await client.zrange(prefix + "deadlines", 0, -1)
    }
    for id_, fields in await client.xrange(prefix + "ledger"):
        cell.ledger.append((id_.decode(), fields.get(b"e", b"").decode(errors="replace")))
    keys = [key async for key in client.scan_iter(match=prefix + "booking:*", count=SLICE_MAX)]
    for first in range(0, len(keys), SLICE_MAX):
        some = keys[first : first + SLICE_MAX]
        for key, record in zip(some, await _records(client, some), strict=True):
            id_ = key.decode()[-BOOKING_LENGTH:]
            if record is not None:
                cell.bookings[id_] = _booking(id_, record.decode())
    return cell


async def _records(client: Client, keys: list[bytes]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key)
    return list(await pipeline.execute())


def _buyer(value: str) -> Buyer:
    units, _, *holds = value.split(" ")
    parted = (hold.rpartition(":") for hold in holds)
    return Buyer(int(units), {booking: int(expires_at_ms) for booking, _, expires_at_ms in parted})


def _deadline(member: str) -> tuple[str, int, str]:
    middle = member[ZONE_LENGTH + 1 : -BOOKING_LENGTH - 1]
    return member[:ZONE_LENGTH], int(middle), member[-BOOKING_LENGTH:]


def _booking(id_: str, record: str) -> Booking:
    """`status version seq user fingerprint quantity total_minor currency created_at_ms expires_at_ms
    confirmed_at_ms ended_at_ms code items`, one blank between, `-` for what there is none of."""
    values = [None if value == "-" else value for value in record.split(" ", 13)]
    status, version, seq, user, fingerprint, quantity, total_minor, currency, created, expires = values[:10]
    confirmed, ended, code, items = values[10:]
    return Booking(
        id_,
        str(user),
        str(status),
        int(str(version)),
        fingerprint,
        int(str(quantity)),
        int(str(total_minor)),
        str(currency),
        int(str(created)),
        int(str(expires)),
        int(confirmed) if confirmed else None,
        int(ended) if ended else None,
        code,
        position_of(str(seq)),
        tuple(sorted((zone, quantity) for zone, quantity, *_ in msgspec.json.decode(str(items)))),
    )


async def read_when_quiet(
    client_of: ClientOf, connection: asyncpg.Connection, events: Sequence[str], timeout_s: float
) -> tuple[Postgres, dict[str, Cell]]:
    """What both stores have of these events once they stand still and agree where that is, or as it is when
    the time is over.

    Nothing is judged here: the rules find what is wrong with what they are given.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        before = await read_postgres(connection, events)
        cells = {tag: await read_cell(client_of(tag), tag) for tag in map(tag_of, events)}
        after = await read_postgres(connection, events)
        is_quiet = before.offsets == after.offsets and all(
            cell.position == after.offsets.get(tag)
            and not any(due <= cell.now_ms for _, due, _ in cell.deadlines)
            for tag, cell in cells.items()
        )
        if time.monotonic() > deadline_s or (
            is_quiet and all(each.is_returned for each in after.dead_letters)
        ):
            return after, cells
        await asyncio.sleep(POLL_S)
