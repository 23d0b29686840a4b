"""Events, shows and zones: forms, ownership, drafts, publishing and edits on sale."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import redis.asyncio

from engine.errors import StoreUnavailable
from engine.ids import cell_of, is_rush_id
from engine.keys import CellKeys
from tests.api.conftest import API, Mint, event_body, refusal


class Organizer:
    """A client with an organizer's token."""

    def __init__(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.client = client
        self.headers = headers

    async def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self.client.request(method, API + path, json=body, headers=self.headers)

    async def create(self, **changes: Any) -> dict[str, Any]:
        answer = await self.call("POST", "/events", event_body(**changes))
        assert answer.status_code == 201, answer.text
        event: dict[str, Any] = answer.json()["data"]
        return event

    async def published(self, **changes: Any) -> dict[str, Any]:
        event = await self.create(**changes)
        answer = await self.call("POST", f"/events/{event['id']}/publish")
        assert answer.status_code == 200, answer.text
        published: dict[str, Any] = answer.json()["data"]
        return published


@pytest.fixture
def organizer(client: httpx.AsyncClient, mint: Mint) -> Organizer:
    return Organizer(client, mint("organizer", tenant_id=uuid4()))


async def test_a_new_event_is_a_draft_with_every_field(organizer: Organizer) -> None:
    event = await organizer.create()
    assert list(event) == [
        "id", "slug", "tenant_id", "title", "description", "venue", "category", "image_url", "currency",
        "status", "sale_start_at", "sale_end_at", "max_per_user", "hold_ttl_seconds", "refund_policy",
        "waiting_room", "shows", "created_at",
    ]  # fmt: skip
    assert (event["status"], event["slug"], event["description"]) == ("draft", "rush-night", None)
    assert event["sale_start_at"] == "2026-01-01T09:00:00.000Z"
    assert event["refund_policy"] == [
        {"days_before": 7, "percent": 100},
        {"days_before": 3, "percent": 50},
    ]
    [show] = event["shows"]
    assert set(show) == {"id", "show_date", "status", "zones"}
    assert (show["show_date"], show["status"]) == ("2027-05-01T17:30:00.000Z", "active")
    assert [zone["name"] for zone in show["zones"]] == ["Stalls", "Balcony"]
    assert show["zones"][1] == {
        "id": show["zones"][1]["id"], "show_id": show["id"], "name": "Balcony", "price": "0.00",
        "total_seats": 20, "available_seats": 20, "max_per_order": 2,
    }  # fmt: skip


@pytest.mark.parametrize("where", ["event", "show", "zone"])
async def test_the_ids_of_an_event_lead_to_one_cell(organizer: Organizer, where: str) -> None:
    event = await organizer.create()
    show = event["shows"][0]
    given = UUID({"event": event, "show": show, "zone": show["zones"][0]}[where]["id"])
    assert is_rush_id(given)
    assert cell_of(given) == cell_of(UUID(event["id"]))


BAD_EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"title": ""}, "title"),
    ({"title": " "}, "title"),
    ({"title": "x" * 256}, "title"),
    ({"title": None}, "title"),
    ({"title": "a\0b"}, "title"),
    ({"currency": "gbp"}, "currency"),
    ({"currency": "XTS"}, "currency"),
    ({"sale_start_at": "2026-01-01T09:00:00"}, "sale_start_at"),
    ({"sale_start_at": 1767258000}, "sale_start_at"),
    ({"sale_start_at": "0001-01-01T00:00:00+23:59"}, "sale_start_at"),
    ({"sale_start_at": "9999-12-31T23:59:59-10:00"}, "sale_start_at"),
    ({"sale_end_at": "2026-01-01T09:00:00Z"}, "sale_end_at"),
    ({"slug": "Upper"}, "slug"),
    ({"slug": "new\nline\n"}, "slug"),
    ({"slug": "tail\n"}, "slug"),
    ({"slug": "x" * 101}, "slug"),
    ({"slug": str(uuid4())}, "slug"),
    ({"max_per_user": 0}, "max_per_user"),
    ({"max_per_user": 1001}, "max_per_user"),
    ({"max_per_user": True}, "max_per_user"),
    ({"max_per_user": 1.0}, "max_per_user"),
    ({"max_per_user": "4"}, "max_per_user"),
    ({"hold_ttl_seconds": 0}, "hold_ttl_seconds"),
    ({"hold_ttl_seconds": 3601}, "hold_ttl_seconds"),
    ({"image_url": "javascript:alert(1)"}, "image_url"),
    ({"waiting_room": {}}, "waiting_room.mode"),
    ({"waiting_room": {"mode": "lottery"}}, "waiting_room.opens_at"),
    ({"waiting_room": {"mode": "open", "is_paused": True}}, "waiting_room.is_paused"),
    ({"waiting_room": {"mode": "open", "passes_max": 0}}, "waiting_room.passes_max"),
    ({"refund_policy": [{"days_before": 7, "percent": 101}]}, "refund_policy[0].percent"),
    (
        {"refund_policy": [{"days_before": 3, "percent": 5}, {"days_before": 7, "percent": 1}]},
        "refund_policy[1]",
    ),
    ({"status": "published"}, "status"),
    ({"unknown": 1}, "unknown"),
]
BAD_ZONES: list[tuple[dict[str, Any], str]] = [
    ({"price": "1"}, "price"),
    ({"price": "1.000"}, "price"),
    ({"price": "-1.00"}, "price"),
    ({"price": "1e2.00"}, "price"),
    ({"price": 1.0}, "price"),
    ({"price": "100000000.00"}, "price"),
    ({"total_seats": -1}, "total_seats"),
    ({"total_seats": 10_000_001}, "total_seats"),
    ({"total_seats": 10**30}, "total_seats"),
    ({"max_per_order": 0}, "max_per_order"),
    ({"name": ""}, "name"),
    ({"name": "x" * 101}, "name"),
    ({"kind": "seats"}, "kind"),
    ({"plan": {}}, "plan"),
]


