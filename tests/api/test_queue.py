"""Join, status, pass and place of a waiting room, as people see them."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from engine.ids import make_id, new_event_id
from engine.settings import Settings
from engine.stores import Stores
from engine.waiting.tickets import QueueSigner
from gateway.app import Application, create_app
from tests.api.conftest import API, Mint, event_body, refusal
from tests.api.queuekit import Person, Room, in_s, looks, open_room, rooms_of
from tests.integration.kit import until

FIELDS = [
    "ticket", "status", "place", "ahead", "estimated_wait_seconds", "outlook", "opens_at", "poll_after_ms",
]  # fmt: skip


@pytest.fixture
async def room(ready: httpx.AsyncClient, mint: Mint, stores: Stores) -> Room:
    return await open_room(ready, mint, stores)


async def test_who_joins_gets_a_place_and_is_told_how_they_stand(room: Room) -> None:
    people = await room.joined(3)
    for number, person in enumerate(people, 1):
        state = await person.state()
        assert list(state) == FIELDS
        assert (state["ticket"], state["status"]) == (person.ticket, "waiting")
        assert (state["place"], state["ahead"]) == (number, number - 1)
        assert state["outlook"] in ("likely", "uncertain", "unlikely")
        assert state["opens_at"] == room.event["sale_start_at"]
        assert state["poll_after_ms"] > 0


async def test_one_person_has_one_place_whatever_the_tab(room: Room) -> None:
    person, other = room.person(), room.person()
    answers = await asyncio.gather(*(person.join() for _ in range(8)))
    await other.join()
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["data"]["place"] for answer in answers} == {1}
    assert len({answer.json()["data"]["ticket"] for answer in answers}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert sorted(map(str, replayed)) == ["None"] + ["true"] * 7
    assert (await other.state())["place"] == 2


async def test_the_whole_way_to_a_booking(app: Application, room: Room) -> None:
    person, behind = await room.joined(2)
    assert refusal(await person.reserve()) == (403, "QUEUE_PASS_REQUIRED")
    refused = await person.claim()
    assert refusal(refused) == (409, "INVALID_STATE")
    assert refused.json()["error"]["details"] == {"status": "waiting"}
    assert await room.admit(people_max=1) == 1
    await looks(rooms_of(app), room)
    served = await person.state()
    assert (served["status"], served["ahead"], served["estimated_wait_seconds"]) == ("served", 0, 0)
    assert (await behind.state())["status"] == "waiting"

    claimed = await person.claim()
    assert claimed.status_code == 201
    assert set(claimed.json()["data"]) == {"pass", "expires_at"}
    again = await person.claim()
    assert (again.status_code, again.json()["data"]) == (201, claimed.json()["data"])
    assert again.headers["idempotent-replayed"] == "true"
    assert (await person.state())["status"] == "admitted"

    queue_pass = claimed.json()["data"]["pass"]
    assert refusal(await behind.reserve(queue_pass)) == (403, "QUEUE_PASS_INVALID")
    for wrong in ("", "x", queue_pass[:-1] + ("A" if queue_pass[-1] != "A" else "B"), person.ticket):
        assert refusal(await person.reserve(wrong)) == (403, "QUEUE_PASS_INVALID")
    booked = await person.reserve(queue_pass)
    assert booked.status_code == 201, booked.text
    assert refusal(await person.reserve(queue_pass)) == (403, "QUEUE_PASS_INVALID")
    refused = await person.claim()
    assert refusal(refused) == (409, "INVALID_STATE")
    assert refused.json()["error"]["details"] == {"status": "admitted"}
    assert (await person.state())["status"] == "admitted"


async def test_a_booking_that_is_cancelled_gives_the_pass_back(app: Application, room: Room) -> None:
    [person] = await room.joined(1)
    await room.admit()
    first = (await person.claim()).json()["data"]["pass"]
    booking = (await person.reserve(first)).json()["data"]
    assert (await person.cancel(booking["id"])).status_code == 200
    await looks(rooms_of(app), room)
    assert (await person.state())["status"] == "served"
    second = await person.claim()
    assert second.status_code == 201, second.text
    assert (await person.reserve(second.json()["data"]["pass"])).status_code == 201


async def test_who_leaves_burns_the_number_and_stands_at_the_end(app: Application, room: Room) -> None:
    first, second, third = await room.joined(3)
    assert (await second.leave()).status_code == 204
    await looks(rooms_of(app), room)
    for call in (second.status, second.claim, second.leave):
        assert refusal(await call()) == (404, "NOT_FOUND")
    assert (await third.state())["ahead"] == 1
    joined = await second.join()
    assert (joined.json()["data"]["place"], "idempotent-replayed" in joined.headers) == (4, False)
    assert [(await person.state())["place"] for person in (first, third, second)] == [1, 3, 4]


TICKET_CALLS = [("GET", "status"), ("GET", "stream"), ("POST", "pass"), ("DELETE", "place")]


async def test_a_ticket_that_is_none_of_ours_is_unauthorized(
    ready: httpx.AsyncClient, room: Room, settings: Settings
) -> None:
    [person, other] = await room.joined(2)
    signer = QueueSigner("another secret that nobody knows, of enough length")
    forged = signer.ticket(room.id, person.id, 1)
    altered = person.ticket[:-1] + ("A" if person.ticket[-1] != "A" else "B")
    for method, path in TICKET_CALLS:
        for ticket in ("", "x", forged, altered, person.ticket + "A", "é"):
            headers = [(b"authorization", person.token["authorization"].encode()),
                       (b"x-queue-ticket", ticket.encode())]  # fmt: skip
            answer = await ready.request(method, f"{API}/queue/{path}", headers=headers)
            assert refusal(answer) == (401, "UNAUTHORIZED"), (path, ticket)
        answer = await ready.request(method, f"{API}/queue/{path}", headers=person.token)
        assert refusal(answer) == (401, "UNAUTHORIZED"), path
        answer = await ready.request(method, f"{API}/queue/{path}?ticket={altered}", headers=person.token)
        assert refusal(answer) == (401, "UNAUTHORIZED"), path
    for method, path in TICKET_CALLS[2:]:
        theirs = person.token | {"x-queue-ticket": other.ticket}
        answer = await ready.request(method, f"{API}/queue/{path}", headers=theirs)
        assert refusal(answer) == (401, "UNAUTHORIZED")
        answer = await ready.request(method, f"{API}/queue/{path}", headers={"x-queue-ticket": person.ticket})
        assert refusal(answer) == (401, "UNAUTHORIZED")


async def test_a_ticket_may_stand_in_the_query(ready: httpx.AsyncClient, room: Room) -> None:
    [person] = await room.joined(1)
    for query in (f"ticket={person.ticket}", f"x=%20&ticket={person.ticket}"):
        answer = await ready.get(f"{API}/queue/status?{query}")
        assert (answer.status_code, answer.json()["data"]["place"]) == (200, 1)
    # The header wins.
    answer = await ready.get(f"{API}/queue/status?ticket=x", headers={"x-queue-ticket": person.ticket})
    assert answer.status_code == 200
    left = await ready.delete(f"{API}/queue/place?ticket={person.ticket}", headers=person.token)
    assert left.status_code == 204


async def test_the_checks_of_a_join_come_in_order(ready: httpx.AsyncClient, room: Room, mint: Mint) -> None:
    url, person = f"{API}/queue/join", room.person()
    body = {"event_id": str(room.id)}
    json = {"content-type": "application/json"}
    assert refusal(await ready.get(url)) == (405, "METHOD_NOT_ALLOWED")
    large = b"{" + b" " * 70_000 + b"}"
    assert refusal(await ready.post(url, content=large, headers=json)) == (413, "PAYLOAD_TOO_LARGE")
    assert refusal(await ready.post(url, json={})) == (401, "UNAUTHORIZED")
    expired = mint(ttl_s=-1)
    assert refusal(await ready.post(url, json=body, headers=expired)) == (401, "UNAUTHORIZED")
    refused = await ready.post(url, content=b"x", headers=person.token)
    assert refusal(refused) == (415, "UNSUPPORTED_MEDIA_TYPE")
    cases: list[tuple[Any, dict[str, str], str]] = [
        ({}, {}, "event_id"),
        ({"event_id": "x"}, {}, "event_id"),
        (body | {"x": 1}, {}, "x"),
        (body, {"idempotency-key": "two words"}, "Idempotency-Key"),
        (body, {"idempotency-key": "a", "x-idempotency-key": "b"}, "Idempotency-Key"),
        (body, {"x-queue-ticket": "x"}, "X-Queue-Ticket"),
    ]
    for sent, headers, field in cases:
        refused = await ready.post(url, json=sent, headers=person.token | headers)
        assert refusal(refused) == (400, "VALIDATION_ERROR"), sent
        assert refused.json()["error"]["details"]["field"] == field
    for unknown in (str(uuid4()), str(new_event_id()), str(make_id(1, 0, 0))):
        refused = await ready.post(url, json={"event_id": unknown}, headers=person.token)
        assert refusal(refused) == (404, "NOT_FOUND")
    answer = await ready.post(url, json=body, headers=person.token | {"idempotency-key": "mine"})
    assert answer.status_code == 201
    again = await ready.post(url, json=body, headers=person.token | {"idempotency-key": "another"})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")


async def test_a_join_may_show_its_own_ticket_and_no_other(room: Room) -> None:
    [person, other] = await room.joined(2)
    again = await person.join(**{"x-queue-ticket": person.ticket})
    assert (again.status_code, again.json()["data"]["place"]) == (201, 1)
    assert refusal(await person.join(**{"x-queue-ticket": other.ticket})) == (400, "VALIDATION_ERROR")


async def test_an_event_without_a_waiting_room_has_no_queue(
    ready: httpx.AsyncClient, mint: Mint, stores: Stores
) -> None:
    plain = await open_room(ready, mint, stores)
    headers = mint("admin")
    made = (await ready.post(f"{API}/events", json=event_body(), headers=headers)).json()["data"]
    person = plain.person()
    draft = await ready.post(f"{API}/queue/join", json={"event_id": made["id"]}, headers=person.token)
    assert refusal(draft) == (404, "NOT_FOUND")
    paused = await ready.post(f"{API}/events/{made['id']}/queue/pause", headers=headers)
    assert refusal(paused) == (404, "NOT_FOUND")
    assert (await ready.post(f"{API}/events/{made['id']}/publish", headers=headers)).status_code == 200
    joined = await ready.post(f"{API}/queue/join", json={"event_id": made["id"]}, headers=person.token)
    assert refusal(joined) == (404, "NOT_FOUND")
    # A ticket that names an event without a queue is ours all the same; nobody stands there.
    person.ticket = QueueSigner(stores.settings.jwt_secret).ticket(UUID(made["id"]), person.id, 1)
    assert refusal(await person.status()) == (404, "NOT_FOUND")


async def test_before_it_opens_nobody_joins_and_nobody_needs_a_pass(
    ready: httpx.AsyncClient, mint: Mint, stores: Stores
) -> None:
    opens_at = in_s(3600, int(time.time() * 1000))
    room = await open_room(ready, mint, stores, opens_at=opens_at)
    person = room.person()
    refused = await person.join()
    assert refusal(refused) == (409, "SALE_NOT_OPEN")
    assert refused.json()["error"]["details"]["opens_at"] == opens_at
    assert (await person.reserve()).status_code == 201


async def test_who_joins_a_lottery_is_registered_until_the_draw(
    ready: httpx.AsyncClient, mint: Mint, stores: Stores
) -> None:
    opens_at = in_s(3600, int(time.time() * 1000))
    room = await open_room(ready, mint, stores, mode="lottery", opens_at=opens_at)
    [person] = await room.joined(1)
    state = await person.state()
    assert (state["status"], state["place"], state["ahead"], state["opens_at"]) == (
        "registered", None, None, opens_at,
    )  # fmt: skip
    assert refusal(await person.claim()) == (409, "INVALID_STATE")
    assert refusal(await person.reserve()) == (403, "QUEUE_PASS_REQUIRED")
    assert (await person.leave()).status_code == 204


async def test_only_joining_again_takes_from_the_rate_limit(
    settings: Settings, ready: httpx.AsyncClient, mint: Mint, stores: Stores
) -> None:
    room = await open_room(ready, mint, stores)
    limited = msgspec.structs.replace(settings, user_rate_per_minute=1, user_burst=2)
    application = create_app(limited)
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://rush.test") as client:
            room.client = client
            person = room.person()
            answers = [await person.join() for _ in range(4)]
            # However often people ask how they stand, that is not limited here.
            assert [(await person.status()).status_code for _ in range(10)] == [200] * 10
    assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
    assert "retry-after" in answers[-1].headers


async def test_the_organizer_pauses_the_queue_and_lets_it_go_on(app: Application, room: Room) -> None:
    served, waiting = await room.joined(2)
    await room.admit(people_max=1)
    for _ in range(2):
        paused = await room.organize("POST", "/queue/pause")
        assert (paused.status_code, paused.json()["data"]["id"]) == (200, str(room.id))
    await looks(rooms_of(app), room)
    assert (await waiting.state())["status"] == "paused"
    assert (await served.state())["status"] == "served"
    assert await room.admit() == 0
    # Who was let in may go on.
    assert (await served.claim()).status_code == 201
    for _ in range(2):
        assert (await room.organize("POST", "/queue/resume")).status_code == 200
    assert await room.admit() == 1
    await looks(rooms_of(app), room)
    assert (await waiting.state())["status"] == "served"


async def test_only_the_organizer_pauses_a_queue(ready: httpx.AsyncClient, room: Room, mint: Mint) -> None:
    for headers, expected in (
        (mint(), (403, "FORBIDDEN")),
        (mint("organizer", tenant_id=uuid4()), (404, "NOT_FOUND")),
        ({}, (401, "UNAUTHORIZED")),
    ):
        for action in ("pause", "resume"):
            answer = await ready.post(f"{API}/events/{room.id}/queue/{action}", headers=headers)
            assert refusal(answer) == expected


async def test_a_paused_sale_may_be_joined_and_says_so(app: Application, room: Room) -> None:
    assert (await room.organize("POST", "/pause")).status_code == 200
    [person] = await room.joined(1)
    await looks(rooms_of(app), room)
    assert (await person.state())["status"] == "paused"
    assert await room.admit() == 0


async def test_sold_out_shows_within_two_looks(
    app: Application, ready: httpx.AsyncClient, mint: Mint, stores: Stores
) -> None:
    room = await open_room(ready, mint, stores, seats=1)
    buyer, waiting = await room.joined(2)
    await room.admit(people_max=1)
    queue_pass = (await buyer.claim()).json()["data"]["pass"]
    booking = (await buyer.reserve(queue_pass)).json()["data"]
    await looks(rooms_of(app), room)
    # The seat may come back.
    assert (await waiting.state())["status"] == "waiting"
    confirmed = await ready.post(f"{API}/bookings/{booking['id']}/confirm", headers=buyer.token)
    assert confirmed.status_code == 200
    await looks(rooms_of(app), room)
    state = await waiting.state()
    assert (state["status"], state["outlook"]) == ("sold_out", "unlikely")
    assert (await buyer.state())["status"] == "admitted"


async def test_closed_shows_within_two_looks(app: Application, room: Room) -> None:
    [person] = await room.joined(1)
    soon = in_s(0.2, int(time.time() * 1000))
    assert (await room.organize("PUT", sale_end_at=soon)).status_code == 200

    async def is_closed() -> bool:
        return (await person.state())["status"] == "closed"

    await until(is_closed, "the queue of a sale that ended is closed")
    late = room.person()
    assert refusal(await late.join()) == (409, "SALE_NOT_OPEN")


async def test_a_pass_that_runs_out_ends_the_place(
    app: Application, ready: httpx.AsyncClient, mint: Mint, stores: Stores
) -> None:
    room = await open_room(ready, mint, stores, pass_ttl_seconds=5)
    [person, behind] = await room.joined(2)
    await room.admit()
    queue_pass = (await person.claim()).json()["data"]["pass"]

    async def is_over() -> bool:
        return (await person.status()).status_code == 404

    await until(is_over, "a pass that ran out ended the place")
    assert refusal(await person.reserve(queue_pass)) == (403, "QUEUE_PASS_INVALID")
    await room.admit()
    joined = await person.join()
    assert (joined.status_code, joined.json()["data"]["place"]) == (201, 3)
    assert (await behind.state())["status"] in ("served", "waiting")


async def test_two_gateways_agree(app: Application, settings: Settings, room: Room, stores: Stores) -> None:
    [person, behind] = await room.joined(2)
    await room.admit(people_max=1)
    other = create_app(settings)
    async with other.router.lifespan_context(other):
        transport = httpx.ASGITransport(app=other)
        async with httpx.AsyncClient(transport=transport, base_url="http://rush.test") as client:
            first, rooms = room.client, (rooms_of(app), rooms_of(other))
            await asyncio.gather(*(looks(one, room) for one in rooms))
            told: list[list[Any]] = []
            for gateway in (first, client):
                answers = [
                    await gateway.get(f"{API}/queue/status", headers={"x-queue-ticket": one.ticket})
                    for one in (person, behind)
                ]
                told.append([[answer.json()["data"][name] for name in FIELDS[:4]] for answer in answers])
            assert told[0] == told[1]
            # The pass of one gateway is good at the other, and is the same one.
            passes = [
                await gateway.post(f"{API}/queue/pass", headers=person.headers) for gateway in (first, client)
            ]
            assert passes[0].json() == passes[1].json()


async def test_a_ticket_of_another_event_does_not_open_this_one(
    ready: httpx.AsyncClient, room: Room, mint: Mint, stores: Stores
) -> None:
    other = await open_room(ready, mint, stores)
    [person] = await room.joined(1)
    await room.admit()
    queue_pass = (await person.claim()).json()["data"]["pass"]
    elsewhere = Person(other, mint)
    elsewhere.id, elsewhere.token = person.id, person.token
    assert refusal(await elsewhere.reserve(queue_pass)) == (403, "QUEUE_PASS_INVALID")
    assert refusal(await elsewhere.join(**{"x-queue-ticket": person.ticket})) == (400, "VALIDATION_ERROR")
    assert (await person.reserve(queue_pass)).status_code == 201


class TestGone:
    """A sale that leaves Redis as soon as it is over."""

    @pytest.fixture
    def settings(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
        # Before the workers begin to count.
        monkeypatch.setattr("workers.recovery.CLOSE_INTERVAL_S", 0.1)
        return msgspec.structs.replace(settings, cell_retention_s=0)

    async def test_the_queue_of_a_sale_that_has_left_redis_is_closed(
        self, settings: Settings, room: Room, stores: Stores
    ) -> None:
        [person] = await room.joined(1)
        soon = in_s(0.5, int(time.time() * 1000))
        assert (await room.organize("PUT", sale_end_at=soon)).status_code == 200

        async def has_left() -> bool:
            return not await stores.redis.exists(room.keys.sale)

        await until(has_left, "the cell is closed")

        async def is_closed() -> bool:
            answer = await person.status()
            return answer.status_code == 200 and answer.json()["data"]["status"] == "closed"

        await until(is_closed, "the queue is closed")
        assert refusal(await room.person().join()) == (409, "SALE_NOT_OPEN")
        # A gateway that has never seen it says so, too.
        application = create_app(settings)
        async with application.router.lifespan_context(application):
            transport = httpx.ASGITransport(app=application)
            async with httpx.AsyncClient(transport=transport, base_url="http://rush.test") as client:
                headers = {"x-queue-ticket": person.ticket}
                answer = await client.get(f"{API}/queue/status", headers=headers)
                assert answer.json()["data"]["status"] == "closed"
