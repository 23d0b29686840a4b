"""Password hashes (bcrypt), made in threads of their own and never on the event loop."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from engine.errors import Overloaded

PASSWORD_BYTES_MAX = 72
"""bcrypt reads no more; a longer password is refused, not silently cut."""
PASSWORD_CHARACTERS_MIN = 8
THREADS_MAX = 4
WAITING_MAX = 32
"""At cost 12 a hash takes about a quarter of a second: who is further behind gets a 503 instead."""

_T = TypeVar("_T")


class PasswordHasher:
    """Hashes and verifies passwords at one cost."""

    def __init__(self, cost: int) -> None:
        self._cost = cost
        threads = min(THREADS_MAX, max(1, (os.cpu_count() or 1) - 1))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bcrypt")
        self._pending_max = threads + WAITING_MAX
        self._pending = 0
        # Nobody's hash, with a salt that is well-formed: comparing with it costs what a real one costs.
        self._nobody = b"$2b$%02d$" % cost + b"." * 53

    async def hash(self, password: str) -> str:
        """The hash to store; raises Overloaded when too many wait."""
        raw = password.encode()
        return (await self._run(lambda: bcrypt.hashpw(raw, bcrypt.gensalt(self._cost)))).decode()

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password fits; without a stored hash it takes as long and is False."""
        raw = password.encode()
        expected = self._nobody if stored is None else stored.encode()
        fits = await self._run(lambda: bcrypt.checkpw(raw[:PASSWORD_BYTES_MAX], expected))
        return fits and stored is not None and len(raw) <= PASSWORD_BYTES_MAX

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._pending >= self._pending_max:
            raise Overloaded
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._pending -= 1

    def close(self) -> None:
        """Stop the threads; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
