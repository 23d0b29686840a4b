"""New shows and zones of one event, checked and ready to be inserted together."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from engine import catalogue_forms as forms
from engine import ids
from engine.catalogue_changes import check_name
from engine.edits import ZoneEdit
from engine.errors import ValidationFailed
from engine.failpoints import failpoint
from engine.moments import moment
from engine.sql import load_queries
from engine.stores import Connection

queries = load_queries("catalogue_edit")


class NewZoneRow(msgspec.Struct, frozen=True):
    """A zone that passed the checks."""

    id: UUID
    show_id: UUID
    name: str
    price_minor: int
    max_per_order: int
    capacity: int


class Children:
    """Shows and zones to be made for one event."""

    def __init__(self, event_id: UUID, currency: str) -> None:
        self._event_id = event_id
        self._currency = currency
        self._show_dates: list[datetime] = []
        self.show_ids: list[UUID] = []
        self.zones: list[NewZoneRow] = []

    def add_shows(self, shows: Sequence[forms.NewShow]) -> None:
        """Take shows as they stand in a new event; raises ValidationFailed."""
        for i, show in enumerate(shows):
            self.add_show(show, f"shows[{i}].")
        if len(self.zones) > forms.ZONES_MAX:
            raise ValidationFailed("shows", f"an event has at most {forms.ZONES_MAX} zones")

    def add_show(self, show: forms.NewShow, path: str = "") -> None:
        """Take a show with its zones; `path` is where it stands in the request."""
        show_id = self._new_id()
        self.show_ids.append(show_id)
        self._show_dates.append(moment(f"{path}show_date", show.show_date))
        for i, zone in enumerate(show.zones):
            self.add_zone(show_id, zone, f"{path}zones[{i}].")

    def add_zone(self, show_id: UUID, zone: forms.NewZone, path: str = "") -> None:
        """Take a zone of a new or of an existing show."""
        forms.check_kind(f"{path}kind", zone.kind)
        check_name(f"{path}name", zone.name)
        row = NewZoneRow(
            id=self._new_id(),
            show_id=show_id,
            name=zone.name,
            price_minor=forms.price_minor(f"{path}price", zone.price, self._currency),
            max_per_order=zone.max_per_order,
            capacity=zone.total_seats,
        )
        self.zones.append(row)

    async def insert(self, connection: Connection, *, with_seats: bool) -> None:
        """Insert them all; without seats where an intent is to bring them."""
        if self.show_ids:
            await queries.insert_shows(
                connection, event_id=self._event_id, ids=self.show_ids, show_dates=self._show_dates
            )
            failpoint("catalogue_children.after_shows")
        if self.zones:
            await queries.insert_zones(
                connection,
                event_id=self._event_id,
                ids=[zone.id for zone in self.zones],
                show_ids=[zone.show_id for zone in self.zones],
                names=[zone.name for zone in self.zones],
                prices_minor=[zone.price_minor for zone in self.zones],
                maxima_per_order=[zone.max_per_order for zone in self.zones],
                capacities=[zone.capacity if with_seats else 0 for zone in self.zones],
            )
            failpoint("catalogue_children.after_zones")

    def edits(self) -> list[ZoneEdit]:
        """The intents that put the new zones on sale."""
        return [
            ZoneEdit(
                zone.id,
                show_id=zone.show_id,
                price_minor=zone.price_minor,
                max_per_order=zone.max_per_order,
                capacity=zone.capacity,
            )
            for zone in self.zones
        ]

    def _new_id(self) -> UUID:
        return ids.new_id(*ids.cell_of(self._event_id))
