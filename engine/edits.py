"""An organizer's changes to a published event: recorded in Postgres first, then applied by script.

Each is a versioned intent. Whoever applies it (the gateway that recorded it, or recovery later) does so
in the order of the versions, and Redis takes each version once. The counters in Postgres follow the
ledger entry, like everything else.
"""

import asyncio
import time
from uuid import UUID

import msgspec

from engine import ids
from engine.errors import Fenced, InvalidState
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys
from engine.outcomes import refusal
from engine.sql import load_queries
from engine.status import Status
from engine.stores import Connection, RunScript, Stores

queries = load_queries("edits")

VERSIONS_MAX = 1 << 62
OUTCOME_WAIT_S = 5.0
OUTCOME_POLL_S = 0.05


class ZoneEdit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changes in a zone; a zone that is new names its show."""

    zone_id: UUID
    show_id: UUID | None = None
    price_minor: int | None = None
    max_per_order: int | None = None
    capacity: int | None = None
    blocked: int | None = None


class SaleEdit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changes for the whole event; `sale_end_at_ms` 0 clears the end."""

    status: str | None = None
    sale_start_at_ms: int | None = None
    sale_end_at_ms: int | None = None
    max_per_user: int | None = None
    hold_ttl_ms: int | None = None
    queue_interval_us: int | None = None
    queue_passes_max: int | None = None
    queue_pass_ttl_ms: int | None = None
    queue_grace_ms: int | None = None
    queue_paused: int | None = None


class Intent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What leaves everything it does not name as it is."""

    sale: SaleEdit | None = None
    zones: list[ZoneEdit] = []


class Edits:
    """The edits of all events."""

    def __init__(self, stores: Stores, run: RunScript | None = None) -> None:
        self._stores = stores
        self._run = run or stores.run

    async def record(self, connection: Connection, event_id: UUID, intent: Intent, requested_by: UUID) -> int:
        """Write the intent down, inside the caller's transaction; the version that it gets."""
        event_ref, cell = ids.cell_of(event_id)
        version: int = await queries.next_edit_version(connection, event_ref=event_ref, cell=cell)
        failpoint("edits.after_version")
        await queries.insert_edit(
            connection,
            event_ref=event_ref,
            cell=cell,
            version=version,
            intent=msgspec.json.encode(intent).decode(),
            requested_by=requested_by,
        )
        failpoint("edits.after_intent")
        return version

    async def apply(self, event_id: UUID, version: int) -> None:
        """Apply all that is outstanding up to this version.

        Raises InvalidState when this one was refused, a ServiceUnavailable when it cannot be applied
        now: it stays recorded, and recovery applies it.
        """
        cell_id = ids.cell_of(event_id)
        outcome = (await self.apply_outstanding(cell_id, version)).get(version)
        if outcome is None:
            outcome = await self._wait_for_outcome(cell_id, version)
        if outcome != "applied":
            raise InvalidState("That would take away seats that are in use", details={"status": "in use"})

    async def apply_outstanding(self, cell_id: CellId, version_max: int = VERSIONS_MAX) -> dict[int, str]:
        """Apply what Redis may not have yet; version → outcome of those that this call decided."""
        keys = CellKeys(cell_id)
        outcomes: dict[int, str] = {}
        rows = queries.undecided_edits(
            self._stores.pool, event_ref=cell_id.event_ref, cell=cell_id.cell, version_max=version_max
        )
        for version, text in [(row["version"], row["intent"]) async for row in rows]:
            intent = msgspec.json.decode(text, type=Intent)
            zone_keys = [keys.zone(zone.zone_id) for zone in intent.zones]
            reply = await self._run("edit", [keys.sale, keys.ledger, *zone_keys], version, text)
            failpoint("edits.after_edit")
            match Status(reply[0]):
                case Status.OK:
                    outcomes[version] = "applied"
                case Status.BELOW_IN_USE:
                    outcomes[version] = "refused"
                case Status.REPLAYED:
                    pass
                case other:
                    raise refusal(other, reply[1].decode(), reply[2:], self._stores.settings)
        return outcomes

    async def _wait_for_outcome(self, cell_id: CellId, version: int) -> str:
        """What the ledger said of an edit that somebody else applied."""
        deadline_s = time.monotonic() + OUTCOME_WAIT_S
        while time.monotonic() < deadline_s:
            outcome: str | None = await queries.edit_outcome(
                self._stores.pool, event_ref=cell_id.event_ref, cell=cell_id.cell, version=version
            )
            if outcome is not None:
                return outcome
            await asyncio.sleep(OUTCOME_POLL_S)
        raise Fenced("The change is recorded and will be applied")
