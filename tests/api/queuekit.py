"""A waiting room for tests: people who join, admission that is called by hand, looks that are waited for."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx

from engine.ids import cell_of
from engine.keys import CellKeys
from engine.stores import Stores
from engine.times import rfc3339
from engine.waiting.rooms import WaitingRooms
from gateway.app import Application
from tests.api.conftest import API, Mint, event_body

RESERVE = f"{API}/bookings/reserve"
PEOPLE_MAX = 1_000


class Person:
    """Somebody with a token; `ticket` once they joined."""

    def __init__(self, room: "Room", mint: Mint) -> None:
        self.id = uuid4()
        self.token = mint(user_id=self.id)
        self.ticket = ""
        self._room = room
        self._client = room.client

    @property
    def headers(self) -> dict[str, str]:
        """Token and ticket."""
        return self.token | {"x-queue-ticket": self.ticket}

    async def join(self, **headers: str) -> httpx.Response:
        body = {"event_id": self._room.event["id"]}
        answer = await self._client.post(f"{API}/queue/join", json=body, headers=self.token | headers)
        if answer.status_code == 201:
            self.ticket = answer.json()["data"]["ticket"]
        return answer

    async def status(self) -> httpx.Response:
        return await self._client.get(f"{API}/queue/status", headers={"x-queue-ticket": self.ticket})

    async def state(self) -> dict[str, Any]:
        answer = await self.status()
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()["data"]
        return state

    async def claim(self) -> httpx.Response:
        return await self._client.post(f"{API}/queue/pass", headers=self.headers)

    async def leave(self) -> httpx.Response:
        return await self._client.delete(f"{API}/queue/place", headers=self.headers)

    async def reserve(self, queue_pass: str | None = None, quantity: int = 1) -> httpx.Response:
        zone = self._room.event["shows"][0]["zones"][0]["id"]
        body = {"items": [{"zone_id": zone, "quantity": quantity}]}
        headers = self.token if queue_pass is None else self.token | {"x-queue-pass": queue_pass}
        return await self._client.post(RESERVE, json=body, headers=headers)

    async def cancel(self, booking_id: str) -> httpx.Response:
        return await self._client.post(f"{API}/bookings/{booking_id}/cancel", headers=self.token)


class Room:
    """An event with a waiting room, on sale."""

    def __init__(self, client: httpx.AsyncClient, mint: Mint, stores: Stores, event: dict[str, Any]) -> None:
        self.client = client
        self.event = event
        self.id = UUID(event["id"])
        self.cell_id = cell_of(self.id)
        self.keys = CellKeys(self.cell_id)
        self._mint = mint
        self._stores = stores

    def person(self) -> Person:
        return Person(self, self._mint)

    async def joined(self, number: int) -> list[Person]:
        """So many people, one behind the other."""
        people = [self.person() for _ in range(number)]
        for person in people:
            answer = await person.join()
            assert answer.status_code == 201, answer.text
        return people

    async def admit(self, people_max: int = PEOPLE_MAX) -> int:
        """One round of admission; how many were let in."""
        keys = self.keys
        reply = await self._stores.run(
            "admit",
            keys.waiting_room,
            1000, 0, 100, people_max,
        )  # fmt: skip
        assert reply[0] == 0, reply
        return int(reply[3])

    async def organize(self, method: str, path: str = "", **body: Any) -> httpx.Response:
        """A call of the organizer's."""
        return await self.client.request(
            method, f"{API}/events/{self.event['id']}{path}", json=body or None, headers=self._mint("admin")
        )


async def open_room(
    client: httpx.AsyncClient, mint: Mint, stores: Stores, *, seats: int = 100, **settings: Any
) -> Room:
    """A published event with a waiting room that lets everybody in at once who may be."""
    room = {"mode": "open", "admissions_per_second": 100_000} | settings
    zones = [{"name": "Floor", "price": "0.00", "total_seats": seats}]
    shows = [{"show_date": "2027-05-01T19:30:00Z", "zones": zones}]
    headers = mint("admin")
    body = event_body(waiting_room=room, shows=shows, max_per_user=100)
    made = await client.post(f"{API}/events", json=body, headers=headers)
    assert made.status_code == 201, made.text
    answer = await client.post(f"{API}/events/{made.json()['data']['id']}/publish", headers=headers)
    assert answer.status_code == 200, answer.text
    return Room(client, mint, stores, answer.json()["data"])


def rooms_of(app: Application) -> WaitingRooms:
    """What this application knows of its waiting rooms."""
    [endpoint] = [route for url, route in app.hot.items() if url.endswith(b"/queue/join")]
    return endpoint._gateway.services.rooms


async def looks(rooms: WaitingRooms, room: Room, number: int = 2) -> None:
    """Wait until the queue has been looked at so often, beginning now."""
    looked = asyncio.Semaphore(0)
    with rooms.views.listening(cell_of(room.id), looked.release):
        async with asyncio.timeout(20):
            for _ in range(number):
                await looked.acquire()


def in_s(seconds: float, now_ms: int) -> str:
    """A time from now, as an organizer sends it."""
    return rfc3339(now_ms + int(seconds * 1000))
