"""Rebuilding a waiting room from Postgres: who stands where, how far it has come, and who has a pass.

It is written before `sale`: while the cell is not open nobody joins, claims or is let in, so what is read
slice by slice is one moment. Who was given a number that was lost with Redis shows their ticket and gets it
back: such numbers lie in a gap, and new ones begin behind it.
"""

import contextlib
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

import asyncpg
import msgspec

from engine import ids
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys
from engine.rebuild_slices import Slices
from engine.sql import load_queries
from engine.waiting.admission import Counters, usage
from engine.waiting.lottery import Permutation
from engine.waiting.settings import StoredRoom, tuned

queries = load_queries("recovery")

GAP_NUMBERS = 10_000
"""So many numbers are left out where the end of a ledger was lost: more than are joined while the relay is
behind by what may be lost."""
USER_BYTES = 16
MOVES_MAX = 64
MOVES_KEPT_MS = 70_000
MOVES_EVERY_MS = 1_000
CLOCKS_DIFFER_MS = 5_000
"""What is cut off by time is cut off so much later: the scripts know what is over."""
_LIVING, _GONE = ord("0"), ord("1")

Call = Callable[..., Awaitable[None]]


class Wave(msgspec.Struct):
    """People who were let in together, and how many of their slots are still kept."""

    first: int
    last: int
    people: int
    served_at_ms: int
    slots: int


class QueueBuilder:
    """One rebuild of one waiting room; `call` runs a script of the rebuild and raises if it is void."""

    def __init__(self, cell_id: CellId, connection: asyncpg.Connection, slices: Slices, call: Call) -> None:
        self._cell = {"event_ref": cell_id.event_ref, "cell": cell_id.cell}
        self._event_id = ids.make_id(cell_id.event_ref, 0, 0)
        self._keys = CellKeys(cell_id)
        self._connection = connection
        self._slices = slices
        self._call = call

    async def rebuild(self, room: StoredRoom, token: str, say: Callable[[int], None]) -> None:
        """Write all of it; `say` is told how many people each time."""
        row = await queries.waiting_room_to_rebuild(self._connection, **self._cell)
        if row is None:
            return
        gaps = parse_gaps(row["gaps"])
        living = await self._write_places(row["tail"], token, say)
        await self._write_passes(token)
        late = late_numbers(living, gaps, row["serving"], row["entrants"] or 0)
        permutation = Permutation(row["key"], row["entrants"]) if row["key"] is not None else None
        waves = await self._waves(room)
        grace_ms = tuned(room)["queue_grace_ms"]
        now_ms = await queries.clock_ms(self._connection)
        kept = [wave for wave in waves if wave.served_at_ms + grace_ms + CLOCKS_DIFFER_MS > now_ms]
        await self._keep_slots(kept, permutation, set(late))
        for number in late:
            living[number - 1] = _GONE
        fields = _fields(row, room, waves, kept) | await self._ended_in(gaps) | await self._usage(row)
        bitmap = gone_bitmap(living, permutation)
        fields["gone"] = str(int.from_bytes(bitmap).bit_count())
        members = [[wave.first, wave.last, wave.people, wave.served_at_ms] for wave in kept if wave.slots > 0]
        await self._call(
            "build_queue", self._queue_keys, token, _json(fields), "[]", "[]", _json(members), bitmap
        )
        failpoint("rebuild_queue.after_queue")

    @property
    def _queue_keys(self) -> list[str]:
        keys = self._keys
        return [keys.build, keys.queue, keys.passes, keys.spent, keys.waves, keys.gone]

    async def _write_places(self, tail: int, token: str, say: Callable[[int], None]) -> bytearray:
        """Put everybody back; for each number up to `tail` whether it is living."""
        living = bytearray([_GONE]) * tail
        keys = [self._keys.build, self._keys.places]
        async with contextlib.aclosing(self._slices.places()) as slices:
            async for row in slices:
                numbers, users = row["numbers"], row["users"]
                raws = [users[i : i + USER_BYTES] for i in range(0, len(users), USER_BYTES)]
                pairs = zip(raws, numbers, strict=True)
                await self._call("build_places", keys, token, *chain.from_iterable(pairs))
                failpoint("rebuild_queue.after_places")
                for number in numbers:
                    living[number - 1] = _LIVING
                say(len(numbers))
        return living

    async def _write_passes(self, token: str) -> None:
        """Put back what is out, whether it has run out by now or not: that is for the scripts to say."""
        async with contextlib.aclosing(self._slices.passes()) as slices:
            async for row in slices:
                await self._call(
                    "build_queue", self._queue_keys, token, "{}", row["passes"], row["spent"], "[]", ""
                )
                failpoint("rebuild_queue.after_passes")

    async def _waves(self, room: StoredRoom) -> list[Wave]:
        """Those that still keep slots, or that say how fast it goes."""
        since_ms = max(tuned(room)["queue_grace_ms"], MOVES_KEPT_MS) + CLOCKS_DIFFER_MS
        rows = queries.waves_to_rebuild(self._connection, since_ms=since_ms, **self._cell)
        return [
            Wave(row["from_place"], row["to_place"], row["people"], row["served_at_ms"], row["people"])
            async for row in rows
        ]

    async def _keep_slots(self, waves: list[Wave], permutation: Permutation | None, late: set[int]) -> None:
        """Take out of the waves the slots of those who have claimed, and of those who have left since.

        Where it cannot be told in which order things happened, within a millisecond, a slot too many is
        kept: that lets nobody in too early.
        """
        if not waves:
            return
        lasts = [wave.last for wave in waves]

        def wave_of(place: int) -> Wave | None:
            index = bisect_left(lasts, place)
            found = waves[index] if index < len(waves) else None
            return found if found is not None and place >= found.first else None

        first_place, since_ms = waves[0].first, waves[0].served_at_ms
        tried = queries.tried_places(self._connection, first_place=first_place, **self._cell)
        tried_places = {row["place"] async for row in tried} - late
        for place in tried_places:
            if (wave := wave_of(place)) is not None:
                wave.slots = max(wave.slots - 1, 0)
        async for row in queries.left_numbers(self._connection, since_ms=since_ms, **self._cell):
            place = row["number"]
            if permutation is not None and place <= permutation.entrants:
                place = permutation.place_of(place)
            wave = wave_of(place) if place not in tried_places and place not in late else None
            if wave is not None and row["ended_at_ms"] > wave.served_at_ms:
                wave.slots = max(wave.slots - 1, 0)

    async def _usage(self, row: asyncpg.Record) -> dict[str, str]:
        """What admission would say of how much people buy: until it does, claims are bounded by this."""
        zones = await queries.zone_totals(self._connection, event_id=self._event_id)
        counters = Counters(row["spent"], row["units"], zones["reserved"], zones["confirmed"])
        basket_milli, return_permille = usage(counters)
        return {"basket_milli": str(basket_milli), "return_permille": str(return_permille)}

    async def _ended_in(self, gaps: list[tuple[int, int]]) -> dict[str, str]:
        """For each number that came back from a gap and has ended since, the field that says so."""
        ended: dict[str, str] = {}
        for first, last in gaps:
            rows = queries.ended_between(self._connection, first_number=first, last_number=last, **self._cell)
            ended |= {f"x:{row['number']}": "1" async for row in rows}
        return ended