async def test_an_event_of_another_form_is_refused_with_the_field(
    organizer: Organizer, database: asyncpg.Connection
) -> None:
    show = event_body()["shows"][0]
    cases = BAD_EVENTS + [
        ({"shows": [show, {**show, "zones": [show["zones"][0] | change]}]}, f"shows[1].zones[0].{field}")
        for change, field in BAD_ZONES
    ]
    cases.append(({"shows": [{**show, "zones": [show["zones"][0]] * 1001}]}, "shows[0].zones"))
    cases.append(({"shows": [{**show, "zones": [show["zones"][0]] * 600}] * 2}, "shows"))
    cases.append(({"shows": [{**show, "zones": []}] * 101}, "shows"))
    for change, field in cases:
        answer = await organizer.call("POST", "/events", event_body(**change))
        if answer.status_code == 413:
            continue
        assert refusal(answer) == (400, "VALIDATION_ERROR"), (change, answer.text)
        details = answer.json()["error"]["details"]
        assert (details["field"], set(details)) == (field, {"field", "reason"}), change
    assert await database.fetchval("SELECT count(*) FROM events") == 0


async def test_prices_have_exactly_the_decimals_of_their_currency(organizer: Organizer) -> None:
    for currency, price in (("JPY", "1500"), ("GBP", "99999999.99"), ("KWD", "1.250")):
        zones = [{"name": "A", "price": price, "total_seats": 0}]
        shows = [{"show_date": "2027-01-01T00:00:00Z", "zones": zones}]
        event = await organizer.create(currency=currency, shows=shows)
        assert event["shows"][0]["zones"][0]["price"] == price


async def test_slugs_are_made_unique_and_a_sent_one_is_not_changed(organizer: Organizer) -> None:
    slugs = [(await organizer.create())["slug"] for _ in range(3)]
    assert slugs[0] == "rush-night"
    assert len(set(slugs)) == 3
    assert all(slug.startswith("rush-night-") for slug in slugs[1:])
    assert (await organizer.create(title="Été à Zürich!"))["slug"] == "ete-a-zurich"
    assert (await organizer.create(title="音楽"))["slug"]
    assert (await organizer.create(slug="mine"))["slug"] == "mine"
    taken = await organizer.call("POST", "/events", event_body(slug="mine"))
    assert refusal(taken) == (409, "CONFLICT")


