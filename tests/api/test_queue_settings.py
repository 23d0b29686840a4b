"""The settings of a waiting room: kept as sent, changed in part, and fixed where people rely on them."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.conftest import API, Mint, event_body, refusal

DEFAULTS = {
    "opens_at": None, "admissions_per_second": 100.0, "passes_max": 1000, "pass_ttl_seconds": 300,
    "claim_grace_seconds": 60, "public_round": None,
}  # fmt: skip
LOTTERY = {"mode": "lottery", "opens_at": "2027-01-01T10:00:00+01:00", "public_round": "drand 5000000"}


async def create(client: httpx.AsyncClient, headers: dict[str, str], room: Any) -> dict[str, Any]:
    answer = await client.post(f"{API}/events", json=event_body(waiting_room=room), headers=headers)
    assert answer.status_code == 201, answer.text
    event: dict[str, Any] = answer.json()["data"]
    return event


@pytest.mark.parametrize(
    ("room", "changes"),
    [
        ({"mode": "open"}, {}),
        (LOTTERY, {"opens_at": "2027-01-01T09:00:00.000Z", "public_round": "drand 5000000"}),
    ],
)
async def test_a_waiting_room_is_kept_with_every_field(
    client: httpx.AsyncClient, mint: Mint, room: dict[str, Any], changes: dict[str, Any]
) -> None:
    event = await create(client, mint("organizer", tenant_id=uuid4()), room)
    assert event["waiting_room"] == {"mode": room["mode"]} | DEFAULTS | changes


async def test_a_draft_may_change_all_of_it(client: httpx.AsyncClient, mint: Mint) -> None:
    headers = mint("organizer", tenant_id=uuid4())
    path = f"{API}/events/{(await create(client, headers, None))['id']}"
    steps: list[tuple[Any, Any]] = [
        ({"mode": "open"}, {"mode": "open"} | DEFAULTS),
        ({"passes_max": 5}, {"mode": "open"} | DEFAULTS | {"passes_max": 5}),
        (LOTTERY, {"mode": "lottery"} | DEFAULTS | {"passes_max": 5}
            | {"opens_at": "2027-01-01T09:00:00.000Z", "public_round": "drand 5000000"}),
        (None, None),
    ]  # fmt: skip
    for change, expected in steps:
        answer = await client.put(path, json={"waiting_room": change}, headers=headers)
        assert answer.json()["data"]["waiting_room"] == expected
        # What is absent stays as it is.
        answer = await client.put(path, json={}, headers=headers)
        assert answer.json()["data"]["waiting_room"] == expected
    answer = await client.put(path, json={"waiting_room": {"passes_max": 5}}, headers=headers)
    assert refusal(answer) == (400, "VALIDATION_ERROR")


async def test_what_people_rely_on_is_fixed_once_published(ready: httpx.AsyncClient, mint: Mint) -> None:
    headers = mint("organizer", tenant_id=uuid4())
    event = await create(ready, headers, LOTTERY)
    path = f"{API}/events/{event['id']}"
    assert (await ready.post(f"{path}/publish", headers=headers)).status_code == 200
    for change in (None, {"mode": "open"}, {"opens_at": "2027-01-01T09:00:01Z"}, {"public_round": None}):
        answer = await ready.put(path, json={"waiting_room": change}, headers=headers)
        assert answer.status_code in (400, 409)
        if answer.status_code == 409:
            assert refusal(answer) == (409, "INVALID_STATE")
            assert answer.json()["error"]["details"] == {"status": "published"}
    # The same values again are no change; the rest may be tuned while people wait.
    change = LOTTERY | {"admissions_per_second": 7.5, "passes_max": 3, "claim_grace_seconds": 9}
    answer = await ready.put(path, json={"waiting_room": change}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["waiting_room"] == event["waiting_room"] | {
        "admissions_per_second": 7.5, "passes_max": 3, "claim_grace_seconds": 9,
    }  # fmt: skip


async def test_a_sale_without_one_stays_without_one(ready: httpx.AsyncClient, mint: Mint) -> None:
    headers = mint("organizer", tenant_id=uuid4())
    path = f"{API}/events/{(await create(ready, headers, None))['id']}"
    assert (await ready.post(f"{path}/publish", headers=headers)).status_code == 200
    answer = await ready.put(path, json={"waiting_room": {"mode": "open"}}, headers=headers)
    assert refusal(answer) == (409, "INVALID_STATE")
