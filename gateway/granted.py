"""The body of a reservation's 201, without encoding each anew.

Of a thousand people who book one seat of the same zone everybody gets the same answer but for the booking's
id and two times. So the first answer of its kind is encoded as all others are, and cut open where it differs.
"""

from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from engine.ledger import Position
from engine.reserving import Taken, as_reserved
from gateway.answers import BookingAnswer, rfc3339

TEMPLATES_MAX = 1024

_EXPIRES_MARK, _CREATED_MARK = "<expires_at>", "<created_at>"

_encode = msgspec.json.Encoder().encode


class Granted(msgspec.Struct):
    """The whole answer."""

    success: bool
    data: BookingAnswer


class GrantedTemplates:
    """Answers by their items and what those cost."""

    def __init__(self) -> None:
        self._templates: dict[tuple[Any, ...], bytes] = {}

    def fill(self, booking_id: str, taken: Taken) -> bytes:
        """The answer to the reservation that took this, whatever became of the booking since."""
        items, _, total_minor, currency, created_at_ms, expires_at_ms = taken
        # The ids of an answer are those of its items, but for the booking's own; so is its event.
        kind = (items, total_minor, currency)
        template = self._templates.get(kind)
        if template is None:
            if len(self._templates) >= TEMPLATES_MAX:
                self._templates.clear()
            template = self._templates[kind] = _template(booking_id, taken)
        return template % (booking_id.encode(), _time(expires_at_ms), _time(created_at_ms))


def _template(booking_id: str, taken: Taken) -> bytes:
    answer = BookingAnswer.of(as_reserved(UUID(booking_id), UUID(int=0), taken, Position(0, 0)))
    answer.expires_at, answer.created_at = _EXPIRES_MARK, _CREATED_MARK
    template = _encode(Granted(True, answer)).replace(b"%", b"%%")
    for mark in (booking_id, _EXPIRES_MARK, _CREATED_MARK):
        before, _, behind = template.partition(mark.encode())
        template = before + b"%b" + behind
    return template


@lru_cache(maxsize=4096)
def _time(at_ms: int | bytes) -> bytes:
    # A fresh reservation comes with numbers, one that is read back with their text.
    return rfc3339(int(at_ms)).encode()
