"""The rig that most of these tests run on."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.settings import Settings
from tests.integration.kit import Rig, changed, open_rig
from tests.integration.processes import Processes, processes_in


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings under which a confirm that cannot be durable is told so soon."""
    return changed(settings, confirm_wait_ms=1_000, recovery_poll_ms=50)


@pytest.fixture
async def rig(quick: Settings) -> AsyncIterator[Rig]:
    """Nothing runs in it yet."""
    async with open_rig(quick) as opened:
        yield opened


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts gateways and workers as processes."""
    yield from processes_in(tmp_path)