async def test_put_leaves_what_is_absent_and_clears_what_is_null(organizer: Organizer) -> None:
    event = await organizer.create(description="long", venue="Hall", category="Music", sale_end_at=None)
    path = f"/events/{event['id']}"
    assert (await organizer.call("PUT", path, {})).json()["data"] == event
    changed = (await organizer.call("PUT", path, {"description": None, "title": "New"})).json()["data"]
    assert changed == event | {"description": None, "title": "New"}
    cleared = (await organizer.call("PUT", path, {"category": None, "venue": None})).json()["data"]
    assert (cleared["category"], cleared["venue"]) == (None, None)
    for body in (
        {"title": None},
        {"currency": "JPY"},
        {"shows": []},
        {"sale_end_at": "2020-01-01T00:00:00Z"},
    ):
        assert refusal(await organizer.call("PUT", path, body)) == (400, "VALIDATION_ERROR"), body
    await organizer.create(slug="taken")
    assert refusal(await organizer.call("PUT", path, {"slug": "taken"})) == (409, "CONFLICT")


async def test_categories_are_made_once_and_found_by_name_or_slug(
    ready: httpx.AsyncClient, mint: Mint
) -> None:
    organizer = Organizer(ready, mint("organizer"))
    for name in ("Live Music", "live music", "Theatre"):
        await organizer.published(category=name)
    listed = (await ready.get(f"{API}/categories")).json()
    assert {row["slug"] for row in listed["data"]} == {"live-music", "theatre"}
    assert listed["meta"]["total"] == 2
    for name in ("live-music", "Live Music"):
        found = (await ready.get(f"{API}/events", params={"category": name})).json()
        assert found["meta"]["total"] == 2


async def test_drafts_and_the_events_of_others_are_not_found(ready: httpx.AsyncClient, mint: Mint) -> None:
    tenant = uuid4()
    mine = Organizer(ready, mint("organizer", tenant_id=tenant))
    event = await mine.create()
    show = event["shows"][0]
    calls: list[tuple[str, str, Any]] = [
        ("PUT", f"/events/{event['id']}", {}),
        ("POST", f"/events/{event['id']}/shows", {"show_date": "2027-01-01T00:00:00Z"}),
        ("POST", f"/shows/{show['id']}/zones", {"name": "A", "price": "0.00", "total_seats": 1}),
        ("PATCH", f"/shows/{show['id']}", {}),
        ("PATCH", f"/zones/{show['zones'][0]['id']}", {}),
        ("GET", f"/events/{event['id']}/sales", None),
        ("POST", f"/events/{event['id']}/pause", None),
        ("POST", f"/events/{event['id']}/publish", None),
        ("DELETE", f"/events/{event['id']}", None),
    ]
    for headers, expected in (
        (mint("organizer", tenant_id=uuid4()), (404, "NOT_FOUND")),
        (mint("organizer"), (404, "NOT_FOUND")),
        (mint("user", tenant_id=tenant), (403, "FORBIDDEN")),
        ({}, (401, "UNAUTHORIZED")),
    ):
        for method, path, body in calls:
            answer = await ready.request(method, API + path, json=body, headers=headers)
            assert refusal(answer) == expected, path
    for path in (f"/events/{event['id']}", f"/events/{event['slug']}", f"/events/{event['id']}/shows",
                 f"/shows/{show['id']}/zones"):  # fmt: skip
        assert refusal(await ready.get(API + path)) == (404, "NOT_FOUND")
    assert (await ready.get(f"{API}/events")).json()["data"] == []
    # A colleague of the same tenant, and an admin, may.
    for headers in (mint("organizer", tenant_id=tenant), mint("admin")):
        own = await ready.get(f"{API}/organizer/events", headers=headers)
        assert [row["id"] for row in own.json()["data"]] == [event["id"]]
        assert (await ready.put(f"{API}/events/{event['id']}", json={}, headers=headers)).status_code == 200
    assert (await ready.get(f"{API}/organizer/events", headers=mint("organizer"))).json()["data"] == []


