"""The organizer of the run: makes its event through the HTTP API, as anybody would."""

import http.client
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from engine.tokens import TokenSigner
from loadtest.profile import Profile

TIMEOUT_S = 15.0
TOKEN_TTL_S = 6 * 3600
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class TargetError(Exception):
    """The target cannot be used; the message says why and what to do."""


class Target:
    """A gateway on this machine."""

    def __init__(self, url: str) -> None:
        """Raises TargetError for an address that is not on this machine: this is a weapon."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK or parts.port is None:
            raise TargetError(
                f"{url} is not of the form http://127.0.0.1:PORT: only this machine may be loaded"
            )
        self.host, self.port = parts.hostname, parts.port
        self.url = f"http://{'[::1]' if self.host == '::1' else self.host}:{self.port}"

    def call(
        self, method: str, path: str, body: object = None, token: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """One request: status and JSON body; raises OSError where nobody answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"{self.url} speaks no HTTP: {error!r}") from None
        finally:
            connection.close()
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}

    def is_up(self) -> bool:
        """Whether a gateway answers there."""
        try:
            status, _ = self.call("GET", "/healthz")
        except OSError:
            return False
        return status == 200

    def is_ready(self) -> bool:
        """Whether it answers, and its stores as well."""
        try:
            status, _ = self.call("GET", "/readyz")
        except OSError:
            return False
        return status == 200


class Organizer:
    """Has the role, by a token that the shared secret signs."""

    def __init__(self, target: Target, jwt_secret: str) -> None:
        self._target = target
        self._token = TokenSigner(jwt_secret).sign(uuid4(), "organizer", None, ttl_s=TOKEN_TTL_S)

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        status, answer = self._target.call(method, path, body, self._token)
        if status in (401, 403):
            raise TargetError(
                f"{self._target.url} does not accept our token: RUSH_JWT_SECRET is another one there"
            )
        if status not in (200, 201):
            raise TargetError(f"{method} {path} was answered {status}: {json.dumps(answer.get('error'))}")
        data: dict[str, Any] = answer["data"]
        return data

    def put_on_sale(
        self,
        profile: Profile,
        capacities: dict[str, int],
        *,
        hold_ttl_s: int,
        waiting_room: dict[str, Any] | None = None,
    ) -> tuple[UUID, dict[str, UUID]]:
        """Make and publish the event; its id, and zone name → zone id."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        zones = [
            {"name": zone.name, "price": zone.price, "total_seats": capacities[zone.name]}
            for zone in profile.zones
        ]
        event = self._call(
            "POST",
            "/api/v1/events",
            {
                "title": f"Load: {profile.title}",
                "currency": profile.currency,
                "sale_start_at": "2020-01-01T00:00:00Z",
                "max_per_user": profile.max_per_user,
                "hold_ttl_seconds": hold_ttl_s,
                "waiting_room": waiting_room,
                "shows": [{"show_date": now, "zones": zones}],
            },
        )
        self._call("POST", f"/api/v1/events/{event['id']}/publish", {})
        zone_ids = {zone["name"]: UUID(zone["id"]) for show in event["shows"] for zone in show["zones"]}
        return UUID(event["id"]), zone_ids

    def is_on_sale(self, event_id: UUID) -> bool:
        """Whether the sale answers with live counters."""
        status, _ = self._target.call("GET", f"/api/v1/events/{event_id}/sales", token=self._token)
        return status == 200

    def pause(self, event_id: UUID) -> None:
        """Nobody else is to buy of it."""
        self._call("POST", f"/api/v1/events/{event_id}/pause", {})
