"""A waiting room that was carried to Postgres and rebuilt from there is the same waiting room."""

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import redis
import redis.asyncio

from engine.ledger import Position
from engine.projection import commit_batch
from engine.rebuild import CellBuilder
from engine.rebuild_queue import GAP_NUMBERS, gone_bitmap, late_numbers, parse_gaps
from engine.repair_queue import QueueRepair
from engine.settings import Settings
from engine.status import Status
from engine.stores import script_runner
from engine.times import from_ms
from engine.waiting.lottery import Permutation
from tests.lua.cellkit import Backend, Dump, Zone, product_scripts
from tests.lua.queuekit import Person, QueueCell
from tests.unit.books import CAPACITY, Event, put_in_postgres, to_batch
from tests.unit.queues import open_waiting_room, queue_tables

KEY = bytes(range(32))
GRACE_S = 60
PASS_TTL_S = 5
TIME_LEFT_MS = 50_000
"""Nothing ends its grace by the clock of the cell, which runs ahead of Postgres' here."""
OPENS_IN_MS = 5_000
NewCell = Callable[[str], QueueCell]


@pytest.fixture(params=["open", "lottery"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def started_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture
async def event(database: asyncpg.Connection, mode: str, started_ms: int) -> Event:
    event = await put_in_postgres(database)
    await open_waiting_room(database, event, mode)
    await database.execute("UPDATE waiting_rooms SET key = $1", KEY)
    opens_at = from_ms(started_ms + OPENS_IN_MS).isoformat() if mode == "lottery" else None
    room = {"mode": mode, "opens_at": opens_at, "admissions_per_second": 100_000.0}
    room |= {"pass_ttl_seconds": PASS_TTL_S, "claim_grace_seconds": GRACE_S}
    await database.execute(
        "UPDATE events SET status = 'published', waiting_room = $1, sale_start_at = $2",
        json.dumps(room),
        from_ms(0),
    )
    return event


@pytest.fixture
def cell(redis_url: str, event: Event, mode: str, started_ms: int) -> Iterator[QueueCell]:
    """The cell of that event in epoch 1, as Postgres has it."""
    options: dict[str, Any] = {"cell_id": event.cell_id, "start_ms": started_ms}
    options |= {"zone_ids": [str(zone) for zone in event.zones], "shows": [str(event.show)]}
    with redis.Redis.from_url(redis_url) as client:
        yield QueueCell(
            Backend(client),
            [Zone(CAPACITY, 0, 10) for _ in event.zones],
            sale=options,
            mode=mode,
            opens_at_ms=started_ms + OPENS_IN_MS if mode == "lottery" else 0,
            pass_ttl_ms=1000 * PASS_TTL_S,
            grace_ms=1000 * GRACE_S,
        )


@pytest.fixture
def builder(
    database: asyncpg.Connection, redis_client: redis.asyncio.Redis, event: Event, settings: Settings
) -> CellBuilder:
    run = script_runner(redis_client, product_scripts())
    return CellBuilder(event.cell_id, database, redis_client, run, settings)


class Days:
    """What people do in a waiting room, by chance."""

    def __init__(self, cell: QueueCell, seed: int, mode: str) -> None:
        self._cell, self._mode = cell, mode
        self._chance = random.Random(seed)
        self._until_ms = cell.now_ms + TIME_LEFT_MS
        self._permutation: Permutation | None = None
        self.people: list[Person] = []
        self.bookings: list[tuple[str, str]] = []

    def place(self, person: Person) -> int:
        """Where they stand, 0 before the draw."""
        if self._mode == "open" or self._permutation is None:
            return 0
        is_entrant = person.number <= self._permutation.entrants
        return self._permutation.place_of(person.number) if is_entrant else person.number

    def live(self, steps: int) -> None:
        """So many things happen; of a lottery the draw is behind a third of them."""
        for step in range(steps):
            if self._mode == "lottery" and step == steps // 3:
                self._draw()
            self._step()

    def _draw(self) -> None:
        cell = self._cell
        cell.forward(OPENS_IN_MS)
        cell.admit()
        entrants = int(cell.queue()["entrants"])
        self._permutation = Permutation(KEY, entrants)
        bits = int.from_bytes(cell.client.get(cell.keys.gone) or b"")
        length = 8 * cell.client.strlen(cell.keys.gone)
        gone = [number for number in range(1, length + 1) if bits >> (length - number) & 1]
        by_place = bytearray((max(entrants, length) + 7) // 8)
        for number in gone:
            place = self._permutation.place_of(number) if number <= entrants else number
            by_place[(place - 1) // 8] |= 128 >> (place - 1) % 8
        assert cell.draw(KEY.hex(), len(gone), bytes(by_place)).status == Status.OK

    def _step(self) -> None:
        cell, chance = self._cell, self._chance
        if cell.now_ms < self._until_ms:
            cell.forward(chance.randint(0, 800))
        person = chance.choice(self.people) if self.people else None
        match chance.choice(["join", "join", "leave", "admit", "claim", "claim", "reserve", "cancel"]):
            case "join":
                self.people += cell.people(chance.randint(1, 4))
            case "leave" if person is not None:
                cell.leave(person, self.place(person))
            case "admit":
                cell.admit(chance.randint(0, 3), return_permille=100)
            case "claim" if self.people:
                for person in chance.sample(self.people, min(5, len(self.people))):
                    cell.claim(person, self.place(person))
            case "reserve":
                passes = cell.client.zrange(cell.keys.passes, 0, -1, withscores=True)
                if passes:
                    name, score = chance.choice(passes)
                    booking, answer = cell.reserve(
                        name.decode(), [(cell.zones[0], 1)], queue_pass=str(int(score))
                    )
                    if answer.status == Status.OK:
                        self.bookings.append((name.decode(), booking))
            case "cancel" if self.bookings:
                cell.cancel(*chance.choice(self.bookings))


async def carry(database: asyncpg.Connection, cell: QueueCell, event: Event) -> None:
    """What the relay does, all at once."""
    assert await commit_batch(database, to_batch(event, [entry for _, entry in cell.ledger()[1:]])) == []


async def rebuilt(builder: CellBuilder, database: asyncpg.Connection, event: Event, epoch: int) -> None:
    await builder.begin(epoch)
    await database.execute("UPDATE cells SET epoch = $1, seq = 0 WHERE event_id = $2", epoch, event.id)
    await builder.rebuild(event.id, epoch)


def comparable(dump: Dump) -> Dump:
    """What must be the same of a waiting room: all that decides who is let in, and when."""
    kept = {name: dump.get(name, []) for name in ("places", "passes", "spent", "waves")}
    queue = dict(dump["queue"])
    for name in ("basket_milli", "return_permille", "full_at_us", "moves", "gone"):
        queue.pop(name, None)
    kept["queue"] = {name: value for name, value in queue.items() if value not in ("0", "")}
    bits = bin(int("1" + dump.get("gone", ""), 16))[3:]
    kept["gone"] = bits[int(queue["serving"]) :].rstrip("0")
    sale = dump["sale"]
    kept["sale"] = {name: value for name, value in sale.items() if name.startswith("queue_")}
    return kept


@pytest.mark.parametrize("seed", range(4))
async def test_a_rebuilt_waiting_room_is_the_one_that_was_lost(
    database: asyncpg.Connection, cell: QueueCell, event: Event, builder: CellBuilder, mode: str, seed: int
) -> None:
    days = Days(cell, seed, mode)
    days.live(150)
    await carry(database, cell, event)
    before = cell.dump()
    if seed:
        cell.remove()
    cell.fence()
    await rebuilt(builder, database, event, 2)
    after = cell.dump()
    assert comparable(after) == comparable(before)
    assert after["queue"]["gone"] == str(bin(int("0" + after.get("gone", ""), 16)).count("1"))
    assert int(after["queue"]["tail"]) > 20
    assert int(after["queue"]["serving"]) > 5
    assert int(after["queue"]["claimed"]) > 2


@pytest.mark.parametrize("mode", ["open"])
async def test_what_was_kept_for_people_is_forgotten_once_its_time_is_over(
    database: asyncpg.Connection, cell: QueueCell, event: Event, builder: CellBuilder
) -> None:
    first, *_ = cell.people(6)
    cell.admit(2)
    cell.admit(2)
    cell.claim(first)
    await carry(database, cell, event)
    await database.execute(
        "UPDATE queue_waves SET served_at = served_at - interval '2 minutes' WHERE to_place = 4"
    )
    cell.remove()
    await rebuilt(builder, database, event, 2)
    queue = cell.queue()
    assert (queue["serving"], queue["unclaimed"], queue["admitted"]) == ("4", "1", "4")
    assert [name for name in queue if name.startswith("w:")] == ["w:2"]
    assert queue["moves"].endswith(":2") or queue["moves"].endswith(":4")


@pytest.mark.parametrize("mode", ["open"])
async def test_the_next_numbers_stand_behind_a_gap_and_who_shows_a_ticket_gets_theirs(
    database: asyncpg.Connection, cell: QueueCell, event: Event, builder: CellBuilder
) -> None:
    known = cell.people(3)
    await carry(database, cell, event)
    lost = cell.people(2)
    cell.remove()
    await builder.leave_gap()
    await rebuilt(builder, database, event, 2)
    behind = GAP_NUMBERS + 4
    queue = cell.queue()
    assert (queue["tail"], queue["gaps"], queue["gone"]) == (
        str(behind - 1),
        f"4-{behind - 1}",
        str(GAP_NUMBERS),
    )
    [new] = cell.join(cell.new_user())
    assert new.detail == (behind,)
    [again] = cell.join(lost[1].user, asserted=lost[1].number)
    assert (again.status, again.detail) == (Status.OK, (lost[1].number,))
    [thief] = cell.join(cell.new_user(), asserted=lost[1].number)
    assert thief.detail == (behind + 1,), "a number is given once"
    [same] = cell.join(known[0].user, asserted=known[0].number)
    assert (same.status, same.detail) == (Status.REPLAYED, (1,))
    assert cell.admit(5) == (behind, 5, 5, behind + 1), "the gap is walked over"
    assert cell.leave(lost[1]).status == Status.OK
    # Lost once more: both gaps are there, and what was given back and ended does not come back.
    entries = [entry for _, entry in cell.ledger()[1:]]
    assert await commit_batch(database, to_batch(event, entries, 0, 2)) == []
    cell.remove()
    await builder.leave_gap()
    await rebuilt(builder, database, event, 3)
    assert cell.queue()["gaps"] == f"4-{behind - 1} {behind + 2}-{behind + 1 + GAP_NUMBERS}"
    [burnt] = cell.join(lost[1].user, asserted=lost[1].number)
    assert burnt.detail == (behind + 2 + GAP_NUMBERS,)
    [back] = cell.join(lost[0].user, asserted=lost[0].number)
    assert (back.status, back.detail) == (Status.OK, (lost[0].number,))


@pytest.mark.parametrize("mode", ["open"])
async def test_gaps_that_follow_each_other_are_one(
    database: asyncpg.Connection, event: Event, builder: CellBuilder
) -> None:
    for _ in range(3):
        await builder.leave_gap()
    row = await database.fetchrow("SELECT tail, gaps FROM waiting_rooms")
    assert tuple(row) == (3 * GAP_NUMBERS, f"1-{3 * GAP_NUMBERS}")
    assert parse_gaps(row["gaps"]) == [(1, 3 * GAP_NUMBERS)]


# Postgres set back.


@pytest.mark.parametrize("share", [0, 0.5])
async def test_a_waiting_room_that_was_set_back_is_repaired_from_redis(
    database: asyncpg.Connection,
    redis_client: redis.asyncio.Redis,
    cell: QueueCell,
    event: Event,
    builder: CellBuilder,
    mode: str,
    share: float,
) -> None:
    days = Days(cell, 5, mode)
    days.live(150)
    entries = [entry for _, entry in cell.ledger()[1:]]
    await commit_batch(database, to_batch(event, entries[: int(share * len(entries))]))
    before = cell.dump()
    living = await QueueRepair(database, redis_client, event.cell_id).run(Position(1, len(entries)))
    assert living == len(before["places"])
    for user, booking in before.get("spent", {}).items():
        # What is a booking's is repaired with the bookings.
        assert await database.fetchval(
            "SELECT booking_id FROM queue_passes WHERE user_id = $1", UUID(user)
        ) == UUID(booking)
    once = await queue_tables(database, event)
    await QueueRepair(database, redis_client, event.cell_id).run(Position(1, len(entries)))
    again = await queue_tables(database, event)
    assert again["places"] == once["places"]
    cell.fence()
    await rebuilt(builder, database, event, 2)
    expected, found = comparable(before), comparable(cell.dump())
    for each in (expected, found):
        # Slots are kept by when somebody left, which nobody knows any more: too many rather than too few.
        each["queue"] = {name: value for name, value in each["queue"].items() if not name.startswith("w:")}
        each.pop("waves")
    assert int(found["queue"].pop("unclaimed", 0)) >= int(expected["queue"].pop("unclaimed", 0))
    assert found == expected


# The parts.


def test_a_bitmap_has_a_bit_for_each_place() -> None:
    living = bytearray(b"0100000001")
    assert gone_bitmap(living, None) == bytes([0b01000000, 0b01000000])
    assert gone_bitmap(bytearray(b"0000"), None) == b""
    assert gone_bitmap(bytearray(), None) == b""
    permutation = Permutation(KEY, 8)
    found = gone_bitmap(living, permutation)
    place = permutation.place_of(2)
    assert int.from_bytes(found) == 1 << (16 - place) | 1 << (16 - 10)


def test_who_came_back_behind_what_is_served_may_have_been_passed() -> None:
    living = bytearray(b"0011011011")
    assert late_numbers(living, [(3, 9)], 8, 0) == [5, 8]
    assert late_numbers(living, [(3, 9)], 4, 0) == []
    assert late_numbers(living, [(3, 9)], 8, 6) == [8], "of the draw nobody was passed"
