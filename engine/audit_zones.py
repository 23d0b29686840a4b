"""Zones and the sale: they add up, they agree, and Postgres' counters are the sums over its bookings."""

from collections.abc import Iterable, Sequence
from typing import assert_never
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio.client

from engine.audit_look import CellView, Entries, Finding, Look, queries, settle
from engine.audit_report import EventReport, ZoneState
from engine.ledger import Cancel, Confirm, Edit, Expire, Open, QueueEntry, Reject, Reserve
from engine.stores import Connection
from engine.times import to_ms
from engine.waiting.settings import sale_fields, stored_room

COUNTERS = ("capacity", "available", "reserved", "confirmed", "blocked")
ZONE_FIELDS = (*COUNTERS, "show", "price_minor", "max_per_order")
SALE_FIELDS = (
    "version", "zones", "status", "sale_start_at_ms", "sale_end_at_ms", "max_per_user", "hold_ttl_ms",
    "currency",
    "queue_mode", "queue_opens_at_ms", "queue_interval_us", "queue_passes_max", "queue_pass_ttl_ms",
    "queue_grace_ms", "queue_paused",
)  # fmt: skip

Counters = list[int]


class _Rows(msgspec.Struct):
    zones: list[asyncpg.Record]
    sums: dict[UUID, asyncpg.Record] | None
    sale: asyncpg.Record
    edit_version: int
    applied_version: int


def moves(entries: Entries) -> dict[UUID, Counters]:
    """By how much the entries move each zone's counters, in the order of COUNTERS."""
    moved: dict[UUID, Counters] = {}

    def add(zone_id: UUID, *amounts: int) -> None:
        counters = moved.setdefault(zone_id, [0] * len(COUNTERS))
        for i, amount in enumerate(amounts):
            counters[i] += amount

    for _, entry in entries:
        match entry:
            case None | Open():
                pass
            case Reserve():
                for item in entry.items:
                    add(item.zone_id, 0, -item.quantity, item.quantity)
            case Confirm():
                for item in entry.items:
                    add(item.zone_id, 0, 0, -item.quantity, item.quantity)
            case Cancel() | Expire() | Reject():
                is_hold = entry.was == "reserved"
                for item in entry.items:
                    add(
                        item.zone_id,
                        0,
                        item.quantity,
                        -item.quantity if is_hold else 0,
                        0 if is_hold else -item.quantity,
                    )
            case Edit():
                for change in entry.changes:
                    add(change.zone_id, change.capacity, change.available, 0, 0, change.blocked)
            case _ if isinstance(entry, QueueEntry):
                pass
            case _:
                assert_never(entry)
    return moved


async def check_zones(view: CellView, *, has_sums: bool = True) -> None:
    """Rules 1 and 3 for the zones and the sale of an open cell, with the sums over its bookings or not."""

    async def read_rows(connection: Connection) -> _Rows:
        sums = None
        if has_sums:
            sums = {row["zone_id"]: row async for row in queries.zone_sums(connection, **view.in_range)}
        position = await queries.position(connection, **view.of_cell)
        return _Rows(
            zones=[row async for row in queries.zones(connection, event_id=view.event_id)],
            sums=sums,
            sale=await queries.sale(connection, event_id=view.event_id),
            edit_version=position["edit_version"],
            applied_version=position["applied_version"],
        )

    def queue(pipeline: redis.asyncio.client.Pipeline, rows: _Rows) -> None:
        pipeline.hmget(view.keys.sale, list(SALE_FIELDS))
        for zone in rows.zones:
            pipeline.hmget(view.keys.zone(zone["id"]), list(ZONE_FIELDS))

    async def examine(_: Sequence[str]) -> list[tuple[str, Finding]]:
        look = await view.look(read_rows, queue)
        view.report.position = str(look.live)
        return [
            *_examine_sale(look),
            *_examine_zones(look, view.report),
            *examine_rows(look.rows.zones, look.rows.sums),
        ]

    # They are always looked at all together: the first suspect stands for them.
    await settle(view.report, ["zones"], examine)