async def test_without_a_tenant_an_organizer_has_the_events_of_the_own_account(
    client: httpx.AsyncClient, mint: Mint
) -> None:
    me = uuid4()
    event = await Organizer(client, mint("organizer", user_id=me)).create()
    for headers, expected in (
        (mint("organizer", user_id=me), 200),
        (mint("organizer"), 404),
        (mint("organizer", user_id=me, tenant_id=uuid4()), 404),
    ):
        answer = await client.put(f"{API}/events/{event['id']}", json={}, headers=headers)
        assert answer.status_code == expected


async def test_publishing_puts_on_sale_and_again_does_nothing_more(
    ready: httpx.AsyncClient, organizer: Organizer
) -> None:
    event = await organizer.create()
    path = f"/events/{event['id']}"
    for action in ("pause", "resume"):
        assert refusal(await organizer.call("POST", f"{path}/{action}")) == (409, "INVALID_STATE")
    empty = await organizer.create(shows=[])
    assert refusal(await organizer.call("POST", f"/events/{empty['id']}/publish")) == (409, "INVALID_STATE")
    steps = [
        ("publish", "published"), ("publish", "published"), ("resume", "published"), ("pause", "paused"),
        ("pause", "paused"), ("publish", "paused"), ("resume", "published"),
    ]  # fmt: skip
    for action, status in steps:
        answer = await organizer.call("POST", f"{path}/{action}")
        assert (answer.status_code, answer.json()["data"]["status"]) == (200, status), action
        assert (await ready.get(API + path)).json()["data"]["status"] == status
    refused = await organizer.call("DELETE", path)
    assert refusal(refused) == (409, "INVALID_STATE")
    assert refused.json()["error"]["details"] == {"status": "published"}
    assert (await organizer.call("DELETE", f"/events/{empty['id']}")).status_code == 204
    assert (await organizer.call("DELETE", f"/events/{empty['id']}")).status_code == 404


async def test_an_event_past_its_end_shows_as_ended(ready: httpx.AsyncClient, organizer: Organizer) -> None:
    event = await organizer.published(sale_end_at="2026-01-02T00:00:00Z")
    assert event["status"] == "ended"
    assert (await ready.get(f"{API}/events/{event['slug']}")).json()["data"]["status"] == "ended"


async def test_the_public_list_is_filtered_and_paged_newest_first(
    ready: httpx.AsyncClient, organizer: Organizer
) -> None:
    zones = [{"name": "A", "price": "0.00", "total_seats": 1}]
    for title, day in (("100% Jazz", "01"), ("Opera_Gala", "10"), ("Rock", "20")):
        shows = [{"show_date": f"2027-03-{day}T20:00:00Z", "zones": zones}]
        await organizer.published(title=title, shows=shows)

    async def titles(**query: Any) -> list[str]:
        answer = await ready.get(f"{API}/events", params=query)
        assert answer.status_code == 200, answer.text
        return [row["title"] for row in answer.json()["data"]]

    assert await titles() == ["Rock", "Opera_Gala", "100% Jazz"]
    assert await titles(q="jazz") == ["100% Jazz"]
    assert await titles(q="%") == ["100% Jazz"]
    assert await titles(q="_") == ["Opera_Gala"]
    assert await titles(q="\\") == []
    assert await titles(**{"from": "2027-03-10T00:00:00Z", "to": "2027-03-10T23:00:00-05:00"}) == [
        "Opera_Gala"
    ]
    assert await titles(**{"from": "2027-03-10T20:00:00Z"}) == ["Rock", "Opera_Gala"]
    assert await titles(per_page=2, page=2) == ["100% Jazz"]
    beyond = (await ready.get(f"{API}/events?page=9")).json()
    assert (beyond["data"], beyond["meta"]["total"]) == ([], 3)
    # An offset whose plus sign was not escaped: in a query that is a blank.
    answer = await ready.get(f"{API}/events?from=2027-03-10T21:00:00+01:00")
    assert [event["title"] for event in answer.json()["data"]] == ["Rock", "Opera_Gala"]
    for query in ("from=yesterday", "to=2027-03-10T20:00:00", "q=%00", "q=%ff", "from=0001-01-01T00:00:00Z"):
        assert refusal(await ready.get(f"{API}/events?{query}")) == (400, "VALIDATION_ERROR"), query


