"""Entries of the waiting room: each that is durable has left its trace in Postgres."""

from collections.abc import Sequence
from uuid import UUID

from engine.audit_look import CellView, queries
from engine.ledger import Admit, Claim, Join, Lapse, Leave, Position, QueueEntry


async def queue_entries_lost(view: CellView, entries: Sequence[tuple[Position, QueueEntry]]) -> set[Position]:
    """Those durable entries of the waiting room of which Postgres shows no trace."""
    numbers: dict[int, Position] = {}
    claims: dict[UUID, tuple[int, Position]] = {}
    waves: dict[int, Position] = {}
    ended: dict[int, Position] = {}
    for position, entry in entries:
        match entry:
            case Join():
                numbers |= dict.fromkeys(
                    (entry.first_number, entry.first_number + len(entry.users) - 1), position
                )
            case Leave():
                ended[entry.number] = position
            case Lapse():
                ended |= {each.number: position for each in entry.people}
            case Claim():
                claims[entry.user_id] = (entry.number, position)
            case Admit():
                waves[entry.to_place] = position
            case _:
                pass
    pool = view.stores.pool
    claimed_numbers = [number for number, _ in claims.values()]
    rows = queries.places_by_number(pool, numbers=[*numbers, *ended, *claimed_numbers], **view.of_cell)
    is_living = {row["number"]: row["is_living"] async for row in rows}
    passes = queries.passes_of(pool, user_ids=list(claims), **view.of_cell)
    claimed = {row["user_id"] async for row in passes}
    room = await queries.waiting_room(pool, **view.of_cell)
    serving = room["serving"] if room is not None else 0
    lost = {at for number, at in numbers.items() if number not in is_living}
    lost |= {at for number, at in ended.items() if is_living.get(number, True)}
    # Where Postgres was set back, it does not know any more what those had who have left since.
    lost |= {
        at for user, (number, at) in claims.items() if user not in claimed and is_living.get(number, True)
    }
    return lost | {at for to_place, at in waves.items() if to_place > serving}
