"""Requests made before the clock starts: whole HTTP/1.1 requests, byte for byte, one after the other.

Each has a user and an Idempotency-Key of its own and a token that is signed for that user. They are all of
one length, so the next one is a slice of one long buffer, and nothing is built while it is measured.
"""

import random
from collections.abc import Callable, Iterator
from uuid import UUID

from engine.tokens import TokenSigner
from loadtest.hot_plan import HotPlan

PATH = "/api/v1/bookings/reserve"
TOKEN_TTL_S = 6 * 3600
PAUSE_EVERY = 2_000
_SEED_BITS = 32


class Buyer:
    """Makes the requests of one zone, for users that follow from a seed."""

    def __init__(self, host: str, port: int, jwt_secret: str, zone_id: UUID) -> None:
        self._signer = TokenSigner(jwt_secret)
        body = b'{"items":[{"zone_id":"%s","quantity":1}]}' % str(zone_id).encode()
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._head = f"POST {PATH} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer ".encode()
        self._middle = b"\r\nContent-Type: application/json\r\nIdempotency-Key: "
        self._tail = b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def requests(self, seed: int, count: int) -> Iterator[bytes]:
        """`count` requests; the same seed gives the same users and keys."""
        choice = random.Random(seed)
        sign, head, middle, tail = self._signer.sign, self._head, self._middle, self._tail
        for _ in range(count):
            user_id = UUID(int=choice.getrandbits(128), version=4)
            token = sign(user_id, "user", None, ttl_s=TOKEN_TTL_S).encode()
            yield b"".join((head, token, middle, b"%016x" % choice.getrandbits(64), tail))


class Requests:
    """The prepared requests of one process."""

    def __init__(self, made: bytearray, size: int, replays_every: int = 0) -> None:
        if len(made) % size:
            raise ValueError("requests of different lengths")
        self._view = memoryview(made)
        self._size = size
        self._replays_every = replays_every

    def __len__(self) -> int:
        return len(self._view) // self._size

    def __getitem__(self, number: int) -> memoryview:
        start = number * self._size
        return self._view[start : start + self._size]

    def is_replay(self, number: int) -> bool:
        """Whether this one was accepted before."""
        return self._replays_every > 0 and number % self._replays_every == 0


def process_seed(seed: int, process: int) -> int:
    """What the users of one process of a phase follow from."""
    return seed << _SEED_BITS | process


def make_requests(plan: HotPlan, process: int, pause: Callable[[], None]) -> Requests:
    """All requests of one process. Takes about ten microseconds each; pauses now and then."""
    made = bytearray()
    buyer = Buyer(plan.host, plan.port, plan.jwt_secret, plan.zone_id)
    fresh = buyer.requests(process_seed(plan.seed, process), plan.requests)
    replays = plan.replays
    old: list[bytes] = []
    if replays is not None:
        old_buyer = Buyer(plan.host, plan.port, plan.jwt_secret, replays.zone_id)
        old = list(old_buyer.requests(replays.seed, replays.count))
    for number, request in enumerate(fresh):
        is_replay = replays is not None and number % replays.every == 0
        made += old[number // replays.every % len(old)] if replays is not None and is_replay else request
        if number % PAUSE_EVERY == 0:
            pause()
    return Requests(made, len(made) // plan.requests, replays.every if replays is not None else 0)
