"""What holds for every call: the envelope, the order of the checks, headers, and openapi.json."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest
import swagger_ui_bundle  # type: ignore[import-untyped]

from engine import errors as engine_errors
from engine.ids import new_id
from engine.settings import Settings
from engine.stores import POSTGRES_ERRORS
from gateway import errors as gateway_errors
from gateway import openapi
from gateway.decode import Nothing
from gateway.routes import OPERATIONS
from tests.api.conftest import API, Mint, event_body, refusal

RESERVE = f"{API}/bookings/reserve"
JSON = {"content-type": "application/json"}

CONTRACT = {
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "PAYMENT_REQUIRED": 402,
    "FORBIDDEN": 403,
    "QUEUE_PASS_REQUIRED": 403,
    "QUEUE_PASS_INVALID": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "INSUFFICIENT_STOCK": 409,
    "MAX_PER_USER_EXCEEDED": 409,
    "SALE_NOT_OPEN": 409,
    "INVALID_STATE": 409,
    "CONFLICT": 409,
    "RESERVATION_EXPIRED": 410,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}


def test_every_error_class_is_a_row_of_the_contract() -> None:
    classes = [
        thing
        for module in (engine_errors, gateway_errors)
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, engine_errors.RushError)
    ]
    assert {thing.code: thing.http_status for thing in classes} == CONTRACT


def test_openapi_has_every_route_and_every_struct_that_decodes_a_request() -> None:
    document = openapi.document(OPERATIONS)
    paths = document["paths"]
    assert {(m.upper(), path) for path, ops in paths.items() for m in ops} == {
        (op.method, op.path) for op in OPERATIONS
    }
    schemas = document["components"]["schemas"]
    for op in OPERATIONS:
        described = paths[op.path][op.method.lower()]
        assert ("requestBody" in described) == (op.body is not Nothing)
        assert ("security" in described) == (op.auth != "none")
        assert str(op.status) in described["responses"]
        if op.body is not Nothing:
            [content] = described["requestBody"]["content"].values()
            schema = schemas[content["schema"]["$ref"].rpartition("/")[2]]
            assert set(schema["properties"]) == {f.encode_name for f in msgspec.structs.fields(op.body)}
            assert schema["additionalProperties"] is False
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas


async def test_the_contract_is_served_and_shown(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert {"/openapi.json", "/healthz", RESERVE} <= set(document["paths"])
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    # Whatever the page loads comes from us: that is what its policy allows.
    assert "script-src" not in page.headers["content-security-policy"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    for name in page.text.split('"/docs/')[1:]:
        assert (await client.get("/docs/" + name.split('"')[0])).status_code == 200
    assert refusal(await client.get("/docs/../app.py")) == (404, "NOT_FOUND")
    assert refusal(await client.get("/docs/index.html")) == (404, "NOT_FOUND")


def test_the_page_of_the_contract_can_show_openapi_31() -> None:
    # Swagger UI before 5 shows "Unable to render this definition" for it.
    version = Path(str(swagger_ui_bundle.swagger_ui_path)).name.removeprefix("swagger-ui-")
    assert int(version.split(".")[0]) >= 5


def test_what_asyncpg_raises_when_postgres_dies_between_two_operations_is_503() -> None:
    died = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    assert gateway_errors.to_rush_error(died, b"-").http_status == 503
    assert isinstance(died, POSTGRES_ERRORS)


async def test_healthz_needs_no_store_and_readyz_says_what_is_missing(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).status_code == 200
    answer = await client.get("/readyz")
    assert refusal(answer) == (503, "SERVICE_UNAVAILABLE")
    [missing] = answer.json()["error"]["details"]["missing"]
    assert "fenced" in missing
    assert "retry-after" in answer.headers


async def test_readyz_is_200_when_all_is_there(ready: httpx.AsyncClient) -> None:
    assert (await ready.get("/readyz")).json() == {"success": True, "data": {"status": "ok"}}


async def test_metrics_count_what_was_answered(client: httpx.AsyncClient) -> None:
    await client.get(f"{API}/nowhere")
    await client.get("/healthz")
    text = (await client.get("/metrics")).text
    assert 'http_requests_total{method="GET",route="/healthz",status="200"}' in text
    assert 'route="none",status="404"' in text
    assert "nowhere" not in text


class TestWithStoresAway:
    """A gateway starts, and answers, while neither Redis nor Postgres is there."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(
            settings,
            redis_url="redis://127.0.0.1:1/0",
            database_url="postgresql://postgres@127.0.0.1:1/rush",
        )

    async def test_every_call_answers_503_at_once_and_not_500(
        self, client: httpx.AsyncClient, mint: Mint
    ) -> None:
        zone = "00000000-0001-8000-8000-000000000001"
        calls: list[tuple[str, str, Any]] = [
            ("GET", f"{API}/events", None),
            ("GET", f"{API}/bookings", None),
            ("POST", RESERVE, {"items": [{"zone_id": zone, "quantity": 1}]}),
            ("POST", f"{API}/bookings/{zone}/confirm", None),
            ("POST", f"{API}/events", event_body()),
            ("POST", f"{API}/auth/login", {"email": "a@b.de", "password": "12345678"}),
            ("GET", "/readyz", None),
        ]
        for method, path, body in calls:
            answer = await client.request(method, path, json=body, headers=mint("admin"))
            assert refusal(answer) == (503, "SERVICE_UNAVAILABLE"), path
            assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nowhere", (404, "NOT_FOUND")),
        ("GET", "/", (404, "NOT_FOUND")),
        ("GET", f"{API}/events/", (404, "NOT_FOUND")),
        ("POST", f"{API}/queue/jump", (404, "NOT_FOUND")),
        ("GET", RESERVE, (405, "METHOD_NOT_ALLOWED")),
        ("PATCH", f"{API}/auth/me", (405, "METHOD_NOT_ALLOWED")),
        ("OPTIONS", f"{API}/events", (405, "METHOD_NOT_ALLOWED")),
        ("DELETE", "/healthz", (405, "METHOD_NOT_ALLOWED")),
    ],
)
async def test_unknown_routes_and_methods_answer_in_the_envelope(
    client: httpx.AsyncClient, method: str, path: str, expected: tuple[int, str]
) -> None:
    answer = await client.request(method, path)
    assert refusal(answer) == expected
    assert answer.headers["content-type"] == "application/json"


