"""The body of a 201 out of a template is, byte for byte, what encoding the booking gives."""

from uuid import UUID, uuid4

import msgspec
import pytest

from engine import ids
from engine.ledger import Position
from engine.reserving import Taken, as_reserved
from gateway.answers import BookingAnswer
from gateway.granted import TEMPLATES_MAX, Granted, GrantedTemplates

REF = 77
ZONES = [str(ids.make_id(REF, 0, number)) for number in (3, 1, 2)]
SHOW = str(ids.make_id(REF, 0, 9))
CREATED_MS = 1_795_225_729_007


def items(*quantities: int, price_minor: int = 4500) -> bytes:
    return msgspec.json.encode(
        [[zone, quantity, price_minor, SHOW] for zone, quantity in zip(ZONES, quantities, strict=False)]
    )


def encoded(booking_id: str, taken: Taken) -> bytes:
    booking = as_reserved(UUID(booking_id), uuid4(), taken, Position(1, 1))
    return msgspec.json.encode(Granted(True, BookingAnswer.of(booking)))


@pytest.mark.parametrize("currency", [b"GBP", b"JPY", b"KWD"])
@pytest.mark.parametrize("quantities", [(1,), (2, 1), (1, 2, 3)])
@pytest.mark.parametrize("is_text", [False, True])
def test_a_filled_template_is_the_encoded_booking(
    currency: bytes, quantities: tuple[int, ...], is_text: bool
) -> None:
    templates = GrantedTemplates()
    for number in range(3):
        total = 4500 * sum(quantities)
        numbers = [sum(quantities), total, CREATED_MS + number * 997, CREATED_MS + 600_000 + number]
        quantity, total_minor, created, expires = [str(n).encode() if is_text else n for n in numbers]
        taken = Taken(items(*quantities), quantity, total_minor, currency, created, expires)
        booking_id = ids.new_booking_text(ids.CellId(REF, 0))
        assert templates.fill(booking_id, taken) == encoded(booking_id, taken)


def test_what_differs_in_items_price_or_event_is_another_answer() -> None:
    templates = GrantedTemplates()
    for taken in (
        Taken(items(1), 1, 4500, b"GBP", CREATED_MS, CREATED_MS),
        Taken(items(2), 2, 9000, b"GBP", CREATED_MS, CREATED_MS),
        Taken(items(1, price_minor=1), 1, 1, b"GBP", CREATED_MS, CREATED_MS),
        Taken(items(1).replace(b"00000000-004d", b"00000000-004e"), 1, 4500, b"GBP", CREATED_MS, CREATED_MS),
    ):
        ref = 78 if b"004e" in taken.items else REF
        booking_id = ids.new_booking_text(ids.CellId(ref, 0))
        assert templates.fill(booking_id, taken) == encoded(booking_id, taken)


def test_there_is_a_bound_on_how_many_are_remembered() -> None:
    templates = GrantedTemplates()
    booking_id = ids.new_booking_text(ids.CellId(REF, 0))
    for price in range(TEMPLATES_MAX + 2):
        taken = Taken(items(1, price_minor=price), 1, price, b"GBP", CREATED_MS, CREATED_MS)
        assert templates.fill(booking_id, taken) == encoded(booking_id, taken)
    assert len(templates._templates) <= TEMPLATES_MAX
