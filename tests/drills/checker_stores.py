"""Both stores after the quiet time: each adds up, and they agree zone by zone and booking by booking."""

from collections import Counter

from tests.drills import history
from tests.drills.checker_evidence import Booking, Cell, Counters, Postgres, position_of, position_text
from tests.drills.checker_report import Report


def check_stores(
    tag: str,
    event: history.Event,
    limit: int,
    cell: Cell,
    postgres: Postgres,
    rejected: set[str],
    report: Report,
) -> None:
    """Every rule for one cell; `limit` is the highest per-user limit that it had."""
    rows = postgres.rows_of(tag)
    offset = postgres.offsets.get(tag, 0)
    if cell.position != offset:
        where = "not open" if cell.position is None else f"at {position_text(cell.position)}"
        text = f"{tag}: Redis is {where} and Postgres at {position_text(offset)} after the quiet time"
        report.add("not caught up", text)
    if cell.position is None:
        return
    if cell.ledger and position_of(cell.ledger[-1][0]) != cell.position:
        report.add(
            "stores", f"{tag}: the ledger ends at {cell.ledger[-1][0]}, `sale` says otherwise", cell.sale
        )
    zones = {zone.id for zone in event.zones}
    for zone in sorted(zones | cell.zones.keys()):
        ours, theirs = cell.zones.get(zone), postgres.zones.get(zone)
        if ours is not None and theirs is not None and ours != theirs:
            report.add("stores", f"zone {zone} differs", f"Redis {ours}", f"Postgres {theirs}")
    _check_zones("Redis", zones, cell.zones, cell.bookings, report)
    _check_zones("Postgres", zones, postgres.zones, rows, report)
    _check_bookings(tag, cell, rows, rejected, report)
    _check_buyers(tag, limit, cell, rows, report)
    _check_deadlines(tag, cell, report)
    for letter in postgres.dead_letters:
        if letter.tag == tag and not letter.is_returned:
            report.add("dead letters", f"{tag}: the seats of {letter.booking} were not given back", letter)


def _check_zones(
    store: str,
    zones: set[str],
    all_counters: dict[str, Counters],
    bookings: dict[str, Booking],
    report: Report,
) -> None:
    sums: Counter[tuple[str, str]] = Counter()
    for booking in bookings.values():
        for zone, quantity in booking.items:
            sums[zone, booking.status] += quantity
    for zone in sorted(zones):
        counters = all_counters.get(zone)
        if counters is None:
            report.add("conservation", f"{store} does not know the zone {zone}")
            continue
        if (
            counters.available + counters.reserved + counters.confirmed + counters.blocked
            != counters.capacity
        ):
            report.add("conservation", f"zone {zone} of {store} does not add up", counters)
        if min(counters.available, counters.reserved, counters.confirmed, counters.blocked) < 0:
            report.add("conservation", f"zone {zone} of {store} is below 0", counters)
        reserved, confirmed = sums[zone, "reserved"], sums[zone, "confirmed"]
        if (reserved, confirmed) != (counters.reserved, counters.confirmed):
            text = f"zone {zone} of {store}: its bookings are {reserved} reserved and {confirmed} confirmed"
            report.add("conservation", text, counters)


def _check_bookings(
    tag: str, cell: Cell, rows: dict[str, Booking], rejected: set[str], report: Report
) -> None:
    for id_ in {*cell.bookings, *rows} - rejected:
        ours, theirs = cell.bookings.get(id_), rows.get(id_)
        if theirs is None:
            report.add("stores", f"{tag}: booking {id_} is not in Postgres", ours)
        elif ours is None:
            # Redis may forget what has ended and had no key.
            if theirs.is_live or theirs.fingerprint:
                report.add("stores", f"{tag}: booking {id_} is not in Redis", theirs)
        elif ours != theirs:
            report.add("stores", f"{tag}: booking {id_} differs", f"Redis {ours}", f"Postgres {theirs}")
    for id_ in rejected:
        for store, booking in (("Redis", cell.bookings.get(id_)), ("Postgres", rows.get(id_))):
            if booking is not None and booking.is_live:
                report.add("dead letters", f"{tag}: {store} has a booking that was refused", booking)


def _check_buyers(tag: str, limit: int, cell: Cell, rows: dict[str, Booking], report: Report) -> None:
    for store, bookings in (("Redis", cell.bookings), ("Postgres", rows)):
        units: Counter[str] = Counter()
        for booking in bookings.values():
            if booking.is_live:
                units[booking.user] += booking.quantity
        for user, held in units.items():
            if held > limit:
                report.add("limit", f"{tag}: {user} has {held} in {store}, {limit} are allowed")
        if store == "Redis":
            stated = {user: buyer.units for user, buyer in cell.buyers.items()}
            if stated != dict(units):
                wrong = [
                    f"{user}: {stated.get(user, 0)}, bookings {units[user]}"
                    for user in sorted({*stated, *units})
                    if stated.get(user, 0) != units[user]
                ]
                report.add("buyers", f"{tag}: `buyers` is not the sum of the bookings", *wrong[:5])


def _check_deadlines(tag: str, cell: Cell, report: Report) -> None:
    holds = {id_: booking for id_, booking in cell.bookings.items() if booking.status == "reserved"}
    expected = {(zone, hold.expires_at_ms, id_) for id_, hold in holds.items() for zone, _ in hold.items}
    for member in sorted(cell.deadlines ^ expected):
        what = "no hold belongs to" if member in cell.deadlines else "a hold is missing in `deadlines`:"
        report.add("deadlines", f"{tag}: {what} {member}")
    stated = {(id_, at) for buyer in cell.buyers.values() for id_, at in buyer.holds.items()}
    for pair in sorted(stated ^ {(id_, hold.expires_at_ms) for id_, hold in holds.items()}):
        report.add("buyers", f"{tag}: {pair} is a hold or stands in `buyers`, and not both")
    for id_, hold in holds.items():
        if hold.expires_at_ms <= cell.now_ms:
            late_ms = cell.now_ms - hold.expires_at_ms
            report.add("overdue", f"{tag}: hold {id_} is overdue by {late_ms} ms after the quiet time", hold)