def parse_gaps(text: str) -> list[tuple[int, int]]:
    """The gaps between the numbers, first and last of each."""
    pairs = (part.split("-") for part in text.split())
    return [(int(first), int(last)) for first, last in pairs]


def late_numbers(living: bytearray, gaps: list[tuple[int, int]], serving: int, entrants: int) -> list[int]:
    """Numbers of people who came back from a gap, and may have been passed while they were away.

    No slot was kept for those. Who came back before the draw was not passed.
    """
    return [
        number
        for first, last in gaps
        for number in range(max(first, entrants + 1), min(last, serving) + 1)
        if living[number - 1] == _LIVING
    ]


def gone_bitmap(living: bytearray, permutation: Permutation | None) -> bytes:
    """A bit for each place, the first one the highest of the first byte; 1 where nobody stands any more."""
    by_place = living
    if permutation is not None:
        entrants = permutation.entrants
        by_place = bytearray([_LIVING]) * entrants + living[entrants:]
        index = living.find(_GONE, 0, entrants)
        while index >= 0:
            by_place[permutation.place_of(index + 1) - 1] = _GONE
            index = living.find(_GONE, index + 1, entrants)
    if by_place.find(_GONE) < 0:
        return b""
    size = (len(by_place) + 7) // 8
    return int(bytes(by_place).ljust(8 * size, b"0"), 2).to_bytes(size)


def _fields(row: asyncpg.Record, room: StoredRoom, waves: list[Wave], kept: list[Wave]) -> dict[str, str]:
    names = ("tail", "serving", "gaps", "admitted", "claimed", "spent", "units", "lapsed")
    fields = {name: str(row[name]) for name in names}
    if row["entrants"] is not None:
        fields["entrants"] = str(row["entrants"])
    if row["key"] is not None:
        fields["key"] = row["key"].hex()
    fields |= {f"w:{wave.last}": str(wave.slots) for wave in kept if wave.slots > 0}
    fields["unclaimed"] = str(sum(wave.slots for wave in kept))
    full_at_us = 0
    for wave in waves:
        full_at_us = max(full_at_us, 1000 * wave.served_at_ms)
        full_at_us += wave.people * tuned(room)["queue_interval_us"]
    fields["full_at_us"] = str(full_at_us)
    fields["moves"] = _moves(waves, row["admitted"])
    return fields


def _moves(waves: list[Wave], admitted: int) -> str:
    """How many had been let in when, as admit would have noted it: once a second, and the newest."""
    points: list[tuple[int, int]] = []
    for wave in reversed(waves):
        if not points or points[-1][0] - wave.served_at_ms >= MOVES_EVERY_MS:
            points.append((wave.served_at_ms, admitted))
        admitted -= wave.people
    return " ".join(f"{at_ms}:{count}" for at_ms, count in reversed(points[:MOVES_MAX]))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
