"""A draw of a million people, from Postgres to whoever checks it at a gateway; prints how long it takes."""

import asyncio
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest

from engine.settings import Settings
from engine.waiting.draw import Draws, Stage
from engine.waiting.entrants import find_lottery
from engine.waiting.lottery import is_included
from engine.waiting.proofs import Proofs
from rush.verify_lottery import main
from tests.integration.kit import Event, Rig
from tests.integration.processes import Processes
from tests.integration.test_lottery import set_opening

PEOPLE = 1_000_000
JOINED = datetime(2026, 11, 1, tzinfo=UTC)
FROZEN = datetime(2026, 11, 2, tzinfo=UTC)
ROOM = {"mode": "lottery", "opens_at": "2099-01-01T00:00:00.000Z"}
VERIFIED_WITHIN_S = 90.0


def user(number: int) -> UUID:
    return UUID(int=number << 64 | 7)


async def _crowd(rig: Rig, event: Event) -> None:
    """Everybody is in the queue, and it is frozen; in Redis only as much of it as the draw looks at."""
    async with rig.pool.acquire() as connection:
        await connection.copy_records_to_table(
            "queue_places",
            columns=["event_ref", "cell", "number", "user_id", "joined_at"],
            records=((*event.cell, number, user(number), JOINED) for number in range(1, PEOPLE + 1)),
            timeout=120,
        )
    await rig.pool.execute(
        "UPDATE waiting_rooms SET tail = $1, entrants = $1, frozen_at = $2 WHERE event_ref = $3",
        PEOPLE,
        FROZEN,
        event.cell.event_ref,
    )
    await set_opening(rig.pool, event.id)
    await rig.redis.hset(event.keys.queue, mapping={"tail": PEOPLE, "entrants": PEOPLE})
    for number in range(3, PEOPLE, 100_000):
        await rig.redis.setbit(event.keys.gone, number - 1, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_million_people_are_drawn_proved_and_checked(
    rig: Rig, processes: Processes, quick: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    took: dict[str, float] = {}
    rig.work("recovery", "relay")
    event = await rig.sale(waiting_room=ROOM)
    await _crowd(rig, event)

    began_s = time.perf_counter()
    assert await Draws(rig.stores).advance(event.cell) is Stage.DRAWN
    took["drawn"] = time.perf_counter() - began_s
    lottery = await find_lottery(rig.pool, event.cell)
    assert lottery.root is not None
    assert await rig.redis.bitcount(event.keys.gone) == 10

    proofs, numbers = Proofs(rig.stores), range(1, PEOPLE, 9_973)
    for what in ("a first proof", "a proof again"):
        began_s = time.process_time()
        for number in numbers:
            proof = await proofs.prove(event.id, number, user(number))
            assert is_included(proof.leaf, number - 1, PEOPLE, proof.path, lottery.root)
        took[f"{what} (CPU)"] = (time.process_time() - began_s) / len(numbers)

    _, port = await processes.gateway(quick)
    began_s = time.perf_counter()
    url = f"http://127.0.0.1:{port}"
    status = await asyncio.to_thread(main, [url, str(event.id), "--user", str(user(500_000))])
    took["verified at a gateway"] = time.perf_counter() - began_s
    assert status == 0, capsys.readouterr()
    with capsys.disabled():
        print("\n1,000,000 people:", ", ".join(f"{what} in {taken:.4g} s" for what, taken in took.items()))
    assert took["verified at a gateway"] < VERIFIED_WITHIN_S
