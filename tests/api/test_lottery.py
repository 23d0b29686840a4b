"""The draw as everybody sees it over HTTP, and the round that the organizer enters."""

import hashlib
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from engine.ids import cell_of, new_event_id
from engine.keys import CellKeys
from engine.stores import Stores
from engine.waiting.checking import check_draw
from engine.waiting.draw import Draws
from engine.waiting.entrants import find_lottery
from engine.waiting.lottery import is_included, pseudonym
from engine.waiting.published import FORESEEN, UNCHECKED, PublishedDraw
from gateway import entrant_lists
from gateway.app import Application
from tests.api.conftest import API, Mint, event_body, refusal
from tests.integration.kit import until
from tests.integration.test_lottery import set_opening

FAR = "2099-01-01T00:00:00.000Z"
ROUND = "the numbers of 1 May 2027"
VALUE = b"7 11 13".hex()


class Lottery:
    """A published event with a lottery, and who joined it."""

    def __init__(self, client: httpx.AsyncClient, mint: Mint, stores: Stores, event_id: UUID) -> None:
        self.id = event_id
        self.path = f"{API}/queue/{event_id}/lottery"
        self.tickets: list[tuple[UUID, str]] = []
        self.draws = Draws(stores)
        self._client, self._mint, self._stores = client, mint, stores

    async def join(self, count: int = 1) -> None:
        for _ in range(count):
            user = uuid4()
            answer = await self._client.post(
                f"{API}/queue/join", json={"event_id": str(self.id)}, headers=self._mint(user_id=user)
            )
            assert answer.status_code == 201, answer.text
            self.tickets.append((user, answer.json()["data"]["ticket"]))

    async def freeze(self) -> None:
        """The time has come, and somebody comes too late."""
        await set_opening(self._stores.pool, self.id)
        await self._stores.redis.hset(CellKeys(cell_of(self.id)).sale, "queue_opens_at_ms", 1)
        await self.join()

        async def is_frozen() -> bool:
            return (await find_lottery(self._stores.pool, cell_of(self.id))).entrants is not None

        await until(is_frozen)
        await self.draws.advance(cell_of(self.id))

    async def get(self, rest: str = "", ticket: str | None = None) -> httpx.Response:
        headers = {} if ticket is None else {"x-queue-ticket": ticket}
        return await self._client.get(self.path + rest, headers=headers)

    async def shown(self) -> dict[str, Any]:
        answer = await self.get()
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    async def enter(self, role: str = "admin", **changes: Any) -> httpx.Response:
        body = {"round": ROUND, "randomness": VALUE} | changes
        path = f"{API}/events/{self.id}/queue/randomness"
        return await self._client.post(path, json=body, headers=self._mint(role))


async def opened(client: httpx.AsyncClient, mint: Mint, stores: Stores, **room: Any) -> Lottery:
    headers = mint("admin")
    body = event_body(waiting_room={"mode": "lottery", "opens_at": FAR} | room)
    made = await client.post(f"{API}/events", json=body, headers=headers)
    assert made.status_code == 201, made.text
    event_id = made.json()["data"]["id"]
    answer = await client.post(f"{API}/events/{event_id}/publish", headers=headers)
    assert answer.status_code == 200, answer.text
    return Lottery(client, mint, stores, UUID(event_id))


@pytest.fixture
async def lottery(ready: httpx.AsyncClient, mint: Mint, stores: Stores) -> Lottery:
    return await opened(ready, mint, stores)


@pytest.fixture
async def with_round(ready: httpx.AsyncClient, mint: Mint, stores: Stores) -> Lottery:
    return await opened(ready, mint, stores, public_round=ROUND)


async def test_before_the_freeze_there_is_a_commitment_and_nothing_else(lottery: Lottery) -> None:
    await lottery.join(2)
    shown = await lottery.shown()
    assert shown["status"] == "open"
    assert len(shown["commitment"]) == 64
    assert "HMAC-SHA-256" in shown["algorithm"]
    names = ("entrants", "frozen_at", "root", "randomness", "signature", "seed", "key", "drawn_at")
    assert {shown[name] for name in names} == {None}
    for rest, ticket in (("/entrants", None), ("/proof", lottery.tickets[0][1])):
        answer = await lottery.get(rest, ticket)
        assert refusal(answer) == (409, "INVALID_STATE")
        assert answer.json()["error"]["details"] == {"status": "registered"}


