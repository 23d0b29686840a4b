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
from observability import metrics, tallies


class Services(msgspec.Struct):
    """The engine's parts, as handlers use them."""

    settings: Settings
    stores: Stores
    signer: TokenSigner
    accounts: Accounts
    catalogue: Catalogue
    bookings: Bookings


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Everything opened, and closed again; a store that is away is no error here."""
    stores = await open_stores(settings)
    hasher = PasswordHasher(settings.bcrypt_cost)
    bookings = Bookings(stores)
    watching = asyncio.create_task(_watch(stores.line))
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
        )
    finally:
        watching.cancel()
        tallies.flush()
        await bookings.close()
        hasher.close()
        await stores.close()


async def _watch(line: Line) -> None:
    """Show now and then what the hot path counted, and how many calls wait on the hot line: cheaper than
    a metric moved by each of them."""
    in_flight = metrics.gauge("hot_line_in_flight")
    while True:
        tallies.flush()
        in_flight.set(line.in_flight)
        await asyncio.sleep(tallies.FLUSH_INTERVAL_S)


class Gateway:
    """What the routes hold on to: the services, once the process has opened them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._services: Services | None = None

    @property
    def services(self) -> Services:
        """The open services; raises RuntimeError before start-up."""
        if self._services is None:
            raise RuntimeError("the application was not started: its lifespan opens the services")
        return self._services

    @services.setter
    def services(self, services: Services) -> None:
        self._services = services
