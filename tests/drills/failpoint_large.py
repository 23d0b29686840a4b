"""An event with more bookings than a rebuild writes before the sale opens again."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

from engine import ids
from engine.keys import CellKeys
from engine.rebuild import WHOLE_RECORDS_MAX
from tests.drills.failpoint_api import Caller
from tests.drills.failpoint_stage import Stage

BOOKINGS = WHOLE_RECORDS_MAX + 2_000
LOADING_MAX_S = 30.0
POLL_S = 0.005

_ROWS = """
WITH sold AS (
    INSERT INTO bookings (id, event_id, user_id, status, version, quantity, total_minor, currency, created_at,
        expires_at, confirmed_at, confirmation_code, ledger_epoch, ledger_seq)
    SELECT id, $2, gen_random_uuid(), 'confirmed', 2, 1, 0, 'GBP', at, at + interval '1 hour', at,
        'DRILL' || number, 1, number
    FROM unnest($1::uuid[]) WITH ORDINALITY AS made (id, number), date_trunc('milliseconds', now()) AS at
    RETURNING id
), items AS (
    INSERT INTO booking_items (booking_id, zone_id, quantity, unit_price_minor) SELECT id, $3, 1, 0 FROM sold
)
UPDATE seat_zones SET confirmed = $4::int, available_seats = capacity - $4::int WHERE id = $3
"""
"""Written straight into Postgres, with counters that agree; Redis learns of them when the cell is rebuilt."""


class LargeEvent:
    """One, made when it is first needed; nobody presses for it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._event_id: UUID | None = None

    async def lose(self) -> None:
        """Have its cell rebuilt at the next lift."""
        if self._event_id is None:
            await self._make()
        assert self._event_id is not None
        keys = CellKeys(ids.cell_of(self._event_id))
        await self._stage.redis.hset(keys.sale, "format", "0")
        await self._stage.redis.script_flush()

    async def lose_and_begin(self) -> None:
        """The same, and a recovery dies when the cell sells already and has not got all its records."""
        await self.lose()
        assert self._event_id is not None
        sale = CellKeys(ids.cell_of(self._event_id)).sale
        calm = self._stage.stack.members["recovery-1"]
        calm.start()
        try:
            async with asyncio.timeout(LOADING_MAX_S):
                while not await self._stage.redis.hexists(sale, "loaded"):
                    await asyncio.sleep(POLL_S)
        finally:
            calm.kill()

    async def _make(self) -> None:
        calm, caller = self._stage.stack.members["recovery-1"], self._caller()
        calm.start()
        zone = {"name": "all", "price": "0.00", "total_seats": BOOKINGS + 1_000}
        try:
            event = await caller.ask(
                "POST",
                "/events",
                {
                    "title": f"Large {uuid4()}",
                    "currency": "GBP",
                    "sale_start_at": "2020-01-01T00:00:00Z",
                    "shows": [{"show_date": "2031-05-05T20:00:00Z", "zones": [zone]}],
                },
            )
            await caller.ask("POST", f"/events/{event['id']}/publish", {})
        finally:
            caller.close()
            calm.kill()
        event_id, zone_id = UUID(event["id"]), UUID(event["shows"][0]["zones"][0]["id"])
        cell_id = ids.cell_of(event_id)
        made = [UUID(ids.new_booking_text(cell_id)) for _ in range(BOOKINGS)]
        await self._stage.sql(_ROWS, made, event_id, zone_id, BOOKINGS)
        self._event_id = event_id

    async def end(self) -> None:
        """Its sale is over: the cell leaves Redis."""
        if self._event_id is not None:
            caller = self._caller()
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            await caller.ask("PUT", f"/events/{self._event_id}", {"sale_end_at": now})
            caller.close()

    def _caller(self) -> Caller:
        return Caller(self._stage, self._stage.stack.members["gateway-1"])
