"""Reserve, confirm, cancel and the lists, as a buyer sees them."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from engine.ids import make_id
from engine.settings import Settings
from tests.api.conftest import API, Mint, event_body, refusal

RESERVE = f"{API}/bookings/reserve"
JSON = {"content-type": "application/json"}

Event = dict[str, Any]


@pytest.fixture
async def event(ready: httpx.AsyncClient, mint: Mint) -> Event:
    """A free event on sale: 100 stalls, 20 on the balcony."""
    return await on_sale(ready, mint)


async def on_sale(client: httpx.AsyncClient, mint: Mint, **changes: Any) -> Event:
    headers = mint("admin")
    made = await client.post(f"{API}/events", json=event_body(**changes), headers=headers)
    answer = await client.post(f"{API}/events/{made.json()['data']['id']}/publish", headers=headers)
    assert answer.status_code == 200, answer.text
    published: Event = answer.json()["data"]
    return published


def zone_of(event: Event, index: int = 0) -> dict[str, Any]:
    zone: dict[str, Any] = event["shows"][0]["zones"][index]
    return zone


def items_of(event: Event, *quantities: int) -> dict[str, Any]:
    return {
        "items": [{"zone_id": zone_of(event, i)["id"], "quantity": n} for i, n in enumerate(quantities) if n]
    }


async def counters(client: httpx.AsyncClient, mint: Mint, event: Event) -> list[tuple[int, int, int]]:
    answer = await client.get(f"{API}/events/{event['id']}/sales", headers=mint("admin"))
    return [(z["available"], z["reserved"], z["confirmed"]) for z in answer.json()["data"]["zones"]]


async def test_a_booking_from_reserve_to_confirm(ready: httpx.AsyncClient, event: Event, mint: Mint) -> None:
    buyer = mint()
    answer = await ready.post(RESERVE, json=items_of(event, 2, 1), headers=buyer)
    booking = answer.json()["data"]
    assert answer.status_code == 201
    assert list(booking) == [
        "id", "status", "durable", "event_id", "items", "quantity", "total_amount", "currency", "expires_at",
        "confirmed_at", "confirmation_code", "created_at",
    ]  # fmt: skip
    assert (booking["status"], booking["event_id"], booking["quantity"]) == ("reserved", event["id"], 3)
    assert (booking["total_amount"], booking["currency"]) == ("0.00", "GBP")
    assert (booking["confirmed_at"], booking["confirmation_code"]) == (None, None)
    assert sorted(booking["items"], key=lambda item: -item["quantity"])[0] == {
        "show_id": event["shows"][0]["id"],
        "zone_id": zone_of(event)["id"],
        "quantity": 2,
        "unit_price": "0.00",
    }
    epoch, _, seq = answer.headers["x-ledger-seq"].partition("-")
    assert int(epoch) >= 1
    assert int(seq) >= 1
    assert "idempotent-replayed" not in answer.headers

    path = f"{API}/bookings/{booking['id']}"
    assert (await ready.get(path, headers=buyer)).json()["data"]["id"] == booking["id"]
    assert refusal(await ready.get(path, headers=mint())) == (404, "NOT_FOUND")
    assert refusal(await ready.post(f"{path}/confirm", headers=mint())) == (404, "NOT_FOUND")

    confirmed = await ready.post(f"{path}/confirm", headers=buyer)
    assert confirmed.status_code == 200
    assert "x-ledger-seq" in confirmed.headers
    data = confirmed.json()["data"]
    assert (data["status"], data["durable"]) == ("confirmed", True)
    assert data["confirmation_code"]
    again = await ready.post(f"{path}/confirm", json={}, headers=buyer)
    assert (again.status_code, again.json()["data"]) == (200, data)
    cancelled = await ready.post(f"{path}/cancel", headers=buyer)
    assert refusal(cancelled) == (409, "INVALID_STATE")
    assert cancelled.json()["error"]["details"]["status"] == "confirmed"
    assert await counters(ready, mint, event) == [(98, 0, 2), (19, 0, 1)]
    listed = (
        await ready.get(f"{API}/bookings?status=confirmed&event_id={event['id']}", headers=buyer)
    ).json()
    assert (listed["data"], listed["meta"]["total"]) == ([data], 1)


async def test_cancelling_gives_the_seats_back_and_repeats(
    ready: httpx.AsyncClient, event: Event, mint: Mint
) -> None:
    buyer = mint()
    booking = (await ready.post(RESERVE, json=items_of(event, 2), headers=buyer)).json()["data"]
    path = f"{API}/bookings/{booking['id']}"
    for _ in range(2):
        answer = await ready.post(f"{path}/cancel", headers=buyer)
        assert (answer.status_code, answer.json()["data"]["status"]) == (200, "cancelled")
        assert "x-ledger-seq" in answer.headers
    assert refusal(await ready.post(f"{path}/confirm", headers=buyer)) == (409, "INVALID_STATE")
    assert await counters(ready, mint, event) == [(100, 0, 0), (20, 0, 0)]


async def test_a_hold_that_ran_out_is_410(ready: httpx.AsyncClient, mint: Mint) -> None:
    event = await on_sale(ready, mint, hold_ttl_seconds=1)
    buyer = mint()
    booking = (await ready.post(RESERVE, json=items_of(event, 1), headers=buyer)).json()["data"]
    await asyncio.sleep(1.05)
    for action in ("confirm", "cancel"):
        answer = await ready.post(f"{API}/bookings/{booking['id']}/{action}", headers=buyer)
        assert refusal(answer) == (410, "RESERVATION_EXPIRED")


async def test_a_priced_booking_waits_for_its_payment(ready: httpx.AsyncClient, mint: Mint) -> None:
    shows = event_body()["shows"]
    shows[0]["zones"][0]["price"] = "12.50"
    event = await on_sale(ready, mint, shows=shows)
    buyer = mint()
    booking = (await ready.post(RESERVE, json=items_of(event, 3), headers=buyer)).json()["data"]
    assert (booking["items"][0]["unit_price"], booking["total_amount"]) == ("12.50", "37.50")
    answer = await ready.post(f"{API}/bookings/{booking['id']}/confirm", headers=buyer)
    assert refusal(answer) == (402, "PAYMENT_REQUIRED")


async def test_pending_and_all_bookings_are_listed_within_a_second(
    ready: httpx.AsyncClient, event: Event, mint: Mint
) -> None:
    buyer = mint()
    made = [
        (await ready.post(RESERVE, json=items_of(event, 1), headers=buyer)).json()["data"]["id"]
        for _ in range(3)
    ]
    await ready.post(f"{API}/bookings/{made[0]}/cancel", headers=buyer)
    async with asyncio.timeout(1):
        while True:
            pending = (await ready.get(f"{API}/bookings/pending", headers=buyer)).json()
            everything = (await ready.get(f"{API}/bookings?per_page=2", headers=buyer)).json()
            if pending["meta"]["total"] == 2 and everything["meta"]["total"] == 3:
                break
            await asyncio.sleep(0.02)
    assert [booking["id"] for booking in pending["data"]] == [made[2], made[1]]
    assert [booking["id"] for booking in everything["data"]] == [made[2], made[1]]
    assert (await ready.get(f"{API}/bookings", headers=mint())).json()["data"] == []


async def test_the_same_key_gives_the_first_answer_again_in_both_forms(
    ready: httpx.AsyncClient, event: Event, mint: Mint
) -> None:
    buyer = mint()
    single = {"show_id": event["shows"][0]["id"], "zone_id": zone_of(event)["id"], "quantity": 2}
    first = await ready.post(RESERVE, json=items_of(event, 2), headers=buyer | {"idempotency-key": "k-1"})
    assert first.status_code == 201
    for body, header in ((items_of(event, 2), "idempotency-key"), (single, "x-idempotency-key")):
        again = await ready.post(RESERVE, json=body, headers=buyer | {header: "k-1"})
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    both = buyer | {"idempotency-key": "k-1", "x-idempotency-key": "k-1"}
    assert (await ready.post(RESERVE, json=single, headers=both)).content == first.content
    other = await ready.post(RESERVE, json=items_of(event, 1), headers=buyer | {"idempotency-key": "k-1"})
    assert refusal(other) == (422, "IDEMPOTENCY_KEY_REUSED")
    elsewhere = await ready.post(
        RESERVE, json=items_of(event, 2), headers=mint() | {"idempotency-key": "k-1"}
    )
    assert elsewhere.json()["data"]["id"] != first.json()["data"]["id"]
    assert await counters(ready, mint, event) == [(96, 4, 0), (20, 0, 0)]


async def test_refusals_say_what_and_carry_the_ledgers_position(
    ready: httpx.AsyncClient, event: Event, mint: Mint
) -> None:
    async def refused(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, str, dict[str, Any]]:
        answer = await ready.post(RESERVE, json=body, headers=headers)
        assert "x-ledger-seq" in answer.headers, answer.text
        return *refusal(answer), answer.json()["error"]["details"]

    buyer = mint()
    assert (await ready.post(RESERVE, json=items_of(event, 3), headers=buyer)).status_code == 201
    assert await refused(items_of(event, 2), buyer) == (
        409, "MAX_PER_USER_EXCEEDED", {"requested": 2, "held": 3, "limit": 4},
    )  # fmt: skip
    status, code, details = await refused(items_of(event, 0, 3), mint())
    assert (status, code, details["field"]) == (400, "VALIDATION_ERROR", "quantity")
    for _ in range(10):
        assert (await ready.post(RESERVE, json=items_of(event, 0, 2), headers=mint())).status_code == 201
    assert await refused(items_of(event, 1, 1), mint()) == (
        409, "INSUFFICIENT_STOCK", {"zone_id": zone_of(event, 1)["id"], "requested": 1, "available": 0},
    )  # fmt: skip
    await ready.post(f"{API}/events/{event['id']}/pause", headers=mint("admin"))
    assert await refused(items_of(event, 1), mint()) == (
        409, "SALE_NOT_OPEN", {"status": "paused", "opens_at": "2026-01-01T09:00:00.000Z"},
    )  # fmt: skip


async def test_bad_input_is_refused_and_moves_no_counter(
    ready: httpx.AsyncClient, event: Event, mint: Mint
) -> None:
    other = await on_sale(ready, mint)
    zone, balcony, show = zone_of(event)["id"], zone_of(event, 1)["id"], event["shows"][0]["id"]
    forged = str(make_id(UUID(zone).int >> 80, 0, 12345))
    nowhere = str(make_id(1, 0, 5))

    def one(quantity: Any, **more: Any) -> dict[str, Any]:
        return {"items": [{"zone_id": zone, "quantity": quantity} | more]}

    bodies: list[tuple[Any, int, str]] = [
        *(
            (one(quantity), 400, "items[0].quantity")
            for quantity in (0, -1, 10**6, 10**30, True, 1.0, "1", None)
        ),
        (one(1, unit_price="0.00"), 400, "items[0].unit_price"),
        (one(1, show_id=show), 400, "items[0].show_id"),
        ({"items": []}, 400, "items"),
        ({"items": {}}, 400, "items"),
        ({"items": None}, 400, "items"),
        ({"items": [{"zone_id": zone, "quantity": 1}] * 9}, 400, "items"),
        ({"items": [{"zone_id": zone, "quantity": 1}] * 2}, 400, "items"),
        ({"items": [*one(1)["items"], *items_of(other, 1)["items"]]}, 400, "items"),
        ({"items": [{"zone_id": "x", "quantity": 1}]}, 400, "items[0].zone_id"),
        ({"items": [{"quantity": 1}]}, 400, "items[0].zone_id"),
        ({}, 400, "items"),
        ({"zone_id": zone, "quantity": 1}, 400, "show_id"),
        ({"show_id": show, "zone_id": zone}, 400, "quantity"),
        (one(1) | {"quantity": 1}, 400, "items"),
        ({"show_id": other["shows"][0]["id"], "zone_id": zone, "quantity": 1}, 400, "show_id"),
        ({"show_id": zone, "zone_id": balcony, "quantity": 1}, 400, "show_id"),
        (one(1) | {"user_id": str(uuid4())}, 400, "user_id"),
        ([], 400, "body"),
        (None, 400, "body"),
        ({"items": [{"zone_id": forged, "quantity": 1}]}, 404, ""),
        ({"items": [{"zone_id": nowhere, "quantity": 1}]}, 404, ""),
        ({"items": [{"zone_id": str(uuid4()), "quantity": 1}]}, 404, ""),
        ({"items": [{"zone_id": event["id"], "quantity": 1}]}, 404, ""),
    ]  # fmt: skip
    headers = mint() | JSON
    for body, status, field in bodies:
        answer = await ready.post(RESERVE, content=msgspec.json.encode(body), headers=headers)
        assert refusal(answer)[0] == status, (body, answer.text)
        if status == 400:
            details = answer.json()["error"]["details"]
            assert (details["field"], set(details)) == (field, {"field", "reason"}), (body, answer.text)
    text = msgspec.json.encode(one(1))
    for raw in (
        b"", b"{", b"\xff", text[:-1], text + b"x", b'\xef\xbb\xbf' + text, text.replace(b"1}", b"1e0}"),
        b'{"items": "\xff"}', b"[" * 60_000, text.replace(b"1}", b"1" + b"0" * 5000 + b"}"),
        b'{"items":[{"zone_id":"\\ud800","quantity":1}]}',
    ):  # fmt: skip
        answer = await ready.post(RESERVE, content=raw, headers=headers)
        assert refusal(answer) == (400, "VALIDATION_ERROR"), raw[:40]
    for key in ("with blank", "", "x" * 256, "ü", "tab\t"):
        answer = await ready.post(RESERVE, json=one(1), headers=mint() | {"idempotency-key": key.encode()})  # type: ignore[operator]
        assert refusal(answer) == (400, "VALIDATION_ERROR"), key
        assert answer.json()["error"]["details"]["field"] == "Idempotency-Key"
    two = mint() | {"idempotency-key": "a", "x-idempotency-key": "b"}
    assert refusal(await ready.post(RESERVE, json=one(1), headers=two)) == (400, "VALIDATION_ERROR")
    assert await counters(ready, mint, event) == [(100, 0, 0), (20, 0, 0)]
    assert await counters(ready, mint, other) == [(100, 0, 0), (20, 0, 0)]


class TestLimit:
    """The reserve limit, which the script itself keeps."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, reserve_rate_per_minute=20, reserve_burst=2)

    async def test_reserving_is_limited_for_a_user_but_a_replay_is_not(
        self, ready: httpx.AsyncClient, event: Event, mint: Mint
    ) -> None:
        buyer = mint()
        keyed = buyer | {"idempotency-key": "once"}
        statuses = [
            (await ready.post(RESERVE, json=items_of(event, 1), headers=keyed)).status_code for _ in range(5)
        ]
        assert statuses == [201] * 5
        assert (await ready.post(RESERVE, json=items_of(event, 1), headers=buyer)).status_code == 201
        limited = await ready.post(RESERVE, json=items_of(event, 1), headers=buyer)
        assert refusal(limited) == (429, "RATE_LIMITED")
        assert limited.headers["ratelimit-policy"] == '"reserve";q=2;w=6'
        assert limited.headers["ratelimit"].startswith('"reserve";r=0;t=')
        assert 1 <= int(limited.headers["retry-after"]) <= 3
        assert "x-ledger-seq" in limited.headers
        assert (await ready.post(RESERVE, json=items_of(event, 1), headers=mint())).status_code == 201


class TestWithoutRelay:
    """The relay is stopped: reserving goes on, and a confirm does not pretend."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, confirm_wait_ms=100)

    async def test_confirm_answers_202_and_shows_no_code(
        self, ready: httpx.AsyncClient, mint: Mint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from engine.durability import Durability, Settled

        async def not_yet(*_: object, **__: object) -> Settled:
            return Settled.NOT_YET

        monkeypatch.setattr(Durability, "wait", not_yet)
        event = await on_sale(ready, mint)
        buyer = mint()
        booking = (await ready.post(RESERVE, json=items_of(event, 1), headers=buyer)).json()["data"]
        answer = await ready.post(f"{API}/bookings/{booking['id']}/confirm", headers=buyer)
        data = answer.json()["data"]
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
        assert (data["status"], data["durable"], data["confirmation_code"]) == ("confirmed", False, None)
