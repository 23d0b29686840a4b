"""What a gateway process works with: made once by its composition root."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from engine.accounts import Accounts
from engine.bookings import Bookings
from engine.catalogue import Catalogue
from engine.edits import Edits
from engine.inventory import Inventory
from engine.passwords import PasswordHasher
from engine.settings import Settings
from engine.stores import Line, Stores, open_stores
from engine.tokens import TokenSigner
from engine.waiting.draw import Draws
from engine.waiting.proofs import Proofs
from engine.waiting.rooms import WaitingRooms
from gateway.entrant_lists import EntrantLists
from gateway.streams import QueueStreams
from observability import metrics, tallies


class Services(msgspec.Struct):
    """The engine's parts, as handlers use them."""

    settings: Settings
    stores: Stores
    signer: TokenSigner
    accounts: Accounts
    catalogue: Catalogue
    bookings: Bookings
    rooms: WaitingRooms
    streams: QueueStreams
    draws: Draws
    proofs: Proofs
    entrant_lists: EntrantLists


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Everything opened, and closed again; a store that is away is no error here."""
    stores = await open_stores(settings)
    hasher = PasswordHasher(settings.bcrypt_cost)
    bookings = Bookings(stores)
    rooms = WaitingRooms(stores)
    streams = QueueStreams(rooms, settings.queue_streams_max)
    watching = asyncio.create_task(_watch(stores.line, rooms, streams))
    try:
        await bookings.start()
        signer = TokenSigner(settings.jwt_secret)
        yield Services(
            settings=settings,
            stores=stores,
            signer=signer,
            accounts=Accounts(stores, signer, hasher),
            catalogue=Catalogue(stores, Edits(stores), Inventory(stores)),
            bookings=bookings,
            rooms=rooms,
            streams=streams,
            draws=Draws(stores),
            proofs=Proofs(stores),
            entrant_lists=EntrantLists(stores),
        )
    finally:
        watching.cancel()
        tallies.flush()
        await rooms.close()
        await bookings.close()
        hasher.close()
        await stores.close()


async def _watch(line: Line, rooms: WaitingRooms, streams: QueueStreams) -> None:
    """Show now and then what the hot path counted, and how many calls wait on the hot line: cheaper than
    a metric moved by each of them."""
    in_flight = metrics.gauge("hot_line_in_flight")
    open_streams = metrics.gauge("queue_streams")
    view_age = metrics.gauge("queue_view_age_seconds")
    while True:
        tallies.flush()
        in_flight.set(line.in_flight)
        open_streams.set(streams.open)
        view_age.set(rooms.views.age_s)
        await asyncio.sleep(tallies.FLUSH_INTERVAL_S)


class Gateway:
    """What the routes hold on to: the services, once the process has opened them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._services: Services | None = None

    def end_streams(self) -> None:
        """End what would go on for ever, where the process stops."""
        if self._services is not None:
            self._services.streams.end()

    @property
    def services(self) -> Services:
        """The open services; raises RuntimeError before start-up."""
        if self._services is None:
            raise RuntimeError("the application was not started: its lifespan opens the services")
        return self._services

    @services.setter
    def services(self, services: Services) -> None:
        self._services = services
