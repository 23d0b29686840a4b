"""A waiting room under fire: a second event of each run, whose people join, wait, claim, reserve, leave.

It goes on beside whatever the run breaks; what its people were told is written down for `checker_queue`.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import redis
import redis.asyncio

from engine import ids
from engine.keys import CellKeys
from engine.tokens import TokenSigner
from tests.drills.http import HttpAnswer, HttpConnection, NoAnswer
from tests.drills.organizer import Organizer
from tests.drills.queue_facts import Facts, Sample, Told, write_facts
from tests.drills.stack import CLIENTS, Stack

API = "/api/v1"
PEOPLE = 8
"""At the same time."""
WAITING_ROOM = {
    "mode": "open",
    "admissions_per_second": 50,
    "passes_max": 3,
    "pass_ttl_seconds": 5,
    "claim_grace_seconds": 1,
}
HOLD_TTL_S = 2
SEATS = 20_000
TIMEOUT_S = 3.0
TOKEN_TTL_S = 900
POLL_S = 0.15
PAUSE_S = (0.02, 0.1)
SAMPLE_S = 0.05
STREAM_S = 2.0
LIFE_S = 25.0
"""So long somebody waits for their turn, at most."""
FINISH_S = 30.0


class QueueCrowd:
    """Everybody who waits, and who counts the passes from the outside."""

    def __init__(self, stack: Stack, folder: Path, seed: int) -> None:
        self._stack = stack
        self._folder = folder
        self._seed = seed
        self._signer = TokenSigner(stack.settings.jwt_secret)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.facts = Facts("", int(WAITING_ROOM["passes_max"]))  # type: ignore[call-overload]
        self._zone = ""

    async def start(self, organizer: Organizer) -> None:
        """Put the event on sale, and let people come."""
        self.facts.event, self._zone = await organizer.put_waiting_room_on_sale(
            f"Queue {self._seed}", WAITING_ROOM, SEATS, HOLD_TTL_S
        )
        self._tasks = [asyncio.create_task(self._live(number)) for number in range(PEOPLE)]
        self._tasks += [asyncio.create_task(self._count()), asyncio.create_task(self._watch_place())]

    async def stop(self) -> None:
        """Nobody begins anew; everybody ends what they have begun."""
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """End at once, and keep what was told."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        write_facts(self._folder, self.facts)

    async def _count(self) -> None:
        """How many passes are out, asked of the Redis that serves, whichever that is."""
        keys = CellKeys(ids.cell_of(UUID(self.facts.event)))
        while not self._is_over:
            client = redis.asyncio.Redis.from_url(self._stack.redis.url, socket_timeout=TIMEOUT_S)
            with contextlib.suppress(redis.RedisError, OSError):
                while not self._is_over:
                    # One transaction: what is out at the time that is asked for with it.
                    pipeline = client.pipeline(transaction=True)
                    pipeline.time()
                    pipeline.zrange(keys.passes, 0, -1, withscores=True)
                    (seconds, micros), passes = await pipeline.execute()
                    now_ms = seconds * 1000 + micros / 1000
                    out = sum(expires_at_ms > now_ms for _, expires_at_ms in passes)
                    self.facts.samples.append(Sample(time.monotonic_ns(), out))
                    await asyncio.sleep(SAMPLE_S)
            await client.aclose()
            await asyncio.sleep(SAMPLE_S)

    async def _watch_place(self) -> None:
        """Somebody who stays, and follows their place as a stream, at one gateway after the other."""
        user = UUID(int=random.Random(f"{self._seed} watcher").getrandbits(128))
        lines, ticket = self.lines(), ""
        try:
            for line in itertools.cycle(lines):
                if self._is_over:
                    return
                with contextlib.suppress(NoAnswer, TimeoutError):
                    if not ticket:
                        body = {"event_id": self.facts.event}
                        answer = await line.call(
                            "POST", f"{API}/queue/join", self.token(user), body, None, TIMEOUT_S
                        )
                        ticket = _data(answer).get("ticket", "")
                    async with asyncio.timeout(STREAM_S):
                        await line.stream(f"{API}/queue/stream?ticket={ticket}", TIMEOUT_S)
                await asyncio.sleep(POLL_S)
        finally:
            for line in lines:
                line.close()

    async def _live(self, number: int) -> None:
        choice = random.Random(f"{self._seed} queue {number}")
        while not self._is_over:
            person = _Person(self, choice)
            try:
                await person.live()
            finally:
                person.close()
            await asyncio.sleep(choice.uniform(*PAUSE_S))

    @property
    def seen(self) -> Counter[str]:
        """How often what was answered: see `sometimes`."""
        return Counter(f"queue {told.verb} {told.http or 'no answer'}" for told in self.facts.told)

    @property
    def is_over(self) -> bool:
        """Whether nobody is to begin anything new."""
        return self._is_over

    @property
    def zone(self) -> str:
        """What everybody wants."""
        return self._zone

    def token(self, user: UUID) -> str:
        """An access token."""
        return self._signer.sign(user, "user", None, ttl_s=TOKEN_TTL_S)

    def lines(self) -> list[HttpConnection]:
        """One to each gateway."""
        ways = [self._stack.network(member.name, CLIENTS) for member in self._stack.gateways]
        return [HttpConnection("127.0.0.1", way.port) for way in ways]