async def test_shows_and_zones_are_lists(ready: httpx.AsyncClient, organizer: Organizer) -> None:
    event = await organizer.published()
    show = event["shows"][0]
    for key in (event["id"], event["slug"]):
        answer = (await ready.get(f"{API}/events/{key}/shows")).json()
        assert (answer["data"], answer["meta"]["total"]) == ([show], 1)
    zones = (await ready.get(f"{API}/shows/{show['id']}/zones?per_page=1")).json()
    assert zones["data"] == [show["zones"][-1]]
    assert zones["meta"] == {"page": 1, "per_page": 1, "total": 2}


async def test_a_drafts_zone_changes_within_its_counters(organizer: Organizer) -> None:
    event = await organizer.create()
    zone = event["shows"][0]["zones"][0]
    path = f"/zones/{zone['id']}"
    change = {"total_seats": 30, "blocked_seats": 5, "price": "2.50", "name": "Pit", "max_per_order": 3}
    answer = await organizer.call("PATCH", path, change)
    assert answer.json()["data"] == zone | {
        "total_seats": 30, "available_seats": 25, "price": "2.50", "name": "Pit", "max_per_order": 3,
    }  # fmt: skip
    assert refusal(await organizer.call("PATCH", path, {"total_seats": 4})) == (409, "INVALID_STATE")
    for body in ({"price": None}, {"price": "2"}, {"total_seats": -1}, {"kind": "seats"}, {"name": " "}):
        assert refusal(await organizer.call("PATCH", path, body)) == (400, "VALIDATION_ERROR"), body
    show = event["shows"][0]
    moved = await organizer.call(
        "PATCH", f"/shows/{show['id']}", {"show_date": "2028-01-01T00:00:00.1234567Z"}
    )
    assert moved.json()["data"]["show_date"] == "2028-01-01T00:00:00.123Z"


async def test_a_zone_on_sale_changes_at_once_but_never_below_what_is_in_use(
    ready: httpx.AsyncClient, organizer: Organizer, mint: Mint
) -> None:
    event = await organizer.published()
    zone = event["shows"][0]["zones"][0]
    path = f"/zones/{zone['id']}"
    held = await ready.post(
        f"{API}/bookings/reserve", json={"items": [{"zone_id": zone["id"], "quantity": 3}]}, headers=mint()
    )
    assert held.status_code == 201
    steps: list[tuple[dict[str, Any], int, tuple[int, int]]] = [
        ({"total_seats": 50}, 200, (50, 47)),
        ({"total_seats": 2, "price": "9.00"}, 409, (50, 47)),
        ({"blocked_seats": 48}, 409, (50, 47)),
        ({"blocked_seats": 47}, 200, (50, 0)),
        ({"blocked_seats": 0, "total_seats": 3, "name": "Pit"}, 200, (3, 0)),
        ({"price": "1.50"}, 200, (3, 0)),
        ({"total_seats": 4, "price": "1.75", "max_per_order": 4}, 200, (4, 1)),
    ]
    for change, status, counters in steps:
        answer = await organizer.call("PATCH", path, change)
        assert answer.status_code == status, (change, answer.text)
        shown = (await ready.get(f"{API}/events/{event['id']}")).json()["data"]["shows"][0]["zones"][0]
        assert (shown["total_seats"], shown["available_seats"]) == counters, change
    assert (shown["price"], shown["name"], shown["max_per_order"]) == ("1.75", "Pit", 4)
    sales = (await organizer.call("GET", f"/events/{event['id']}/sales")).json()["data"]
    assert sales["event_id"] == event["id"]
    assert sales["zones"][0] == {
        "zone_id": zone["id"], "show_id": zone["show_id"], "name": "Pit",
        "capacity": 4, "available": 1, "reserved": 3, "confirmed": 0, "blocked": 0,
    }  # fmt: skip


