"""The rush: more buyers than tickets, at once, and what is left adds up at every moment."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine.bookings import Answer, Bookings
from engine.errors import InsufficientStock, MaxPerUserExceeded, RushError
from engine.scripts import Scripts
from engine.settings import Settings, project_root
from engine.stores import Stores
from tests.integration.books import ZoneSampler, differences
from tests.integration.kit import Event, Rig, confirm_patiently, confirmed_rows, until

BUYERS = 500
TICKETS = 100


async def _press(bookings: Bookings, event: Event, user: UUID) -> Answer | RushError:
    try:
        return await bookings.reserve(user, event.items(), None)
    except RushError as error:
        return error


async def _rush(rig: Rig, event: Event, gateways: list[Bookings]) -> tuple[list[Answer], Counter[str]]:
    """500 people press at once; those who get one confirm or cancel. The survivors, and the refusals."""
    users = [uuid4() for _ in range(BUYERS)]
    answers = await asyncio.gather(
        *[_press(gateways[number % 2], event, user) for number, user in enumerate(users)]
    )
    sold = [answer for answer in answers if isinstance(answer, Answer)]
    refused = Counter(type(answer).__name__ for answer in answers if isinstance(answer, RushError))
    return sold, refused


async def test_500_buyers_for_100_tickets_on_two_of_everything_sell_exactly_100(rig: Rig) -> None:
    for _ in range(2):
        rig.work("recovery", "relay", "expiry")
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale([TICKETS, 1000], max_per_user=2)
    with ZoneSampler(rig.settings, event) as sampler:
        # Everybody presses at once, and some press again while the others confirm and give back.
        sold, refused = await _rush(rig, event, gateways)
        assert (len(sold), refused) == (TICKETS, {"InsufficientStock": BUYERS - TICKETS})
        given_back = sold[:20]
        await asyncio.gather(*[gateways[0].cancel(a.booking.user_id, a.booking.id) for a in given_back])
        again, refused = await _rush(rig, event, gateways)
        assert (len(again), refused) == (20, {"InsufficientStock": BUYERS - 20})
        kept = sold[20:] + again
        confirmed = await asyncio.gather(
            *[confirm_patiently(gateways[number % 2], answer) for number, answer in enumerate(kept)]
        )
        await rig.caught_up(event)
        await until(lambda: sampler.seconds > 1)
    assert not sampler.wrong
    assert sampler.per_second >= 50
    assert len({answer.booking.confirmation_code for answer in confirmed}) == TICKETS
    assert await rig.counters(event) == {
        "capacity": TICKETS,
        "available": 0,
        "reserved": 0,
        "confirmed": TICKETS,
        "blocked": 0,
    }
    assert await differences(rig, event) == []


async def test_the_limit_of_a_person_holds_against_all_gateways_at_once(rig: Rig) -> None:
    rig.work()
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale([1000], max_per_user=3)
    users = [uuid4() for _ in range(20)]
    answers = await asyncio.gather(
        *[_press(gateways[number % 2], event, user) for number in range(8) for user in users]
    )
    for user, mine in ((user, answers[number::20]) for number, user in enumerate(users)):
        kinds = Counter(type(answer) for answer in mine)
        assert kinds == {Answer: 3, MaxPerUserExceeded: 5}, user
    assert await differences(rig, event) == []


class _Careless(Bookings):
    """Reads the counter, decides, writes: what the script does in one step, in three."""

    async def reserve(self, user_id: UUID, items: Any, idempotency_key: str | None) -> Answer:
        key = f"careless:{items[0].zone_id}"
        left = int(await self._stores.line.call("GET", key))
        if left < items[0].quantity:
            raise InsufficientStock
        await self._stores.line.call("SET", key, left - items[0].quantity)
        return Answer(booking=None, ledger_seq="")  # type: ignore[arg-type]


async def test_a_careless_read_check_write_fails_the_same_count(rig: Rig, stores: Stores) -> None:
    """The negative control of the test above: this rush does find an engine that is not atomic."""
    rig.work("recovery")
    event = await rig.sale([TICKETS])
    await rig.redis.set(f"careless:{event.zones[0]}", TICKETS)
    sold, _ = await _rush(rig, event, [_Careless(stores), _Careless(stores)])
    assert len(sold) > TICKETS


@pytest.fixture
def scripts_without_stock_check(tmp_path: Path) -> Scripts:
    """A copy of the scripts in which every item fits."""
    folder = tmp_path / "lua"
    shutil.copytree(project_root() / "lua", folder)
    counted = folder / "lib" / "counted.lua"
    text = counted.read_text()
    assert text.count("return of.available + of.planned >= quantity") == 1
    counted.write_text(text.replace("return of.available + of.planned >= quantity", "return true"))
    return Scripts(folder)


async def test_without_the_stock_check_redis_oversells_and_the_last_guard_refuses_the_rest(
    rig: Rig, settings: Settings, monkeypatch: pytest.MonkeyPatch, scripts_without_stock_check: Scripts
) -> None:
    monkeypatch.setattr("engine.stores.Scripts", lambda: scripts_without_stock_check)
    monkeypatch.setattr("workers.relay.RETURN_INTERVAL_S", 0.1)
    rig.work("recovery")
    gateways = [await rig.gateway(), await rig.gateway()]
    event = await rig.sale([TICKETS])
    with ZoneSampler(rig.settings, event) as sampler:
        sold, _ = await _rush(rig, event, gateways)
        await until(lambda: sampler.samples > 2)
    assert len(sold) == BUYERS, "Redis oversells"
    assert sampler.wrong, "the sampler sees it"
    rig.work("relay")
    confirmed = await asyncio.gather(
        *[gateways[0].confirm(answer.booking.user_id, answer.booking.id) for answer in sold],
        return_exceptions=True,
    )
    told_200 = {a.booking.id for a in confirmed if isinstance(a, Answer) and a.booking.durable}
    # The seats of the refused go back by script, and the books agree again.
    await rig.caught_up(event)
    await until(lambda: _returned(rig), "the seats are returned")
    await rig.caught_up(event)
    rejected = await rig.pool.fetchval("SELECT count(DISTINCT booking_id) FROM dead_letters")
    assert rejected == BUYERS - TICKETS
    assert told_200 <= await confirmed_rows(rig, event)
    assert (await rig.counters(event))["available"] == 0
    dead = await rig.pool.fetchval("SELECT count(*) FROM dead_letters")
    found = await differences(rig, event, dead_letters=dead)
    # What was refused is in Redis as cancelled, and nowhere else.
    assert len(found) == rejected
    assert all("is in Redis alone" in line for line in found)


async def _returned(rig: Rig) -> bool:
    return not await rig.pool.fetchval("SELECT EXISTS (SELECT FROM dead_letters WHERE returned_at IS NULL)")
