"""The draw on real stores: it happens once, whatever dies in between, and everybody can check it."""

import asyncio
import hashlib
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine.cells import CellDirectory
from engine.errors import InvalidState, NotFound, ValidationFailed
from engine.settings import Settings
from engine.tokens import Claims
from engine.waiting import draw as drawing
from engine.waiting.calls import QueueCalls
from engine.waiting.checking import check_draw
from engine.waiting.draw import DrawBroken, Draws, Stage
from engine.waiting.entrants import Lottery, find_lottery, leaf_pages
from engine.waiting.lottery import WITHDRAWN, Permutation, draw_key, is_included, pseudonym
from engine.waiting.moving import ones
from engine.waiting.proofs import Proofs
from engine.waiting.published import PublishedDraw
from tests.integration.kit import Event, Rig, until
from tests.integration.processes import Processes
from workers.lottery import Lotteries

FAR = "2099-01-01T00:00:00.000Z"
ROUND = "the numbers of 1 May 2027"
VALUE = b"7 11 13 17 23 42"
ADMIN = Claims(uuid4(), "admin", None, "access", 0, 1 << 40)


class Draw:
    """An event with a lottery, and the people in it."""

    def __init__(self, rig: Rig, event: Event) -> None:
        self._rig = rig
        self.event = event
        self.calls = QueueCalls(rig.stores, CellDirectory(rig.stores))
        self.draws = Draws(rig.stores)
        self.people: dict[int, UUID] = {}

    async def join(self, count: int = 1) -> list[int]:
        users = [uuid4() for _ in range(count)]
        joined = await asyncio.gather(*[self.calls.join(self.event.id, user) for user in users])
        numbers = [each.number for each in joined]
        self.people |= dict(zip(numbers, users, strict=True))
        return numbers

    async def leave(self, number: int) -> None:
        await self.calls.leave(self.event.id, self.people[number], number, 0)

    async def freeze(self) -> int:
        """Its time has come, and somebody comes too late; their number."""
        await open_now(self._rig, self.event)
        [late] = await self.join()
        return late

    async def row(self) -> Lottery:
        return await find_lottery(self._rig.pool, self.event.cell)

    async def until_frozen(self) -> Lottery:
        async def is_frozen() -> bool:
            return (await self.row()).entrants is not None

        await until(is_frozen, "frozen in Postgres")
        return await self.row()

    async def until_drawn(self) -> Lottery:
        async def is_drawn() -> bool:
            return (await self.row()).drawn_at_ms is not None

        await until(is_drawn, "drawn in Postgres")
        return await self.row()

    async def in_redis(self) -> tuple[str, set[int]]:
        """The key, and which places of the draw are gone: of those behind it a gap may be marked too."""
        held = await self._rig.redis.hget(self.event.keys.queue, "key")
        bitmap = await self._rig.redis.get(self.event.keys.gone) or b""
        entrants = (await self.row()).entrants or 0
        return (held or b"").decode(), {bit + 1 for bit in ones(bitmap) if bit < entrants}

    async def lines(self) -> list[bytes]:
        lottery = await self.row()
        pages = [page async for page in leaf_pages(self._rig.stores, lottery)]
        return [leaf.hex().encode() for page in pages for leaf in page]

    async def is_proved(self) -> bool:
        """What everybody can do."""
        published = PublishedDraw.of(await self.row())
        return check_draw(published, await self.lines(), lambda *_: None).is_good


async def open_now(rig: Rig, event: Event) -> None:
    """What was announced for long after this test is over by now, in both stores."""
    await set_opening(rig.pool, event.id)
    await rig.redis.hset(event.keys.sale, "queue_opens_at_ms", 1)


async def set_opening(pool: Any, event_id: UUID) -> None:
    """Postgres says that the event was to open long ago."""
    changed = "jsonb_set(waiting_room, '{opens_at}', to_jsonb($1::text))"
    statement = f"UPDATE events SET waiting_room = {changed} WHERE id = $2"
    await pool.execute(statement, "1970-01-01T00:00:00.001Z", event_id)


async def open_draw(rig: Rig, public_round: str | None = None) -> Draw:
    room = {"mode": "lottery", "opens_at": FAR, "public_round": public_round}
    return Draw(rig, await rig.sale(waiting_room=room))


@pytest.fixture
async def draw(rig: Rig) -> Draw:
    rig.work()
    return await open_draw(rig)


