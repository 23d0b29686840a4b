"""The same promises from outside: two gateway processes and two of each worker, over HTTP."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from engine import ids
from engine.settings import Settings
from engine.tokens import TokenSigner
from tests.integration.books import ZoneSampler, differences
from tests.integration.kit import HANGS_S, Event, Rig, changed, confirmed_rows, open_rig, until
from tests.integration.processes import Process, Processes
from tests.stores import RedisServer

API = "/api/v1/bookings"
BUYERS, TICKETS = 500, 100


class Site:
    """Two gateways as clients see them."""

    def __init__(self, rig: Rig, clients: list[httpx.AsyncClient], workers: list[Process]) -> None:
        self.rig = rig
        self.workers = workers
        self._clients = clients
        self._signer = TokenSigner(rig.settings.jwt_secret)

    def buyer(self, user: UUID | None = None, **headers: str) -> dict[str, str]:
        """Headers of a buyer."""
        token = self._signer.sign(user or uuid4(), "user", None, ttl_s=900)
        return {"authorization": f"Bearer {token}", **headers}

    async def post(
        self, gateway: int, path: str, headers: dict[str, str], body: Any = None
    ) -> httpx.Response:
        """One call."""
        return await self._clients[gateway % 2].post(API + path, headers=headers, json=body)

    async def reserve(
        self, gateway: int, event: Event, headers: dict[str, str], quantity: int = 1
    ) -> httpx.Response:
        """One reservation."""
        items = [{"zone_id": str(event.zones[0]), "quantity": quantity}]
        return await self.post(gateway, "/reserve", headers, {"items": items})

    async def confirm(self, gateway: int, booking_id: str, headers: dict[str, str]) -> httpx.Response:
        """Confirm until it is durable."""
        answers: list[httpx.Response] = []

        async def is_final() -> bool:
            answers.append(await self.post(gateway, f"/{booking_id}/confirm", headers))
            return answers[-1].status_code not in (202, 503)

        await until(is_final, "a confirm with an answer")
        return answers[-1]


@pytest.fixture
async def site(quick: Settings, processes: Processes) -> AsyncIterator[Site]:
    """Two gateways, and two of each worker in processes of their own."""
    async with _open_site(quick, processes) as opened:
        yield opened


def _open_site(settings: Settings, processes: Processes):  # type: ignore[no-untyped-def]
    import contextlib

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Site]:
        wide = changed(settings, user_rate_per_minute=60_000, user_burst=1_000, confirm_wait_ms=2_000)
        workers = [processes.work(wide, "recovery", "relay", "expiry") for _ in range(2)]
        ports = [(await processes.gateway(wide))[1] for _ in range(2)]
        limits = httpx.Limits(max_connections=60)
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=30)
                )
                for port in ports
            ]
            rig = await stack.enter_async_context(open_rig(wide))
            yield Site(rig, clients, workers)

    return opened()


async def test_500_buyers_for_100_tickets_over_http(site: Site) -> None:
    rig = site.rig
    event = await rig.sale([TICKETS])
    buyers = [site.buyer() for _ in range(BUYERS)]
    with ZoneSampler(rig.settings, event) as sampler:
        answers = await asyncio.gather(
            *[site.reserve(number, event, buyer) for number, buyer in enumerate(buyers)]
        )
        assert Counter(answer.status_code for answer in answers) == {201: TICKETS, 409: BUYERS - TICKETS}
        assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409} == {
            "INSUFFICIENT_STOCK"
        }
        kept = [
            (number, answer.json()["data"]["id"])
            for number, answer in enumerate(answers)
            if answer.status_code == 201
        ]
        # The other gateway confirms.
        confirmed = await asyncio.gather(
            *[site.confirm(number + 1, booking_id, buyers[number]) for number, booking_id in kept]
        )
        await rig.caught_up(event)
    assert {answer.status_code for answer in confirmed} == {200}
    assert not sampler.wrong
    assert sampler.per_second >= 50
    assert {UUID(booking_id) for _, booking_id in kept} == await confirmed_rows(rig, event)
    positions = [answer.headers["x-ledger-seq"] for answer in (*answers, *confirmed)]
    assert len({answer.headers["x-ledger-seq"] for answer in answers if answer.status_code == 201}) == TICKETS
    assert all(position.count("-") == 1 for position in positions)
    assert await differences(rig, event) == []


async def test_one_key_a_hundred_times_over_http_is_byte_for_byte_one_answer(site: Site) -> None:
    event = await site.rig.sale()
    user = uuid4()
    buyer = site.buyer(user, **{"idempotency-key": "again"})
    answers = await asyncio.gather(*[site.reserve(number, event, buyer, 2) for number in range(100)])
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    replayed = Counter(answer.headers.get("idempotent-replayed") for answer in answers)
    assert replayed == {None: 1, "true": 99}
    for gateway in (0, 1):
        other = await site.reserve(gateway, event, buyer, 1)
        assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    counters = await site.rig.counters(event)
    assert (counters["available"], counters["reserved"]) == (98, 2)
    confirmed = await site.confirm(0, answers[0].json()["data"]["id"], buyer)
    assert confirmed.status_code == 200
    late = await site.reserve(1, event, buyer, 2)
    assert late.content == answers[0].content
    assert await differences(site.rig, event) == []


async def test_a_confirm_after_the_deadline_is_410(site: Site) -> None:
    event = await site.rig.sale(hold_ttl_s=1)
    buyer = site.buyer()
    booking_id = (await site.reserve(0, event, buyer)).json()["data"]["id"]
    await until(lambda: _available(site.rig, event, 100), "the hold is free again")
    for gateway in (0, 1):
        answer = await site.confirm(gateway, booking_id, buyer)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "RESERVATION_EXPIRED")
    assert await differences(site.rig, event) == []


async def _available(rig: Rig, event: Event, seats: int) -> bool:
    return (await rig.counters(event))["available"] == seats


async def test_with_the_relays_stopped_confirm_is_202_and_without_a_code(site: Site) -> None:
    event = await site.rig.sale()
    buyer = site.buyer()
    booking_id = (await site.reserve(0, event, buyer)).json()["data"]["id"]
    await site.rig.caught_up(event)
    for worker in site.workers:
        worker.signal(signal.SIGTERM)
    for worker in site.workers:
        assert await worker.ended() == 0
    for gateway in (0, 1):
        answer = await site.post(gateway, f"/{booking_id}/confirm", buyer)
        assert answer.status_code == 202
        assert answer.headers["retry-after"] == "1"
        data = answer.json()["data"]
        assert (data["durable"], data["confirmation_code"]) == (False, None)
    site.rig.work()
    answer = await site.confirm(1, booking_id, buyer)
    assert answer.status_code == 200
    assert answer.json()["data"]["confirmation_code"]


BAD_BODIES = {
    "broken JSON": b'{"items": [',
    "not UTF-8": b'{"items": "\xff\xfe"}',
    "a list": b"[]",
    "no body": b"",
    "nothing in it": b"{}",
    "too large": b'{"items": "' + b"x" * 1_000_000 + b'"}',
}


def _bad_forms(event: Event, other: Event) -> dict[str, tuple[int, Any]]:
    zone, second = str(event.zones[0]), str(event.zones[1])
    forged = str(ids.new_id(ids.event_ref_of(ids.new_event_id())))

    def items(*pairs: tuple[Any, Any]) -> dict[str, Any]:
        return {"items": [{"zone_id": zone_id, "quantity": quantity} for zone_id, quantity in pairs]}

    return {
        "zero": (400, items((zone, 0))),
        "negative": (400, items((zone, -1))),
        "huge": (400, items((zone, 2**31))),
        "beyond 64 bits": (400, items((zone, 2**70))),
        "half a ticket": (400, items((zone, 1.5))),
        "a text": (400, items((zone, "1"))),
        "true": (400, items((zone, True))),
        "null": (400, items((zone, None))),
        "no items": (400, {"items": []}),
        "nine items": (400, items(*[(str(ids.new_id(event.cell.event_ref)), 1) for _ in range(9)])),
        "one zone twice": (400, items((zone, 1), (zone, 1))),
        "two events": (400, items((zone, 1), (str(other.zones[0]), 1))),
        "over the order's limit": (400, items((zone, 11))),
        "over the person's limit": (409, items((zone, 5))),
        "the second item does not fit": (409, items((zone, 1), (second, 2))),
        "no UUID": (400, items(("zone", 1))),
        "a zone that is none": (404, items((str(ids.new_id(event.cell.event_ref)), 1))),
        "an event that is none": (404, items((forged, 1))),
        "a UUID that is not ours": (404, items((str(uuid4()), 1))),
        "an unknown field": (400, items((zone, 1)) | {"price": "0.00"}),
        "an unknown field of an item": (400, {"items": [{"zone_id": zone, "quantity": 1, "price": 0}]}),
    }


async def _dump(rig: Rig, event: Event) -> dict[bytes, Any]:
    """All that Redis has of a cell, but for rate limits."""
    dump: dict[bytes, Any] = {}
    async for key in rig.redis.scan_iter(match=event.keys.prefix + "*", count=1000):
        if not key.startswith(event.keys.rate_prefix.encode()):
            kind = await rig.redis.type(key)
            dump[key] = await (rig.redis.hgetall(key) if kind == b"hash" else rig.redis.dump(key))
    return dump


async def test_bad_input_of_every_kind_moves_no_counter_among_good_input_that_does(site: Site) -> None:
    rig = site.rig
    event, other = await rig.sale([100, 1]), await rig.sale()
    held = await site.reserve(0, event, site.buyer(**{"idempotency-key": "held"}))
    assert held.status_code == 201
    await rig.caught_up(event)
    before = await _dump(rig, event)
    for name, (status, body) in _bad_forms(event, other).items():
        answers = [await site.post(gateway, "/reserve", site.buyer(), body) for gateway in (0, 1)]
        assert [answer.status_code for answer in answers] == [status, status], (name, answers[0].text)
    for name, raw in BAD_BODIES.items():
        headers = site.buyer(**{"content-type": "application/json"})
        answer = await site._clients[0].post(API + "/reserve", headers=headers, content=raw)
        assert answer.status_code == (413 if name == "too large" else 400), (name, answer.text)
    for name, header in _bad_tokens(site).items():
        answer = await site.reserve(0, event, header)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED"), name
    assert await _dump(rig, event) == before
    # And the same in the middle of good ones, all at once.
    forms = list(_bad_forms(event, other).values())
    good = [site.reserve(number, event, site.buyer()) for number in range(25)]
    bad = [site.post(number, "/reserve", site.buyer(), body) for number, (_, body) in enumerate(forms)]
    outcomes = await asyncio.gather(*[call for pair in zip(good, bad, strict=False) for call in pair])
    assert Counter(answer.status_code for answer in outcomes[::2]) == {201: len(forms)}
    assert [answer.status_code for answer in outcomes[1::2]] == [status for status, _ in forms]
    for call in good[len(forms) :]:
        call.close()
    counters = await rig.counters(event)
    assert (counters["reserved"], counters["available"]) == (1 + len(forms), 99 - len(forms))
    assert await differences(rig, event) == []


def _bad_tokens(site: Site) -> dict[str, dict[str, str]]:
    good = site.buyer()["authorization"]
    head, claims, signature = good.removeprefix("Bearer ").split(".")
    other = TokenSigner("another secret that is long enough for it").sign(uuid4(), "user", None, ttl_s=900)
    old = TokenSigner(site.rig.settings.jwt_secret).sign(uuid4(), "user", None, ttl_s=-1)
    return {
        "none": {},
        "no scheme": {"authorization": good.removeprefix("Bearer ")},
        "another scheme": {"authorization": "Basic " + good.removeprefix("Bearer ")},
        "cut": {"authorization": good[:-1]},
        "without a signature": {"authorization": f"Bearer {head}.{claims}."},
        "claims changed": {"authorization": f"Bearer {head}.{claims[:-4]}AAAA.{signature}"},
        "signed by somebody else": {"authorization": f"Bearer {other}"},
        "expired": {"authorization": f"Bearer {old}"},
        "garbage": {"authorization": "Bearer " + json.dumps(["not", "a", "token"])},
    }


async def test_a_restart_of_redis_over_http_is_503_at_once_and_heals(
    quick: Settings, processes: Processes, new_redis: Any
) -> None:
    server: RedisServer = new_redis()
    async with _open_site(changed(quick, redis_url=server.url), processes) as site:
        event = await site.rig.sale()
        buyer = site.buyer()
        booking_id = (await site.reserve(0, event, buyer)).json()["data"]["id"]
        assert (await site.confirm(0, booking_id, buyer)).status_code == 200
        server.kill()
        for number in range(10):
            answer = await site.reserve(number, event, site.buyer())
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.elapsed.total_seconds() < HANGS_S
        await server.start_async()

        async def sells() -> bool:
            return (await site.reserve(0, event, site.buyer())).status_code == 201

        await until(sells, "it sells again")
        again = await site.confirm(1, booking_id, buyer)
        assert again.status_code == 200
        assert await differences(site.rig, event) == []
