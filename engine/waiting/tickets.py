"""Tickets and passes: what the waiting room hands out, signed, so that whoever shows one is believed.

A ticket says which person has which number in which queue, so a gateway need not ask anybody. A pass says
until when a person may reserve; Redis has the same time, and decides. Both are keyed BLAKE2b (RFC 7693)
over a fixed layout, in base64url without padding (RFC 4648): their bytes fill its digits, so each has
one spelling only.
"""

import binascii
import hashlib
import hmac
import struct
from uuid import UUID

import msgspec

from engine.errors import Unauthorized
from engine.ids import CellId, cell_of, make_id

TICKET_VERSION = 1
SIGNATURE_BYTES = 16
_KEY_BYTES = 32
NUMBER_MAX = (1 << 32) - 1

_TICKET = struct.Struct(">BQ16sI")
"""Version, event reference and cell, user, number."""
_TICKET_BYTES = _TICKET.size
_PASS = struct.Struct(">Q")
_PASS_SIGNED = struct.Struct(">Q16sQ")
"""Event reference and cell, user, expires_at_ms: the first two are not in the pass itself."""
TICKET_CHARACTERS = (_TICKET.size + SIGNATURE_BYTES) * 4 // 3
PASS_CHARACTERS = (_PASS.size + SIGNATURE_BYTES) * 4 // 3

NO_PASS = ""
INVALID_PASS = "-"  # noqa: S105

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN = bytes.maketrans(b"-_+/", b"+/!!")
"""`+` and `/` are not of this alphabet: each text has one spelling."""


class Ticket(msgspec.Struct, frozen=True):
    """Who has which number in which queue. `user` is the 16 bytes of the person's id."""

    cell_id: CellId
    user: bytes
    number: int

    @property
    def event_id(self) -> UUID:
        """The event that the queue belongs to."""
        return make_id(self.cell_id.event_ref, 0, 0)

    @property
    def user_id(self) -> UUID:
        """The person."""
        return UUID(bytes=self.user)


class QueueSigner:
    """Signs tickets and passes, and knows its own again. Keys of its own, made from the tokens' secret."""

    def __init__(self, jwt_secret: str) -> None:
        # Keyed once; the hash that has read its key is copied for each signature.
        self._ticket_hash = _keyed(jwt_secret, b"rush queue ticket")
        self._pass_hash = _keyed(jwt_secret, b"rush queue pass")

    def ticket(self, event_id: UUID, user_id: UUID, number: int) -> str:
        """The ticket of a number: always the same one."""
        event_ref, cell = cell_of(event_id)
        content = _TICKET.pack(TICKET_VERSION, event_ref << 16 | cell, user_id.bytes, number)
        return _text(content, _signature(self._ticket_hash, content))

    def read_ticket(self, text: str | bytes) -> Ticket:
        """What a ticket says; raises Unauthorized for one that is not ours, without saying why."""
        raw = _bytes(text, TICKET_CHARACTERS)
        if raw is None:
            raise Unauthorized("A valid queue ticket is needed")
        content = raw[:_TICKET_BYTES]
        version, place, user, number = _TICKET.unpack(content)
        is_ours = hmac.compare_digest(_signature(self._ticket_hash, content), raw[_TICKET_BYTES:])
        if not is_ours or version != TICKET_VERSION:
            raise Unauthorized("A valid queue ticket is needed")
        return Ticket(CellId(place >> 16, place & 0xFFFF), user, number)

    def queue_pass(self, event_id: UUID, user_id: UUID, expires_at_ms: int) -> str:
        """The pass of a person until that time: always the same one."""
        signature = self._pass_signature(cell_of(event_id), user_id, expires_at_ms)
        return _text(_PASS.pack(expires_at_ms), signature)

    def pass_ms(self, text: str | bytes, event_id: UUID, user_id: UUID) -> str:
        """Until when (Unix ms) a pass lets this person reserve at this event; `-` for any that is not ours.

        Whether it has run out, or was spent, is for the cell to say.
        """
        return self.pass_ms_in(text, cell_of(event_id), user_id)

    def pass_ms_in(self, text: str | bytes, cell_id: CellId, user_id: UUID) -> str:
        """The same, for who has the cell and not the event's id."""
        raw = _bytes(text, PASS_CHARACTERS)
        if raw is None:
            return INVALID_PASS
        [expires_at_ms] = _PASS.unpack(raw[: _PASS.size])
        signature = self._pass_signature(cell_id, user_id, expires_at_ms)
        is_ours = hmac.compare_digest(signature, raw[_PASS.size :])
        return str(expires_at_ms) if is_ours else INVALID_PASS

    def _pass_signature(self, cell_id: CellId, user_id: UUID, expires_at_ms: int) -> bytes:
        event_ref, cell = cell_id
        content = _PASS_SIGNED.pack(event_ref << 16 | cell, user_id.bytes, expires_at_ms)
        return _signature(self._pass_hash, content)


def claims_of(text: str) -> Ticket | None:
    """What a ticket says, believed as it is: for who has it and no secret. None for what is none."""
    raw = _bytes(text, TICKET_CHARACTERS)
    if raw is None:
        return None
    _, place, user, number = _TICKET.unpack(raw[: _TICKET.size])
    return Ticket(CellId(place >> 16, place & 0xFFFF), user, number)


def _keyed(secret: str, label: bytes) -> "hashlib.blake2b":
    key = hmac.digest(secret.encode(), label, "sha256")
    return hashlib.blake2b(key=key[:_KEY_BYTES], digest_size=SIGNATURE_BYTES)


def _signature(keyed: "hashlib.blake2b", content: bytes) -> bytes:
    copy = keyed.copy()
    copy.update(content)
    return copy.digest()


def _text(content: bytes, signature: bytes) -> str:
    return binascii.b2a_base64(content + signature, newline=False).translate(_URL_SAFE).decode()


def _bytes(text: str | bytes, characters: int) -> bytes | None:
    """What was encoded, or None for what is no text of that length of ours."""
    if len(text) != characters:
        return None
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
        return binascii.a2b_base64(raw.translate(_PLAIN), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