async def test_who_is_there_at_the_freeze_takes_part_and_nobody_else(rig: Rig, draw: Draw) -> None:
    numbers = await draw.join(20)
    await draw.leave(3)
    late = await draw.freeze()
    await draw.leave(5)
    # Again, and behind.
    await draw.calls.join(draw.event.id, draw.people[3])
    await draw.until_frozen()
    rig.work("lottery")
    lottery = await draw.until_drawn()
    assert lottery.entrants == len(numbers) == 20
    assert late == 21
    lines = await draw.lines()
    for number in numbers:
        leaf = WITHDRAWN if number == 3 else pseudonym(draw.event.id, draw.people[number])
        assert bytes.fromhex(lines[number - 1].decode()) == leaf
    # Who left is gone where their place is now, whether it was before the freeze or after.
    assert lottery.key is not None
    drawn = Permutation(lottery.key, 20)
    key, gone = await draw.in_redis()
    assert key == lottery.key.hex()
    assert gone == {drawn.place_of(3), drawn.place_of(5)}
    assert await draw.is_proved()


async def test_every_entrant_can_be_proved_and_who_is_none_cannot(rig: Rig, draw: Draw) -> None:
    proofs = Proofs(rig.stores)
    await draw.join(8)
    await draw.leave(2)
    with pytest.raises(InvalidState):
        await proofs.prove(draw.event.id, 1, draw.people[1])
    late = await draw.freeze()
    await draw.until_frozen()
    rig.work("lottery")
    lottery = await draw.until_drawn()
    assert lottery.root is not None
    for number in (1, 3, 8):
        proof = await proofs.prove(draw.event.id, number, draw.people[number])
        assert is_included(proof.leaf, number - 1, 8, proof.path, lottery.root)
    for number, user in ((2, draw.people[2]), (late, draw.people[late]), (1, draw.people[3]), (0, uuid4())):
        with pytest.raises(NotFound):
            await proofs.prove(draw.event.id, number, user)


async def test_a_draw_waits_for_its_round_and_takes_it_once(rig: Rig) -> None:
    rig.work()
    draw = await open_draw(rig, ROUND)
    draws = draw.draws

    async def enter(value: bytes = VALUE, name: str = ROUND) -> Lottery:
        return await draws.enter_randomness(ADMIN, draw.event.id, name, value, None)

    await draw.join(5)
    assert await draws.advance(draw.event.cell) is Stage.OPEN
    with pytest.raises(InvalidState, match="not frozen"):
        await enter()
    await draw.freeze()
    await draw.until_frozen()
    assert await draws.advance(draw.event.cell) is Stage.AWAITS_RANDOMNESS
    published = PublishedDraw.of(await draw.row())
    assert published.status == "frozen"
    assert published.root is not None
    assert published.seed is published.key is None
    with pytest.raises(ValidationFailed, match="round"):
        await enter(name="another round")
    with pytest.raises(ValidationFailed, match="0 bytes"):
        await enter(b"")
    # Two at once: one is taken, and whoever sent the same may hear so twice.
    results = await asyncio.gather(enter(b"1"), enter(b"2"), return_exceptions=True)
    [taken] = [result for result in results if isinstance(result, Lottery)]
    [refused] = [result for result in results if isinstance(result, InvalidState)]
    assert refused.details == {"status": "entered"}
    assert taken.randomness is not None
    assert (await enter(taken.randomness)).randomness == taken.randomness
    assert await draws.advance(draw.event.cell) is Stage.DRAWN
    lottery = await draw.until_drawn()
    assert lottery.root is not None
    assert lottery.key == draw_key(lottery.seed, lottery.root, taken.randomness)
    assert PublishedDraw.of(lottery).seed == lottery.seed.hex()
    with pytest.raises(InvalidState):
        await enter(b"3")


async def test_only_whose_event_it_is_enters_a_round_and_only_where_one_was_named(
    rig: Rig, draw: Draw
) -> None:
    stranger = Claims(uuid4(), "organizer", None, "access", 0, 1 << 40)
    with pytest.raises(NotFound):
        await draw.draws.enter_randomness(stranger, draw.event.id, ROUND, VALUE, None)
    with pytest.raises(InvalidState, match="No public round"):
        await draw.draws.enter_randomness(ADMIN, draw.event.id, ROUND, VALUE, None)
    plain = await rig.sale()
    with pytest.raises(NotFound):
        await draw.draws.enter_randomness(ADMIN, plain.id, ROUND, VALUE, None)


