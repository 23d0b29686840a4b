"""The rate limits of the contract: shared ones through Redis, those of public reads in the process."""

import contextlib
import time
from uuid import UUID

from engine import limits
from engine.errors import RateLimited, ServiceUnavailable
from engine.settings import Settings
from engine.stores import Stores

ADDRESSES_MAX = 100_000


async def check_login(stores: Stores, address: str, email: str) -> None:
    """One token of the address's and one of the e-mail's bucket; without Redis nobody logs in."""
    settings = stores.settings
    rate, burst = settings.login_rate_per_minute, settings.login_burst
    await limits.check(stores, "login", address, rate, burst)
    await limits.check(stores, "login-email", email.strip().lower(), rate, burst)


async def check_register(stores: Stores, address: str) -> None:
    """One token of the address's bucket; without Redis nobody registers."""
    settings = stores.settings
    await limits.check(
        stores, "register", address, settings.register_rate_per_minute, settings.register_burst
    )


async def check_user(stores: Stores, user_id: UUID) -> None:
    """One token of the user's bucket for calls other than reserve, which go on without Redis."""
    settings = stores.settings
    with contextlib.suppress(ServiceUnavailable):
        await limits.check(stores, "user", str(user_id), settings.user_rate_per_minute, settings.user_burst)


class PublicReads:
    """A bucket for each address, in this process alone; a minute's worth of calls is its burst."""

    def __init__(self, settings: Settings) -> None:
        self._per_minute = settings.public_rate_per_minute
        self._full_at_s: dict[str, float] = {}

    def check(self, address: str) -> None:
        """Take one token; raises RateLimited."""
        if not self._per_minute:
            return
        now_s = time.monotonic()
        interval_s = 60 / self._per_minute
        full_at_s = max(self._full_at_s.get(address, 0.0), now_s) + interval_s
        wait_s = full_at_s - now_s - 60
        if wait_s > 0:
            wait_ms = int(wait_s * 1000) + 1
            raise RateLimited(limits.policy("public", self._per_minute, self._per_minute, wait_ms))
        # Taken out and put back, so that the addresses seen longest ago come first.
        self._full_at_s.pop(address, None)
        if len(self._full_at_s) >= ADDRESSES_MAX:
            del self._full_at_s[next(iter(self._full_at_s))]
        self._full_at_s[address] = full_at_s
