"""A cell that was carried to Postgres and rebuilt from there is the same cell."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import redis
import redis.asyncio

from engine import rebuild, rebuild_slices
from engine.booking import from_record, from_row, parse_record
from engine.bookings import queries as booking_queries
from engine.projection import commit_batch
from engine.rebuild import BuildVoid, CellBuilder, repair_from_redis
from engine.settings import Settings
from engine.stores import script_runner
from engine.times import from_ms
from tests.lua.cellkit import HOLD_TTL_MS, Backend, Cell, Dump, Zone, product_scripts
from tests.lua.test_recovery_scripts import live_through
from tests.unit.books import CAPACITY, Event, put_in_postgres, tables, to_batch

MAX_PER_USER = 12


@pytest.fixture
async def event(database: asyncpg.Connection) -> Event:
    event = await put_in_postgres(database)
    await database.execute(
        "UPDATE events SET status = 'published', max_per_user = $1, hold_ttl_seconds = $2, "
        "sale_start_at = $3",
        MAX_PER_USER,
        HOLD_TTL_MS // 1_000,
        from_ms(0),
    )
    return event


@pytest.fixture
def cell(redis_url: str, event: Event, settings: Settings) -> Iterator[Cell]:
    """The cell of that event in epoch 1, as Postgres has it."""
    with redis.Redis.from_url(redis_url) as client:
        yield Cell(
            Backend(client),
            [Zone(CAPACITY, 0, 10) for _ in event.zones],
            cell_id=event.cell_id,
            zone_ids=[str(zone) for zone in event.zones],
            shows=[str(event.show)],
            max_per_user=MAX_PER_USER,
            secret="00" * 32,
            ledger_max=settings.ledger_entries_max,
        )


@pytest.fixture
def builder(
    database: asyncpg.Connection, redis_client: redis.asyncio.Redis, event: Event, settings: Settings
) -> CellBuilder:
    run = script_runner(redis_client, product_scripts())
    return CellBuilder(event.cell_id, database, redis_client, run, settings)


async def rebuilt(builder: CellBuilder, database: asyncpg.Connection, event: Event, epoch: int) -> int:
    """The rebuild, once Postgres has begun that epoch; the number of bookings."""
    await database.execute("UPDATE cells SET epoch = $1, seq = 0 WHERE event_id = $2", epoch, event.id)
    return await builder.rebuild(event.id, epoch)


async def carry(database: asyncpg.Connection, cell: Cell, event: Event) -> None:
    """What the relay does, all at once."""
    assert await commit_batch(database, to_batch(event, [entry for _, entry in cell.ledger()[1:]])) == []


def comparable(dump: Dump) -> Dump:
    """A dump without what begins anew with an epoch, and without ended bookings that nobody asks for."""
    kept: Dump = {}
    for name, value in dump.items():
        if name == "sale":
            kept[name] = {field: value[field] for field in value.keys() - {"epoch", "seq", "time_ms"}}
            kept[name]["zones"] = sorted(value["zones"].split())
        elif name.startswith("booking:") and "ttl_s" not in value:
            # A rebuilt record has its items in the order of the zones.
            kept[name] = value | {"items": sorted(json.loads(value["items"]))}
        elif not name.startswith(("booking:", "ledger")):
            kept[name] = value
    return kept


@pytest.mark.parametrize("seed", range(3))
async def test_a_rebuilt_cell_is_the_one_that_was_lost(
    database: asyncpg.Connection, cell: Cell, event: Event, builder: CellBuilder, seed: int
) -> None:
    live_through(cell, random.Random(seed), 150, rejects=())
    await carry(database, cell, event)
    before = cell.dump(rates=False)
    if seed:
        cell.remove()
    cell.fence()
    await builder.begin(2)
    count = await rebuilt(builder, database, event, 2)
    after = cell.dump(rates=False)
    assert comparable(after) == comparable(before)
    assert count == sum(name.startswith("booking:") for name in comparable(before))
    assert (after["sale"]["epoch"], after["sale"]["seq"]) == ("2", "0")
    assert [entry_id for entry_id, _ in after["ledger"]] == ["2-0"]
    cell.assert_adds_up()


async def test_a_record_and_a_row_show_the_same_booking(
    database: asyncpg.Connection, cell: Cell, event: Event
) -> None:
    bookings = live_through(cell, random.Random(7), 150, rejects=())
    await carry(database, cell, event)
    for booking in bookings:
        record = parse_record(cell.client.get(cell.keys.booking(booking)))
        shown = from_record(UUID(booking), record)
        row = from_row(await booking_queries.find_booking(database, booking_id=shown.id))
        assert row.durable
        shown.durable = True
        shown.items.sort(key=lambda item: item.zone_id)
        assert shown == row


@pytest.mark.parametrize("done", [0, 20, 60])
async def test_rows_that_were_set_back_are_repaired_from_the_cell(
    database: asyncpg.Connection, redis_client: redis.asyncio.Redis, cell: Cell, event: Event, done: int
) -> None:
    live_through(cell, random.Random(3), 100, rejects=())
    entries = [entry for _, entry in cell.ledger()[1:]]
    whole = database.transaction()
    await whole.start()
    await carry(database, cell, event)
    expected = await tables(database, event)
    await whole.rollback()
    await commit_batch(database, to_batch(event, entries[:done]))
    await repair_from_redis(database, redis_client, event.cell_id, cell.zones)
    repaired = await tables(database, event)
    for name in ("bookings", "items", "zones"):
        assert repaired[name] == expected[name], name


async def test_an_older_rebuild_is_told_that_a_newer_has_begun(
    database: asyncpg.Connection, cell: Cell, event: Event, builder: CellBuilder
) -> None:
    with pytest.raises(BuildVoid):
        await builder.begin(2)
    cell.fence()
    await builder.begin(2)
    assert cell.build_begin("3-newer").status == 0
    before = cell.dump()
    with pytest.raises(BuildVoid):
        await rebuilt(builder, database, event, 2)
    assert cell.dump() == before


@pytest.mark.parametrize("wiped_keys", [0, 1, 30])
async def test_what_a_rebuild_that_died_has_left_is_removed_by_the_next(
    database: asyncpg.Connection,
    redis_client: redis.asyncio.Redis,
    cell: Cell,
    event: Event,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    wiped_keys: int,
) -> None:
    """Nothing was carried to Postgres: none of these bookings may be there in the end."""
    monkeypatch.setattr("engine.rebuild.SCAN_COUNT", 1)
    live_through(cell, random.Random(5), 150, rejects=())
    run = script_runner(redis_client, product_scripts())
    calls = 0

    async def run_and_die(name: str, keys: Sequence[str | bytes], *arguments: str | int) -> Any:
        nonlocal calls
        calls += name == "build_wipe"
        if calls > wiped_keys:
            raise ConnectionError
        return await run(name, keys, *arguments)

    cell.fence()
    dying = CellBuilder(event.cell_id, database, redis_client, run_and_die, settings)
    await dying.begin(2)
    with pytest.raises(ConnectionError):
        await dying.rebuild(event.id, 2)
    # SCAN may come upon these before all others.
    cell.client.delete(cell.keys.buyers, cell.keys.deadlines, cell.keys.ledger)
    assert bookings_in(cell)
    builder = CellBuilder(event.cell_id, database, redis_client, run, settings)
    await builder.begin(3)
    await rebuilt(builder, database, event, 3)
    assert not bookings_in(cell)


def bookings_in(cell: Cell) -> list[str]:
    return [name for name in cell.dump() if name.startswith("booking:")]


async def scans(client: redis.asyncio.Redis) -> int:
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_scan", {"calls": 0})["calls"])


async def test_a_cell_that_redis_never_had_is_opened_without_a_look_at_every_key(
    database: asyncpg.Connection,
    redis_client: redis.asyncio.Redis,
    cell: Cell,
    event: Event,
    builder: CellBuilder,
) -> None:
    cell.remove()
    before = await scans(redis_client)
    await builder.begin(2)
    await rebuilt(builder, database, event, 2)
    assert await scans(redis_client) == before
    assert cell.dump()["sale"]["epoch"] == "2"


@pytest.mark.parametrize("kept", ["buyers", "deadlines", "ledger"])
async def test_a_cell_whose_sale_was_deleted_by_hand_is_looked_through(
    database: asyncpg.Connection, cell: Cell, event: Event, builder: CellBuilder, kept: str
) -> None:
    live_through(cell, random.Random(5), 150, rejects=())
    fixed = {"sale", "buyers", "deadlines", "ledger"}
    cell.client.delete(*[getattr(cell.keys, name) for name in fixed - {kept}])
    await builder.begin(2)
    await rebuilt(builder, database, event, 2)
    assert not bookings_in(cell)


async def test_a_cell_that_is_taken_out_leaves_nothing(cell: Cell, builder: CellBuilder) -> None:
    live_through(cell, random.Random(1), 60, rejects=())
    cell.fence()
    await builder.begin(2)
    await builder.wipe()
    await builder.forget()
    assert cell.dump() == {}


@pytest.mark.parametrize("is_large", [False, True])
async def test_slices_that_find_little_go_on_where_they_stopped_looking(
    database: asyncpg.Connection,
    cell: Cell,
    event: Event,
    builder: CellBuilder,
    monkeypatch: pytest.MonkeyPatch,
    is_large: bool,
) -> None:
    """Each statement looks at a few bookings, most of which are not what it wants."""
    live_through(cell, random.Random(4), 150, rejects=())
    await carry(database, cell, event)
    before = cell.dump(rates=False)
    monkeypatch.setattr(rebuild_slices, "LOOKED_MAX", 3)
    monkeypatch.setattr(rebuild_slices, "HOLDS_MAX", 2)
    monkeypatch.setattr(rebuild_slices, "RECORDS_MAX", 2)
    monkeypatch.setattr(rebuild, "WHOLE_RECORDS_MAX", 0 if is_large else 1_000)
    cell.remove()
    await builder.begin(2)
    await rebuilt(builder, database, event, 2)
    assert comparable(cell.dump(rates=False)) == comparable(before)


async def test_a_cell_that_has_few_records_among_many_bookings_is_large(
    database: asyncpg.Connection,
    cell: Cell,
    event: Event,
    builder: CellBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody knows how many it has without looking at all of them."""
    live_through(cell, random.Random(4), 150, rejects=())
    await carry(database, cell, event)
    assert not await builder.is_large()
    monkeypatch.setattr(rebuild_slices, "COUNTED_MAX", 10)
    assert await builder.is_large()
