"""What Redis has and should not: bookings that Postgres lacks, deadlines without a hold."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from engine.audit_bookings import BookingCheck, deadline_members, from_record, is_hold
from engine.audit_look import CellView, Entries, Finding, queries, settle
from engine.keys import BOOKINGS_PATTERN, CellKeys, parse_booking_key
from engine.ledger import Cancel, Confirm, Expire, Reject, Reserve
from engine.stores import Connection, Stores

SCAN_COUNT = 1_000
PAGE = 1_000
_ID_LENGTH = 36


async def find_extra_bookings(
    stores: Stores, checks: Mapping[str, BookingCheck], only: CellKeys | None
) -> None:
    """Go once through all bookings in Redis; those that Postgres lacks become suspects of their cell.

    `checks` are by the prefix of a cell's keys.
    """
    pattern = only.booking("*") if only is not None else BOOKINGS_PATTERN
    page: dict[str, list[UUID]] = {}
    count = 0
    async for key in stores.redis.scan_iter(match=pattern, count=SCAN_COUNT):
        found = parse_booking_key(key.decode())
        if found is not None and found[0] in checks:
            page.setdefault(found[0], []).append(found[1])
            count += 1
        if count >= PAGE:
            await _suspect_unknown(stores, checks, page)
            page, count = {}, 0
    await _suspect_unknown(stores, checks, page)


async def _suspect_unknown(
    stores: Stores, checks: Mapping[str, BookingCheck], page: dict[str, list[UUID]]
) -> None:
    found = [booking_id for booking_ids in page.values() for booking_id in booking_ids]
    if not found:
        return
    known = {row["id"] async for row in queries.known_ids(stores.pool, booking_ids=found)}
    for prefix, booking_ids in page.items():
        for booking_id in booking_ids:
            if booking_id not in known:
                await checks[prefix].suspect(booking_id)


async def check_deadlines(view: CellView) -> None:
    """Every member of the index belongs to a hold that says the same.

    That each hold stands in the index was seen with the bookings. So where there are exactly as many
    members as the holds need, there is none too many, and it need not be walked through.
    """

    async def expected(connection: Connection) -> int:
        return int(await queries.deadline_members(connection, **view.in_range))

    look = await view.look(expected, lambda pipeline, _: pipeline.zcard(view.keys.deadlines))
    is_known_broken = "deadline_missing" in view.report.counts
    if is_known_broken or look.replies[0] != look.rows + _members_added(look.entries):
        await _walk(view)


def _members_added(entries: Entries) -> int:
    """By how much entries lengthen the index: one member for each zone of a hold."""
    added = 0
    for _, entry in entries:
        match entry:
            case Reserve():
                added += len(entry.items)
            case Confirm():
                added -= len(entry.items)
            case Cancel() | Expire() | Reject() if entry.was == "reserved":
                added -= len(entry.items)
            case _:
                pass
    return added


async def _walk(view: CellView) -> None:
    page: list[str] = []
    suspects: list[str] = []
    async for name, _ in view.stores.redis.zscan_iter(view.keys.deadlines, count=SCAN_COUNT):
        page.append(name.decode(errors="replace"))
        if len(page) >= PAGE:
            suspects += await _without_hold(view, page)
            page = []
        if len(suspects) >= PAGE:
            await settle(view.report, suspects, _examine(view))
            suspects = []
    suspects += await _without_hold(view, page)
    await settle(view.report, suspects, _examine(view))


async def check_members(view: CellView, members: Sequence[str]) -> None:
    """Each of these members of the index belongs to a hold that says the same."""
    await settle(view.report, await _without_hold(view, members), _examine(view))


async def _without_hold(view: CellView, members: Sequence[str]) -> list[str]:
    if not members:
        return []
    records = await view.ask(("GET", view.keys.booking(member[-_ID_LENGTH:])) for member in members)
    return [member for member, record in zip(members, records, strict=True) if not _belongs(member, record)]


def _belongs(member: str, record: bytes | None) -> bool:
    if record is None or not is_hold(record):
        return False
    try:
        return member in deadline_members(member[-_ID_LENGTH:], from_record(record))
    except ValueError:
        return False


def _examine(view: CellView) -> Any:
    async def examine(members: Sequence[str]) -> list[tuple[str, Finding]]:
        """Member and record in one transaction."""
        findings: list[tuple[str, Finding]] = []
        pipeline = view.stores.redis.pipeline(transaction=True)
        for member in members:
            # Spelled out: of a cluster's transaction redis-py 8.1 cannot read the reply to its own zscore().
            pipeline.execute_command("ZSCORE", view.keys.deadlines, member)
            pipeline.get(view.keys.booking(member[-_ID_LENGTH:]))
        replies = await pipeline.execute()
        for member, score, record in zip(members, replies[::2], replies[1::2], strict=True):
            if score is not None and not _belongs(member, record):
                status = record.partition(b" ")[0].decode() if record else "not there"
                findings.append((member, (3, "deadline_without_hold", f"its booking is {status}")))
        return findings

    return examine
