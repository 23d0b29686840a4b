"""The calls that are measured: what a gateway and the sweeper send, from this process.

Reserving goes through `engine.bookings` itself, so that it is measured as the gateway does it, whatever the
script's call looks like. Confirm and expire are called as their callers call them, without the waiting.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from uuid import UUID

from engine.booking import ItemRequest
from engine.bookings import Bookings
from engine.status import Status
from engine.stores import Stores
from loadtest.growth.sale import Sale

IN_FLIGHT = 64
"""Calls that are sent together, as those of one tick of a busy gateway."""
QUANTITY = 2
EXPIRE_CALLS_MAX = 1_000_000

Held = tuple[UUID, UUID]
"""A buyer and their booking."""


class CallFailed(Exception):
    """A script did not answer as it must here; the message says what it answered."""


def buyer(number: int) -> UUID:
    """The buyer of that number: always the same, and spread like random ids."""
    return UUID(bytes=hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest(), version=4)


class Crowd:
    """Everybody who wants something of one event."""

    def __init__(self, stores: Stores, sale: Sale) -> None:
        self._stores = stores
        self._bookings = Bookings(stores)
        self._sale = sale
        self._keys = sale.keys
        self.next_buyer = 0
        """Buyers have numbers; each reserves once."""

    async def reserve_one(self) -> Held:
        """The next buyer takes two tickets of one zone."""
        number = self.next_buyer
        self.next_buyer += 1
        user_id = buyer(number)
        zones = self._sale.zone_ids
        items = [ItemRequest(zones[number % len(zones)], QUANTITY)]
        answer = await self._bookings.reserve(user_id, items, f"growth-{number}")
        return user_id, answer.booking.id

    async def reserve(self, count: int) -> list[Held]:
        """So many buyers, one after the other in groups that are sent together."""
        held: list[Held] = []
        while len(held) < count:
            group = min(IN_FLIGHT, count - len(held))
            held += await asyncio.gather(*[self.reserve_one() for _ in range(group)])
        return held

    async def confirm(self, held: Sequence[Held]) -> None:
        """All of these pay. Does not wait until it is durable."""
        for first in range(0, len(held), IN_FLIGHT):
            group = held[first : first + IN_FLIGHT]
            replies = await asyncio.gather(*[self._confirm_one(*each) for each in group])
            for reply in replies:
                _require_ok("confirm", reply[0])

    async def _confirm_one(self, user_id: UUID, booking_id: UUID) -> Sequence[int]:
        reply: Sequence[int] = await self._stores.run(
            "confirm",
            self._keys_of("confirm", booking_id),
            str(booking_id),
            str(user_id),
            "GROWTHCODE",
            1,
        )
        return reply

    async def set_hold_ttl_ms(self, ttl_ms: int) -> None:
        """How long the next holds last; behind the organizer's back, who may only choose whole seconds."""
        await self._stores.redis.hset(self._keys.sale, "hold_ttl_ms", str(ttl_ms))

    async def expire(self) -> int:
        """Take back all that is due, as the sweeper does; how many."""
        total = 0
        for _ in range(EXPIRE_CALLS_MAX):
            reply = await self._stores.run(
                "expire", self._keys_of("expire"), self._stores.settings.expiry_slice_max
            )
            _require_ok("expire", reply[0])
            if not reply[2]:
                break
            total += reply[2]
        return total

    def _keys_of(self, script: str, booking_id: UUID | None = None) -> list[str]:
        """The KEYS that the header of a script names."""
        named = {"booking": self._keys.booking(booking_id)} if booking_id else {}
        return [named.get(name) or getattr(self._keys, name) for name in self._stores.scripts[script].keys]


def _require_ok(verb: str, status: int) -> None:
    if status != Status.OK:
        raise CallFailed(f"{verb} was answered {Status(status).name}")
