"""Keys: one hash tag a cell, so that a script call touches one slot of a cluster."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from engine.ids import CELL_MAX, EVENT_REF_MAX, CellId
from engine.keys import CellKeys, parse_tag, rate, tag

cell_ids = st.builds(CellId, st.integers(0, EVENT_REF_MAX), st.integers(0, CELL_MAX))


def keys_of(keys: CellKeys) -> list[str]:
    fixed = [getattr(keys, name) for name in CellKeys.__slots__]
    return [*fixed, keys.zone(uuid4()), keys.booking(uuid4()), keys.rate(uuid4())]


@given(cell_ids)
def test_all_keys_of_a_cell_are_in_one_slot(cell_id: CellId) -> None:
    keys = keys_of(CellKeys(cell_id))
    assert len(keys) > 10
    assert len(set(keys)) == len(keys)
    assert {key_slot(key.encode()) for key in keys} == {key_slot(tag(cell_id).encode())}


def test_the_cells_of_an_event_spread_over_the_slots() -> None:
    slots = {key_slot(CellKeys(CellId(1, cell)).sale.encode()) for cell in range(100)}
    assert len(slots) > 90


@given(cell_ids)
def test_a_tag_reads_back(cell_id: CellId) -> None:
    assert parse_tag(tag(cell_id)) == cell_id


@given(cell_ids, cell_ids)
def test_two_cells_never_share_a_key(one: CellId, other: CellId) -> None:
    if one != other:
        assert CellKeys(one).prefix != CellKeys(other).prefix


@pytest.mark.parametrize(
    "text",
    [
        *["", ".", "0", "000000000001", "000000000001.", ".0", "1.0", "00000000000g.0", "000000000001.-1"],
        *["-00000000001.0", "0x0000000001.0", "000000000001.01", "000000000001. 1", "000000000001.0.0"],
        *["00000000_001.0", "00000000000A.0", "000000000001.4096", "1000000000000.0", "000000000001.\u0661"],
    ],
)
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_tag(text)


def test_the_spelling_is_the_documented_one() -> None:
    keys = CellKeys(CellId(0xAB, 3))
    assert keys.sale == "rush:{0000000000ab.3}:sale"
    assert keys.zone("z") == "rush:{0000000000ab.3}:zone:z"
    assert keys.booking("b") == "rush:{0000000000ab.3}:booking:b"
    assert keys.rate("u") == "rush:{0000000000ab.3}:rate:u"


def test_a_rate_outside_any_cell_is_scoped_by_what_it_limits() -> None:
    assert rate("login", "::1") != rate("register", "::1")
    assert rate("login", "a@b.example") == "rush:rate:{login:a@b.example}"
