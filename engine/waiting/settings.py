"""The settings of an event's waiting room: what an organizer sends, what Postgres keeps, what Redis is told.

The column `events.waiting_room` holds the JSON of a StoredRoom, or null. Values in, values out.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.errors import InvalidState, ValidationFailed
from engine.moments import Moment, moment
from engine.times import to_ms
from engine.waiting.randomness import drand_round

Mode = Literal["open", "lottery"]
Rate = Annotated[float, Meta(ge=0.01, le=100_000)]
PassesMax = Annotated[int, Meta(ge=1, le=100_000)]
PassTtlSeconds = Annotated[int, Meta(ge=5, le=3600)]
GraceSeconds = Annotated[int, Meta(ge=1, le=3600)]
PublicRound = Annotated[str, Meta(min_length=1, max_length=200)]

FROZEN = ("mode", "opens_at", "public_round")
"""What people have relied on since the event was published."""
US_PER_S = 1_000_000
MS_PER_S = 1_000


class WaitingRoom(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A waiting room: who wants to reserve needs a pass, and passes come in the order of places."""

    mode: Mode
    opens_at: Moment | None = None
    admissions_per_second: Rate = 100.0
    passes_max: PassesMax = 1000
    pass_ttl_seconds: PassTtlSeconds = 300
    claim_grace_seconds: GraceSeconds = 60
    public_round: PublicRound | None = None


class WaitingRoomChange(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What is to be changed of a waiting room; where there is none yet, `mode` is needed."""

    mode: Mode | UnsetType = UNSET
    opens_at: Moment | UnsetType | None = UNSET
    admissions_per_second: Rate | UnsetType = UNSET
    passes_max: PassesMax | UnsetType = UNSET
    pass_ttl_seconds: PassTtlSeconds | UnsetType = UNSET
    claim_grace_seconds: GraceSeconds | UnsetType = UNSET
    public_round: PublicRound | UnsetType | None = UNSET


class StoredRoom(WaitingRoom, frozen=True, kw_only=True):
    """A waiting room as Postgres keeps it: the organizer's pause is a switch and no setting."""

    is_paused: bool = False


_stored_decoder = msgspec.json.Decoder(StoredRoom)


def stored_room(text: str | None) -> StoredRoom | None:
    """The waiting room from its column."""
    return None if text is None else _stored_decoder.decode(text)


def room_text(room: StoredRoom | None) -> str | None:
    """The waiting room for its column."""
    return None if room is None else msgspec.json.encode(room).decode()


def new_room(room: WaitingRoom | None, sale_end_at: datetime | None) -> StoredRoom | None:
    """The waiting room of a new event; raises ValidationFailed."""
    if room is None:
        return None
    return _checked(StoredRoom(**msgspec.structs.asdict(room)), sale_end_at)


def changed_room(
    before: StoredRoom | None, change: WaitingRoomChange | UnsetType | None, sale_end_at: datetime | None
) -> StoredRoom | None:
    """The waiting room as it is to be; raises ValidationFailed."""
    if change is None:
        return None
    fields = {} if before is None else msgspec.structs.asdict(before)
    if change is not UNSET:
        fields |= {
            name: value for name, value in msgspec.structs.asdict(change).items() if value is not UNSET
        }
    if not fields and change is UNSET:
        return None
    if "mode" not in fields:
        raise ValidationFailed("waiting_room.mode", "is missing")
    return _checked(StoredRoom(**fields), sale_end_at)


def check_frozen(before: StoredRoom | None, after: StoredRoom | None, status: str) -> None:
    """Raise InvalidState where a change touches what is fixed once an event is published."""
    if status == "draft":
        return
    if (before is None) != (after is None):
        raise InvalidState(
            "Whether there is a waiting room is fixed once published", details={"status": status}
        )
    for name in FROZEN:
        if getattr(before, name, None) != getattr(after, name, None):
            raise InvalidState(f"waiting_room.{name} is fixed once published", details={"status": status})


def _checked(room: StoredRoom, sale_end_at: datetime | None) -> StoredRoom:
    if room.opens_at is not None:
        room = msgspec.structs.replace(room, opens_at=moment("waiting_room.opens_at", room.opens_at))
    elif room.mode == "lottery":
        raise ValidationFailed("waiting_room.opens_at", "is needed: at that time the lottery is drawn")
    if room.opens_at is not None and sale_end_at is not None and room.opens_at >= sale_end_at:
        raise ValidationFailed("waiting_room.opens_at", "must be before sale_end_at")
    if room.public_round is not None:
        _check_round(room, room.public_round)
    return room


def _check_round(room: StoredRoom, public_round: str) -> None:
    if room.mode != "lottery" or not public_round.strip():
        raise ValidationFailed("waiting_room.public_round", "names the public randomness of a lottery")
    try:
        drand = drand_round(public_round)
    except ValueError as error:
        raise ValidationFailed("waiting_room.public_round", str(error)) from None
    comes_at_s = None if drand is None else drand.at_s
    if comes_at_s is not None and room.opens_at is not None and comes_at_s <= room.opens_at.timestamp():
        raise ValidationFailed(
            "waiting_room.public_round",
            "comes out before opens_at: whoever knows it could still join or leave",
        )


def tuned(room: StoredRoom) -> dict[str, int]:
    """The fields of the cell's `sale` hash that may change while an event is on sale."""
    return {
        "queue_interval_us": max(round(US_PER_S / room.admissions_per_second), 1),
        "queue_passes_max": room.passes_max,
        "queue_pass_ttl_ms": room.pass_ttl_seconds * MS_PER_S,
        "queue_grace_ms": room.claim_grace_seconds * MS_PER_S,
        "queue_paused": int(room.is_paused),
    }


def sale_fields(room: StoredRoom | None) -> dict[str, str]:
    """All fields that the cell's `sale` hash has of a waiting room; none where there is none."""
    if room is None:
        return {}
    opens_at_ms = 0 if room.opens_at is None else to_ms(room.opens_at)
    fixed = {"queue_mode": room.mode, "queue_opens_at_ms": str(opens_at_ms)}
    return fixed | {name: str(value) for name, value in tuned(room).items()}


def tuned_changes(before: StoredRoom | None, after: StoredRoom | None) -> Mapping[str, Any]:
    """What an intent has to tell the cell of a change: new values of the fields in `tuned`."""
    if before is None or after is None:
        return {}
    old = tuned(before)
    return {name: value for name, value in tuned(after).items() if value != old[name]}
