"""The demo: three accounts and an event on sale. Only `rush up` makes it; making it again changes nothing."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from engine.accounts import Account, Accounts
from engine.catalogue import Catalogue
from engine.catalogue_forms import NewEvent, NewShow, NewZone
from engine.catalogue_model import Event
from engine.edits import Edits
from engine.errors import Conflict, ServiceUnavailable
from engine.inventory import Inventory
from engine.passwords import PasswordHasher
from engine.settings import Settings
from engine.stores import Stores, open_stores
from engine.tokens import Claims, Role, TokenSigner

PASSWORD = "demo-password-1"  # noqa: S105 - on every screen, and only on machines with a demo
SLUG = "demo-night"
TITLE = "Demo Night"
SHOW_IN = timedelta(days=60)
PUBLISH_TRIES_MAX = 10
PUBLISH_RETRY_S = 1.0
CLAIMS_TTL_S = 3600

_ACCOUNTS: tuple[tuple[str, str, Role], ...] = (
    ("buyer@demo.local", "Demo Buyer", "user"),
    ("organizer@demo.local", "Demo Organizer", "organizer"),
    ("admin@demo.local", "Demo Admin", "admin"),
)


class Demo(msgspec.Struct, frozen=True):
    """What a person needs to try it; the zone is one whose tickets are free."""

    emails: tuple[str, ...]
    password: str
    title: str
    slug: str
    zone_id: UUID


def _event() -> NewEvent:
    now = datetime.now(UTC)
    zones = [
        NewZone(name="Floor", price="0.00", total_seats=500),
        NewZone(name="Gallery", price="0.00", total_seats=100, max_per_order=4),
        NewZone(name="Box", price="120.00", total_seats=24),
    ]
    return NewEvent(
        title=TITLE,
        slug=SLUG,
        currency="EUR",
        description="An event to try things with.",
        venue="Town Hall",
        category="Music",
        sale_start_at=now,
        max_per_user=8,
        shows=[NewShow(show_date=now + SHOW_IN, zones=zones)],
    )


def _claims(account: Account) -> Claims:
    now_s = int(time.time())
    return Claims(
        sub=account.id,
        role=account.role,
        tenant_id=account.tenant_id,
        typ="access",
        iat=now_s,
        exp=now_s + CLAIMS_TTL_S,
    )


async def _ensure_event(catalogue: Catalogue, organizer: Claims) -> Event:
    try:
        event = await catalogue.create_event(organizer, _event())
    except Conflict:
        events, _ = await catalogue.read.list_of(organizer, 1, 100)
        event = next(event for event in events if event.slug == SLUG)
    if event.stored_status != "draft":
        return event
    for _ in range(PUBLISH_TRIES_MAX):
        try:
            return await catalogue.publish(organizer, event.id)
        except ServiceUnavailable:
            await asyncio.sleep(PUBLISH_RETRY_S)
    return await catalogue.publish(organizer, event.id)


async def _make(settings: Settings, stores: Stores) -> Demo:
    hasher = PasswordHasher(settings.bcrypt_cost)
    try:
        accounts = Accounts(stores, TokenSigner(settings.jwt_secret), hasher)
        made = {role: await accounts.ensure(email, PASSWORD, name, role) for email, name, role in _ACCOUNTS}
    finally:
        hasher.close()
    catalogue = Catalogue(stores, Edits(stores), Inventory(stores))
    event = await _ensure_event(catalogue, _claims(made["organizer"]))
    return Demo(
        emails=tuple(email for email, _, _ in _ACCOUNTS),
        password=PASSWORD,
        title=event.title,
        slug=event.slug,
        zone_id=event.shows[0].zones[0].id,
    )


async def make_demo(settings: Settings) -> Demo:
    """Make what is missing of the demo and put its event on sale; needs a running recovery worker."""
    stores = await open_stores(settings)
    try:
        return await _make(settings, stores)
    finally:
        await stores.close()
