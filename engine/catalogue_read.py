"""The catalogue as it is read: by anybody what was published, by organizers what is theirs."""

import re
from collections.abc import AsyncIterable
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from engine.catalogue_model import Category, Event, Show, Zone, event_from, show_from, zone_from
from engine.errors import NotFound
from engine.inventory import Inventory
from engine.moments import moment
from engine.slugs import slug_of
from engine.sql import load_queries
from engine.stores import Connection, Stores
from engine.tokens import Claims

queries = load_queries("catalogue_read")


class CatalogueReader:
    """Answers every question about events, shows and zones."""

    def __init__(self, stores: Stores, inventory: Inventory) -> None:
        self._pool = stores.pool
        self._inventory = inventory

    async def list_public(
        self,
        *,
        text: str | None,
        category: str | None,
        date_from: datetime | None,
        date_to: datetime | None,
        page: int,
        per_page: int,
    ) -> tuple[list[Event], int]:
        """A page of published events and the number of all; dates are those of their shows."""
        match = {
            "pattern": None if text is None else "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%",
            "category_slug": None if category is None else slug_of(category),
            "date_from": None if date_from is None else moment("from", date_from),
            "date_to": None if date_to is None else moment("to", date_to),
        }
        async with self._pool.acquire() as connection:
            rows, total = await _page(connection, queries.list_public_events, page, per_page, **match)
            events = await self._with_shows(connection, rows)
        await self._inventory.refresh(_zones_of(events))
        return events, total

    async def list_of(self, actor: Claims, page: int, per_page: int) -> tuple[list[Event], int]:
        """A page of what the actor may edit, drafts too, and the number of all."""
        match = {"is_admin": actor.role == "admin", "tenant_id": actor.tenant_id, "user_id": actor.sub}
        async with self._pool.acquire() as connection:
            rows, total = await _page(connection, queries.list_organizer_events, page, per_page, **match)
            events = await self._with_shows(connection, rows)
        await self._inventory.refresh(_zones_of(events))
        return events, total

    async def find_public(self, event: UUID | str) -> Event:
        """The event with this id or slug; raises NotFound, for a draft too."""
        async with self._pool.acquire() as connection:
            row = await self._find(connection, event)
            if row["status"] == "draft":
                raise NotFound
            [found] = await self._with_shows(connection, [row])
        await self._inventory.refresh(_zones_of([found]))
        return found

    async def find_own(self, actor: Claims, event_id: UUID) -> Event:
        """The event, if the actor may edit it; raises NotFound otherwise."""
        async with self._pool.acquire() as connection:
            row = await self._find(connection, event_id)
            check_owner(actor, row)
            [found] = await self._with_shows(connection, [row])
        await self._inventory.refresh(_zones_of([found]))
        return found

    async def list_shows(self, event: UUID | str, page: int, per_page: int) -> tuple[list[Show], int, str]:
        """A page of a public event's shows with their zones, the number of all, and the currency."""
        async with self._pool.acquire() as connection:
            row = await self._find(connection, event)
            if row["status"] == "draft":
                raise NotFound
            rows, total = await _page(connection, queries.list_shows, page, per_page, event_id=row["id"])
            shows = [show_from(show) for show in rows]
            zone_rows = queries.list_zones_of_shows(connection, show_ids=[show.id for show in shows])
            _hang_in(shows, await _all(zone_rows))
        await self._inventory.refresh(zone for show in shows for zone in show.zones)
        return shows, total, row["currency"]

    async def list_zones(self, show_id: UUID, page: int, per_page: int) -> tuple[list[Zone], int, str]:
        """A page of a public show's zones, the number of all, and the currency."""
        async with self._pool.acquire() as connection:
            event = await queries.find_event_of_show(connection, show_id=show_id)
            if event is None or event["status"] == "draft":
                raise NotFound
            rows, total = await _page(connection, queries.list_zones, page, per_page, show_id=show_id)
        zones = [zone_from(row) for row in rows]
        await self._inventory.refresh(zones)
        return zones, total, event["currency"]

    async def list_categories(self, page: int, per_page: int) -> tuple[list[Category], int]:
        """A page of the categories and the number of all."""
        async with self._pool.acquire() as connection:
            rows, total = await _page(connection, queries.list_categories, page, per_page)
        return [Category(row["id"], row["name"], row["slug"]) for row in rows], total

    async def sales(self, actor: Claims, event_id: UUID) -> list[Zone]:
        """The zones of an own event with live counters.

        Raises NotFound, or a ServiceUnavailable where Redis cannot tell. Only before an event is
        published and after its cell was closed Postgres' counters are the live ones.
        """
        async with self._pool.acquire() as connection:
            row = await self._find(connection, event_id)
            check_owner(actor, row)
            zones = [zone_from(zone) for zone in await _all(_zone_rows(connection, [row["id"]]))]
            is_in_redis = row["status"] != "draft" and not await queries.is_cell_closed(
                connection, event_id=event_id
            )
        if is_in_redis:
            await self._inventory.require(zones)
        return zones

    async def _find(self, connection: Connection, event: UUID | str) -> asyncpg.Record:
        match = (
            {"event_id": event, "slug": None}
            if isinstance(event, UUID)
            else {"event_id": None, "slug": event}
        )
        row: asyncpg.Record | None = await queries.find_event(connection, **match)
        if row is None:
            raise NotFound
        return row

    async def _with_shows(self, connection: Connection, rows: list[asyncpg.Record]) -> list[Event]:
        events = [event_from(row) for row in rows]
        event_ids = [event.id for event in events]
        if not events:
            return events
        shows = [
            show_from(row)
            for row in await _all(queries.list_shows_of_events(connection, event_ids=event_ids))
        ]
        _hang_in(shows, await _all(_zone_rows(connection, event_ids)))
        by_id = {event.id: event for event in events}
        for show in shows:
            by_id[show.event_id].shows.append(show)
        return events


