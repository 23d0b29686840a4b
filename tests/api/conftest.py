"""The whole application in process, on real stores, and clients with tokens for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from engine.settings import Settings
from engine.stores import Stores
from engine.tokens import Role, TokenSigner
from gateway.app import Application, create_app
from workers.runner import run_workers

API = "/api/v1"
Mint = Callable[..., dict[str, str]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Rate limits out of the way; the tests of limits set their own."""
    return msgspec.structs.replace(
        settings,
        login_rate_per_minute=60_000,
        login_burst=1_000,
        register_rate_per_minute=60_000,
        register_burst=1_000,
        user_rate_per_minute=60_000,
        user_burst=1_000,
        reserve_rate_per_minute=60_000,
        reserve_burst=1_000,
    )


@pytest.fixture
async def workers(settings: Settings) -> AsyncIterator[None]:
    """Recovery, relay and expiry at work; ready when the scripts are loaded."""
    stop = asyncio.Event()
    running = asyncio.create_task(run_workers(settings, ["recovery", "relay", "expiry"], stop))
    yield
    stop.set()
    await running


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Application]:
    """The application, started."""
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        yield application


@pytest.fixture
async def client(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://rush.test") as opened:
        yield opened


@pytest.fixture
async def ready(client: httpx.AsyncClient, workers: None, stores: Stores) -> httpx.AsyncClient:
    """A client of an installation that is ready, on every node where there are many."""
    sha = stores.scripts["rate"].sha
    async with asyncio.timeout(20):
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.02)
        while not all([(await asked)[0] for asked in stores.line.call_all("SCRIPT", "EXISTS", sha)]):
            await asyncio.sleep(0.02)
    return client


@pytest.fixture
def mint(settings: Settings) -> Mint:
    """`mint("organizer", tenant_id=…, user_id=…)`: a header with a token."""
    signer = TokenSigner(settings.jwt_secret)

    def make(
        role: Role = "user", *, tenant_id: UUID | None = None, user_id: UUID | None = None, ttl_s: int = 900
    ) -> dict[str, str]:
        token = signer.sign(user_id or uuid4(), role, tenant_id, ttl_s=ttl_s)
        return {"authorization": f"Bearer {token}"}

    return make


def event_body(**changes: Any) -> dict[str, Any]:
    """A free event with one show and two zones."""
    return {
        "title": "Rush Night",
        "currency": "GBP",
        "sale_start_at": "2026-01-01T09:00:00Z",
        "shows": [
            {
                "show_date": "2027-05-01T19:30:00+02:00",
                "zones": [
                    {"name": "Stalls", "price": "0.00", "total_seats": 100},
                    {"name": "Balcony", "price": "0.00", "total_seats": 20, "max_per_order": 2},
                ],
            }
        ],
    } | changes


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an answer that must be an error in the usual envelope."""
    body = answer.json()
    assert body["success"] is False
    assert set(body) == {"success", "error"}
    assert set(body["error"]) == {"code", "message", "details"}
    return answer.status_code, body["error"]["code"]
