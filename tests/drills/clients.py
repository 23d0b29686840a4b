"""The people of a drill: they reserve, press twice, try again, confirm, cancel, let go; all is written down.

    load = Load(stack, event, folder, seed)
    load.start()
    …
    await load.stop()       # everybody finishes what they have begun

Every client is a file of the history (see `history`), has one connection to each gateway, and everything it
wants follows from the seed. Most of its buyers are new people; some are the same few who press all the time.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from engine.tokens import TokenSigner
from tests.drills.history import Answered, Asked, ClientWriter, Event, answered
from tests.drills.http import HttpAnswer, HttpConnection, NoAnswer
from tests.drills.stack import CLIENTS, Stack

CLIENTS_COUNT = 14
PAUSE_S = (0.01, 0.06)
RETRY_S = (0.05, 0.25)
ANSWER_TIMEOUT_S = 3.0
"""Who has no answer by then hangs up, and tries the other gateway."""
TOKEN_TTL_S = 900
FINISH_S = 45.0
"""So long somebody tries to learn what became of what they asked, when the load is over."""
HAMMERERS = 4
RESERVE_PATH = "/api/v1/bookings/reserve"
PRESSING = 5
"""Every so-manieth client only presses and lets go: who confirms may wait, and then presses nothing."""
STOCK_ZONE_SHARE = 0.35
"""Of all wishes go to the scarce zone, the last one."""


class _Body(msgspec.Struct):
    data: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_body_decoder = msgspec.json.Decoder(_Body)


class Load:
    """All clients of one run, on one event."""

    def __init__(
        self, stack: Stack, event: Event, folder: Path, seed: int, clients: int = CLIENTS_COUNT
    ) -> None:
        self.event = event
        self.is_over = False
        self.seen: Counter[str] = Counter()
        """What happened at least once: see `sometimes`."""
        self.good_at_ns: dict[str, int] = {}
        """Gateway → when it last gave a reserve an answer that means something."""
        self.give_up_s = float("inf")
        self.signer = TokenSigner(stack.settings.jwt_secret)
        self._clients = [Client(self, stack, folder, seed, number) for number in range(clients)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Everybody begins."""
        self._tasks = [asyncio.create_task(client.live()) for client in self._clients]

    def check(self) -> None:
        """Raises what a client ended with, if one did: then there is no load any more."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self) -> None:
        """Nobody begins anything new; who waits for an answer gets it, or gives up in the end."""
        self.is_over = True
        self.give_up_s = time.monotonic() + FINISH_S
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Stop at once: what is unanswered remains so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            client.close()


class Client:
    """One of them: one buyer after the other."""

    def __init__(self, load: Load, stack: Stack, folder: Path, seed: int, number: int) -> None:
        self._load = load
        self._event = load.event
        self._choice = random.Random(f"{seed} client {number}")
        self._crowd = [
            UUID(int=random.Random(f"{seed} crowd {n}").getrandbits(128)) for n in range(HAMMERERS)
        ]
        self._writer = ClientWriter(folder, str(number))
        self._seen = load.seen
        self._count = 0
        self._only_presses = number % PRESSING == 0
        ways = {member.name: stack.network(member.name, CLIENTS) for member in stack.gateways}
        self._ways = {name: ("127.0.0.1", way.port) for name, way in ways.items()}
        # A double press needs a second line to the gateway.
        self._lines = [self._connect(), self._connect()]
        self._gateway = min(self._ways)

    def _connect(self) -> dict[str, HttpConnection]:
        return {name: HttpConnection(*address) for name, address in self._ways.items()}

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
        for line in self._lines:
            for connection in line.values():
                connection.close()

    async def live(self) -> None:
        """Be one buyer after the other until the load is over."""
        while not self._load.is_over:
            self._gateway = self._choice.choice(sorted(self._ways))
            if self._choice.random() < 0.08:
                await self._hammer()
            else:
                await self._buy()
            await asyncio.sleep(self._choice.uniform(*PAUSE_S))

    # What people do.

    async def _buy(self) -> None:
        choice = self._choice
        buyer = UUID(int=choice.getrandbits(128))
        items = self._wish()
        key = f"{choice.getrandbits(64):016x}" if choice.random() < 0.8 else None
        then, pause_s = 1.0 if self._only_presses else choice.random(), choice.expovariate(6)
        is_double = key is not None and choice.random() < 0.1
        is_reused = key is not None and choice.random() < 0.02
        if is_double:
            answer, _ = await asyncio.gather(
                self._reserve(buyer, items, key), self._reserve(buyer, items, key, line=1)
            )
        else:
            answer = await self._reserve(buyer, items, key)
        if answer is None or answer.status != 201:
            return
        booking = _data(answer)["id"]
        if is_reused:
            await self._ask("reserve", buyer, [(self._event.zones[0].id, 3)], key=key)
        if then < 0.55:
            await asyncio.sleep(min(pause_s, 0.5))
            await self._insist("confirm", buyer, booking)
            if then < 0.1:
                await self._insist("confirm" if then < 0.05 else "cancel", buyer, booking)
        elif then < 0.7:
            await asyncio.sleep(min(pause_s, 0.5))
            await self._insist("cancel", buyer, booking)
            if then < 0.6:
                await self._insist("cancel" if then < 0.575 else "confirm", buyer, booking)
        elif then < 0.78:
            await self._ask("get", buyer, booking=booking)
        elif then < 0.8 and not self._load.is_over:
            # The hold runs out meanwhile.
            await asyncio.sleep(self._event.hold_ttl_ms / 1000 + 0.1)
            await self._insist("confirm", buyer, booking)
        if key is not None and choice.random() < 0.05:
            await self._reserve(buyer, items, key)

    async def _hammer(self) -> None:
        """One of a few people who press all the time: over their limit, and too fast."""
        buyer = self._choice.choice(self._crowd)
        for _ in range(self._choice.randint(1, 4)):
            key = f"{self._choice.getrandbits(64):016x}"
            answer = await self._reserve(buyer, self._wish(), key)
            if answer is not None and answer.status == 201 and self._choice.random() < 0.4:
                await self._insist("cancel", buyer, _data(answer)["id"])

    def _wish(self) -> list[tuple[str, int]]:
        zones = self._event.zones
        if self._choice.random() < STOCK_ZONE_SHARE:
            return [(zones[-1].id, self._choice.randint(1, 2))]
        if len(zones) > 2 and self._choice.random() < 0.2:
            return [(zone.id, 1) for zone in zones[:2]]
        return [(self._choice.choice(zones[:-1] or zones).id, self._choice.randint(1, 3))]

    async def _reserve(
        self, buyer: UUID, items: list[tuple[str, int]], key: str | None, line: int = 0
    ) -> HttpAnswer | None:
        """Press until it is known what happened. Who has no key cannot ask again: they may get two."""
        was_unknown = False
        while True:
            answer = await self._ask("reserve", buyer, items, key=key, line=line)
            if answer is not None and answer.status < 500:
                self._note_reserve(answer, was_unknown=was_unknown)
                return answer
            if key is None or time.monotonic() > self._load.give_up_s:
                self._seen["given up"] += key is not None
                return answer
            was_unknown = was_unknown or answer is None or b"answer was lost" in answer.body
            await self._before_another_try()

    def _note_reserve(self, answer: HttpAnswer, *, was_unknown: bool) -> None:
        is_replay = answer.headers.get("idempotent-replayed") == "true"
        self._seen["replay answered"] += is_replay
        self._seen["unknown outcome resolved by retry"] += was_unknown and answer.status == 201
        self._seen["unknown outcome had been carried out"] += was_unknown and is_replay

    async def _insist(self, verb: str, buyer: UUID, booking: str) -> HttpAnswer | None:
        """Confirm or cancel until the answer is final."""
        was_late = False
        while True:
            answer = await self._ask(verb, buyer, booking=booking)
            if answer is not None and answer.status not in (202, 429) and answer.status < 500:
                self._seen["202 confirm later durable"] += was_late and answer.status == 200
                self._seen["hold lost with Redis told at its end"] += answer.status == 404
                return answer
            if time.monotonic() > self._load.give_up_s:
                self._seen["given up"] += 1
                return answer
            was_late = was_late or (answer is not None and answer.status == 202)
            await self._before_another_try()

    async def _before_another_try(self) -> None:
        # Another try goes to another gateway, as a load balancer would have it.
        others = [name for name in self._ways if name != self._gateway]
        if others and self._choice.random() < 0.5:
            self._gateway = self._choice.choice(sorted(others))
        await asyncio.sleep(self._choice.uniform(*RETRY_S))

    # How it goes over the wire, and into the history.

    async def _ask(
        self,
        verb: str,
        buyer: UUID,
        items: list[tuple[str, int]] | None = None,
        *,
        key: str | None = None,
        booking: str | None = None,
        line: int = 0,
    ) -> HttpAnswer | None:
        """One request; None where no answer came."""
        self._count += 1
        n, gateway = self._count, self._gateway
        asked = Asked(n, verb, 0, str(buyer), self._event.id, key=key, booking=booking, items=items or [])
        asked.asked_ns = time.monotonic_ns()
        self._writer.write(asked)
        method, path, body = "POST", RESERVE_PATH, None
        if verb == "reserve":
            body = {"items": [{"zone_id": zone, "quantity": count} for zone, count in items or []]}
        elif verb == "get":
            method, path = "GET", f"/api/v1/bookings/{booking}"
        else:
            path = f"/api/v1/bookings/{booking}/{verb}"
        token = self._load.signer.sign(buyer, "user", None, ttl_s=TOKEN_TTL_S)
        try:
            answer = await self._lines[line][gateway].call(method, path, token, body, key, ANSWER_TIMEOUT_S)
        except NoAnswer:
            self._writer.write(Answered(n, time.monotonic_ns()))
            self._seen["no answer"] += 1
            return None
        now_ns = time.monotonic_ns()
        self._writer.write(answered(n, now_ns, answer.status, answer.headers, answer.body))
        self._note(verb, gateway, answer, now_ns)
        return answer

    def _note(self, verb: str, gateway: str, answer: HttpAnswer, now_ns: int) -> None:
        self._seen[f"{verb} {answer.status}"] += 1
        if verb == "reserve" and answer.status < 500:
            self._load.good_at_ns[gateway] = now_ns
        if answer.status == 503:
            for words in ("being recovered", "store is away", "answer was lost", "Too many requests"):
                self._seen[f"503 {words}"] += words.encode() in answer.body
        elif answer.status >= 500:
            self._seen["server errors"] += 1


def _data(answer: HttpAnswer) -> dict[str, Any]:
    with contextlib.suppress(msgspec.DecodeError):
        return _body_decoder.decode(answer.body).data or {}
    return {}
