"""Organizers' edits of events, shows and zones.

A draft is edited in Postgres alone. What is on sale lives in Redis too: the columns change in the same
transaction that records an intent, and the intent is applied right after it. Counters of zones on sale
are not written here at all: they follow the ledger.
"""

import secrets
from uuid import UUID

import asyncpg
from msgspec import UNSET

from engine import catalogue_forms as forms
from engine import ids
from engine.catalogue_changes import (
    changed_columns,
    columns_of,
    draft_counters,
    sale_edit,
    zone_columns,
    zone_counters_edit,
)
from engine.catalogue_children import Children
from engine.catalogue_model import ON_SALE, Zone, check_editable, zone_from
from engine.catalogue_read import check_owner
from engine.edits import Edits, Intent, ZoneEdit
from engine.errors import Conflict, InvalidState, NotFound, ValidationFailed
from engine.failpoints import failpoint
from engine.moments import moment
from engine.slugs import slug_of, with_suffix
from engine.sql import load_queries
from engine.stores import Connection, Stores
from engine.tokens import Claims

BOOKING_SECRET_BYTES = 32
SLUG_TRIES_MAX = 8

queries = load_queries("catalogue_edit")


class CatalogueEditor:
    """Makes and changes what the catalogue holds, one locked event at a time."""

    def __init__(self, stores: Stores, edits: Edits) -> None:
        self._pool = stores.pool
        self._edits = edits

    async def create_event(self, actor: Claims, new: forms.NewEvent) -> UUID:
        """A new draft with its shows and zones; raises ValidationFailed, or Conflict for a taken slug."""
        columns = columns_of(new)
        columns |= {"tenant_id": actor.tenant_id, "organizer_id": actor.sub}
        columns["booking_secret"] = secrets.token_bytes(BOOKING_SECRET_BYTES)
        slug = new.slug or slug_of(new.title)
        for _ in range(SLUG_TRIES_MAX):
            event_id = ids.new_event_id()
            children = Children(event_id, new.currency)
            children.add_shows(new.shows)
            async with self._pool.acquire() as connection, connection.transaction():
                columns["category_id"] = await _category_id(connection, new.category)
                is_made = await queries.insert_event(connection, id=event_id, slug=slug, **columns)
                failpoint("catalogue_edit.after_event")
                if is_made:
                    await children.insert(connection, with_seats=True)
                # Nothing was inserted: the slug is taken or, once in a very long while, the id.
                elif new.slug and await queries.is_slug_taken(connection, slug=slug, event_id=event_id):
                    raise _slug_taken(slug)
            failpoint("catalogue_edit.after_creation")
            if is_made:
                return event_id
            if not new.slug:
                slug = with_suffix(slug_of(new.title))
        raise Conflict("No free slug was found for this title, send one", details={"field": "slug"})

    async def update_event(self, actor: Claims, event_id: UUID, change: forms.EventChange) -> None:
        """Change an event; raises ValidationFailed, NotFound, Conflict or InvalidState."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await lock_own_event(connection, actor, event_id)
            check_editable(row["status"])
            columns = changed_columns(dict(row), change)
            await _check_currency(connection, row, columns["currency"])
            if change.category is not UNSET:
                columns["category_id"] = await _category_id(connection, change.category)
            edit = sale_edit(dict(row), columns)
            # The cell is locked before a key of the event: the relay has them in this order.
            if edit is not None and row["status"] in ON_SALE:
                await self._edits.record(connection, event_id, Intent(sale=edit), actor.sub)
            try:
                await queries.update_event(connection, id=event_id, **columns)
                failpoint("catalogue_edit.after_columns")
            except asyncpg.UniqueViolationError:
                raise _slug_taken(columns["slug"]) from None
        failpoint("catalogue_edit.after_event_change")
        await self.settle(event_id, row["status"])

    async def delete_event(self, actor: Claims, event_id: UUID) -> None:
        """Delete a draft; raises NotFound, or InvalidState for anything that was ever published."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await lock_own_event(connection, actor, event_id)
            if row["status"] != "draft":
                raise InvalidState("Only a draft can be deleted", details={"status": row["status"]})
            await queries.delete_event(connection, event_id=event_id)
            failpoint("catalogue_edit.after_rows")
        failpoint("catalogue_edit.after_deletion")

    async def add_show(self, actor: Claims, event_id: UUID, new: forms.NewShow) -> UUID:
        """A new show with its zones, on sale at once where the event is; the show's id."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await lock_own_event(connection, actor, event_id)
            children = Children(event_id, row["currency"])
            children.add_show(new)
            await self._add(connection, actor, row, children)
        failpoint("catalogue_edit.after_show")
        await self.settle(event_id, row["status"])
        return children.show_ids[0]

    async def add_zone(self, actor: Claims, show_id: UUID, new: forms.NewZone) -> tuple[UUID, UUID]:
        """A new zone, on sale at once where its event is; the ids of event and zone."""
        async with self._pool.acquire() as connection, connection.transaction():
            event_id = await queries.event_id_of_show(connection, show_id=show_id)
            row = await lock_own_event(connection, actor, event_id)
            children = Children(event_id, row["currency"])
            children.add_zone(show_id, new)
            await self._add(connection, actor, row, children)
        failpoint("catalogue_edit.after_zone")
        await self.settle(event_id, row["status"])
        return event_id, children.zones[0].id

    async def _add(
        self, connection: Connection, actor: Claims, row: asyncpg.Record, children: Children
    ) -> None:
        check_editable(row["status"])
        count = await queries.count_children(connection, event_id=row["id"])
        if count["shows"] + len(children.show_ids) > forms.SHOWS_MAX:
            raise ValidationFailed("shows", f"an event has at most {forms.SHOWS_MAX}")
        if count["zones"] + len(children.zones) > forms.ZONES_MAX:
            raise ValidationFailed("zones", f"an event has at most {forms.ZONES_MAX}")
        on_sale = row["status"] in ON_SALE
        await children.insert(connection, with_seats=not on_sale)
        if on_sale and children.zones:
            await self._edits.record(connection, row["id"], Intent(zones=children.edits()), actor.sub)

    async def update_show(self, actor: Claims, show_id: UUID, change: forms.ShowChange) -> UUID:
        """Move a show to another date; the id of its event."""
        async with self._pool.acquire() as connection, connection.transaction():
            event_id: UUID = await queries.event_id_of_show(connection, show_id=show_id)
            row = await lock_own_event(connection, actor, event_id)
            check_editable(row["status"])
            if change.show_date is not UNSET:
                show_date = moment("show_date", change.show_date)
                await queries.update_show(connection, show_id=show_id, show_date=show_date)
                failpoint("catalogue_edit.after_date")
        failpoint("catalogue_edit.after_show_change")
        return event_id

    async def update_zone(self, actor: Claims, zone_id: UUID, change: forms.ZoneChange) -> UUID:
        """Change a zone; the id of its event. Raises InvalidState for fewer seats than are in use."""
        version = None
        async with self._pool.acquire() as connection, connection.transaction():
            event_id: UUID = await queries.event_id_of_zone(connection, zone_id=zone_id)
            row = await lock_own_event(connection, actor, event_id)
            check_editable(row["status"])
            zone = await _find_zone(connection, zone_id)
            columns = zone_columns(zone, change, row["currency"])
            on_sale = row["status"] in ON_SALE
            if not on_sale:
                await queries.update_zone(connection, zone_id=zone_id, **columns)
                failpoint("catalogue_edit.after_draft_terms")
                await queries.update_draft_counters(
                    connection, zone_id=zone_id, **draft_counters(zone, change)
                )
                failpoint("catalogue_edit.after_draft_counters")
            elif (counters := zone_counters_edit(zone, change)) is not None:
                intent = Intent(zones=[counters])
                version = await self._edits.record(connection, event_id, intent, actor.sub)
        failpoint("catalogue_edit.after_zone_change")
        # The counters go first, in an intent of their own: the script may refuse it, and then nothing
        # of the change is to have happened.
        if version is not None:
            await self._edits.apply(event_id, version)
        if on_sale:
            await self._update_terms(actor, event_id, zone_id, change)
        return event_id

    async def _update_terms(
        self, actor: Claims, event_id: UUID, zone_id: UUID, change: forms.ZoneChange
    ) -> None:
        """Name, price and limit of a zone on sale: no script refuses these."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await lock_own_event(connection, actor, event_id)
            zone = await _find_zone(connection, zone_id)
            columns = zone_columns(zone, change, row["currency"])
            price_minor, max_per_order = columns["price_minor"], columns["max_per_order"]
            # The cell is locked before the zone, as the relay does it: the other way round they deadlock.
            if (price_minor, max_per_order) != (zone.price_minor, zone.max_per_order):
                edit = ZoneEdit(zone_id, price_minor=price_minor, max_per_order=max_per_order)
                await self._edits.record(connection, event_id, Intent(zones=[edit]), actor.sub)
            await queries.update_zone(connection, zone_id=zone_id, **columns)
            failpoint("catalogue_edit.after_terms")
        failpoint("catalogue_edit.after_terms_change")
        await self.settle(event_id, row["status"])

    async def settle(self, event_id: UUID, status: str) -> None:
        """Apply what is recorded and not applied: also what an earlier call left behind.

        Raises a ServiceUnavailable where that is not possible now; repeating the call is harmless.
        """
        if status in ON_SALE:
            await self._edits.apply_outstanding(ids.cell_of(event_id))


