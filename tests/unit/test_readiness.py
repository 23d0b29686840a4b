"""Ready as far as Redis goes: one node that answers and is not fenced is enough."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

import gateway.handle_machines
from engine.errors import Overloaded, StoreUnavailable
from engine.scripts import Scripts
from gateway.handle_machines import _redis_missing

Reply = list[int] | Exception | None
"""None for a node that never answers."""


async def missing(*replies: Reply, refusal: Exception | None = None) -> str | None:
    """What is missing where the nodes reply so, or the line refuses the calls."""
    calls: list[asyncio.Future[Any]] = []
    for reply in replies:
        call: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if isinstance(reply, Exception):
            call.set_exception(reply)
        elif reply is not None:
            call.set_result(reply)
        calls.append(call)

    def call_all(*command: str) -> list[asyncio.Future[Any]]:
        if refusal is not None:
            raise refusal
        return calls

    stores: Any = SimpleNamespace(scripts=Scripts(), line=SimpleNamespace(call_all=call_all))
    found = await _redis_missing(stores)
    assert all(call.done() for call in calls), "nobody waits for a late reply"
    return found


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.handle_machines, "REDIS_CHECK_TIMEOUT_S", 0.05)


async def test_a_node_that_is_frozen_or_away_does_not_speak_for_the_others() -> None:
    assert await missing([1, 1], None, StoreUnavailable()) is None


async def test_half_of_the_scripts_is_a_fence() -> None:
    assert "fenced" in str(await missing([1, 0], None))
    assert await missing([1, 0], [1, 1]) is None


async def test_where_none_answers_redis_is_missing() -> None:
    assert await missing() == "redis"
    assert await missing(None, None) == "redis"
    assert await missing(StoreUnavailable()) == "redis"
    assert await missing(refusal=Overloaded()) == "redis"
