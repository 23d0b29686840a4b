"""/auth, to the letter of the contract."""

import asyncio
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from engine.settings import Settings
from tests.api.conftest import API, Mint, refusal

PERSON = {"email": "Ada@Example.org", "password": "correct horse", "full_name": " Ada L. "}


async def post(client: httpx.AsyncClient, path: str, body: Any = None, **options: Any) -> httpx.Response:
    return await client.post(f"{API}/auth/{path}", json=body, **options)


def bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {session['access_token']}"}


async def register(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await post(client, "register", PERSON)
    assert answer.status_code == 201, answer.text
    session: dict[str, Any] = answer.json()["data"]
    return session


async def test_registering_answers_user_and_tokens(ready: httpx.AsyncClient) -> None:
    session = await register(ready)
    assert set(session) == {"user", "access_token", "refresh_token", "expires_in"}
    user = session["user"]
    assert set(user) == {
        "id", "email", "full_name", "role", "tenant_id", "email_verified", "created_at",
    }  # fmt: skip
    assert (user["email"], user["full_name"], user["role"]) == ("ada@example.org", "Ada L.", "user")
    assert user["tenant_id"] is None
    assert user["created_at"].endswith("Z")
    me = await ready.get(f"{API}/auth/me", headers=bearer(session))
    assert me.json()["data"] == user


async def test_an_email_registers_once_however_it_is_spelled_and_however_many_try(
    ready: httpx.AsyncClient,
) -> None:
    answers = await asyncio.gather(
        *(post(ready, "register", PERSON | {"email": email}) for email in ("a@b.de", "A@B.de", "a@B.DE"))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    assert refusal(next(answer for answer in answers if answer.status_code == 409)) == (409, "CONFLICT")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"password": "seven77"}, "password"),
        ({"password": "x" * 73}, "password"),
        ({"password": "ü" * 37}, "password"),
        ({"password": 12345678}, "password"),
        ({"password": "with\0zero"}, "password"),
        ({"email": "nobody"}, "email"),
        ({"email": "two@@example.org"}, "email"),
        ({"email": "no host@example.org"}, "email"),
        ({"email": "a@b"}, "email"),
        ({"email": "a" * 65 + "@example.org"}, "email"),
        ({"full_name": "  "}, "full_name"),
        ({"full_name": "x" * 256}, "full_name"),
        ({"full_name": None}, "full_name"),
        ({"role": "admin"}, "role"),
    ],
)
async def test_a_registration_of_another_form_is_refused(
    ready: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await post(ready, "register", PERSON | change)
    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert answer.json()["error"]["details"]["field"] == field


async def test_the_bounds_of_a_password_are_inclusive(ready: httpx.AsyncClient) -> None:
    for i, password in enumerate(("12345678", "x" * 72)):
        person = PERSON | {"email": f"p{i}@example.org", "password": password}
        assert (await post(ready, "register", person)).status_code == 201
        assert (await post(ready, "login", {k: person[k] for k in ("email", "password")})).status_code == 200


async def test_login_takes_the_right_password_only(ready: httpx.AsyncClient) -> None:
    await register(ready)
    right = await post(ready, "login", {"email": "ADA@example.org", "password": PERSON["password"]})
    assert right.status_code == 200
    for body in (
        {"email": PERSON["email"], "password": "wrong horse"},
        {"email": PERSON["email"], "password": PERSON["password"] + "x" * 80},
        {"email": "nobody@example.org", "password": PERSON["password"]},
        {"email": "not an address", "password": ""},
    ):
        answer = await post(ready, "login", body)
        assert refusal(answer) == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_refresh_token_gives_a_new_pair(ready: httpx.AsyncClient) -> None:
    first = await register(ready)
    answer = await post(ready, "refresh", {"refresh_token": first["refresh_token"]})
    second = answer.json()["data"]
    assert answer.status_code == 200
    assert set(second) == {"access_token", "refresh_token", "expires_in"}
    assert second["refresh_token"] != first["refresh_token"]
    assert (await ready.get(f"{API}/auth/me", headers=bearer(second))).status_code == 200


async def test_a_lost_answer_is_forgiven_and_both_pairs_go_on(ready: httpx.AsyncClient) -> None:
    first = await register(ready)
    body = {"refresh_token": first["refresh_token"]}
    lost, repeated = await asyncio.gather(post(ready, "refresh", body), post(ready, "refresh", body))
    for answer in (lost, repeated):
        assert answer.status_code == 200
        again = await post(ready, "refresh", {"refresh_token": answer.json()["data"]["refresh_token"]})
        assert again.status_code == 200


async def test_using_an_old_refresh_token_ends_its_whole_family_and_no_other(
    ready: httpx.AsyncClient,
) -> None:
    first = await register(ready)
    other = (await post(ready, "login", {k: PERSON[k] for k in ("email", "password")})).json()["data"]
    newest = first
    for _ in range(2):
        newest = (await post(ready, "refresh", {"refresh_token": newest["refresh_token"]})).json()["data"]
    # Two generations back: not the newest predecessor, so there is no grace.
    old = await post(ready, "refresh", {"refresh_token": first["refresh_token"]})
    assert refusal(old) == (401, "UNAUTHORIZED")
    ended = await post(ready, "refresh", {"refresh_token": newest["refresh_token"]})
    assert refusal(ended) == (401, "UNAUTHORIZED")
    assert (await post(ready, "refresh", {"refresh_token": other["refresh_token"]})).status_code == 200


async def test_the_grace_ends(ready: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    first = await register(ready)
    second = (await post(ready, "refresh", {"refresh_token": first["refresh_token"]})).json()["data"]
    await database.execute("UPDATE refresh_tokens SET used_at = used_at - interval '1 minute'")
    assert (await post(ready, "refresh", {"refresh_token": first["refresh_token"]})).status_code == 401
    assert (await post(ready, "refresh", {"refresh_token": second["refresh_token"]})).status_code == 401


async def test_an_expired_or_unknown_refresh_token_is_refused(
    ready: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    session = await register(ready)
    await database.execute("UPDATE refresh_tokens SET expires_at = now()")
    for token in (session["refresh_token"], "unknown", ""):
        assert refusal(await post(ready, "refresh", {"refresh_token": token})) == (401, "UNAUTHORIZED")


async def test_refresh_tokens_are_stored_as_hashes(
    ready: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    session = await register(ready)
    row = await database.fetchrow("SELECT token_hash, password_hash FROM refresh_tokens, users")
    assert session["refresh_token"].encode() not in row["token_hash"]
    assert row["password_hash"].startswith("$2b$")


async def test_logout_ends_one_family_and_logout_all_every_one(ready: httpx.AsyncClient) -> None:
    login = {k: PERSON[k] for k in ("email", "password")}
    sessions = [await register(ready)]
    sessions += [(await post(ready, "login", login)).json()["data"] for _ in range(2)]
    body = {"refresh_token": sessions[0]["refresh_token"]}
    answer = await post(ready, "logout", body, headers=bearer(sessions[0]))
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await post(ready, "refresh", body)).status_code == 401
    assert (await post(ready, "logout-all", headers=bearer(sessions[1]))).status_code == 204
    for session in sessions[1:]:
        assert (await post(ready, "refresh", {"refresh_token": session["refresh_token"]})).status_code == 401


async def test_nobody_logs_somebody_else_out(ready: httpx.AsyncClient, mint: Mint) -> None:
    session = await register(ready)
    body = {"refresh_token": session["refresh_token"]}
    assert (await post(ready, "logout", body, headers=mint())).status_code == 204
    assert (await post(ready, "refresh", body)).status_code == 200


async def test_a_user_changes_the_own_name_only(ready: httpx.AsyncClient) -> None:
    session = await register(ready)
    headers = bearer(session)
    changed = await ready.put(f"{API}/auth/me", json={"full_name": "Countess"}, headers=headers)
    assert changed.json()["data"]["full_name"] == "Countess"
    unchanged = await ready.put(f"{API}/auth/me", json={}, headers=headers)
    assert unchanged.json()["data"] == changed.json()["data"]
    for body in ({"full_name": None}, {"full_name": ""}, {"role": "admin"}, {"email": "x@y.zz"}):
        answer = await ready.put(f"{API}/auth/me", json=body, headers=headers)
        assert refusal(answer) == (400, "VALIDATION_ERROR")


async def test_a_user_of_another_issuer_has_no_account_here(ready: httpx.AsyncClient, mint: Mint) -> None:
    assert refusal(await ready.get(f"{API}/auth/me", headers=mint())) == (404, "NOT_FOUND")
    assert (await post(ready, "logout-all", headers=mint())).status_code == 204


@pytest.mark.parametrize(
    "broken",
    ["none", "empty", "basic", "cut", "two parts", "garbage", "not ascii", "expired", "signed by another"],
)
async def test_a_broken_token_is_401_everywhere(
    client: httpx.AsyncClient, mint: Mint, settings: Settings, broken: str
) -> None:
    good = mint()["authorization"]
    header = {
        "none": None,
        "empty": "Bearer ",
        "basic": good.replace("Bearer", "Basic"),
        "cut": good[:-1],
        "two parts": good.rpartition(".")[0],
        "garbage": "Bearer a.b.c",
        "not ascii": "Bearer \xe4.\xf6.\xfc",
        "expired": mint(ttl_s=-1)["authorization"],
        "signed by another": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
    }[broken]
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    for method, path in (
        ("POST", "/bookings/reserve"),
        ("GET", "/bookings"),
        ("GET", "/auth/me"),
        ("POST", "/events"),
    ):
        answer = await client.request(method, API + path, headers=headers)  # type: ignore[arg-type]
        assert refusal(answer) == (401, "UNAUTHORIZED"), path
        assert "www-authenticate" in answer.headers


async def test_two_authorization_headers_are_one_too_many(client: httpx.AsyncClient, mint: Mint) -> None:
    both = [("authorization", mint()["authorization"]), ("authorization", mint()["authorization"])]
    assert refusal(await client.get(f"{API}/bookings", headers=both)) == (401, "UNAUTHORIZED")


class TestLimits:
    """The limits of the contract's table, with buckets small enough to empty."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(
            settings,
            login_rate_per_minute=5,
            login_burst=3,
            register_rate_per_minute=3,
            register_burst=2,
            user_rate_per_minute=100,
            user_burst=4,
        )

    async def test_login_is_limited_for_an_address_and_says_how(self, ready: httpx.AsyncClient) -> None:
        answers = [
            await post(ready, "login", {"email": f"n{i}@example.org", "password": "wrong"}) for i in range(4)
        ]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert refusal(answers[3]) == (429, "RATE_LIMITED")
        headers = answers[3].headers
        assert headers["ratelimit-policy"] == '"login";q=3;w=36'
        assert headers["ratelimit"] == f'"login";r=0;t={headers["retry-after"]}'
        assert 1 <= int(headers["retry-after"]) <= 12

    async def test_register_is_limited_for_an_address(self, ready: httpx.AsyncClient) -> None:
        answers = [await post(ready, "register", PERSON | {"email": f"n{i}@example.org"}) for i in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]

    async def test_other_calls_are_limited_for_a_user_and_not_for_another(
        self, ready: httpx.AsyncClient, mint: Mint
    ) -> None:
        headers = mint()
        answers = [await ready.get(f"{API}/bookings", headers=headers) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
        assert (await ready.get(f"{API}/bookings", headers=mint())).status_code == 200

    async def test_without_redis_nobody_logs_in_but_other_calls_go_on(
        self, client: httpx.AsyncClient, mint: Mint
    ) -> None:
        # The scripts were never loaded: this Redis is fenced.
        answer = await post(client, "login", {"email": "a@b.de", "password": "whatever"})
        assert refusal(answer) == (503, "SERVICE_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get(f"{API}/bookings", headers=mint())).status_code == 200
