"""Ids: the layout of RFC 9562's version 8, and what can be read from an id alone."""

import hashlib
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ids import (
    CELL_MAX,
    EVENT_REF_MAX,
    OWN_MAX,
    CellId,
    cell_of,
    event_id_of,
    event_ref_of,
    id_range,
    is_rush_id,
    keyed_booking_id,
    keyed_booking_text,
    make_id,
    new_booking_text,
    new_event_id,
    new_id,
    text_of,
)

event_refs = st.integers(0, EVENT_REF_MAX)
cells = st.integers(0, CELL_MAX)
owns = st.integers(0, OWN_MAX)
SECRET = b"s" * 32
CELL = CellId(0x0123456789AB, 7)
USER = UUID("6f1d3f0e-6f0c-4f7e-9a53-2c8a2f6f0001")


@given(event_refs, cells, owns)
def test_an_id_gives_back_what_it_was_made_of(event_ref: int, cell: int, own: int) -> None:
    made = make_id(event_ref, cell, own)
    assert cell_of(made) == (event_ref, cell)
    assert event_ref_of(made) == event_ref
    assert made.int & OWN_MAX == own
    assert event_id_of(made) == make_id(event_ref, 0, 0)
    assert is_rush_id(made)


@given(event_refs, cells, owns)
def test_the_version_and_the_variant_are_those_of_rfc_9562(event_ref: int, cell: int, own: int) -> None:
    made = make_id(event_ref, cell, own)
    assert made.version == 8
    assert made.variant == RFC_4122


def test_the_layout_is_the_documented_one() -> None:
    # 48 bits event reference, version 8, 12 bits cell, variant 10, 62 bits of its own.
    assert str(make_id(0x0123456789AB, 0xCDE, 0)) == "01234567-89ab-8cde-8000-000000000000"
    assert str(make_id(0, 0, OWN_MAX)) == "00000000-0000-8000-bfff-ffffffffffff"
    assert str(make_id(EVENT_REF_MAX, CELL_MAX, OWN_MAX)) == "ffffffff-ffff-8fff-bfff-ffffffffffff"


@pytest.mark.parametrize(
    ("event_ref", "cell", "own"),
    [
        (-1, 0, 0),
        (EVENT_REF_MAX + 1, 0, 0),
        (0, -1, 0),
        (0, CELL_MAX + 1, 0),
        (0, 0, -1),
        (0, 0, OWN_MAX + 1),
    ],
)
def test_a_part_out_of_range_is_refused(event_ref: int, cell: int, own: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        make_id(event_ref, cell, own)


def test_other_uuids_are_not_ours() -> None:
    assert not any(is_rush_id(uuid4()) for _ in range(100))
    assert not is_rush_id(UUID(int=0))
    assert not is_rush_id(UUID(int=(1 << 128) - 1))


def test_a_fresh_event_id_is_its_own_event_id_in_cell_0() -> None:
    event_id = new_event_id()
    assert event_id_of(event_id) == event_id
    assert cell_of(event_id) == (event_ref_of(event_id), 0)


def test_fresh_ids_differ_and_stay_in_their_cell() -> None:
    made = {new_id(CELL.event_ref, CELL.cell) for _ in range(1000)}
    assert len(made) == 1000
    assert {cell_of(value) for value in made} == {CELL}


@given(st.uuids(), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255))
def test_a_keyed_id_is_deterministic_and_in_its_cell(user_id: UUID, key: str) -> None:
    made = keyed_booking_id(CELL, SECRET, user_id, key)
    assert made == keyed_booking_id(CELL, SECRET, user_id, key)
    assert is_rush_id(made)
    assert cell_of(made) == CELL


def test_a_keyed_id_is_scoped_by_user_key_secret_and_event() -> None:
    made = {
        keyed_booking_id(CELL, SECRET, USER, "k"),
        keyed_booking_id(CELL, SECRET, uuid4(), "k"),
        keyed_booking_id(CELL, SECRET, USER, "K"),
        keyed_booking_id(CELL, b"t" * 32, USER, "k"),
        keyed_booking_id(CellId(CELL.event_ref + 1, CELL.cell), SECRET, USER, "k"),
        keyed_booking_id(CellId(CELL.event_ref, CELL.cell + 1), SECRET, USER, "k"),
    }
    assert len(made) == 6


def test_a_keyed_id_never_changes_between_releases() -> None:
    made = keyed_booking_id(CELL, SECRET, USER, "order-1")
    assert made == UUID("01234567-89ab-8007-9465-4c62f3c7efe8")


@given(event_refs, cells, owns)
def test_the_range_of_a_cell_holds_its_ids_and_no_others(event_ref: int, cell: int, own: int) -> None:
    low, high = id_range(CellId(event_ref, cell))
    assert low <= make_id(event_ref, cell, own) <= high
    assert cell_of(low) == cell_of(high) == (event_ref, cell)
    if cell < CELL_MAX:
        assert high < make_id(event_ref, cell + 1, 0)
    if cell > 0:
        assert make_id(event_ref, cell - 1, OWN_MAX) < low


@given(event_refs, cells, st.uuids(), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_an_id_made_as_text_is_the_text_of_the_id(ref: int, cell: int, user_id: UUID, key: str) -> None:
    cell_id = CellId(ref, cell)
    text = keyed_booking_text(cell_id, SECRET, user_id, key)
    digest = hashlib.blake2b(user_id.bytes + key.encode(), key=SECRET, digest_size=8).digest()
    assert text == str(make_id(*cell_id, int.from_bytes(digest, "big") & OWN_MAX))
    for made in (text, new_booking_text(cell_id)):
        assert str(UUID(made)) == made
        assert is_rush_id(UUID(made))
        assert cell_of(UUID(made)) == cell_id
    assert text_of(user_id) == str(user_id)


def test_fresh_ids_as_text_differ() -> None:
    assert len({new_booking_text(CELL) for _ in range(1000)}) == 1000
