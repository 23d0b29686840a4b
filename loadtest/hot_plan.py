"""What the parent of a hot run decides, and what each Locust process of it found."""

from array import array
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec

PLAN_FILE = "hot_plan.json"
ID_BYTES = 36
"""Of a booking id as text."""


class Replays(msgspec.Struct, frozen=True):
    """Requests that were accepted before and are sent once more, here and there among the others."""

    seed: int
    count: int
    zone_id: UUID
    every: int
    """One of so many requests is a replay."""


class HotPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of load on the hot path; counts and rates are those of one process."""

    phase: str
    host: str
    port: int
    folder: str
    jwt_secret: str
    zone_id: UUID
    seed: int
    """Another one for each phase: from it follow all users, keys and arrivals."""
    processes: int
    connections: int
    mode: Literal["open", "closed"]
    """Open: requests are due at random moments, `rate_per_s` on average, whether or not the system keeps up.
    Closed: each connection sends its next request when it has its answer."""
    rate_per_s: float
    seconds: float
    requests: int
    """So many are prepared; a phase that has used them up is over."""
    is_endless: bool = False
    """Begin again with the first request after the last: for a server that does not look at them."""
    accepts: frozenset[int] = frozenset({201})
    """Any other status is an error."""
    replays: Replays | None = None

    def save(self, path: Path) -> None:
        """Write the plan for the owner's eyes (the secret is in it), and make its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(self))

    @property
    def bound_s(self) -> float:
        """After so many seconds even a phase that hangs is over, preparations included."""
        return 2 * self.seconds + 60 + self.requests * PREPARE_BOUND_S


PREPARE_BOUND_S = 1e-4


def load_hot_plan(path: Path) -> HotPlan:
    """Read a plan."""
    return msgspec.json.decode(path.read_bytes(), type=HotPlan)


class HotResult(msgspec.Struct, kw_only=True):
    """What one process saw in one phase. Times are seconds of its own clock."""

    process: int
    seconds: float
    """From the first moment to the last answer."""
    sent: int
    answers: dict[str, int]
    """By status and code, as in `409 INSUFFICIENT_STOCK`."""
    accepted: int
    """Answered 201 for the first time."""
    replayed: int
    replays_sent: int
    errors: dict[str, int]
    """What must not have happened, by kind; an unknown outcome is one of them."""
    late_max_ms: float
    """How long the latest request stood in line for a free connection."""
    cpu_s: float
    """Of this process during the phase, by the operating system's accounting."""
    is_used_up: bool
    """The prepared requests did not last."""


def result_path(folder: Path, process: int) -> Path:
    """Where a process writes what it found."""
    return folder / f"hot-{process}.json"


def latencies_path(folder: Path, process: int) -> Path:
    """Where it writes the milliseconds of each answer, as doubles."""
    return folder / f"hot-{process}.latencies"


def ids_path(folder: Path, process: int) -> Path:
    """Where it writes the booking ids it was given, 36 characters each."""
    return folder / f"hot-{process}.ids"


def read_latencies(path: Path) -> "array[float]":
    """The milliseconds of each answer."""
    values = array("d")
    values.frombytes(path.read_bytes())
    return values