async def test_allow_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    answer = await client.patch(f"{API}/auth/me")
    assert answer.headers["allow"] == "GET, HEAD, PUT"
    assert (await client.get(RESERVE)).headers["allow"] == "POST"


async def test_checks_run_in_the_contracts_order(client: httpx.AsyncClient, mint: Mint) -> None:
    """Each request has every later fault as well."""
    large = b"x" * 70_000
    unknown = f"{API}/events/{uuid4()}"
    steps: list[tuple[str, str, dict[str, str], bytes, int]] = [
        ("PATCH", f"{API}/nowhere", {}, large, 404),
        ("PATCH", f"{API}/events", {}, large, 405),
        ("POST", f"{API}/events", {}, large, 413),
        ("POST", f"{API}/events", {}, b"x", 401),
        ("POST", f"{API}/events", mint(), b"x", 403),
        ("POST", f"{API}/events", mint("organizer"), b"x", 415),
        ("POST", f"{API}/events", mint("organizer") | JSON, b"x", 400),
        ("PUT", unknown, mint("organizer") | JSON, b'{"title": 1}', 400),
        ("PUT", unknown, mint("organizer") | JSON, b"{}", 404),
    ]
    for method, path, headers, body, expected in steps:
        answer = await client.request(method, path, headers=headers, content=body)
        assert answer.status_code == expected, (method, path, answer.text)


@pytest.mark.parametrize("path", [RESERVE, f"{API}/auth/login"])
async def test_64_kib_are_the_most_however_they_come(
    client: httpx.AsyncClient, mint: Mint, path: str
) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b" " * 1024

    headers = mint() | JSON
    fits = await client.post(path, headers=headers, content=b" " * 65_536)
    assert refusal(fits) == (400, "VALIDATION_ERROR")
    too_large = await client.post(path, headers=headers, content=b" " * 65_537)
    assert refusal(too_large) == (413, "PAYLOAD_TOO_LARGE")
    assert refusal(await client.post(path, headers=headers, content=b" " * 1_000_000)) == (
        413,
        "PAYLOAD_TOO_LARGE",
    )
    assert refusal(await client.post(path, headers=headers, content=chunks(64))) == (400, "VALIDATION_ERROR")
    assert refusal(await client.post(path, headers=headers, content=chunks(65)))[0] == 413


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", 400),
        ("application/json; charset=utf-8", 400),
        ("Application/JSON", 400),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonx", 415),
        (None, 415),
    ],
)
async def test_a_body_must_be_said_to_be_json(
    client: httpx.AsyncClient, mint: Mint, content_type: str | None, expected: int
) -> None:
    headers = mint() | ({} if content_type is None else {"content-type": content_type})
    for path in (RESERVE, f"{API}/auth/login"):
        assert (await client.post(path, headers=headers, content=b"{}")).status_code == expected


async def test_calls_without_a_body_take_none_or_an_empty_object(
    client: httpx.AsyncClient, mint: Mint
) -> None:
    headers = mint()
    path = f"{API}/auth/logout-all"
    for body in (b"", b"{}", b" {} "):
        assert (await client.post(path, headers=headers | JSON, content=body)).status_code == 204
    assert (await client.post(path, headers=headers)).status_code == 204
    for body in (b'{"a":1}', b"[]", b"null", b"x"):
        answer = await client.post(path, headers=headers | JSON, content=body)
        assert refusal(answer) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize("path", ["/nowhere", "/healthz", "/metrics", "/docs", RESERVE, f"{API}/events"])
