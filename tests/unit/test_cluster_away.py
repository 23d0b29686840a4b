"""A cluster of which no node answers is away like any other Redis, whatever redis-py calls it."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from engine.audit_look import STORE_ERRORS
from engine.audit_round import QuickAuditor
from engine.errors import StoreUnavailable
from engine.ids import CellId
from engine.inventory import Inventory
from engine.operating import Operator
from engine.redis_clients import open_client
from engine.redis_url import parse_redis_url

CELL = CellId(1, 0)


@pytest.fixture
async def stores() -> AsyncIterator[Any]:
    """Nothing but a client of a cluster whose one known node does not listen."""
    client = open_client(parse_redis_url("redis+cluster://127.0.0.1:1"))
    yield SimpleNamespace(redis=client)
    await client.aclose()


async def test_counters_are_unavailable(stores: Any) -> None:
    with pytest.raises(StoreUnavailable):
        await Inventory(stores)._ask({CELL: []})


async def test_an_audit_ends_with_what_the_auditor_lives_through(stores: Any) -> None:
    row: Any = {**CELL._asdict(), "epoch": 1, "event_id": uuid4(), "title": "Rush", "is_closed": True}
    with pytest.raises(STORE_ERRORS):
        await QuickAuditor(stores).audit_cell(row)


async def test_an_operator_waits_for_it(stores: Any) -> None:
    attempts = 0

    async def is_done() -> bool:
        nonlocal attempts
        attempts += 1
        return attempts > 1 or bool(await stores.redis.exists("x"))

    said: list[str] = []
    await Operator(stores, said.append)._wait(is_done, "for a sign", wait_s=60)
    assert len(said) == 1
    assert "Redis, which does not answer" in said[0]