class _Person:
    def __init__(self, crowd: QueueCrowd, choice: random.Random) -> None:
        self._crowd = crowd
        self._choice = choice
        self._user = UUID(int=choice.getrandbits(128))
        self._token = crowd.token(self._user)
        self._lines = crowd.lines()
        self._ticket = ""
        self._until_s = time.monotonic() + LIFE_S

    def close(self) -> None:
        """Hang up."""
        for line in self._lines:
            line.close()

    async def live(self) -> None:
        """Join, wait, and do what people do then."""
        choice = self._choice
        if not await self._join():
            return
        if choice.random() < 0.1:
            await self._join()
        if choice.random() < 0.08:
            await self._ask("leave", "DELETE", "/queue/place", {})
            return
        if not await self._wait():
            return
        if choice.random() < 0.1:
            # Served, and gone.
            return
        pass_text, expires_at_ms = await self._claim()
        if choice.random() < 0.1 or not pass_text:
            return
        booking = await self._reserve(pass_text, expires_at_ms)
        if choice.random() < 0.3:
            # A pass is good for one booking.
            await self._reserve(pass_text, expires_at_ms)
        if choice.random() < 0.1:
            await self._reserve("", 0)
        if booking and choice.random() < 0.6:
            verb = "confirm" if choice.random() < 0.7 else "cancel"
            await self._ask(verb, "POST", f"/bookings/{booking}/{verb}", {}, {})

    async def _join(self) -> bool:
        while not self._is_late():
            headers = {"X-Queue-Ticket": self._ticket} if self._ticket else {}
            answer = await self._ask(
                "join", "POST", "/queue/join", {"event_id": self._crowd.facts.event}, headers
            )
            if answer is not None and answer.status == 201:
                self._ticket = _data(answer)["ticket"]
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _wait(self) -> bool:
        """Poll until it is one's turn."""
        while not self._is_late():
            answer = await self._ask("status", "GET", "/queue/status")
            status = _data(answer).get("status") if answer is not None else None
            if status in ("served", "admitted"):
                return True
            if answer is not None and answer.status == 404 and not await self._join():
                return False
            await asyncio.sleep(POLL_S)
        return False

    async def _claim(self) -> tuple[str, int]:
        while not self._is_late():
            answer = await self._ask("pass", "POST", "/queue/pass", {})
            if answer is not None and answer.status == 201:
                data = _data(answer)
                return data["pass"], _ms(data["expires_at"])
            if answer is not None and answer.status in (404, 410):
                return "", 0
            await asyncio.sleep(POLL_S)
        return "", 0

    async def _reserve(self, pass_text: str, expires_at_ms: int) -> str | None:
        """With a key, again and again until it is known what became of it."""
        key = f"{self._choice.getrandbits(64):016x}"
        headers = {"X-Queue-Pass": pass_text} if pass_text else {}
        body = {"items": [{"zone_id": self._crowd.zone, "quantity": self._choice.randint(1, 2)}]}
        while not self._is_late():
            answer = await self._ask(
                "reserve", "POST", "/bookings/reserve", body, headers, key=key, with_pass_ms=expires_at_ms
            )
            if answer is not None and answer.status not in (429, 503):
                return _data(answer).get("id")
            await asyncio.sleep(POLL_S)
        return None

    def _is_late(self) -> bool:
        return time.monotonic() > self._until_s or self._crowd.is_over

    async def _ask(
        self,
        verb: str,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        *,
        key: str | None = None,
        with_pass_ms: int = 0,
    ) -> HttpAnswer | None:
        """Ask one of the gateways once, and write down what came; None where nothing did."""
        asked_ns = time.monotonic_ns()
        if headers is None or verb == "pass":
            headers = {"X-Queue-Ticket": self._ticket}
        line = self._choice.choice(self._lines)
        try:
            answer = await line.call(method, API + path, self._token, body, key, TIMEOUT_S, headers)
        except NoAnswer:
            answer = None
        told = Told(
            verb=verb,
            user=str(self._user),
            asked_ns=asked_ns,
            answered_ns=time.monotonic_ns(),
            http=answer.status if answer is not None else 0,
            with_pass_ms=with_pass_ms,
            is_unknown=answer is None or answer.status == 503,
        )
        if answer is not None:
            data, error = _data(answer), _error(answer)
            told.code, told.status, told.place = error.get("code"), data.get("status"), data.get("place")
            if verb == "pass" and "expires_at" in data:
                told.expires_at_ms = _ms(data["expires_at"])
            if verb == "reserve":
                told.booking = data.get("id")
        self._crowd.facts.told.append(told)
        return answer


def _decoded(answer: HttpAnswer) -> dict[str, Any]:
    try:
        told = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _data(answer: HttpAnswer) -> dict[str, Any]:
    return _decoded(answer).get("data") or {}


def _error(answer: HttpAnswer) -> dict[str, Any]:
    return _decoded(answer).get("error") or {}


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