async def test_every_answer_has_the_request_id_and_the_security_headers(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(path, headers={"x-request-id": "abc-123"})
    assert answer.headers["x-request-id"] == "abc-123"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "max-age" in answer.headers["strict-transport-security"]
    assert "default-src" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("bad", [None, "", "with blank", "x" * 129, "ümlaut"])
async def test_a_request_id_that_is_none_is_replaced(client: httpx.AsyncClient, bad: str | None) -> None:
    headers = {} if bad is None else {"x-request-id": bad.encode()}
    first, second = [await client.get("/healthz", headers=headers) for _ in range(2)]  # type: ignore[arg-type]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert 1 <= len(first.headers["x-request-id"]) <= 128
    longest = "x" * 128
    kept = await client.get("/healthz", headers={"x-request-id": longest})
    assert kept.headers["x-request-id"] == longest


async def test_an_unexpected_exception_is_500_without_a_trace_and_logged_with_the_request_id(
    client: httpx.AsyncClient,
    mint: Mint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def burst(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("engine.bookings.Bookings.ask", burst)
    monkeypatch.setattr("engine.bookings.Bookings.list", burst)
    body = {"items": [{"zone_id": str(new_id(1)), "quantity": 1}]}
    headers = mint() | {"x-request-id": "find-me"}
    for answer in (
        await client.post(RESERVE, headers=headers, json=body),
        await client.get(f"{API}/bookings", headers=headers),
    ):
        assert refusal(answer) == (500, "INTERNAL_ERROR")
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"] == "find-me"
    assert {getattr(record, "request_id", None) for record in caplog.records} == {"find-me"}
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "query",
    [
        "page=0", "page=-1", "page=x", "page=1.0", "page=1e1", "page=", "page=99999999999", "per_page=0",
        "per_page=101", "per_page=true", "page=%00", "page=%ff", "status=nothing", "event_id=1",
        "event_id=null", "page=\u0663",
    ],
)  # fmt: skip
async def test_an_ill_formed_query_is_refused(client: httpx.AsyncClient, mint: Mint, query: str) -> None:
    assert refusal(await client.get(f"{API}/bookings?{query}", headers=mint())) == (400, "VALIDATION_ERROR")


async def test_lists_carry_meta_and_unknown_parameters_are_left_alone(
    client: httpx.AsyncClient, mint: Mint
) -> None:
    answer = await client.get(f"{API}/bookings?page=3&per_page=100&utm=x", headers=mint())
    assert answer.json() == {
        "success": True, "data": [], "meta": {"page": 3, "per_page": 100, "total": 0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("not-an-id", 400),
        ("1", 400),
        ("00000000000080008000000000000001", 400),
        ("{00000000-0000-8000-8000-000000000001}", 400),
        ("ed88eb9e-f6bb-46cb-9a8d-a063a3fa532f", 404),
        ("00000000-0000-8000-8000-000000000001", 404),
    ],
)
async def test_a_path_id_is_a_uuid_and_a_foreign_one_is_unknown(
    ready: httpx.AsyncClient, mint: Mint, database: asyncpg.Connection, given: str, expected: int
) -> None:
    admin = mint("admin")
    calls = [
        ("GET", f"/bookings/{given}"),
        ("POST", f"/bookings/{given}/confirm"),
        ("POST", f"/bookings/{given}/cancel"),
        ("GET", f"/shows/{given}/zones"),
        ("DELETE", f"/events/{given}"),
        ("POST", f"/events/{given}/publish"),
        ("GET", f"/events/{given}/sales"),
    ]
    for method, path in calls:
        answer = await ready.request(method, API + path, headers=admin)
        assert answer.status_code == expected, (path, answer.text)


class TestPublicLimit:
    """Public reads are counted per address, in the process, where that is wanted."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, public_rate_per_minute=3, trusted_proxies="127.0.0.1")

    async def test_each_address_behind_a_trusted_proxy_has_its_own_bucket(
        self, client: httpx.AsyncClient, mint: Mint
    ) -> None:
        async def get(forwarded: str) -> int:
            headers = {"x-forwarded-for": forwarded}
            return (await client.get(f"{API}/categories", headers=headers)).status_code

        assert [await get("192.0.2.1") for _ in range(4)] == [200, 200, 200, 429]
        # What the client itself put in front does not help it.
        assert await get("198.51.100.7, 192.0.2.1") == 429
        assert await get("192.0.2.2") == 200
        assert (await client.get("/healthz")).status_code == 200
