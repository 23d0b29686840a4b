"""Sending a reservation: from checked items to the script's reply.

Here an id is the text that it is in a request and in Redis: making a UUID of it and text of that again would
cost more than everything else in this module.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from engine import ids, limits
from engine.booking import Booking, ItemRequest, items_decoder
from engine.cells import CellDirectory
from engine.errors import NotFound, ValidationFailed
from engine.gathering import Gathering, Replied, Request
from engine.ids import CellId
from engine.keys import CellKeys
from engine.ledger import Position
from engine.status import Status
from engine.stores import Stores

ITEMS_MAX = 8
QUANTITY_MAX = 1_000


class Wish(msgspec.Struct, frozen=True):
    """What a request asks for, checked and ready to be sent. It says nothing of who asks, so the wish of
    one request serves every other with the same items."""

    cell_id: CellId
    fingerprint: str
    zone_keys: tuple[str, ...]
    arguments: tuple[str | int, ...]
    """Zone, show or "", quantity, for each item."""


class Taken(NamedTuple):
    """What a granted reservation took, as the script says it."""

    items: bytes
    """JSON, as in the ledger."""
    quantity: int | bytes
    total_minor: int | bytes
    currency: bytes
    created_at_ms: int | bytes
    expires_at_ms: int | bytes


def taken(reply: Sequence[Any]) -> Taken:
    """What a reply of status OK or REPLAYED says was taken."""
    return Taken(*(reply[2:8] if reply[0] == Status.OK else reply[6:12]))


def as_reserved(booking_id: UUID, user_id: UUID, taken: Taken, position: Position) -> Booking:
    """The booking as its reservation was answered, whatever became of it since."""
    return Booking(
        id=booking_id,
        user_id=user_id,
        event_id=ids.event_id_of(booking_id),
        status="reserved",
        durable=False,
        items=items_decoder.decode(taken.items),
        quantity=int(taken.quantity),
        total_minor=int(taken.total_minor),
        currency=taken.currency.decode(),
        created_at_ms=int(taken.created_at_ms),
        expires_at_ms=int(taken.expires_at_ms),
        confirmed_at_ms=None,
        confirmation_code=None,
        version=1,
        position=position,
    )


def check_items(items: Sequence[ItemRequest]) -> CellId:
    """The cell that holds all these items; raises ValidationFailed where they do not go together."""
    if not 1 <= len(items) <= ITEMS_MAX:
        raise ValidationFailed("items", f"1 to {ITEMS_MAX} items")
    cell_id = ids.cell_of(items[0].zone_id)
    seen = set()
    for item in items:
        if not 1 <= item.quantity <= QUANTITY_MAX:
            raise ValidationFailed("quantity", f"1 to {QUANTITY_MAX}")
        if item.zone_id in seen:
            raise ValidationFailed("items", "the same zone twice")
        if not ids.is_rush_id(item.zone_id):
            raise NotFound("There is no such zone", details={"zone_id": str(item.zone_id)})
        if ids.cell_of(item.zone_id) != cell_id:
            raise ValidationFailed("items", "zones of two events")
        seen.add(item.zone_id)
    return cell_id


def fingerprint(items: Sequence[ItemRequest]) -> str:
    """What makes two requests the same: their items sorted by zone. 32 hex digits."""
    text = ",".join(sorted(f"{item.zone_id}:{item.quantity}" for item in items))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def wish_of(items: Sequence[ItemRequest]) -> Wish:
    """The wish for these items; raises ValidationFailed or NotFound."""
    cell_id = check_items(items)
    keys = CellKeys(cell_id)
    arguments: list[str | int] = []
    for item in items:
        arguments += (str(item.zone_id), str(item.show_id) if item.show_id else "", item.quantity)
    return Wish(
        cell_id=cell_id,
        fingerprint=fingerprint(items),
        zone_keys=tuple(keys.zone(item.zone_id) for item in items),
        arguments=tuple(arguments),
    )


class Reserving:
    """Sends reservations to cells that this process has met."""

    def __init__(self, stores: Stores, cells: CellDirectory) -> None:
        self._cells = cells
        settings = stores.settings
        rate_interval_ms = limits.interval_ms(settings.reserve_rate_per_minute)
        self._gathering = Gathering(stores, rate_interval_ms, settings.reserve_burst)

    def ask(
        self, wish: Wish, user_id: UUID, idempotency_key: str | None, replied: Replied, queue_pass: str = ""
    ) -> bool:
        """Send it with others of this loop tick, and have `replied` called, mostly later; False, and nothing
        is sent, where this process has not met the cell yet. `queue_pass` is as `Request` has it.

        Raises StoreUnavailable and Overloaded; `replied` is told what Gathering.add says.
        """
        cell_id = wish.cell_id
        cell = self._cells.known(cell_id)
        if cell is None:
            return False
        if idempotency_key is None:
            booking_id, request_fingerprint = ids.new_booking_text(cell_id), ""
        else:
            booking_id = ids.keyed_booking_text(cell_id, cell.secret, user_id, idempotency_key)
            request_fingerprint = wish.fingerprint
        zone_keys = wish.zone_keys
        request = Request(
            ids.text_of(user_id),
            booking_id,
            request_fingerprint,
            len(zone_keys),
            wish.arguments,
            zone_keys,
            replied,
            queue_pass,
        )
        self._gathering.add(cell.keys, request)
        return True
