"""Sentinel: where the master of a service is now.

It is asked at every connect. That is what a client is to do (Redis' guidelines for Sentinel clients): a
fail-over cuts the connections to the old master, and who connects again is led to the new one.
"""

import logging

from engine.redis_ask import ASK_ERRORS, ask
from engine.redis_url import RedisAddress, SentinelAddress

log = logging.getLogger(__name__)

SENTINEL_TIMEOUT_S = 0.5
"""One sentinel that does not answer leaves time for others."""


class MasterUnknown(ConnectionError):
    """No sentinel says where the master is."""


class MasterFinder:
    """Asks sentinels, first the one that answered last, last those that have just not answered."""

    def __init__(self, address: SentinelAddress) -> None:
        self._address = address
        self._sentinels = list(address.sentinels)

    async def find(self) -> RedisAddress:
        """The master's address; raises MasterUnknown. Whether it is one still, the master must say itself."""
        problems = []
        for sentinel in list(self._sentinels):
            where = f"{sentinel.host}:{sentinel.port}"
            # Whoever asks may give up at any moment: the next attempt begins with those behind this one.
            self._sentinels.remove(sentinel)
            self._sentinels.append(sentinel)
            try:
                found = await ask(
                    sentinel,
                    ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service),
                    SENTINEL_TIMEOUT_S,
                )
            except ASK_ERRORS as error:
                problems.append(f"{where}: {error!r}")
                continue
            if found is not None:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                host, port = found
                return self._address.master.at(host.decode(), int(port))
            problems.append(f"{where}: knows no {self._address.service}")
        raise MasterUnknown("; ".join(problems))