POINTS = ("root", "chunks", "tree", "key", "draw")


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_that_dies_at_any_step_leaves_a_draw_that_another_finishes(
    rig: Rig, draw: Draw, processes: Processes, quick: Settings, point: str
) -> None:
    await draw.join(30)
    await draw.leave(7)
    await draw.freeze()
    await draw.until_frozen()
    dying = processes.work_until(f"draw.after_{point}", 1, quick, "lottery")
    assert await dying.ended() == -9
    before = await draw.row()
    # What is not committed nobody has seen.
    assert (before.root is not None) == (point in ("tree", "key", "draw"))
    assert (before.key is not None) == (point in ("key", "draw"))
    rig.work("lottery")
    after = await draw.until_drawn()
    assert (before.root or after.root, before.key or after.key) == (after.root, after.key)
    assert after.key is not None
    assert await draw.in_redis() == (after.key.hex(), {Permutation(after.key, 30).place_of(7)})
    assert await draw.is_proved()


async def test_a_worker_that_slept_through_the_draw_changes_nothing(
    rig: Rig, draw: Draw, processes: Processes, quick: Settings
) -> None:
    await draw.join(30)
    await draw.freeze()
    await draw.until_frozen()
    sleeping = processes.work_until("draw.after_key", 1, quick, "lottery", freeze=True)
    await until(lambda: sleeping.is_frozen)
    rig.work("lottery")
    drawn = await draw.until_drawn()
    held = await draw.in_redis()
    ledger = await rig.redis.xlen(draw.event.keys.ledger)
    sleeping.signal(18)
    await until(lambda: not sleeping.is_frozen)
    sleeping.signal(15)
    await sleeping.ended()
    assert await draw.row() == drawn
    assert await draw.in_redis() == held
    assert await rig.redis.xlen(draw.event.keys.ledger) == ledger


async def test_many_workers_at_once_draw_once(rig: Rig, draw: Draw) -> None:
    await draw.join(50)
    await draw.freeze()
    await draw.until_frozen()
    stages = await asyncio.gather(*[Draws(rig.stores).advance(draw.event.cell) for _ in range(6)])
    assert set(stages) == {Stage.DRAWN}
    await draw.until_drawn()
    entries = await rig.redis.xrange(draw.event.keys.ledger)
    assert sum(b'"draw"' in value for _, fields in entries for value in fields.values()) == 1
    assert await draw.is_proved()


