"""`rush verify-lottery` against a running gateway, which knows nothing of who asks."""

import asyncio
from uuid import UUID, uuid4

import pytest

from engine.cells import CellDirectory
from engine.settings import Settings
from engine.waiting.calls import QueueCalls
from engine.waiting.draw import Draws, Stage
from engine.waiting.entrants import find_lottery
from engine.waiting.tickets import QueueSigner
from rush.verify_lottery import main
from tests.integration.kit import Event, Rig, until
from tests.integration.processes import Processes

FAR = "2099-01-01T00:00:00.000Z"
PEOPLE = 3000


async def _drawn(rig: Rig) -> tuple[Event, dict[int, UUID]]:
    rig.work()
    event = await rig.sale(waiting_room={"mode": "lottery", "opens_at": FAR})
    calls = QueueCalls(rig.stores, CellDirectory(rig.stores))
    users = [uuid4() for _ in range(PEOPLE)]
    joined = await asyncio.gather(*[calls.join(event.id, user) for user in users])
    people = {each.number: user for each, user in zip(joined, users, strict=True)}
    await calls.leave(event.id, people[9], 9, 0)
    await rig.redis.hset(event.keys.sale, "queue_opens_at_ms", 1)
    await calls.join(event.id, uuid4())

    async def is_drawn() -> bool:
        return await Draws(rig.stores).advance(event.cell) is Stage.DRAWN

    await until(is_drawn)
    return event, people


async def test_anybody_can_check_a_draw_at_the_gateway(
    rig: Rig, processes: Processes, quick: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    event, people = await _drawn(rig)
    lottery = await find_lottery(rig.pool, event.cell)
    _, port = await processes.gateway(quick)
    slug = await rig.pool.fetchval("SELECT slug FROM events WHERE id = $1", event.id)
    signer = QueueSigner(quick.jwt_secret)

    async def verify(*arguments: str) -> tuple[int, str]:
        status = await asyncio.to_thread(main, [f"http://127.0.0.1:{port}", *arguments])
        said = capsys.readouterr()
        return status, said.out + said.err

    status, text = await verify(str(event.id), "--commitment", lottery.commitment.hex())
    assert (status, "3,000 numbers, 2,999 people, 1 withdrawn" in text) == (0, True), text
    status, text = await verify(slug, "--ticket", signer.ticket(event.id, people[2048], 2048))
    assert status == 0, text
    assert "leads from the number 2048 to the root" in text
    assert f"{lottery.place_of(2048)} is what 2048 drew" in text
    status, text = await verify(str(event.id), "--ticket", signer.ticket(event.id, people[9], 9))
    assert (status, "took no part" in text) == (1, True), text
    status, text = await verify(str(uuid4()))
    assert (status, "answers 404: " in text) == (1, True), text


async def test_a_lie_in_the_store_is_found_at_the_gateway(
    rig: Rig, processes: Processes, quick: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    event, people = await _drawn(rig)
    _, port = await processes.gateway(quick)
    await rig.pool.execute(
        "UPDATE queue_places SET user_id = $1 WHERE number = 1500 AND user_id = $2", uuid4(), people[1500]
    )
    status = await asyncio.to_thread(main, [f"http://127.0.0.1:{port}", str(event.id)])
    assert status == 1
    assert "is not the Merkle root of the list" in capsys.readouterr().out
