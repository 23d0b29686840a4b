"""A waiting room in Postgres without any Redis, and a queue's ledger written by hand."""

import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from tests.unit.books import START_MS, Event, Life

HOLDS_MS = 300_000
PASS_TTL_MS = 300_000
ROOM = (
    "tail, serving, admitted, claimed, spent, units, lapsed, entrants, frozen_at, frozen_epoch, frozen_seq, "
    "drawn_at"
)


async def open_waiting_room(database: asyncpg.Connection, event: Event, mode: str = "open") -> None:
    """The row that publishing makes."""
    await database.execute(
        "INSERT INTO waiting_rooms (event_ref, cell, mode, seed, commitment, key) "
        "VALUES ($1, $2, $3, $4, $4, $4)",
        *event.cell_id,
        mode,
        bytes(32),
    )


def user(number: int) -> str:
    """Somebody."""
    return str(UUID(int=number))


def join(first: int, people: int = 1, at_ms: int = START_MS) -> list[Any]:
    """People with the numbers from `first` on; each is named after their number."""
    return ["join", at_ms, first, [user(first + i) for i in range(people)]]


def leave(number: int, at_ms: int = START_MS + 1) -> list[Any]:
    """They give their place up."""
    return ["leave", at_ms, user(number), number, number]


def admit(first: int, last: int, people: int | None = None, at_ms: int = START_MS + 2) -> list[Any]:
    """A wave."""
    return ["admit", at_ms, first, last, last - first + 1 if people is None else people]


def claim(number: int, at_ms: int = START_MS + 3) -> list[Any]:
    """They take their pass."""
    return ["claim", at_ms, user(number), number, number, at_ms + PASS_TTL_MS]


def lapse(*numbers: int, at_ms: int = START_MS + 4 + PASS_TTL_MS) -> list[Any]:
    """Their passes ran out."""
    return ["lapse", at_ms, [[user(number), number] for number in numbers]]


def spend(event: Event, number: int, quantity: int = 1) -> tuple[list[Any], Life]:
    """They reserve with their pass."""
    life = Life(event, quantity=quantity)
    life.user = UUID(int=number)
    return [*life.reserve(), 1], life


class Queue(msgspec.Struct):
    """A queue that lives through random days, as the scripts would write them."""

    event: Event
    chance: random.Random
    at_ms: int = START_MS
    tail: int = 0
    serving: int = 0
    waiting: dict[int, bool] = {}
    """Living numbers, and whether they have a pass that is out."""
    entries: list[Any] = []

    def step(self) -> None:
        """Something happens."""
        self.at_ms += self.chance.randint(0, 3_000)
        living = sorted(self.waiting)
        served = [number for number in living if number <= self.serving]
        out = [number for number in served if self.waiting[number]]
        what = self.chance.choice(
            ["join", "join", "join", "leave", "admit", "claim", "claim", "lapse", "spend"]
        )
        if what == "join":
            people = self.chance.randint(1, 5)
            self.entries.append(join(self.tail + 1, people, self.at_ms))
            self.waiting |= dict.fromkeys(range(self.tail + 1, self.tail + people + 1), False)
            self.tail += people
        elif what == "leave" and living:
            number = self.chance.choice(living)
            self.entries.append(leave(number, self.at_ms))
            del self.waiting[number]
        elif what == "admit" and self.serving < self.tail:
            last = self.chance.randint(self.serving + 1, min(self.tail, self.serving + 4))
            people = sum(self.serving < number <= last for number in living)
            self.entries.append(admit(self.serving + 1, last, people, self.at_ms))
            self.serving = last
        elif what == "claim" and len(out) < len(served):
            number = self.chance.choice([number for number in served if number not in out])
            self.entries.append(claim(number, self.at_ms))
            self.waiting[number] = True
        elif what == "lapse" and out:
            numbers = self.chance.sample(out, self.chance.randint(1, len(out)))
            self.entries.append(lapse(*numbers, at_ms=self.at_ms))
            for number in numbers:
                del self.waiting[number]
        elif what == "spend" and out:
            number = self.chance.choice(out)
            entry, life = spend(self.event, number)
            self.entries.append(entry)
            self.entries.append(life.give_back("cancel"))
            self.waiting[number] = False


def random_queue(event: Event, seed: int, steps: int) -> Queue:
    """A queue that has lived."""
    queue = Queue(event, random.Random(seed))
    for _ in range(steps):
        queue.step()
    return queue


async def queue_tables(database: asyncpg.Connection, event: Event) -> dict[str, list[tuple[Any, ...]]]:
    """All that the relay writes of a queue."""
    here = "WHERE event_ref = $1 AND cell = $2"
    queries = {
        "room": f"SELECT {ROOM} FROM waiting_rooms {here}",
        "places": f"SELECT number, user_id, joined_at, ended_at FROM queue_places {here} ORDER BY number",
        "passes": f"SELECT user_id, number, place, claimed_at, expires_at, booking_id, ended_at "
        f"FROM queue_passes {here} ORDER BY number, user_id",
        "waves": f"SELECT to_place, from_place, people, served_at FROM queue_waves {here} ORDER BY to_place",
    }
    return {
        name: [tuple(row) for row in await database.fetch(sql, *event.cell_id)]
        for name, sql in queries.items()
    }


async def room(database: asyncpg.Connection, event: Event) -> dict[str, Any]:
    """The row of the waiting room."""
    row = await database.fetchrow(
        f"SELECT {ROOM} FROM waiting_rooms WHERE event_ref = $1 AND cell = $2", *event.cell_id
    )
    return dict(row)


def strangers(first: int, people: Sequence[str] | int, at_ms: int = START_MS) -> list[Any]:
    """People who are named after nothing."""
    names = [str(uuid4()) for _ in range(people)] if isinstance(people, int) else list(people)
    return ["join", at_ms, first, names]
