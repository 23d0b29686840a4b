"""Adding up what ledger entries do to the waiting room; see engine.fold."""

from typing import assert_never

import msgspec

from engine.ledger import Admit, Draw, Freeze
from engine.lines import Claim, Join, Lapse, Leave, QueueEntry, Reserve


class Orphaned(Exception):
    """Some entries change what Postgres does not have."""


class Pass(msgspec.Struct, gc=False):
    """Somebody's newest pass as the batch leaves it; `claim` is None for one of an earlier batch."""

    claim: Claim | None = None
    booking_id: str | None = None
    ended_at_ms: int | None = None


class Frozen(msgspec.Struct, frozen=True, gc=False):
    """The entrants of the draw are known; `seq` is where the ledger says so."""

    at_ms: int
    entrants: int
    seq: int


class QueueChanges(msgspec.Struct):
    """What a run of entries does to a waiting room; users as text."""

    joins: list[Join] = []
    ended: dict[int, tuple[str, int]] = {}
    """Numbers given up: by whom, and when."""
    passes: dict[str, Pass] = {}
    waves: list[Admit] = []
    tail: int = 0
    serving: int = 0
    admitted: int = 0
    claimed: int = 0
    spent: int = 0
    units: int = 0
    lapsed: int = 0
    frozen: Frozen | None = None
    drawn_at_ms: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no entry was about the waiting room."""
        return self == _NOTHING

    def pass_of(self, user_id: str) -> Pass:
        """Somebody's pass, to be changed."""
        found = self.passes.get(user_id)
        if found is None:
            found = self.passes[user_id] = Pass()
        return found


_NOTHING = QueueChanges()


def spend(changes: QueueChanges, entry: Reserve) -> None:
    """A pass was spent on a booking."""
    changes.pass_of(entry.user_id).booking_id = entry.booking_id
    changes.spent += 1
    changes.units += sum(item.quantity for item in entry.items)


def fold_queue(changes: QueueChanges, entry: QueueEntry, seq: int) -> None:
    """Add one entry to the others. Raises Orphaned for a number that ends twice."""
    match entry:
        case Join():
            changes.joins.append(entry)
            changes.tail = max(changes.tail, entry.first_number + len(entry.users) - 1)
        case Leave():
            _end(changes, entry.user_id, entry.number, entry.at_ms)
        case Freeze():
            changes.frozen = Frozen(entry.at_ms, entry.entrants, seq)
        case Draw():
            changes.drawn_at_ms = entry.at_ms
        case Admit():
            changes.waves.append(entry)
            changes.serving = max(changes.serving, entry.to_place)
            changes.admitted += entry.people
        case Claim():
            changes.passes[entry.user_id] = Pass(entry)
            changes.claimed += 1
        case Lapse():
            for each in entry.people:
                _end(changes, each.user_id, each.number, entry.at_ms)
            changes.lapsed += len(entry.people)
        case _:
            assert_never(entry)


def _end(changes: QueueChanges, user_id: str, number: int, at_ms: int) -> None:
    if number in changes.ended:
        raise Orphaned(f"the number {number} ends twice")
    changes.ended[number] = (user_id, at_ms)
    changes.pass_of(user_id).ended_at_ms = at_ms
