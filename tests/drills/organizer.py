"""The organizer of a drill: makes an event for each run through the HTTP API, and ends its sale."""

import asyncio
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import uuid4

import msgspec

from engine.tokens import TokenSigner
from tests.drills.history import Event, Zone
from tests.drills.http import HttpConnection, NoAnswer
from tests.drills.stack import CLIENTS, Stack

CALL_TIMEOUT_S = 8.0
TRIES_S = 30.0
POLL_S = 0.05
MAX_PER_USER = 4
CAPACITIES = (20_000, 3_000, 120)
"""The last one is soon sold out."""
HOLD_TTL_S = (1, 1, 2, 3)


class Organizer:
    """Has the role by a token that the shared secret signs, a new one for each call: each has a limit."""

    def __init__(self, stack: Stack) -> None:
        gateway = stack.gateways[0]
        self._connection = HttpConnection("127.0.0.1", stack.network(gateway.name, CLIENTS).port)
        self._signer = TokenSigner(stack.settings.jwt_secret)

    async def _call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Ask until it is answered; raises AssertionError for a refusal."""
        deadline_s = time.monotonic() + TRIES_S
        while True:
            token = self._signer.sign(uuid4(), "admin", None, ttl_s=900)
            try:
                answer = await self._connection.call(
                    method, "/api/v1" + path, token, body, None, CALL_TIMEOUT_S
                )
            except NoAnswer:
                answer = None
            if answer is not None and answer.status < 300:
                data = msgspec.json.decode(answer.body)["data"]
                assert isinstance(data, dict)
                return data
            if (answer is not None and answer.status < 500) or time.monotonic() > deadline_s:
                raise AssertionError(f"{method} {path} was answered {answer}")
            await asyncio.sleep(POLL_S)

    async def put_on_sale(self, seed: int) -> Event:
        """A published event that sells."""
        choice = random.Random(f"{seed} event")
        hold_ttl_s = choice.choice(HOLD_TTL_S)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        zones = [
            {"name": f"zone {number}", "price": "0.00", "total_seats": capacity}
            for number, capacity in enumerate(CAPACITIES)
        ]
        made = await self._call(
            "POST",
            "/events",
            {
                "title": f"Drill {seed}",
                "currency": "GBP",
                "sale_start_at": "2020-01-01T00:00:00Z",
                "max_per_user": MAX_PER_USER,
                "hold_ttl_seconds": hold_ttl_s,
                "shows": [{"show_date": now, "zones": zones}],
            },
        )
        await self._call("POST", f"/events/{made['id']}/publish", {})
        await self._call("GET", f"/events/{made['id']}/sales")
        shows: list[dict[str, list[dict[str, str]]]] = made["shows"]  # type: ignore[assignment]
        return Event(
            id=str(made["id"]),
            zones=[
                Zone(zone["id"], capacity)
                for zone, capacity in zip(shows[0]["zones"], CAPACITIES, strict=True)
            ],
            max_per_user=MAX_PER_USER,
            hold_ttl_ms=hold_ttl_s * 1000,
        )

    async def put_waiting_room_on_sale(
        self, title: str, waiting_room: Mapping[str, object], seats: int, hold_ttl_s: int
    ) -> tuple[str, str]:
        """A published event with a waiting room; its id, and that of its one zone."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        zone = {"name": "all", "price": "0.00", "total_seats": seats}
        made = await self._call(
            "POST",
            "/events",
            {
                "title": title,
                "currency": "GBP",
                "sale_start_at": "2020-01-01T00:00:00Z",
                "max_per_user": MAX_PER_USER,
                "hold_ttl_seconds": hold_ttl_s,
                "waiting_room": dict(waiting_room),
                "shows": [{"show_date": now, "zones": [zone]}],
            },
        )
        await self._call("POST", f"/events/{made['id']}/publish", {})
        shows: list[dict[str, list[dict[str, str]]]] = made["shows"]  # type: ignore[assignment]
        return str(made["id"]), shows[0]["zones"][0]["id"]

    async def end_sale(self, event_id: str) -> None:
        """Nothing is sold any more: once its holds are over, the cell leaves Redis."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        await self._call("PUT", f"/events/{event_id}", {"sale_end_at": now})

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
