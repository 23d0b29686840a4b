"""Quiet cells of a node of a cluster are asked one by one, many at once."""

from types import SimpleNamespace
from typing import Any

from engine.redis_url import RedisAddress
from engine.settings import Settings
from tests.scripted_redis import ScriptedRedis, bulk, greet
from workers.ledger_reader import LedgerReader


def answer(command: list[bytes]) -> bytes:
    """One of the ledgers has an entry."""
    if command[-2] != b"ledger 1":
        return b"*-1\r\n"
    return b"*1\r\n*2\r\n" + bulk(command[-2]) + b"*0\r\n"


async def test_a_small_bound_for_buyers_does_not_keep_the_relay_from_quiet_cells(
    server: ScriptedRedis,
) -> None:
    server.greet, server.answer = greet, answer
    master: Any = SimpleNamespace(address=RedisAddress("127.0.0.1", server.port), has_one_slot=False)
    reader = LedgerReader(Settings(hot_line_in_flight_max=1), master)
    try:
        assert await reader.find_busy({f"ledger {number}": "0-0" for number in range(50)}) == ["ledger 1"]
    finally:
        await reader.aclose()
