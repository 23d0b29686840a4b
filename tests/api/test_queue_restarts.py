"""A queue whose Redis restarts, keeps its data or loses it: everybody stands where they stood."""

import asyncio

import httpx
import pytest

from engine.stores import Stores
from engine.waiting.tickets import QueueSigner
from gateway.app import Application
from tests.api.conftest import Mint
from tests.api.queuekit import Person, Room, looks, open_room, rooms_of
from tests.integration.kit import until

GAP = 10_000


@pytest.fixture
async def room(ready: httpx.AsyncClient, mint: Mint, stores: Stores) -> Room:
    return await open_room(ready, mint, stores)


async def durable(stores: Stores, places: int, passes: int) -> None:
    """Wait until Postgres has so many."""

    async def is_durable() -> bool:
        counts = [
            await stores.pool.fetchval(f"SELECT count(*) FROM {table}")
            for table in ("queue_places", "queue_passes")
        ]
        return counts == [places, passes]

    await until(is_durable, f"{places} places and {passes} passes are in Postgres")


async def patiently(person: Person) -> dict[str, object]:
    """How somebody stands, as soon as that is known again: until then 503, and nothing else."""

    async def answered() -> httpx.Response | None:
        answer = await person.status()
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 503:
            assert "retry-after" in answer.headers
            return None
        return answer

    answer = await until(answered, "the status is known again")
    assert answer is not None
    state: dict[str, object] = answer.json()["data"]
    return state


async def back_again(app: Application, room: Room, epoch: int) -> None:
    """Wait until what people are told is of a later epoch."""

    async def is_later() -> bool:
        view = rooms_of(app).views.known(room.cell_id)
        return view is not None and view.epoch > epoch

    await until(is_later, "the queue is looked at in a later epoch")


async def epoch_of(app: Application, room: Room) -> int:
    return (await rooms_of(app).views.find(room.cell_id)).epoch


@pytest.mark.parametrize("is_lost", [False, True], ids=["with its data", "empty"])
async def test_everybody_stands_where_they_stood(
    app: Application, room: Room, stores: Stores, is_lost: bool
) -> None:
    admitted, left, first, second = await room.joined(4)
    assert await room.admit(people_max=1) == 1
    queue_pass = (await admitted.claim()).json()["data"]["pass"]
    assert (await left.leave()).status_code == 204
    await looks(rooms_of(app), room)
    before = [(await person.state()) for person in (admitted, first, second)]
    await durable(stores, 4, 1)
    epoch = await epoch_of(app, room)
    if is_lost:
        await stores.redis.flushall()
    await stores.redis.script_flush()

    asking = [asyncio.create_task(patiently(person)) for person in (admitted, first, second)]
    await asyncio.gather(*asking)
    await back_again(app, room, epoch)
    after = [(await person.state()) for person in (admitted, first, second)]
    told = ("ticket", "status", "place", "ahead")
    assert [[state[name] for name in told] for state in after] == [
        [state[name] for name in told] for state in before
    ]
    assert (await left.status()).status_code == 404
    assert (await admitted.claim()).json()["data"]["pass"] == queue_pass
    assert (await admitted.reserve(queue_pass)).status_code == 201
    # Who joins again has the same place; who is new stands behind everybody, and behind all who may have
    # been forgotten.
    again = await first.join()
    assert (again.status_code, again.json()["data"]["place"]) == (201, 3)
    newcomer = room.person()
    joined = await newcomer.join()
    assert joined.json()["data"]["place"] == 5 + GAP


async def test_who_was_forgotten_gets_the_place_of_their_ticket_back(
    app: Application, room: Room, stores: Stores
) -> None:
    await room.joined(2)
    await durable(stores, 2, 0)
    epoch = await epoch_of(app, room)
    await stores.redis.flushall()
    await stores.redis.script_flush()
    await back_again(app, room, epoch)
    # As Redis gave it to them in the moment before it lost its end.
    forgotten = room.person()
    forgotten.ticket = QueueSigner(stores.settings.jwt_secret).ticket(room.id, forgotten.id, 7)
    assert (await forgotten.status()).status_code == 404
    joined = await forgotten.join(**{"x-queue-ticket": forgotten.ticket})
    assert (joined.status_code, joined.json()["data"]["place"]) == (201, 7)
    await looks(rooms_of(app), room)
    state = await forgotten.state()
    assert (state["status"], state["place"], state["ahead"]) == ("waiting", 7, 2)
    # Without the ticket there is no such claim.
    other = room.person()
    assert (await other.join()).json()["data"]["place"] == GAP + 3
