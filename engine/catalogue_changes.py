"""From what an organizer sent to columns and intents: values in, values out."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from engine import catalogue_forms as forms
from engine.catalogue_model import Zone
from engine.edits import SaleEdit, ZoneEdit
from engine.errors import InvalidState, ValidationFailed
from engine.moments import moment
from engine.times import to_ms
from engine.waiting.settings import (
    changed_room,
    check_frozen,
    new_room,
    room_text,
    stored_room,
    tuned_changes,
)

MS_PER_S = 1_000


def columns_of(new: forms.NewEvent) -> dict[str, Any]:
    """The columns of a new event but for ids, slug and category; raises ValidationFailed."""
    if new.slug is not None:
        forms.check_slug(new.slug)
    columns: dict[str, Any] = {
        "title": new.title,
        "description": new.description,
        "venue": new.venue,
        "image_url": new.image_url,
        "currency": new.currency,
        "sale_start_at": moment("sale_start_at", new.sale_start_at),
        "sale_end_at": None if new.sale_end_at is None else moment("sale_end_at", new.sale_end_at),
        "max_per_user": new.max_per_user,
        "hold_ttl_seconds": new.hold_ttl_seconds,
        "refund_policy": _refund_policy(new.refund_policy),
    }
    _check(columns)
    columns["waiting_room"] = room_text(new_room(new.waiting_room, columns["sale_end_at"]))
    return columns


def changed_columns(row: Mapping[str, Any], change: forms.EventChange) -> dict[str, Any]:
    """All columns that a change may touch, as they are to be; raises ValidationFailed or InvalidState."""
    columns = {
        name: row[name]
        for name in (
            "title", "slug", "description", "venue", "category_id", "image_url", "currency",
            "sale_start_at", "sale_end_at", "max_per_user", "hold_ttl_seconds", "refund_policy",
        )
    }  # fmt: skip
    for name in columns:
        value = getattr(change, name, UNSET)
        if value is UNSET:
            continue
        if name == "refund_policy":
            value = _refund_policy(value)
        elif name in ("sale_start_at", "sale_end_at") and value is not None:
            value = moment(name, value)
        columns[name] = value
    if change.slug is not UNSET:
        forms.check_slug(change.slug)
    _check(columns)
    before = stored_room(row["waiting_room"])
    after = changed_room(before, change.waiting_room, columns["sale_end_at"])
    check_frozen(before, after, row["status"])
    columns["waiting_room"] = room_text(after)
    return columns


def _check(columns: Mapping[str, Any]) -> None:
    if not columns["title"].strip():
        raise ValidationFailed("title", "must not be blank")
    forms.check_currency(columns["currency"])
    end = columns["sale_end_at"]
    if end is not None and end <= columns["sale_start_at"]:
        raise ValidationFailed("sale_end_at", "must be after sale_start_at")


def _refund_policy(policy: tuple[forms.RefundStep, ...] | None) -> str:
    steps = forms.REFUND_POLICY_DEFAULT if policy is None else policy
    forms.check_refund_policy(steps)
    return msgspec.json.encode(steps).decode()


def sale_edit(row: Mapping[str, Any], columns: Mapping[str, Any]) -> SaleEdit | None:
    """What the scripts have to know of a change, or None where they need not."""
    edit = SaleEdit()
    if columns["sale_start_at"] != row["sale_start_at"]:
        edit = msgspec.structs.replace(edit, sale_start_at_ms=to_ms(columns["sale_start_at"]))
    if columns["sale_end_at"] != row["sale_end_at"]:
        end = columns["sale_end_at"]
        edit = msgspec.structs.replace(edit, sale_end_at_ms=0 if end is None else to_ms(end))
    if columns["max_per_user"] != row["max_per_user"]:
        edit = msgspec.structs.replace(edit, max_per_user=columns["max_per_user"])
    if columns["hold_ttl_seconds"] != row["hold_ttl_seconds"]:
        edit = msgspec.structs.replace(edit, hold_ttl_ms=columns["hold_ttl_seconds"] * MS_PER_S)
    rooms = stored_room(row["waiting_room"]), stored_room(columns["waiting_room"])
    edit = msgspec.structs.replace(edit, **tuned_changes(*rooms))
    return None if edit == SaleEdit() else edit


def zone_columns(zone: Zone, change: forms.ZoneChange, currency: str) -> dict[str, Any]:
    """Name, price and limit of a zone as they are to be; raises ValidationFailed."""
    if change.name is not UNSET:
        check_name("name", change.name)
    return {
        "name": zone.name if change.name is UNSET else change.name,
        "price_minor": (
            zone.price_minor if change.price is UNSET else forms.price_minor("price", change.price, currency)
        ),
        "max_per_order": zone.max_per_order if change.max_per_order is UNSET else change.max_per_order,
    }


def zone_counters_edit(zone: Zone, change: forms.ZoneChange) -> ZoneEdit | None:
    """The part of a change that the script may refuse, or None where there is none."""
    capacity = None if change.total_seats is UNSET else change.total_seats
    blocked = None if change.blocked_seats is UNSET else change.blocked_seats
    if capacity is None and blocked is None:
        return None
    return ZoneEdit(zone.id, capacity=capacity, blocked=blocked)


def draft_counters(zone: Zone, change: forms.ZoneChange) -> dict[str, int]:
    """Capacity and blocked seats of a zone that was never on sale; raises InvalidState."""
    capacity = zone.capacity if change.total_seats is UNSET else change.total_seats
    blocked = zone.blocked if change.blocked_seats is UNSET else change.blocked_seats
    if blocked > capacity:
        raise InvalidState("More seats would be blocked than there are", details={"status": "draft"})
    return {"capacity": capacity, "blocked": blocked}


def check_name(field: str, name: str) -> None:
    """Raise ValidationFailed for a name of blanks."""
    if not name.strip():
        raise ValidationFailed(field, "must not be blank")