def check_owner(actor: Claims, event: asyncpg.Record) -> None:
    """Raise NotFound unless the actor may see drafts of this event and edit it.

    An organizer's events are those of their tenant; where the token names none, those without a
    tenant that they made themselves. An admin may edit all.
    """
    if actor.role == "admin":
        return
    is_own = event["tenant_id"] == actor.tenant_id and (
        actor.tenant_id is not None or event["organizer_id"] == actor.sub
    )
    if actor.role != "organizer" or not is_own:
        raise NotFound


def _zone_rows(connection: Connection, event_ids: list[UUID]) -> AsyncIterable[asyncpg.Record]:
    rows: AsyncIterable[asyncpg.Record] = queries.list_zones_of_events(connection, event_ids=event_ids)
    return rows


def _hang_in(shows: list[Show], zone_rows: list[asyncpg.Record]) -> None:
    by_id = {show.id: show for show in shows}
    for row in zone_rows:
        # A zone may belong to a show that was made after the shows were read.
        if show := by_id.get(row["show_id"]):
            show.zones.append(zone_from(row))


def _zones_of(events: list[Event]) -> list[Zone]:
    # A draft has no cell, so its counters in Postgres are the live ones.
    return [
        zone
        for event in events
        if event.stored_status != "draft"
        for show in event.shows
        for zone in show.zones
    ]


async def _all(rows: AsyncIterable[asyncpg.Record]) -> list[asyncpg.Record]:
    return [row async for row in rows]


async def _page(
    connection: Connection, query: Any, page: int, per_page: int, **match: object
) -> tuple[list[asyncpg.Record], int]:
    """A page of a query that counts all its rows as `total`, and that number."""
    rows = await _all(query(connection, rows_max=per_page, rows_skipped=(page - 1) * per_page, **match))
    if rows:
        return rows, rows[0]["total"]
    if page == 1:
        return [], 0
    # Behind the last page there is no row to carry the number: the first one has it.
    first = await _all(query(connection, rows_max=1, rows_skipped=0, **match))
    return [], first[0]["total"] if first else 0