async def lock_own_event(connection: Connection, actor: Claims, event_id: UUID | None) -> asyncpg.Record:
    """The event's row, locked; raises NotFound unless the actor may edit it."""
    row: asyncpg.Record | None = None
    if event_id is not None:
        row = await queries.lock_event(connection, event_id=event_id)
    if row is None:
        raise NotFound
    check_owner(actor, row)
    return row


async def _find_zone(connection: Connection, zone_id: UUID) -> Zone:
    return zone_from(await queries.find_zone(connection, zone_id=zone_id))


async def _check_currency(connection: Connection, row: asyncpg.Record, currency: str) -> None:
    if currency == row["currency"]:
        return
    if row["status"] != "draft":
        raise InvalidState("The currency is fixed once published", details={"status": row["status"]})
    if (await queries.count_children(connection, event_id=row["id"]))["zones"]:
        raise ValidationFailed("currency", "cannot change once there are zones with prices")


async def _category_id(connection: Connection, name: str | None) -> UUID | None:
    """The category of that name, made where there is none."""
    if name is None:
        return None
    slug = slug_of(name)
    category_id: UUID | None = await queries.find_category(connection, name=name, slug=slug)
    if category_id is None:
        await queries.insert_category(connection, name=name, slug=slug)
        failpoint("catalogue_edit.after_category")
        category_id = await queries.find_category(connection, name=name, slug=slug)
    return category_id


def _slug_taken(slug: str) -> Conflict:
    return Conflict("This slug is taken", details={"field": "slug", "slug": slug})
