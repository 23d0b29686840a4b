"""The settings of a waiting room: what is refused, what is kept, what the cell is told."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from engine.errors import InvalidState, ValidationFailed
from engine.waiting.randomness import CHAINS
from engine.waiting.settings import (
    StoredRoom,
    WaitingRoom,
    WaitingRoomChange,
    changed_room,
    check_frozen,
    new_room,
    room_text,
    sale_fields,
    stored_room,
    tuned_changes,
)

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
OPEN = StoredRoom(mode="open", opens_at=NOON)


def quicknet(seconds_after_noon: int) -> str:
    """The round of drand's quicknet that comes out then."""
    [chain] = [chain for chain in CHAINS.values() if chain.name == "quicknet"]
    number = (int(NOON.timestamp()) + seconds_after_noon - chain.genesis_s) // chain.period_s + 1
    return f"drand:{chain.hash}:{number}"


def test_a_round_of_drand_comes_out_after_the_freeze() -> None:
    room = WaitingRoom(mode="lottery", opens_at=NOON, public_round=quicknet(60))
    stored = new_room(room, None)
    assert stored is not None
    assert stored.public_round == room.public_round


def decode(form: Any, **fields: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(fields), type=form)


def test_all_but_the_mode_has_a_default() -> None:
    assert decode(WaitingRoom, mode="open") == WaitingRoom(
        mode="open", opens_at=None, admissions_per_second=100.0, passes_max=1000, pass_ttl_seconds=300,
        claim_grace_seconds=60, public_round=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"mode": "off"}, {"mode": "open", "is_paused": True}, {"mode": "open", "rate": 1},
        {"mode": "open", "admissions_per_second": 0.001}, {"mode": "open", "admissions_per_second": 100_001},
        {"mode": "open", "admissions_per_second": "5"}, {"mode": "open", "passes_max": 0},
        {"mode": "open", "passes_max": 1.5}, {"mode": "open", "pass_ttl_seconds": 4},
        {"mode": "open", "pass_ttl_seconds": 3601}, {"mode": "open", "claim_grace_seconds": 0},
        {"mode": "open", "opens_at": "2026-06-01T12:00:00"}, {"mode": "lottery", "public_round": "x" * 201},
    ],
)  # fmt: skip
def test_what_is_not_of_the_form_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(WaitingRoom, **fields)


@pytest.mark.parametrize(
    ("room", "sale_end_at", "field"),
    [
        (WaitingRoom(mode="lottery"), None, "opens_at"),
        (WaitingRoom(mode="open", opens_at=NOON), NOON, "opens_at"),
        (WaitingRoom(mode="open", opens_at=datetime(9999, 1, 1, tzinfo=UTC)), None, "opens_at"),
        (WaitingRoom(mode="open", public_round="drand 1"), None, "public_round"),
        (WaitingRoom(mode="lottery", opens_at=NOON, public_round=" "), None, "public_round"),
        (WaitingRoom(mode="lottery", opens_at=NOON, public_round="drand:x:1"), None, "public_round"),
        (WaitingRoom(mode="lottery", opens_at=NOON, public_round=quicknet(0)), None, "public_round"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    room: WaitingRoom, sale_end_at: datetime | None, field: str
) -> None:
    with pytest.raises(ValidationFailed) as raised:
        new_room(room, sale_end_at)
    assert raised.value.details["field"] == f"waiting_room.{field}"


def test_what_is_stored_is_read_again() -> None:
    room = new_room(WaitingRoom(mode="lottery", opens_at=NOON, public_round="drand 4711"), None)
    assert stored_room(room_text(room)) == room
    assert stored_room(room_text(None)) is None


def test_a_change_leaves_what_it_does_not_name() -> None:
    paused = msgspec.structs.replace(OPEN, is_paused=True, passes_max=7)
    changed = changed_room(paused, decode(WaitingRoomChange, admissions_per_second=3), None)
    assert changed == msgspec.structs.replace(paused, admissions_per_second=3.0)
    assert changed_room(paused, UNSET, None) == paused
    assert changed_room(paused, None, None) is None
    assert changed_room(None, UNSET, None) is None
    assert changed_room(paused, decode(WaitingRoomChange, opens_at=None), None) == msgspec.structs.replace(
        paused, opens_at=None
    )


def test_a_first_waiting_room_needs_a_mode() -> None:
    with pytest.raises(ValidationFailed, match=r"waiting_room\.mode"):
        changed_room(None, decode(WaitingRoomChange, passes_max=3), None)
    with pytest.raises(ValidationFailed, match=r"waiting_room\.mode"):
        changed_room(None, WaitingRoomChange(), None)


def test_the_end_of_the_sale_moved_before_the_queue_opens_is_refused() -> None:
    with pytest.raises(ValidationFailed, match=r"waiting_room\.opens_at"):
        changed_room(OPEN, UNSET, NOON)


@pytest.mark.parametrize(
    "after",
    [
        None,
        msgspec.structs.replace(OPEN, mode="lottery"),
        msgspec.structs.replace(OPEN, opens_at=None),
        msgspec.structs.replace(OPEN, public_round="another"),
    ],
)
def test_what_people_rely_on_is_frozen_once_published(after: StoredRoom | None) -> None:
    check_frozen(OPEN, after, "draft")
    for before, later in ((OPEN, after), (after, OPEN)):
        with pytest.raises(InvalidState) as raised:
            check_frozen(before, later, "published")
        assert raised.value.details == {"status": "published"}


def test_the_rest_may_change_and_the_cell_is_told_what_did() -> None:
    after = msgspec.structs.replace(OPEN, admissions_per_second=0.5, passes_max=9, is_paused=True)
    check_frozen(OPEN, after, "published")
    assert tuned_changes(OPEN, after) == {
        "queue_interval_us": 2_000_000, "queue_passes_max": 9, "queue_paused": 1,
    }  # fmt: skip
    assert tuned_changes(OPEN, OPEN) == {} == tuned_changes(None, OPEN)


def test_the_cell_is_told_everything_when_it_is_built() -> None:
    assert sale_fields(None) == {}
    assert sale_fields(StoredRoom(mode="open", admissions_per_second=100_000)) == {
        "queue_mode": "open", "queue_opens_at_ms": "0", "queue_interval_us": "10", "queue_passes_max": "1000",
        "queue_pass_ttl_ms": "300000", "queue_grace_ms": "60000", "queue_paused": "0",
    }  # fmt: skip
    lottery = StoredRoom(mode="lottery", opens_at=NOON, is_paused=True)
    assert sale_fields(lottery)["queue_opens_at_ms"] == "1780315200000"
    assert sale_fields(lottery)["queue_paused"] == "1"