def _examine_zones(look: Look[_Rows], report: EventReport) -> Iterable[tuple[str, Finding]]:
    moved = moves(look.entries)
    _, *records = look.replies
    states = []
    for zone, record in zip(look.rows.zones, records, strict=True):
        if record[0] is None:
            is_awaited = look.rows.edit_version > look.rows.applied_version or zone["capacity"] == 0
            if not is_awaited:
                yield _named(zone), (3, "zone_missing_in_redis", "Postgres has it, Redis does not")
            continue
        live = [int(value) for value in record[: len(COUNTERS)]]
        state = ZoneState(zone["id"], zone["name"], *live)
        states.append(state)
        expected = [
            was + by
            for was, by in zip(_counters(zone), moved.get(zone["id"], [0] * len(COUNTERS)), strict=True)
        ]
        if not state.adds_up:
            yield _named(zone), (1, "zone_does_not_add_up_in_redis", _spell(live))
        elif live != expected:
            yield (
                _named(zone),
                (
                    3,
                    "zone_differs",
                    f"Redis has {_spell(live)}; by Postgres and the ledger {_spell(expected)}",
                ),
            )
        yield from _examine_terms(look, zone, record)
    report.zones = states


def _named(zone: asyncpg.Record) -> str:
    return f"{zone['name']} ({zone['id']})"


def _counters(zone: asyncpg.Record) -> Counters:
    return [zone["capacity"], zone["available_seats"], zone["reserved"], zone["confirmed"], zone["blocked"]]


def _spell(counters: Counters) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(COUNTERS, counters, strict=True))


def _examine_terms(
    look: Look[_Rows], zone: asyncpg.Record, record: list[bytes]
) -> Iterable[tuple[str, Finding]]:
    """A zone's show, price and limit, once no edit is on its way."""
    if look.rows.edit_version > look.rows.applied_version:
        return
    terms = (str(zone["show_id"]), str(zone["price_minor"]), str(zone["max_per_order"]))
    live = tuple(value.decode() for value in record[len(COUNTERS) :])
    if terms != live:
        yield _named(zone), (3, "zone_terms_differ", f"Redis has {live}, Postgres {terms}")


def _examine_sale(look: Look[_Rows]) -> Iterable[tuple[str, Finding]]:
    rows = look.rows
    live = {
        name: value.decode() if value is not None else ""
        for name, value in zip(SALE_FIELDS, look.replies[0], strict=True)
    }
    known = {str(zone["id"]) for zone in rows.zones}
    for zone_id in live["zones"].split():
        if zone_id not in known:
            yield zone_id, (3, "zone_missing_in_postgres", "Redis sells a zone that Postgres does not have")
    version = rows.applied_version + sum(isinstance(entry, Edit) for _, entry in look.entries)
    if live["version"] != str(version):
        yield (
            "sale",
            (3, "edits_differ", f"Redis has applied {live['version']} edits, the ledger says {version}"),
        )
    if rows.edit_version > rows.applied_version:
        return
    sale = rows.sale
    terms = {
        "status": sale["status"],
        "sale_start_at_ms": str(to_ms(sale["sale_start_at"])),
        "sale_end_at_ms": str(to_ms(sale["sale_end_at"]) if sale["sale_end_at"] else 0),
        "max_per_user": str(sale["max_per_user"]),
        "hold_ttl_ms": str(sale["hold_ttl_seconds"] * 1000),
        "currency": sale["currency"],
        **sale_fields(stored_room(sale["waiting_room"])),
    }
    for name, value in terms.items():
        if live[name] != value:
            yield (
                "sale",
                (3, "sale_terms_differ", f"{name} is {live[name]!r} in Redis, {value!r} in Postgres"),
            )


def examine_rows(
    zones: list[asyncpg.Record], sums: dict[UUID, asyncpg.Record] | None
) -> Iterable[tuple[str, Finding]]:
    """The rows alone: each zone adds up, and its counters are the sums over the bookings, where known."""
    for zone in zones:
        counters = _counters(zone)
        if min(counters) < 0 or sum(counters[1:]) != counters[0]:
            yield _named(zone), (1, "zone_does_not_add_up_in_postgres", _spell(counters))
        if sums is None:
            continue
        held = sums.get(zone["id"])
        reserved, confirmed = (held["reserved"], held["confirmed"]) if held else (0, 0)
        if (zone["reserved"], zone["confirmed"]) != (reserved, confirmed):
            yield (
                _named(zone),
                (
                    3,
                    "counters_differ_from_bookings",
                    f"Postgres counts {zone['reserved']} reserved and {zone['confirmed']} confirmed, "
                    f"its bookings hold {reserved} and {confirmed}",
                ),
            )
    for zone_id in (sums or {}).keys() - {zone["id"] for zone in zones}:
        yield (
            str(zone_id),
            (3, "booking_of_unknown_zone", "bookings hold seats of a zone that does not exist"),
        )
