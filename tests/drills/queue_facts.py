"""What the people of a waiting room asked and were told: the evidence of `checker_queue`."""

from pathlib import Path

import msgspec

FILE = "queue.json"


class Told(msgspec.Struct):
    """An answer that says something of a place, a pass or a booking."""

    verb: str
    """join, status, pass, reserve, leave."""
    user: str
    asked_ns: int
    answered_ns: int
    http: int
    code: str | None = None
    status: str | None = None
    """The queue state's."""
    place: int | None = None
    expires_at_ms: int = 0
    """Of a pass."""
    with_pass_ms: int = 0
    """Until when the pass that a reservation showed was good; 0 without one."""
    booking: str | None = None
    is_unknown: bool = False
    """No answer came, or a 503: it may have been carried out."""


class Sample(msgspec.Struct):
    """The passes that are out, counted in Redis from the outside: unspent, by Redis' own time."""

    at_ns: int
    out: int


class Facts(msgspec.Struct):
    """Of one event with a waiting room."""

    event: str
    passes_max: int
    told: list[Told] = []
    samples: list[Sample] = []


def write_facts(folder: Path, facts: Facts) -> None:
    """Keep them with the run."""
    (folder / FILE).write_bytes(msgspec.json.encode(facts))


def read_facts(folder: Path) -> Facts | None:
    """Those of a run; None where it had no waiting room."""
    path = folder / FILE
    return msgspec.json.decode(path.read_bytes(), type=Facts) if path.exists() else None
