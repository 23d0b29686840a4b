"""Looking at a cell in both stores while it is in use.

Redis is always ahead of Postgres, by the entries that the relay has not carried over. So a look reads
Postgres first, in one snapshot with its offset, then Redis, in one transaction with the ledger's end, then
the entries in between. With those added, both must say the same, exactly: what moves between two reads is
accounted for and never guessed at.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio.client

from engine import ids
from engine.audit_report import EventReport
from engine.errors import ServiceUnavailable
from engine.ids import CellId
from engine.keys import CellKeys
from engine.ledger import Cancel, Entry, Expire, Position, Reject, decoder, parse_position
from engine.redis_clients import REDIS_ERRORS
from engine.sql import load_queries
from engine.stores import POSTGRES_ERRORS, Connection, Stores

queries = load_queries("audit")

LEDGER_PAGE_ENTRIES = 1_000
BETWEEN_ENTRIES_MAX = 500_000
"""A look at a cell whose relay is further behind than this is given up."""

NOT_OPEN = (
    "not open",
    "not open (fenced, or being rebuilt): nothing may be concluded from what Redis holds",
)
"""What a report says of such a cell: its state, and its problem."""

STORE_ERRORS = (*POSTGRES_ERRORS, *REDIS_ERRORS, ServiceUnavailable)

SALE_FIELDS = ["epoch", "seq", "loaded"]
"""Where Redis stands, and whether records of the cell are still being loaded."""

Progress = Callable[[str], Awaitable[None]]
"""Takes a line of progress; keeps to itself most of them."""

T = TypeVar("T")
S = TypeVar("S")
Entries = list[tuple[Position, Entry | None]]
"""None stands for an entry that no script of ours wrote."""


class CellMoved(Exception):
    """The cell is not open, or not to its end, or not in the epoch in which this audit began: begin again."""


class LedgerBroken(Exception):
    """Entries that are not in Postgres yet are missing from the ledger."""


class Look(msgspec.Struct, Generic[T]):
    """One moment of a cell: Postgres at `durable`, Redis at `live`, and the entries in between that Postgres
    will count."""

    durable: Position
    live: Position
    rows: T
    replies: list[Any]
    entries: Entries


async def find_cells(stores: Stores, event_id: UUID | None) -> tuple[list[asyncpg.Record], str | None]:
    """Every cell that was ever published, or those of one event; and why there is none of that event."""
    rows = [row async for row in queries.cells_to_audit(stores.pool, event_id=event_id)]
    if rows or event_id is None:
        return rows, None
    known = await queries.event_exists(stores.pool, event_id=event_id)
    return rows, f"event {event_id} {'was never published' if known else 'does not exist'}"


class CellView:
    """One cell, as an audit sees it. Fixed to one epoch."""

    def __init__(self, stores: Stores, cell_id: CellId, epoch: int, report: EventReport) -> None:
        self.stores = stores
        self.id = cell_id
        self.epoch = epoch
        self.report = report
        self.keys = CellKeys(cell_id)
        self.first, self.last = ids.id_range(cell_id)
        self.event_id = ids.event_id_of(self.first)

    @property
    def of_cell(self) -> dict[str, int]:
        """The parameters that name the cell in a query."""
        return {"event_ref": self.id.event_ref, "cell": self.id.cell}

    @property
    def in_range(self) -> dict[str, UUID]:
        """The parameters that name the cell's bookings in a query."""
        return {"first": self.first, "last": self.last}

    async def live(self) -> Position:
        """Where Redis stands; raises CellMoved."""
        values: list[Any] = await self.stores.redis.hmget(self.keys.sale, SALE_FIELDS)
        return self._position(values)

    async def durable(self) -> Position:
        """Where Postgres stands; raises CellMoved."""
        row = await queries.position(self.stores.pool, **self.of_cell)
        if row is None or row["epoch"] != self.epoch:
            raise CellMoved
        return Position(row["epoch"], row["seq"])

    def _position(self, values: list[Any]) -> Position:
        epoch, seq, loaded = values
        if epoch is None or seq is None or loaded is not None or int(epoch) != self.epoch:
            raise CellMoved
        return Position(int(epoch), int(seq))

    async def ask(self, commands: Iterable[tuple[str | bytes | int, ...]]) -> list[Any]:
        """The replies to many commands, one after the other and not in one moment. On the hot line,
        which costs a fifth of what redis-py takes for a command.
        """
        return list(await asyncio.gather(*[self.stores.line.call(*command) for command in commands]))

    async def look(
        self,
        read_rows: Callable[[Connection], Awaitable[T]],
        queue_commands: Callable[[redis.asyncio.client.Pipeline, T], Any],
    ) -> Look[T]:
        """One moment of the cell: rows in one snapshot, replies in one transaction, entries between.

        `queue_commands` is given the rows, so that it can ask for what they name.
        Raises CellMoved, and LedgerBroken where those entries are not all there.
        """
        async with (
            self.stores.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await queries.position(connection, **self.of_cell)
            if row is None or row["epoch"] != self.epoch:
                raise CellMoved
            refused = {
                each["booking_id"]: each["status"]
                async for each in queries.refused_bookings(connection, **self.of_cell)
            }
            rows = await read_rows(connection)
        durable = Position(row["epoch"], row["seq"])
        pipeline = self.stores.redis.pipeline(transaction=True)
        pipeline.hmget(self.keys.sale, SALE_FIELDS)
        queue_commands(pipeline, rows)
        sale, *replies = await pipeline.execute()
        live = self._position(sale)
        entries = [entry async for page in self.entries(durable, live) for entry in page]
        if len(entries) != live.seq - durable.seq:
            await self.live()
            raise LedgerBroken(f"{len(entries)} entries between {durable} and {live}")
        return Look(durable, live, rows, replies, list(_counted(entries, refused)))

    async def entries(self, after: Position, until: Position) -> AsyncIterator[Entries]:
        """The ledger's entries after one position up to another, page by page."""
        count = 0
        while after < until and count < BETWEEN_ENTRIES_MAX:
            page: Any = await self.stores.redis.xrange(
                self.keys.ledger, min=f"({after}", max=str(until), count=LEDGER_PAGE_ENTRIES
            )
            if not page:
                return
            decoded = [(parse_position(id_), read_entry(fields)) for id_, fields in page]
            yield decoded
            count += len(page)
            after = decoded[-1][0]


def _counted(entries: Entries, refused: dict[UUID, str | None]) -> Iterator[tuple[Position, Entry | None]]:
    """Those entries that Postgres will count, of bookings of which it has refused something, too.

    Of such a booking it counts one thing more, if it has a row: its end, from the state that the row is in.
    """
    for position, entry in entries:
        booking_id = booking_of(entry)
        if booking_id is None or booking_id not in refused:
            yield position, entry
            continue
        status = refused[booking_id]
        if isinstance(entry, Cancel | Expire | Reject) and status in ("reserved", "confirmed"):
            yield position, msgspec.structs.replace(entry, was=status)
            refused[booking_id] = None


def booking_of(entry: Entry | None) -> UUID | None:
    """The booking that an entry is about, if it is about one."""
    return getattr(entry, "booking_id", None)


def read_entry(fields: dict[bytes, bytes]) -> Entry | None:
    """A ledger entry, or None for what no script of ours wrote."""
    try:
        return decoder.decode(fields.get(b"e", b""))
    except (msgspec.MsgspecError, ValueError):
        return None


Finding = tuple[int, str, str]
"""(rule, what, detail)"""

ATTEMPTS_MAX = 3
ATTEMPT_PAUSE_S = 0.2


async def settle(
    report: EventReport,
    suspects: Sequence[S],
    examine: Callable[[Sequence[S]], Awaitable[list[tuple[S, Finding]]]],
) -> None:
    """Examine suspects until they are cleared or, a bounded number of times later, are violations."""
    findings: list[tuple[S, Finding]] = []
    for attempt in range(ATTEMPTS_MAX):
        if not suspects:
            return
        if attempt:
            await asyncio.sleep(ATTEMPT_PAUSE_S)
        findings = await examine(suspects)
        suspects = list(dict.fromkeys(suspect for suspect, _ in findings))
    for suspect, (rule, what, detail) in findings:
        report.violated(rule, what, suspect, detail)
