"""The catalogue: events, shows and zones, and what makes them go on sale and off it."""

from uuid import UUID

import msgspec

from engine.catalogue_edit import CatalogueEditor, lock_own_event, queries
from engine.catalogue_forms import EventChange, NewEvent, NewShow, NewZone, ShowChange, ZoneChange
from engine.catalogue_model import ON_SALE, Action, Event, Show, Zone, next_status
from engine.catalogue_read import CatalogueReader
from engine.cells import publish_cell, wait_until_open
from engine.edits import Edits, Intent, SaleEdit
from engine.errors import InvalidState, NotFound
from engine.failpoints import failpoint
from engine.inventory import Inventory
from engine.stores import Stores
from engine.tokens import Claims
from engine.waiting.settings import room_text, stored_room

OPEN_TIMEOUT_MS = 5_000


class Catalogue:
    """All that organizers do, each call answered with what it led to; `read` answers the questions."""

    def __init__(self, stores: Stores, edits: Edits, inventory: Inventory) -> None:
        self.read = CatalogueReader(stores, inventory)
        self._stores = stores
        self._edits = edits
        self._editor = CatalogueEditor(stores, edits)

    async def create_event(self, actor: Claims, new: NewEvent) -> Event:
        """A new draft; raises ValidationFailed, or Conflict for a slug that is taken."""
        return await self.read.find_own(actor, await self._editor.create_event(actor, new))

    async def update_event(self, actor: Claims, event_id: UUID, change: EventChange) -> Event:
        """The changed event; raises ValidationFailed, NotFound, Conflict or InvalidState."""
        await self._editor.update_event(actor, event_id, change)
        return await self.read.find_own(actor, event_id)

    async def delete_event(self, actor: Claims, event_id: UUID) -> None:
        """Delete a draft; raises NotFound, or InvalidState for anything that was ever published."""
        await self._editor.delete_event(actor, event_id)

    async def add_show(self, actor: Claims, event_id: UUID, new: NewShow) -> tuple[Show, str]:
        """The new show, and the event's currency; raises ValidationFailed, NotFound or InvalidState."""
        show_id = await self._editor.add_show(actor, event_id, new)
        return await self._show(actor, event_id, show_id)

    async def update_show(self, actor: Claims, show_id: UUID, change: ShowChange) -> tuple[Show, str]:
        """The changed show, and the event's currency."""
        event_id = await self._editor.update_show(actor, show_id, change)
        return await self._show(actor, event_id, show_id)

    async def add_zone(self, actor: Claims, show_id: UUID, new: NewZone) -> tuple[Zone, str]:
        """The new zone, and the event's currency; raises ValidationFailed, NotFound or InvalidState."""
        event_id, zone_id = await self._editor.add_zone(actor, show_id, new)
        return await self._zone(actor, event_id, zone_id)

    async def update_zone(self, actor: Claims, zone_id: UUID, change: ZoneChange) -> tuple[Zone, str]:
        """The changed zone, and the event's currency; raises InvalidState below what is in use."""
        event_id = await self._editor.update_zone(actor, zone_id, change)
        return await self._zone(actor, event_id, zone_id)

    async def publish(self, actor: Claims, event_id: UUID) -> Event:
        """Put an event on sale, and wait until it is; doing so again does nothing more.

        Raises InvalidState for one that has nothing to sell or is cancelled, and Fenced when its cell
        is not open in time: it will be, and repeating the call is harmless.
        """
        async with self._stores.pool.acquire() as connection, connection.transaction():
            row = await lock_own_event(connection, actor, event_id)
            status = next_status(row["status"], "publish")
            if not (await queries.count_children(connection, event_id=event_id))["zones"]:
                raise InvalidState("There is no zone to sell yet", details={"status": row["status"]})
            if status != row["status"]:
                await queries.update_status(connection, event_id=event_id, status=status)
                failpoint("catalogue.after_published_status")
            await publish_cell(connection, event_id)
        failpoint("catalogue.after_publish")
        await wait_until_open(self._stores, event_id, OPEN_TIMEOUT_MS)
        return await self.read.find_own(actor, event_id)

    async def pause(self, actor: Claims, event_id: UUID) -> Event:
        """Take no reservations for now; raises NotFound or InvalidState."""
        return await self._switch(actor, event_id, "pause")

    async def resume(self, actor: Claims, event_id: UUID) -> Event:
        """Take reservations again; raises NotFound or InvalidState."""
        return await self._switch(actor, event_id, "resume")

    async def pause_queue(self, actor: Claims, event_id: UUID) -> Event:
        """Let nobody in for now; raises NotFound, also where there is no waiting room, or InvalidState."""
        return await self._switch_queue(actor, event_id, is_paused=True)

    async def resume_queue(self, actor: Claims, event_id: UUID) -> Event:
        """Let people in again; raises what `pause_queue` does."""
        return await self._switch_queue(actor, event_id, is_paused=False)

    async def _switch_queue(self, actor: Claims, event_id: UUID, *, is_paused: bool) -> Event:
        async with self._stores.pool.acquire() as connection, connection.transaction():
            row = await lock_own_event(connection, actor, event_id)
            room = stored_room(row["waiting_room"])
            if room is None:
                raise NotFound("This event has no waiting room")
            if row["status"] not in ON_SALE:
                raise InvalidState("Its queue is not open", details={"status": row["status"]})
            if room.is_paused != is_paused:
                after = msgspec.structs.replace(room, is_paused=is_paused)
                await queries.update_waiting_room(
                    connection, waiting_room=room_text(after), event_id=event_id
                )
                failpoint("catalogue.after_queue_switch_row")
                intent = Intent(sale=SaleEdit(queue_paused=int(is_paused)))
                await self._edits.record(connection, event_id, intent, actor.sub)
        failpoint("catalogue.after_queue_switch")
        await self._editor.settle(event_id, row["status"])
        return await self.read.find_own(actor, event_id)

    async def _switch(self, actor: Claims, event_id: UUID, action: Action) -> Event:
        async with self._stores.pool.acquire() as connection, connection.transaction():
            row = await lock_own_event(connection, actor, event_id)
            status = next_status(row["status"], action)
            if status != row["status"]:
                await queries.update_status(connection, event_id=event_id, status=status)
                failpoint("catalogue.after_switched_status")
                intent = Intent(sale=SaleEdit(status=status))
                await self._edits.record(connection, event_id, intent, actor.sub)
        failpoint("catalogue.after_switch")
        # Also when nothing changed: the call before may have recorded what it could not apply.
        await self._editor.settle(event_id, status)
        return await self.read.find_own(actor, event_id)

    async def _show(self, actor: Claims, event_id: UUID, show_id: UUID) -> tuple[Show, str]:
        event = await self.read.find_own(actor, event_id)
        return next(show for show in event.shows if show.id == show_id), event.currency

    async def _zone(self, actor: Claims, event_id: UUID, zone_id: UUID) -> tuple[Zone, str]:
        event = await self.read.find_own(actor, event_id)
        zones = (zone for show in event.shows for zone in show.zones)
        return next(zone for zone in zones if zone.id == zone_id), event.currency
