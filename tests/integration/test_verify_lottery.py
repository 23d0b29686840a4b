"""`rush verify-lottery` against a running gateway, which knows nothing of who asks."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from engine.cells import CellDirectory
from engine.settings import Settings
from engine.tokens import TokenSigner
from engine.waiting.calls import QueueCalls
from engine.waiting.draw import Draws, Stage
from engine.waiting.entrants import find_lottery
from engine.waiting.tickets import QueueSigner
from rush.verify_lottery import _Gateway, main
from tests.integration.kit import Event, Rig, changed, until
from tests.integration.processes import Processes
from tests.integration.test_lottery import open_now

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
    await open_now(rig, event)
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
    assert (status, "3,000 numbers, 2,999 people, 1 nobody's" in text) == (0, True), text
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


async def test_a_gateway_that_replays_the_draw_of_another_event_is_found_out(
    rig: Rig,
    processes: Processes,
    quick: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event, _ = await _drawn(rig)
    _, port = await processes.gateway(quick)
    asked_for = uuid4()
    url = f"http://127.0.0.1:{port}"
    ask = _Gateway._open

    def replay(gateway: _Gateway, path: str, headers: dict[str, str]) -> Any:
        return ask(gateway, path.replace(str(asked_for), str(event.id)), headers)

    monkeypatch.setattr(_Gateway, "_open", replay)
    status = await asyncio.to_thread(main, [url, str(asked_for)])
    assert status == 1
    assert f"is not the one that was asked for: {asked_for}" in capsys.readouterr().out


async def test_a_list_that_broke_off_is_not_taken_for_a_lie(
    rig: Rig, processes: Processes, quick: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event, _ = await _drawn(rig)
    point = f"entrant_lists.after_head:1:kill:{tmp_path / 'struck'}"
    dying, port = await processes.gateway(changed(quick, failpoint=point))
    status = await asyncio.to_thread(main, [f"http://127.0.0.1:{port}", str(event.id)])
    said = capsys.readouterr()
    assert (status, said.out) == (1, "")
    assert "broke off" in said.err or "http://127.0.0.1" in said.err
    assert await dying.ended() == -9


async def test_a_round_whose_gateway_died_is_entered_and_may_be_sent_again(
    rig: Rig, processes: Processes, quick: Settings, tmp_path: Path
) -> None:
    rig.work()
    event = await rig.sale(waiting_room={"mode": "lottery", "opens_at": FAR, "public_round": "a round"})
    await open_now(rig, event)
    await QueueCalls(rig.stores, CellDirectory(rig.stores)).join(event.id, uuid4())

    async def has_root() -> bool:
        await Draws(rig.stores).advance(event.cell)
        return (await find_lottery(rig.pool, event.cell)).root is not None

    await until(has_root)
    token = TokenSigner(quick.jwt_secret).sign(uuid4(), "admin", None, ttl_s=900)
    point = f"draw.after_randomness:1:kill:{tmp_path / 'struck'}"
    dying, first = await processes.gateway(changed(quick, failpoint=point))
    _, second = await processes.gateway(quick)

    async def enter(port: int, value: bytes) -> int:
        async with httpx.AsyncClient(timeout=20) as client:
            answer = await client.post(
                f"http://127.0.0.1:{port}/api/v1/events/{event.id}/queue/randomness",
                json={"round": "a round", "randomness": value.hex()},
                headers={"authorization": f"Bearer {token}"},
            )
            return answer.status_code

    with pytest.raises(httpx.HTTPError):
        await enter(first, b"1")
    assert await dying.ended() == -9
    assert await enter(second, b"2") == 409
    assert await enter(second, b"1") == 200
