"""The loops that unit tests run on, and hot lines to a server that does what a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from engine.hotline import HotLine
from tests.scripted_redis import FAR_MS, Connect, ScriptedRedis


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The hot line promises to run on both loops; the rest runs on asyncio's."""
    if item.path.name.startswith("test_hotline"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedRedis]:
    """A scripted server that listens."""
    scripted = ScriptedRedis()
    await scripted.listen()
    yield scripted
    await scripted.close()


@pytest.fixture
async def connect(server: ScriptedRedis) -> AsyncIterator[Connect]:
    """Makes started lines to the server, and closes them."""
    lines: list[HotLine] = []

    async def make(
        url: str | None = None, *, timeout_ms: int = FAR_MS, in_flight_max: int = 1000, replicas_min: int = 0
    ) -> HotLine:
        line = HotLine(
            url or server.url, in_flight_max=in_flight_max, timeout_ms=timeout_ms, replicas_min=replicas_min
        )
        lines.append(line)
        await line.start()
        return line

    yield make
    for line in lines:
        await line.close()
