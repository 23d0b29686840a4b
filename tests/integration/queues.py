"""People in a waiting room, one by one, over stores of a test's own."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

import msgspec

from engine.bookings import Answer, Bookings
from engine.cells import CellDirectory
from engine.errors import ServiceUnavailable
from engine.status import Status
from engine.waiting.calls import QueueCalls
from engine.waiting.settings import StoredRoom
from tests.integration.kit import WAIT_TIMEOUT_S, Event, Rig

ROOM = StoredRoom(
    mode="open", admissions_per_second=100_000.0, passes_max=8, pass_ttl_seconds=600, claim_grace_seconds=300
)
T = TypeVar("T")


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, asked for again after every 503."""
    deadline_s = time.monotonic() + WAIT_TIMEOUT_S
    while True:
        try:
            return await ask()
        except ServiceUnavailable:
            assert time.monotonic() < deadline_s, "503 for too long"
            await asyncio.sleep(0.02)


class Person(NamedTuple):
    """Somebody with a number."""

    user: UUID
    number: int


class Admitted(NamedTuple):
    """What admit answered."""

    serving: int
    people: int
    out: int
    tail: int


class Room:
    """The waiting room of one event."""

    def __init__(self, rig: Rig, event: Event, bookings: Bookings) -> None:
        self.rig, self.event, self.bookings = rig, event, bookings
        self.calls = QueueCalls(rig.stores, CellDirectory(rig.stores))

    async def join(self, user: UUID | None = None, asserted: int = 0) -> Person:
        """Somebody joins."""
        user = user or uuid4()
        joined = await patiently(lambda: self.calls.join(self.event.id, user, asserted))
        return Person(user, joined.number)

    async def people(self, count: int) -> list[Person]:
        """So many join, one after the other."""
        return [await self.join() for _ in range(count)]

    async def leave(self, person: Person) -> None:
        """They give their place up."""
        await patiently(lambda: self.calls.leave(self.event.id, person.user, person.number, 0))

    async def claim(self, person: Person) -> int:
        """Their pass: when it runs out."""
        ask = lambda: self.calls.claim(self.event.id, person.user, person.number, 0)  # noqa: E731
        return (await patiently(ask)).expires_at_ms

    async def reserve(self, person: Person, expires_at_ms: int, key: str | None = None) -> Answer:
        """They spend it."""
        items = self.event.items()
        return await patiently(
            lambda: self.bookings.reserve(person.user, items, key, queue_pass=str(expires_at_ms))
        )

    async def admit(self, people_max: int = 100) -> Admitted:
        """What the admission worker does, once."""
        names = self.event.keys.waiting_room

        async def ask() -> Any:
            reply = await self.rig.stores.run("admit", names, 1000, 0, 100, people_max)
            if reply[0] in (Status.NOT_OPEN, Status.REBUILDING):
                raise ServiceUnavailable
            return reply

        reply = await patiently(ask)
        assert reply[0] == Status.OK, Status(reply[0])
        return Admitted(*(int(value) for value in reply[2:]))


async def open_room(rig: Rig, room: StoredRoom = ROOM, seats: int = 100) -> Room:
    """An event with a waiting room, on sale; a recovery must be working."""
    event = await rig.sale([seats], waiting_room=msgspec.to_builtins(room))
    return Room(rig, event, await rig.gateway())
