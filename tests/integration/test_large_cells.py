"""A large sale comes back while others go on, sells before all of its records are back, and loses none."""

import asyncio
import contextlib
from uuid import uuid4

import pytest

from engine import rebuild, rebuild_slices
from engine.audit import audit
from engine.bookings import Answer, Bookings
from engine.errors import Overloaded, RushError
from engine.ids import CellId
from engine.lift import Lifter
from engine.operating import Operator
from engine.rebuild import CellBuilder
from engine.stores import script_runner
from tests.integration.books import differences
from tests.integration.by_hand import Crash, CrashBefore, recovery_by_hand
from tests.integration.kit import Event, Impatience, Rig, confirm_patiently, until
from workers import builders

CALLS_MAX = 150
SOLD, HELD, ENDED = 30, 8, 6


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of bookings is more than is opened whole, and several slices."""
    monkeypatch.setattr(rebuild, "WHOLE_RECORDS_MAX", 10)
    monkeypatch.setattr(rebuild_slices, "HOLDS_MAX", 3)
    monkeypatch.setattr(rebuild_slices, "RECORDS_MAX", 4)


class Large:
    """A sale with bookings of each kind, all durable."""

    def __init__(self, rig: Rig, event: Event, gateway: Bookings) -> None:
        self.rig, self.event, self.gateway = rig, event, gateway
        self.sold: list[Answer] = []
        self.held: list[Answer] = []
        self.ended: list[Answer] = []

    async def fill(self) -> None:
        reserve, items = self.gateway.reserve, self.event.items
        self.sold = [await reserve(uuid4(), items(), f"sold {number}") for number in range(SOLD)]
        self.held = [await reserve(uuid4(), items(2), f"held {number}") for number in range(HELD)]
        self.ended = [await reserve(uuid4(), items(), f"ended {number}") for number in range(ENDED)]
        await asyncio.gather(*[confirm_patiently(self.gateway, answer) for answer in self.sold])
        for answer in self.ended:
            await self.gateway.cancel(answer.booking.user_id, answer.booking.id)
        await self.rig.caught_up(self.event)

    async def again(self, answer: Answer, key: str, quantity: int = 1) -> Answer:
        """The same request with the same key."""
        return await self.gateway.reserve(answer.booking.user_id, self.event.items(quantity), key)

    async def each_key_finds_its_booking(self) -> None:
        for name, answers, quantity in (
            ("sold", self.sold, 1),
            ("held", self.held, 2),
            ("ended", self.ended, 1),
        ):
            for number, answer in enumerate(answers):
                found = await self.again(answer, f"{name} {number}", quantity)
                assert (found.replayed, found.booking.id) == (True, answer.booking.id), name

    async def is_loading(self) -> bool:
        return bool(await self.rig.redis.hexists(self.event.keys.sale, "loaded"))


@pytest.fixture
async def large(rig: Rig) -> Large:
    worker = rig.work()
    large = Large(rig, await rig.sale([1_000]), await rig.gateway())
    await large.fill()
    await worker.stop()
    return large


class Valve:
    """Lets the loading of records through one slice at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._slices = asyncio.Semaphore(0)
        call = CellBuilder._call

        async def held_back(builder: CellBuilder, name: str, *arguments: object) -> None:
            if name == "build_rest":
                await self._slices.acquire()
            await call(builder, name, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(CellBuilder, "_call", held_back)

    def let(self, slices: int) -> None:
        for _ in range(slices):
            self._slices.release()


@pytest.fixture
def valve(monkeypatch: pytest.MonkeyPatch) -> Valve:
    return Valve(monkeypatch)


async def test_a_large_sale_sells_before_its_records_are_back(rig: Rig, large: Large, valve: Valve) -> None:
    event, gateway = large.event, large.gateway
    other = await _other_sale(rig)
    await rig.redis.flushall()
    await rig.redis.script_flush()
    rig.work()
    await Impatience().until_selling(gateway, event)
    assert await large.is_loading()
    counters = await rig.counters(event)
    assert (counters["confirmed"], counters["reserved"]) == (SOLD, 2 * HELD + 1)
    await confirm_patiently(gateway, large.held[0])
    with pytest.raises(Overloaded):
        await large.again(large.sold[0], "sold 0")
    with pytest.raises(Overloaded):
        await gateway.reserve(uuid4(), event.items(), "a new key may be an old one")
    assert (await gateway.get(large.sold[0].booking.user_id, large.sold[0].booking.id)).status == "confirmed"
    # Recovery does its other work meanwhile.
    await rig.redis.delete(other.keys.sale)
    await Impatience().until_selling(gateway, other)
    assert await large.is_loading()
    assert (await audit(rig.stores, event_id=event.id)).exit_status == 2, "nothing is concluded yet"
    valve.let(1_000)
    assert await differences(rig, event) == []
    await large.each_key_finds_its_booking()
    [report] = (await audit(rig.stores, event_id=event.id)).events
    assert (report.violations, report.problem) == ([], None)


async def _other_sale(rig: Rig) -> Event:
    worker = rig.work()
    event = await rig.sale()
    await worker.stop()
    return event


async def test_who_loads_dies_and_another_goes_on(rig: Rig, large: Large, valve: Valve) -> None:
    await rig.redis.flushall()
    first = rig.work()
    await Impatience().until_selling(large.gateway, large.event)
    valve.let(3)
    await until(lambda: _loaded(rig, large.event), "some are loaded")
    epoch = (await rig.offset(large.event)).epoch
    token = await rig.redis.get(large.event.keys.build)
    await first.cut()
    rig.work()
    await until(lambda: _is_another(rig, large.event, token), "another one has taken over")
    valve.let(1_000)
    assert await differences(rig, large.event) == []
    assert (await rig.offset(large.event)).epoch == epoch, "it went on, it did not start over"
    await large.each_key_finds_its_booking()


async def _loaded(rig: Rig, event: Event) -> bool:
    return bool(await rig.redis.hget(event.keys.sale, "loaded"))


async def _is_another(rig: Rig, event: Event, token: bytes) -> bool:
    return await rig.redis.get(event.keys.build) not in (token, None)


async def test_a_lift_in_the_middle_of_loading_goes_on_with_it(rig: Rig, large: Large, valve: Valve) -> None:
    await rig.redis.flushall()
    rig.work()
    await Impatience().until_selling(large.gateway, large.event)
    valve.let(2)
    await until(lambda: _loaded(rig, large.event), "some are loaded")
    await rig.redis.script_flush()
    valve.let(1)
    await Impatience().until_selling(large.gateway, large.event)
    valve.let(1_000)
    assert await differences(rig, large.event) == []
    await large.each_key_finds_its_booking()


async def test_what_changes_while_records_are_loaded_stays_changed(
    rig: Rig, large: Large, valve: Valve
) -> None:
    """The slices were read before the holds were sold, cancelled and taken back."""
    await rig.redis.flushall()
    rig.work()
    gateway = large.gateway
    await Impatience().until_selling(gateway, large.event)
    for number, answer in enumerate(large.held):
        user, booking = answer.booking.user_id, answer.booking.id
        if number % 2:
            await confirm_patiently(gateway, answer)
        else:
            await gateway.cancel(user, booking)
    new = [await gateway.reserve(uuid4(), large.event.items(), None) for _ in range(10)]
    await asyncio.gather(*[confirm_patiently(gateway, answer) for answer in new[:5]])
    valve.let(1_000)
    assert await differences(rig, large.event) == []
    await large.each_key_finds_its_booking()


async def test_who_has_just_begun_to_rebuild_is_not_made_to_begin_anew(
    rig: Rig, large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell keeps the `sale` with which it could not be opened until the rebuild gets to it."""
    begun: list[Lifter] = []
    waiting = asyncio.Event()

    async def build(lifter: Lifter, _: CellId) -> None:
        begun.append(lifter)
        await waiting.wait()

    monkeypatch.setattr(Lifter, "build", build)
    await rig.redis.delete(large.event.keys.ledger)
    await rig.stores.run("fence", [large.event.keys.sale])
    async with recovery_by_hand(rig) as recovery:
        for _ in range(5):
            recovery.wake()
            await recovery.step()
            await until(lambda: begun)
        assert len(begun) == 1
        monkeypatch.setattr(builders, "STARTING_S", 0.0)
        recovery.wake()
        await recovery.step()
        await until(lambda: len(begun) == 2, "one that is fenced later on is begun anew")


async def test_a_rebuild_by_hand_loads_all_of_it(rig: Rig, large: Large) -> None:
    rig.work()
    await Impatience().until_selling(large.gateway, large.event)
    said: list[str] = []
    done = await Operator(rig.stores, said.append).rebuild(str(large.event.id))
    assert not await large.is_loading()
    assert done.bookings >= SOLD + HELD + ENDED
    assert said
    assert await differences(rig, large.event) == []
    await large.each_key_finds_its_booking()


async def test_a_rebuild_that_dies_anywhere_is_finished_by_the_next(rig: Rig, large: Large) -> None:
    """By the calls of who builds, to both stores; what was answered in the meantime stays true."""
    event = large.event
    for number in range(1, CALLS_MAX):
        await rig.redis.delete(event.keys.sale)
        hook = CrashBefore(number)
        async with recovery_by_hand(rig, hook) as dying:
            lifter = dying.lifter
            with contextlib.suppress(Crash):
                await lifter.build(event.cell)
        if await large.is_loading():
            user = uuid4()
            answer = await large.gateway.reserve(user, event.items(), None)
            await large.gateway.cancel(user, answer.booking.id)
        rig.work()
        await rig.caught_up(event)
        await rig.close_workers()
        if len(hook.calls) < number:
            break
    else:
        pytest.fail("a rebuild has too many calls")
    assert number > 20
    rig.work()
    assert await differences(rig, event) == []
    await large.each_key_finds_its_booking()


async def test_a_loader_that_wakes_up_late_overwrites_nothing(rig: Rig, large: Large) -> None:
    """It sleeps with a slice in its hands until all is loaded by another one, and sold on."""
    event = large.event
    await rig.redis.flushall()
    run = script_runner(rig.redis, rig.stores.scripts)
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def run_and_sleep(name: str, *arguments: object) -> object:
        if name == "build_rest" and not wake.is_set():
            asleep.set()
            await wake.wait()
        return await run(name, *arguments)  # type: ignore[arg-type]

    rig.work("recovery")
    await until(lambda: rig.redis.script_exists(rig.stores.scripts["build_rest"].sha))
    async with rig.pool.acquire() as connection:
        builder = CellBuilder(event.cell, connection, rig.redis, run_and_sleep, rig.settings)
        await until(lambda: _is_whole(rig, event), "recovery has loaded all of it")
        await rig.close_workers()
        await rig.redis.hset(event.keys.sale, "loaded", "")
        late = asyncio.create_task(builder.resume((await rig.offset(event)).epoch))
        await asleep.wait()
        rig.work()
        await until(lambda: _is_whole(rig, event), "another one has loaded all of it")
        before = await rig.redis.get(event.keys.booking(large.sold[0].booking.id))
        await rig.redis.delete(event.keys.booking(large.sold[0].booking.id))
        wake.set()
        with pytest.raises(rebuild.BuildVoid):
            await late
        assert await rig.redis.get(event.keys.booking(large.sold[0].booking.id)) is None
        await rig.redis.set(event.keys.booking(large.sold[0].booking.id), before)
    assert await differences(rig, event) == []


async def _is_whole(rig: Rig, event: Event) -> bool:
    epoch, loaded = await rig.redis.hmget(event.keys.sale, ["epoch", "loaded"])
    return epoch is not None and loaded is None


async def test_a_retry_while_records_are_loaded_never_books_twice(rig: Rig, large: Large) -> None:
    """Everybody presses again with their keys, all the time, while the sale comes back."""
    await rig.redis.flushall()
    stop = asyncio.Event()
    wrong: list[str] = []

    async def press() -> None:
        while not stop.is_set():
            for number, answer in enumerate(large.sold):
                with contextlib.suppress(RushError):
                    found = await large.again(answer, f"sold {number}")
                    if not found.replayed:
                        wrong.append(f"sold {number}")
            await asyncio.sleep(0)

    pressing = asyncio.create_task(press())
    rig.work()
    await rig.caught_up(large.event)
    stop.set()
    await pressing
    assert not wrong
    assert await differences(rig, large.event) == []
