"""Requests made beforehand are what a careful buyer would send, each another one's."""

import json
from typing import Any
from uuid import UUID

import httptools
import pytest

from engine.tokens import TokenSigner
from loadtest.hot_plan import HotPlan, Replays
from loadtest.hot_requests import PATH, Buyer, Requests, make_requests, process_seed

SECRET = "a secret of the tests, long enough for this"
ZONE, LOGE = UUID(int=7), UUID(int=8)


class Parsed:
    def __init__(self, raw: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.url = b""
        self.is_whole = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(raw)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_whole = True

    @property
    def user_id(self) -> UUID:
        token = self.headers["authorization"].removeprefix("Bearer ")
        return TokenSigner(SECRET).verify(token.encode()).sub


def plan(**changes: Any) -> HotPlan:
    fields: dict[str, Any] = {
        "phase": "test",
        "host": "127.0.0.1",
        "port": 8000,
        "folder": "",
        "jwt_secret": SECRET,
        "zone_id": ZONE,
        "seed": 3,
        "processes": 2,
        "connections": 1,
        "mode": "closed",
        "rate_per_s": 1.0,
        "seconds": 1.0,
        "requests": 50,
    }
    return HotPlan(**(fields | changes))


def made(process: int = 0, **changes: Any) -> Requests:
    return make_requests(plan(**changes), process, lambda: None)


def parsed(requests: Requests) -> list[Parsed]:
    return [Parsed(bytes(requests[number])) for number in range(len(requests))]


def test_a_request_is_whole_and_valid() -> None:
    [request] = parsed(made(requests=1))
    assert (request.is_whole, request.method, request.url) == (True, b"POST", PATH.encode())
    assert json.loads(request.body) == {"items": [{"zone_id": str(ZONE), "quantity": 1}]}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == "127.0.0.1:8000"
    assert request.user_id.version == 4


def test_users_and_keys_are_distinct_also_between_processes() -> None:
    requests = [*parsed(made(0)), *parsed(made(1))]
    assert len({request.user_id for request in requests}) == 100
    assert len({request.headers["idempotency-key"] for request in requests}) == 100


def test_the_same_seed_gives_the_same_users_and_keys() -> None:
    def who(requests: Requests) -> list[tuple[UUID, str]]:
        return [(each.user_id, each.headers["idempotency-key"]) for each in parsed(requests)]

    assert who(made()) == who(made())
    assert who(made()) != who(made(seed=4))


def test_replays_stand_among_the_others_and_are_the_first_buyers_requests() -> None:
    replays = Replays(seed=9, count=3, zone_id=LOGE, every=10)
    requests = made(requests=45, replays=replays)
    assert [number for number in range(45) if requests.is_replay(number)] == [0, 10, 20, 30, 40]
    first = [Parsed(raw) for raw in Buyer("127.0.0.1", 8000, SECRET, LOGE).requests(9, 3)]
    again = [Parsed(bytes(requests[number])) for number in (0, 10, 20, 30)]
    assert [each.headers["idempotency-key"] for each in again] == [
        first[number].headers["idempotency-key"] for number in (0, 1, 2, 0)
    ]
    assert again[0].user_id == first[0].user_id
    assert again[0].body == first[0].body


def test_requests_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths"):
        Requests(bytearray(b"12345"), 2)


def test_the_seeds_of_two_phases_never_meet() -> None:
    assert len({process_seed(seed, process) for seed in range(50) for process in range(64)}) == 50 * 64
