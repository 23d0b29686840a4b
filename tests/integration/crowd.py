"""People who buy all the time, one after another, while something happens to the stores."""

import asyncio
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from engine.bookings import Bookings
from engine.errors import ServiceUnavailable
from tests.integration.kit import Event

BUYERS = 4
PAUSE_S = 0.01


class Crowd:
    """`async with Crowd(gateway, event) as crowd`: each of them reserves and confirms, again after a 503."""

    def __init__(self, gateway: Bookings, event: Event) -> None:
        self._gateway, self._event = gateway, event
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []
        self.confirmed = 0
        self.refused = 0
        """Answers 503."""
        self.told_confirmed: set[UUID] = set()
        self.odd: list[str] = []
        """Answers that are neither what they should be nor a 503."""

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._buy()) for _ in range(BUYERS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _buy(self) -> None:
        while not self._is_over:
            user, key = uuid4(), str(uuid4())
            booking_id: UUID | None = None
            while not self._is_over:
                try:
                    if booking_id is None:
                        booking_id = (await self._gateway.reserve(user, self._event.items(), key)).booking.id
                    answer = await self._gateway.confirm(user, booking_id)
                except ServiceUnavailable:
                    self.refused += 1
                    await asyncio.sleep(PAUSE_S)
                    continue
                except Exception as error:
                    # A hold that was lost with its node sold nothing: its buyer learns so at confirm.
                    self.odd.append(f"{type(error).__name__}: {error}")
                    break
                if answer.booking.durable:
                    self.told_confirmed.add(booking_id)
                    self.confirmed += 1
                    break
            await asyncio.sleep(PAUSE_S)
