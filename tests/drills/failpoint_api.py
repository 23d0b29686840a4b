"""What organizers and people with accounts do while the gateway that they speak to dies: each asks another
one again until it is answered, and in the end everything is as they wanted it."""

import asyncio
import time
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import uuid4

import msgspec

from engine.tokens import TokenSigner
from tests.drills.failpoint_stage import Stage
from tests.drills.http import HttpAnswer, HttpConnection, NoAnswer
from tests.drills.members import Member

API = "/api/v1"
CALL_TIMEOUT_S = 8.0
"""Publishing waits for recovery."""
TRIES_S = 60.0
PAUSE_S = 0.1
PASSWORD = "drill-password-1"

_capacities = count(5_000)
"""Of the zone on sale: it only grows."""


class Caller:
    """Asks the gateway that is to be struck, and another one when that does not answer."""

    def __init__(self, stage: Stage, armed: Member) -> None:
        calm = stage.stack.members["gateway-1"]
        self._lines = [HttpConnection("127.0.0.1", member.port) for member in (armed, calm)]
        self._signer = TokenSigner(stage.stack.settings.jwt_secret)

    async def ask(
        self, method: str, path: str, body: object = None, *, good: tuple[int, ...] = (200, 201, 204)
    ) -> dict[str, Any]:
        """As somebody new, with the role of an administrator; the data of the answer."""
        token = self._signer.sign(uuid4(), "admin", None, ttl_s=900)
        return await self.ask_as(token, method, path, body, good=good)

    async def ask_as(
        self,
        token: str,
        method: str,
        path: str,
        body: object = None,
        *,
        good: tuple[int, ...] = (200, 201, 204),
    ) -> dict[str, Any]:
        """Ask until there is an answer, which must be one of the good ones."""
        deadline_s = time.monotonic() + TRIES_S
        line = 0
        while True:
            answer: HttpAnswer | None = None
            try:
                answer = await self._lines[line].call(method, API + path, token, body, None, CALL_TIMEOUT_S)
            except NoAnswer:
                line = 1
            if answer is not None and answer.status in good:
                data = msgspec.json.decode(answer.body).get("data") if answer.body else None
                return {"status_code": answer.status} | (data if isinstance(data, dict) else {})
            is_final = answer is not None and answer.status < 500
            assert not is_final, f"{method} {path} was answered {answer}"
            assert time.monotonic() < deadline_s, f"{method} {path} is not answered: {answer}"
            await asyncio.sleep(PAUSE_S)

    def close(self) -> None:
        """Hang up."""
        for line in self._lines:
            line.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _zone(number: int) -> dict[str, object]:
    return {"name": f"zone {number}", "price": "1.00", "total_seats": 10}


async def _new_event(caller: Caller, shows: list[dict[str, object]], **more: object) -> dict[str, Any]:
    return await caller.ask(
        "POST",
        "/events",
        more
        | {
            "title": f"Failing {uuid4()}",
            "category": f"category {uuid4()}",
            "currency": "GBP",
            "sale_start_at": "2020-01-01T00:00:00Z",
            "shows": shows,
        },
    )


async def draft(caller: Caller, stage: Stage) -> None:
    """A draft is made, changed in every way, and deleted."""
    event = await _new_event(caller, [{"show_date": _now(), "zones": [_zone(1)]}])
    event_id, show = event["id"], event["shows"][0]
    await caller.ask("PUT", f"/events/{event_id}", {"description": "changed", "category": f"c {uuid4()}"})
    await caller.ask(
        "POST", f"/events/{event_id}/shows", {"show_date": _now(), "zones": [_zone(2), _zone(3)]}
    )
    await caller.ask("POST", f"/shows/{show['id']}/zones", _zone(4))
    await caller.ask("PATCH", f"/shows/{show['id']}", {"show_date": "2031-05-05T20:00:00Z"})
    zone_id = show["zones"][0]["id"]
    changed = await caller.ask("PATCH", f"/zones/{zone_id}", {"total_seats": 77, "price": "2.00"})
    assert (changed["total_seats"], changed["price"]) == (77, "2.00"), changed
    await caller.ask("DELETE", f"/events/{event_id}", good=(204, 404))
    await caller.ask("DELETE", f"/events/{event_id}", good=(404,))


async def sale(caller: Caller, stage: Stage) -> None:
    """An event goes on sale and is changed, and so is the one that everybody wants; then its sale is over."""
    shows: list[dict[str, object]] = [{"show_date": _now(), "zones": [_zone(1)]}]
    event = await _new_event(caller, shows, waiting_room={"mode": "open"})
    event_id, zone_id = event["id"], event["shows"][0]["zones"][0]["id"]
    await caller.ask("POST", f"/events/{event_id}/publish", {})
    changed = await caller.ask("PATCH", f"/zones/{zone_id}", {"total_seats": 30, "price": "3.00"})
    assert (changed["total_seats"], changed["price"]) == (30, "3.00"), changed
    for action in ("pause", "resume"):
        await caller.ask("POST", f"/events/{event_id}/queue/{action}", {})
    wanted = stage.scene.event
    capacity = next(_capacities)
    changed = await caller.ask("PATCH", f"/zones/{wanted.zones[0].id}", {"total_seats": capacity})
    assert changed["total_seats"] == capacity, changed
    for of in (event_id, wanted.id):
        for action, status in (("pause", "paused"), ("resume", "published")):
            done = await caller.ask("POST", f"/events/{of}/{action}", {})
            assert done["status"] == status, done
    await caller.ask("PUT", f"/events/{event_id}", {"max_per_user": 6, "sale_end_at": _now()})


async def account(caller: Caller, stage: Stage) -> None:
    """Somebody opens an account, and their tokens work once."""
    email = f"{uuid4()}@drill.test"
    login = {"email": email, "password": PASSWORD}
    await caller.ask_as("", "POST", "/auth/register", login | {"full_name": "One"}, good=(201, 409))
    first = (await caller.ask_as("", "POST", "/auth/login", login))["refresh_token"]

    async def refresh(token: str, *, good: int = 200) -> str:
        body = {"refresh_token": token}
        return str(
            (await caller.ask_as("", "POST", "/auth/refresh", body, good=(good,))).get("refresh_token")
        )

    second = await refresh(first)
    third = await refresh(second)
    # Two hold the first token, it seems: that login is over, for both of them.
    await refresh(first, good=401)
    await refresh(third, good=401)
    session = await caller.ask_as("", "POST", "/auth/login", login)
    token, last = session["access_token"], session["refresh_token"]
    await caller.ask_as(token, "PUT", "/auth/me", {"full_name": "Two"})
    assert (await caller.ask_as(token, "GET", "/auth/me"))["full_name"] == "Two"
    await caller.ask_as(token, "POST", "/auth/logout", {"refresh_token": last})
    await refresh(last, good=401)
    other = (await caller.ask_as("", "POST", "/auth/login", login))["refresh_token"]
    await caller.ask_as(token, "POST", "/auth/logout-all", {})
    await refresh(other, good=401)


FLOWS = {"account": account, "draft": draft, "sale": sale}