async def test_a_draw_can_be_computed_again_from_what_is_answered(lottery: Lottery) -> None:
    await lottery.join(12)
    committed = (await lottery.shown())["commitment"]
    await lottery.freeze()
    shown = await lottery.shown()
    assert (shown["status"], shown["entrants"], shown["commitment"]) == ("drawn", 12, committed)
    assert shown["proves"].endswith(FORESEEN)
    listed = await lottery.get("/entrants")
    assert listed.headers["content-type"] == "text/plain; charset=utf-8"
    assert int(listed.headers["content-length"]) == 12 * 65 == len(listed.content)
    lines = listed.content.splitlines(keepends=True)
    assert lines == [b"%s\n" % pseudonym(lottery.id, user).hex().encode() for user, _ in lottery.tickets[:12]]
    draw = PublishedDraw(**shown | {"event_id": UUID(shown["event_id"])})
    checked = check_draw(draw, lines, lambda *_: None, noted={"commitment": committed})
    assert checked.is_good
    assert checked.permutation is not None
    for number, (_, ticket) in enumerate(lottery.tickets[:12], 1):
        proof = (await lottery.get("/proof", ticket)).json()["data"]
        assert (proof["number"], proof["entrants"], proof["root"]) == (number, 12, shown["root"])
        assert proof["place"] == checked.permutation.place_of(number)
        path = [bytes.fromhex(step) for step in proof["path"]]
        assert is_included(bytes.fromhex(proof["leaf"]), number - 1, 12, path, bytes.fromhex(shown["root"]))
    assert refusal(await lottery.get("/proof", lottery.tickets[12][1])) == (404, "NOT_FOUND")


async def test_the_draw_waits_for_the_round_and_the_seed_for_the_draw(with_round: Lottery) -> None:
    await with_round.join(3)
    assert refusal(await with_round.enter()) == (409, "INVALID_STATE")
    await with_round.freeze()
    shown = await with_round.shown()
    assert (shown["status"], shown["public_round"], shown["seed"], shown["key"]) == (
        "frozen",
        ROUND,
        None,
        None,
    )
    assert shown["proves"].endswith(UNCHECKED)
    proof = (await with_round.get("/proof", with_round.tickets[0][1])).json()["data"]
    assert proof["place"] is None

    for wrong, field in (
        ({"round": "another"}, "round"),
        ({"randomness": "7 11"}, "randomness"),
        ({"randomness": ""}, "randomness"),
        ({"signature": "00"}, "randomness"),
        ({"value": "00"}, "value"),
    ):
        answer = await with_round.enter(**wrong)
        assert refusal(answer) == (400, "VALIDATION_ERROR"), wrong
        assert answer.json()["error"]["details"]["field"] == field
    assert refusal(await with_round.enter("user")) == (403, "FORBIDDEN")
    assert refusal(await with_round.enter("organizer")) == (404, "NOT_FOUND")

    entered = await with_round.enter()
    assert entered.status_code == 200, entered.text
    assert entered.json()["data"]["randomness"] == VALUE
    assert (await with_round.enter()).status_code == 200
    again = await with_round.enter(randomness=b"others".hex())
    assert refusal(again) == (409, "INVALID_STATE")
    await with_round.draws.advance(cell_of(with_round.id))
    shown = await with_round.shown()
    made = bytes.fromhex(shown["seed"]) + bytes.fromhex(shown["root"]) + bytes.fromhex(VALUE)
    assert shown["key"] == hashlib.sha256(made).hexdigest()
    assert shown["commitment"] == hashlib.sha256(bytes.fromhex(shown["seed"])).hexdigest()


async def test_where_there_is_no_lottery_nothing_is_found(
    ready: httpx.AsyncClient, mint: Mint, stores: Stores, lottery: Lottery
) -> None:
    queue = await opened(ready, mint, stores, mode="open", opens_at=None)
    draft = await ready.post(f"{API}/events", json=event_body(), headers=mint("admin"))
    for event_id in (queue.id, UUID(draft.json()["data"]["id"]), new_event_id(), uuid4()):
        for rest in ("", "/entrants"):
            answer = await ready.get(f"{API}/queue/{event_id}/lottery{rest}")
            assert refusal(answer) == (404, "NOT_FOUND"), (event_id, rest)
    assert refusal(await queue.enter()) == (404, "NOT_FOUND")
    await lottery.join()
    for ticket in (None, "forged"):
        assert refusal(await lottery.get("/proof", ticket)) == (401, "UNAUTHORIZED")
    answer = await ready.get(queue.path + "/proof", headers={"x-queue-ticket": lottery.tickets[0][1]})
    assert refusal(answer) == (401, "UNAUTHORIZED")


async def test_a_head_of_the_list_says_how_long_it_is(ready: httpx.AsyncClient, lottery: Lottery) -> None:
    await lottery.join(2)
    await lottery.freeze()
    answer = await ready.head(lottery.path + "/entrants")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "130", b"")


async def test_only_so_many_lists_are_sent_at_once(
    app: Application, lottery: Lottery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lottery.join()
    await lottery.freeze()
    monkeypatch.setattr(entrant_lists, "LISTS_MAX", 0)
    assert refusal(await lottery.get("/entrants")) == (503, "SERVICE_UNAVAILABLE")
