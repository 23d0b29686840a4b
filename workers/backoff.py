"""Waiting between attempts while a store is away."""

import asyncio
import contextlib
import logging
import random

log = logging.getLogger(__name__)

DELAY_MIN_S = 0.1
DELAY_MAX_S = 2.0


class Backoff:
    """Doubling delays with jitter; says once that something fails, and once that it works again."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._delay_s = DELAY_MIN_S
        self._last: str | None = None

    def failed(self, error: BaseException) -> float:
        """Note a failure; the seconds to wait."""
        message = f"{type(error).__name__}: {error}"
        if message != self._last:
            log.warning("%s waits: %s", self._who, message)
            self._last = message
        delay_s = self._delay_s * random.uniform(0.5, 1.0)  # noqa: S311 — jitter, not a secret
        self._delay_s = min(2 * self._delay_s, DELAY_MAX_S)
        return delay_s

    def succeeded(self) -> None:
        """Note a success."""
        if self._last is not None:
            log.info("%s goes on", self._who)
            self._last = None
            self._delay_s = DELAY_MIN_S


async def sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but wake up at once for `stop`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
