"""rate: the token bucket outside any cell, on the server's own clock."""

import time

from tests.lua.cellkit import Backend

KEY = "rush:rate:{login:203.0.113.7}"


def test_a_burst_then_one_token_an_interval(backend: Backend) -> None:
    interval_ms = 60_000
    backend.client.delete(KEY)
    assert [backend.call("rate", [KEY], interval_ms, 3)[::2] for _ in range(3)] == [[1, 2], [1, 1], [1, 0]]
    allowed, wait_ms, remaining = backend.call("rate", [KEY], interval_ms, 3)
    assert (allowed, remaining) == (0, 0)
    assert interval_ms - 5_000 < wait_ms <= interval_ms
    before = backend.client.get(KEY)
    backend.call("rate", [KEY], interval_ms, 3)
    assert backend.client.get(KEY) == before, "who is refused does not wait longer for it"
    assert 2 * interval_ms < backend.client.pttl(KEY) <= 3 * interval_ms


def test_a_token_comes_back_when_the_answer_says(backend: Backend) -> None:
    backend.client.delete(KEY)
    assert backend.call("rate", [KEY], 30, 1)[0] == 1
    deadline_s = time.monotonic() + 5
    while not (answer := backend.call("rate", [KEY], 30, 1))[0]:
        assert 0 < answer[1] <= 30
        assert time.monotonic() < deadline_s
    assert answer == [1, 0, 0]


def test_a_bucket_is_for_its_key_only(backend: Backend) -> None:
    backend.client.delete(KEY, KEY + "other")
    assert backend.call("rate", [KEY], 60_000, 1)[0] == 1
    assert backend.call("rate", [KEY], 60_000, 1)[0] == 0
    assert backend.call("rate", [KEY + "other"], 60_000, 1)[0] == 1
