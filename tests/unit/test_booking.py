"""The text of a booking's record."""

import pytest

from engine.booking import Record, parse_record
from tests.records import spell_record

ITEMS = '[["z",2,500,"s"],["y",1,0,"s"]]'
HOLD = Record("reserved", 1, "3-17", "u", "f00d", 3, 1000, "EUR", 1000, 2000, None, None, None, ITEMS)
SOLD = HOLD._replace(status="confirmed", version=2, confirmed_at_ms=1500, code="ABC234", fingerprint="")


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (HOLD, f"reserved 1 3-17 u f00d 3 1000 EUR 1000 2000 - - - {ITEMS}"),
        (SOLD, f"confirmed 2 3-17 u - 3 1000 EUR 1000 2000 1500 - ABC234 {ITEMS}"),
        (HOLD._replace(total_minor=0), f"reserved 1 3-17 u f00d 3 0 EUR 1000 2000 - - - {ITEMS}"),
    ],
)
def test_a_record_is_read_as_it_is_spelled(record: Record, text: str) -> None:
    assert parse_record(text.encode()) == record


@pytest.mark.parametrize("text", ["", "reserved", spell_record(HOLD) + " more", "reserved one" + " -" * 12])
def test_what_is_no_record_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"record|invalid literal"):
        parse_record(text.encode())
