"""The plan of one run: what the parent decides and every Locust process reads."""

from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec


class PlanBasket(msgspec.Struct, frozen=True):
    """A basket with the zones of the event that was made for this run."""

    weight: int
    items: list[tuple[UUID, int]]

    @property
    def quantity(self) -> int:
        """Seats in all."""
        return sum(quantity for _, quantity in self.items)


class QueuePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The waiting room in front of the sale."""

    admissions_per_s: float
    passes_max: int
    pass_ttl_s: int
    claim_grace_s: int
    pusher_share: float
    """Who presses the button without a pass first, and must be refused."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a Locust process must know."""

    host: str
    port: int
    folder: str
    """Where the process writes what its people are told."""
    jwt_secret: str
    event_id: UUID
    capacities: dict[UUID, int]
    zone_names: dict[UUID, str]
    max_per_user: int
    baskets: list[PlanBasket]
    people: int
    rate_per_s: float
    seed: int
    processes: int
    connections: int
    """HTTP connections of one process."""
    in_flight_max: int
    """People of one process who are not done; more have to wait, and are late."""
    hold_ttl_s: int
    confirm_share: float
    cancel_share: float
    """The rest lets the hold expire."""
    keyless_share: float
    """Who sends no Idempotency-Key."""
    twice_share: float
    """Who presses twice with the same key; half of them at the same time."""
    again_share: float
    """Who, sold out, comes back for a single ticket."""
    think_s: float
    """Mean pause between the reservation and what follows."""
    bound_s: float
    """After so many seconds the run is ended, whatever is still under way."""
    queue: QueuePlan | None = None

    def save(self, path: Path) -> None:
        """Write the plan for the owner's eyes: the secret is in it."""
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(self))


def load_plan(path: Path) -> Plan:
    """Read a plan."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)


Kind = Literal["reserve", "confirm", "cancel", "join", "status", "pass", "place"]