async def test_whoever_leaves_while_it_is_drawn_is_gone_afterwards_and_no_other_is_placed_again(
    rig: Rig, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    await draw.join(60)
    before = range(1, 41)
    await asyncio.gather(*[draw.leave(number) for number in before])
    await draw.freeze()
    await draw.until_frozen()
    meanwhile = [58, *range(41, 55)]
    leaving = iter(meanwhile)
    run = rig.stores.run
    placed: list[int] = []
    place_of = Permutation.place_of
    monkeypatch.setattr(
        Permutation, "place_of", lambda drawn, number: placed.append(number) or place_of(drawn, number)
    )

    class Stores:
        """Somebody leaves between the look at who is gone and the draw, at each of many tries."""

        pool, line = rig.stores.pool, rig.stores.line

        async def run(self, name: str, keys: Any, *arguments: Any) -> Any:
            if (number := next(leaving, None)) is not None:
                await draw.leave(number)
            return await run(name, keys, *arguments)

    assert await Draws(Stores()).advance(draw.event.cell) is Stage.DRAWN  # type: ignore[arg-type]
    assert placed == [*before, *meanwhile]
    monkeypatch.undo()
    lottery = await draw.until_drawn()
    assert lottery.key is not None
    drawn = Permutation(lottery.key, 60)
    _, gone = await draw.in_redis()
    assert gone == {drawn.place_of(number) for number in placed}


async def test_a_draw_that_redis_forgot_is_told_again_and_is_the_same(
    rig: Rig, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    await draw.join(40)
    await draw.leave(11)
    await draw.freeze()
    await draw.until_frozen()
    # The key is fixed, and Redis is lost before it hears of it.
    monkeypatch.setattr(drawing.Draws, "_tell_redis", _nobody)
    assert await draw.draws.advance(draw.event.cell) is Stage.AWAITS_REDIS
    monkeypatch.undo()
    fixed = await draw.row()
    assert fixed.key is not None
    await rig.redis.flushall()
    await rig.caught_up(draw.event)
    assert (await draw.in_redis())[0] == ""
    assert await draw.draws.advance(draw.event.cell) is Stage.DRAWN
    drawn = await draw.until_drawn()
    expected = (fixed.key.hex(), {Permutation(fixed.key, 40).place_of(11)})
    assert await draw.in_redis() == expected
    # And again afterwards: now with the draw that Postgres knows to have been.
    await rig.redis.flushall()
    await rig.caught_up(draw.event)
    assert await draw.in_redis() == expected
    assert await draw.row() == drawn
    assert await draw.draws.due() == []


async def _nobody(self: Draws, lottery: Lottery) -> Stage:
    return Stage.AWAITS_REDIS


async def test_numbers_that_redis_lost_take_part_if_they_are_shown_before_the_freeze(
    rig: Rig, draw: Draw
) -> None:
    await draw.join(5)
    await rig.caught_up(draw.event)
    await rig.redis.flushall()
    await rig.caught_up(draw.event)
    in_time, late = uuid4(), uuid4()
    # Their tickets are theirs: the gap is of numbers that may have been given out.
    assert (await draw.calls.join(draw.event.id, in_time, 7)).number == 7
    [behind] = await draw.join()
    await open_now(rig, draw.event)
    too_late = await draw.calls.join(draw.event.id, late, 8)
    assert too_late.number == behind + 1
    await draw.until_frozen()
    assert await draw.draws.advance(draw.event.cell) is Stage.DRAWN
    lottery = await draw.until_drawn()
    assert lottery.entrants == behind
    lines = await draw.lines()
    people = {number for number, line in enumerate(lines, 1) if bytes.fromhex(line.decode()) != WITHDRAWN}
    assert people == {1, 2, 3, 4, 5, 7, behind}
    assert lines[6].decode() == pseudonym(draw.event.id, in_time).hex()
    assert lottery.key is not None
    drawn = Permutation(lottery.key, behind)
    _, gone = await draw.in_redis()
    assert gone == set(range(1, behind + 1)) - {drawn.place_of(number) for number in people}
    assert await draw.is_proved()


async def test_key_root_and_randomness_are_written_once(rig: Rig, draw: Draw) -> None:
    await draw.join(4)
    await draw.freeze()
    await draw.until_frozen()
    await draw.draws.advance(draw.event.cell)
    before = await draw.until_drawn()
    event_ref, cell = draw.event.cell
    for name, values in (
        ("record_root", {"root": bytes(32)}),
        ("record_key", {"key": bytes(32), "root": before.root, "randomness": None}),
        ("record_randomness", {"randomness": VALUE, "signature": None, "is_signature_checked": False}),
    ):
        written = await getattr(drawing.queries, name)(rig.pool, event_ref=event_ref, cell=cell, **values)
        assert written is None, name
    assert await draw.row() == before


async def test_without_its_guard_a_round_would_be_entered_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what keeps it from that is the statement alone."""
    rig.work()
    draw = await open_draw(rig, ROUND)
    await draw.join(3)
    await draw.freeze()
    await draw.until_frozen()
    await draw.draws.advance(draw.event.cell)

    async def unguarded(pool: Any, *, randomness: bytes, **_: Any) -> None:
        await pool.execute("UPDATE waiting_rooms SET randomness = $1", randomness)

    monkeypatch.setattr(drawing.queries, "record_randomness", unguarded)
    for value in (b"1", b"2"):
        entered = await draw.draws.enter_randomness(ADMIN, draw.event.id, ROUND, value, None)
        assert entered.randomness == value


@pytest.mark.parametrize("column", ["seed", "commitment", "root", "key"])
async def test_a_draw_that_contradicts_itself_never_reaches_redis(
    rig: Rig, draw: Draw, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    await draw.join(4)
    await draw.freeze()
    await draw.until_frozen()
    await draw.draws._store_root(await draw.row())
    if column in ("root", "key"):
        await draw.draws._store_key(await draw.row())
    await rig.pool.execute(f"UPDATE waiting_rooms SET {column} = $1", hashlib.sha256(b"x").digest())
    with pytest.raises(DrawBroken):
        await draw.draws.advance(draw.event.cell)
    # The worker says so, and works on.
    assert await Lotteries(rig.stores).step() == {}
    assert caplog.text.count("cannot be drawn") == 1
    assert (await draw.in_redis())[0] == ""


async def test_the_workers_freeze_and_draw_when_the_time_has_come(rig: Rig) -> None:
    rig.work("recovery", "relay", "admission", "lottery")
    draw = await open_draw(rig)
    in_time = await draw.join(10)
    assert (await draw.row()).entrants is None
    await open_now(rig, draw.event)
    lottery = await draw.until_drawn()
    assert lottery.entrants == len(in_time)
    assert await draw.is_proved()
    # And people are let in, in the order that was drawn.
    await until(lambda: rig.redis.hget(draw.event.keys.queue, "serving"), "somebody is let in")


async def test_an_event_of_nobody_is_drawn_too(rig: Rig, draw: Draw) -> None:
    await draw.freeze()
    lottery = await draw.until_frozen()
    assert lottery.entrants == 0
    assert await draw.draws.advance(draw.event.cell) is Stage.DRAWN
    await draw.until_drawn()
    assert await draw.is_proved()
