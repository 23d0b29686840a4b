"""Draws under fire: one lottery after the other, each with a few people, from the first join to the places.

What is published of each is checked as anybody could: the seed is the one that was committed to, the root is
never another one, and everybody has a place of their own that does not change.
"""

import asyncio
import contextlib
import hashlib
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from engine.tokens import TokenSigner
from tests.drills.http import HttpConnection, NoAnswer
from tests.drills.stack import CLIENTS, Stack

API = "/api/v1"
PEOPLE = 4
REGISTER_S = 1.5
"""So long people may join before the entrants are frozen."""
POLL_S = 0.1
TIMEOUT_S = 4.0
PATIENCE_S = 60.0
TOKEN_TTL_S = 900


class Draws:
    """One organizer and their lotteries."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._random = random.Random(f"{seed} draws")
        self._signer = TokenSigner(stack.settings.jwt_secret)
        ways = [stack.network(member.name, CLIENTS) for member in stack.gateways]
        self._lines = [HttpConnection("127.0.0.1", way.port) for way in ways]
        self._is_over = False
        self._task: asyncio.Task[None] | None = None
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """End the draw that has begun."""
        self._is_over = True
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """End at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for line in self._lines:
            line.close()

    async def _live(self) -> None:
        number = 0
        while not self._is_over:
            number += 1
            await self._draw(f"drill round {number}" if number % 2 else None)

    async def _draw(self, public_round: str | None) -> None:
        opens_at = datetime.now(UTC) + timedelta(seconds=REGISTER_S)
        event = await self._put_on_sale(opens_at, public_round)
        event_id = event["id"]
        people = [UUID(int=self._random.getrandbits(128)) for _ in range(PEOPLE)]
        tickets = {}
        for person in people:
            joined = await self._ask("POST", "/queue/join", person, {"event_id": event_id})
            tickets[person] = joined["ticket"]
        leaver = people.pop(0)
        await self._ask("DELETE", "/queue/place", leaver, {}, tickets.pop(leaver), good=(204, 404))
        lottery = await self._until(event_id, "root")
        if public_round is not None:
            value = hashlib.sha256(public_round.encode()).hexdigest()
            body = {"round": public_round, "randomness": value}
            await self._ask("POST", f"/events/{event_id}/queue/randomness", None, body)
        shown = await self._until(event_id, "seed")
        self._check(lottery, shown)
        for line in self._lines:
            with contextlib.suppress(NoAnswer):
                await line.stream(f"{API}/queue/{event_id}/lottery/entrants", TIMEOUT_S)
        await self._check_places(people, tickets, shown["entrants"])
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        await self._ask("PUT", f"/events/{event_id}", None, {"sale_end_at": now})
        self.seen["lottery drawn"] += 1

    async def _put_on_sale(self, opens_at: datetime, public_round: str | None) -> dict[str, Any]:
        opens = opens_at.isoformat(timespec="milliseconds")
        waiting_room = {"mode": "lottery", "opens_at": opens, "public_round": public_round}
        zone = {"name": "all", "price": "0.00", "total_seats": 100}
        event = await self._ask(
            "POST",
            "/events",
            None,
            {
                "title": f"Draw {UUID(int=self._random.getrandbits(128))}",
                "currency": "GBP",
                "sale_start_at": opens,
                "waiting_room": waiting_room,
                "shows": [{"show_date": opens, "zones": [zone]}],
            },
        )
        await self._ask("POST", f"/events/{event['id']}/publish", None, {})
        return event

    def _check(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        for name in ("commitment", "root", "entrants", "public_round"):
            if before[name] != after[name]:
                self.problems.append(f"the {name} of a draw has changed: {before[name]}, {after[name]}")
        if hashlib.sha256(bytes.fromhex(after["seed"])).hexdigest() != after["commitment"]:
            self.problems.append(f"the seed of a draw is not the one that was committed to: {after}")

    async def _check_places(self, people: list[UUID], tickets: dict[UUID, str], entrants: int) -> None:
        """Everybody has a place of their own, and it stays."""
        rounds = []
        for _ in range(2):
            rounds.append([await self._place(person, tickets[person]) for person in people])
        if rounds[0] != rounds[1] or len(set(rounds[0])) < len(people):
            self.problems.append(f"places after a draw: {rounds}")
        # Who joined after the freeze, on a slow machine, stands behind.
        if any(place < 1 for place in rounds[0]) or entrants < 0:
            self.problems.append(f"places that are none: {rounds}, of {entrants}")

    async def _place(self, person: UUID, ticket: str) -> int:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            state = await self._ask("GET", "/queue/status", person, None, ticket)
            if state["place"] is not None:
                return int(state["place"])
            assert time.monotonic() < deadline_s, "a draw does not show in a status"
            await asyncio.sleep(POLL_S)

    async def _until(self, event_id: str, field: str) -> dict[str, Any]:
        """What is published of the draw, once it has that."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            lottery = await self._ask("GET", f"/queue/{event_id}/lottery", None)
            if lottery.get(field) is not None:
                return lottery
            assert time.monotonic() < deadline_s, f"the draw has no {field}: {lottery}"
            await asyncio.sleep(POLL_S)

    async def _ask(
        self,
        method: str,
        path: str,
        person: UUID | None,
        body: object = None,
        ticket: str | None = None,
        *,
        good: tuple[int, ...] = (200, 201, 204),
    ) -> dict[str, Any]:
        """Ask one gateway after the other until it is answered; without a person, as an administrator."""
        deadline_s = time.monotonic() + PATIENCE_S
        more = {"X-Queue-Ticket": ticket} if ticket else {}
        line = self._random.randrange(len(self._lines))
        while True:
            user = person or UUID(int=self._random.getrandbits(128))
            token = self._signer.sign(user, "user" if person else "admin", None, ttl_s=TOKEN_TTL_S)
            try:
                answer = await self._lines[line].call(method, API + path, token, body, None, TIMEOUT_S, more)
            except NoAnswer:
                answer = None
            line = (line + 1) % len(self._lines)
            if answer is not None and answer.status in good:
                data = msgspec.json.decode(answer.body).get("data") if answer.body else None
                return data if isinstance(data, dict) else {}
            is_final = answer is not None and answer.status < 500 and answer.status != 429
            assert not is_final, f"{method} {path} was answered {answer}"
            assert time.monotonic() < deadline_s, f"{method} {path} is not answered: {answer}"
            await asyncio.sleep(POLL_S)
