"""The rig that most of these tests run on."""

from collections.abc import AsyncIterator

import pytest

from engine.settings import Settings
from tests.integration.kit import Rig, changed, open_rig


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings under which a confirm that cannot be durable is told so soon."""
    return changed(settings, confirm_wait_ms=1_000, recovery_poll_ms=50)


@pytest.fixture
async def rig(quick: Settings) -> AsyncIterator[Rig]:
    """Nothing runs in it yet."""
    async with open_rig(quick) as opened:
        yield opened
