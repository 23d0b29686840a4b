"""A cell with a waiting room that tests drive by hand."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from engine.status import Status
from tests.lua.cellkit import Answer, Backend, Cell, Zone, as_answer, as_json

PASS_TTL_MS = 30_000
GRACE_MS = 5_000


class Admitted(NamedTuple):
    """What admit answered."""

    serving: int
    people: int
    out: int
    tail: int


class Person(NamedTuple):
    """Somebody with a number in the waiting room."""

    user: str
    number: int


class QueueCell(Cell):
    """A cell whose waiting room lets in anybody at any rate, but for what is named of `queue_...`."""

    def __init__(
        self,
        backend: Backend,
        zones: Sequence[Zone] = (Zone(),),
        *,
        sale: dict[str, Any] | None = None,
        **room: Any,
    ) -> None:
        fields = {
            "mode": "open",
            "opens_at_ms": 0,
            "interval_us": 10,
            "passes_max": 1000,
            "pass_ttl_ms": PASS_TTL_MS,
            "grace_ms": GRACE_MS,
            "paused": 0,
        } | room
        super().__init__(
            backend, zones, **{f"queue_{name}": value for name, value in fields.items()}, **sale or {}
        )

    def before_opening(self) -> None:
        """An empty waiting room."""
        assert self.build_queue("1-token", {"tail": 0, "serving": 0}).status == Status.OK

    def join(self, *users: str, asserted: int = 0) -> list[Answer]:
        """Let these people join in one call, each with a ticket of that number."""
        keys = self.keys
        arguments: list[Any] = [len(users)]
        for user in users:
            arguments += [UUID(user).bytes, user, asserted]
        names = [keys.sale, keys.queue, keys.places, keys.gone, keys.ledger]
        return [as_answer(reply) for reply in self.backend.call("join", names, *arguments)]

    def people(self, count: int) -> list[Person]:
        """So many new people, who join."""
        users = [self.new_user() for _ in range(count)]
        answers = [
            answer for first in range(0, count, 64) for answer in self.join(*users[first : first + 64])
        ]
        assert {answer.status for answer in answers} <= {Status.OK}, answers
        return [Person(user, answer.detail[0]) for user, answer in zip(users, answers, strict=True)]

    def leave(self, person: Person, place: int = 0) -> Answer:
        """Give a place up."""
        user, number = person
        return self.call("leave", self.keys.waiting_room, UUID(user).bytes, user, number, place)

    def claim(self, person: Person, place: int = 0) -> Answer:
        """Claim a pass."""
        user, number = person
        return self.call("claim", self.keys.waiting_room, UUID(user).bytes, user, number, place)

    def passed(self, person: Person, place: int = 0) -> str:
        """The pass of somebody who must get one, as reserve takes it."""
        answer = self.claim(person, place)
        assert answer.status in (Status.OK, Status.REPLAYED), answer
        return str(answer.detail[0])

    def admit(
        self,
        people_max: int = 1000,
        *,
        basket_milli: int = 1000,
        return_permille: int = 0,
        lapse_max: int = 100,
    ) -> Admitted:
        """Take back what ended and let people in."""
        arguments = (basket_milli, return_permille, lapse_max, people_max)
        answer = self.call("admit", self.keys.waiting_room, *arguments)
        assert answer.status == Status.OK, answer
        return Admitted(*answer.detail)

    def draw(self, key: str, gone_count: int, gone: bytes) -> Answer:
        """Tell the outcome of the lottery."""
        keys = [self.keys.sale, self.keys.queue, self.keys.gone, self.keys.ledger]
        return self.call("draw", keys, key, gone_count, gone)

    def queue(self) -> dict[str, str]:
        """The hash of the waiting room."""
        return self.hash("queue")

    def build_places(self, token: str, people: Sequence[Person]) -> Answer:
        """Put places back."""
        arguments = [part for user, number in people for part in (UUID(user).bytes, number)]
        return self.call("build_places", [self.keys.build, self.keys.places], token, *arguments)

    def build_queue(
        self,
        token: str,
        queue: dict[str, Any],
        *,
        passes: Sequence[tuple[str, int]] = (),
        spent: Sequence[tuple[str, str]] = (),
        waves: Sequence[tuple[int, int, int, int]] = (),
        gone: bytes = b"",
    ) -> Answer:
        """Put the waiting room back."""
        keys = self.keys
        names = [keys.build, keys.queue, keys.passes, keys.spent, keys.waves, keys.gone]
        lists = [json.dumps([list(row) for row in rows]) for rows in (passes, spent, waves)]
        return self.call("build_queue", names, token, as_json(queue), *lists, gone)