async def test_what_is_added_to_an_event_on_sale_is_on_sale_at_once(
    ready: httpx.AsyncClient, organizer: Organizer, mint: Mint
) -> None:
    event = await organizer.published()
    show = (await organizer.call("POST", f"/events/{event['id']}/shows", event_body()["shows"][0])).json()[
        "data"
    ]
    zone = (
        await organizer.call(
            "POST", f"/shows/{show['id']}/zones", {"name": "Extra", "price": "0.00", "total_seats": 7}
        )
    ).json()["data"]
    assert (zone["total_seats"], zone["available_seats"]) == (7, 7)
    for zone_id in (show["zones"][0]["id"], zone["id"]):
        body = {"show_id": show["id"], "zone_id": zone_id, "quantity": 1}
        answer = await ready.post(f"{API}/bookings/reserve", json=body, headers=mint())
        assert answer.status_code == 201, answer.text


async def test_changes_of_an_event_on_sale_reach_the_scripts(
    ready: httpx.AsyncClient, organizer: Organizer, redis_client: redis.asyncio.Redis
) -> None:
    event = await organizer.published()
    change = {
        "max_per_user": 7,
        "hold_ttl_seconds": 60,
        "slug": "other",
        "sale_end_at": "2030-01-01T00:00:00Z",
    }
    answer = await organizer.call("PUT", f"/events/{event['id']}", change)
    assert answer.status_code == 200, answer.text
    sale = CellKeys(cell_of(UUID(event["id"]))).sale
    fields = await redis_client.hmget(sale, ["max_per_user", "hold_ttl_ms", "sale_end_at_ms"])
    assert fields == [b"7", b"60000", b"1893456000000"]
    currency = await organizer.call("PUT", f"/events/{event['id']}", {"currency": "EUR"})
    assert refusal(currency) == (409, "INVALID_STATE")


async def test_edits_and_the_relay_do_not_deadlock(
    ready: httpx.AsyncClient, organizer: Organizer, mint: Mint
) -> None:
    """The relay has the cell, then the zone and, by a foreign key, the event; so must an edit."""
    event = await organizer.published(max_per_user=1000)
    zone = event["shows"][0]["zones"][0]
    body = {"items": [{"zone_id": zone["id"], "quantity": 1}]}
    for i in range(6):
        answers = await asyncio.gather(
            organizer.call("PATCH", f"/zones/{zone['id']}", {"total_seats": 100 + i, "price": f"0.0{i}"}),
            organizer.call("PUT", f"/events/{event['id']}", {"max_per_user": 100 + i, "slug": f"slug-{i}"}),
            ready.post(f"{API}/bookings/reserve", json=body, headers=mint()),
        )
        assert [answer.status_code for answer in answers] == [200, 200, 201], [a.text for a in answers]


@pytest.mark.parametrize("state", ["away", "not open"])
async def test_public_reads_fall_back_to_postgres_and_sales_do_not(
    ready: httpx.AsyncClient, organizer: Organizer, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    async def ask(_: object, by_cell: dict[object, list[object]]) -> list[object]:
        if state == "away":
            raise StoreUnavailable
        return [reply for zones in by_cell.values() for reply in (0, *([[b"1"] * 5] * len(zones)))]

    event = await organizer.published()
    monkeypatch.setattr("engine.inventory.Inventory._ask", ask)
    shown = await ready.get(f"{API}/events/{event['id']}")
    assert shown.json()["data"]["shows"][0]["zones"][0]["available_seats"] == 100
    sales = await organizer.call("GET", f"/events/{event['id']}/sales")
    assert refusal(sales) == (503, "SERVICE_UNAVAILABLE")


async def test_publishing_without_recovery_answers_503_and_repeating_is_harmless(
    client: httpx.AsyncClient, organizer: Organizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.catalogue.OPEN_TIMEOUT_MS", 50)
    event = await organizer.create()
    for _ in range(2):
        answer = await organizer.call("POST", f"/events/{event['id']}/publish")
        assert refusal(answer) == (503, "SERVICE_UNAVAILABLE")
        assert "retry-after" in answer.headers
    assert (await client.get(f"{API}/events/{event['id']}")).json()["data"]["status"] == "published"
