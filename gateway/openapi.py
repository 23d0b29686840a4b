"""openapi.json, made from the route table and the structs that decode the requests."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.answers import Paging
from gateway.operation import Call, Operation, Reply
from gateway.wire import Page

_REF = "#/components/schemas/{name}"

_STATUS_OF = {
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "PAYMENT_REQUIRED": 402,
    "FORBIDDEN": 403,
    "QUEUE_PASS_INVALID": 403,
    "QUEUE_PASS_REQUIRED": 403,
    "NOT_FOUND": 404,
    "CONFLICT": 409,
    "INSUFFICIENT_STOCK": 409,
    "INVALID_STATE": 409,
    "MAX_PER_USER_EXCEEDED": 409,
    "SALE_NOT_OPEN": 409,
    "RESERVATION_EXPIRED": 410,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["success", "error"],
    "properties": {
        "success": {"const": False},
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"enum": sorted({*_STATUS_OF, "METHOD_NOT_ALLOWED"})},
                "message": {"type": "string"},
                "details": {"type": "object"},
            },
        },
    },
}
_PATH_IDS: dict[str, dict[str, Any]] = {
    "uuid": {"type": "string", "format": "uuid"},
    "uuid or slug": {"type": "string", "maxLength": 100},
    "file": {"type": "string"},
}
_KEY = {"type": "string", "pattern": "^[!-~]{1,255}$"}
_TEXT = {"type": "string"}
_HEADERS = {
    name: {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
    for name, description, schema in (
        ("Idempotency-Key", "The same key and the same request: the first answer again", _KEY),
        ("X-Idempotency-Key", "Another name of it", _KEY),
        ("X-Queue-Pass", "The pass, where the sale has a waiting room", _TEXT),
        ("X-Queue-Ticket", "The ticket that joining the queue gave", _TEXT),
        ("Last-Event-ID", "The last event that was seen: it is not sent again", _TEXT),
    )
}


def operation(table: Sequence[Operation]) -> Operation:
    """The operation that serves the document of a table and of itself."""

    async def handler(call: Call) -> Reply:
        return Reply(page=Page(body, "application/json"))

    itself = Operation(
        method="GET",
        path="/openapi.json",
        handler=handler,
        summary="This contract, as OpenAPI",
        tag="machines",
    )
    body = msgspec.json.encode(document([*table, itself]))
    return itself


def document(table: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a route table."""
    structs = {op.body for op in table} | {op.answer for op in table if op.answer} | {Paging}
    ordered = sorted(structs, key=lambda struct: struct.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for op in table:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ticket Rush", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR_SCHEMA},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "ticket": {"type": "apiKey", "in": "header", "name": "X-Queue-Ticket"},
                "ticket in the query": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def _operation(op: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{op.method} {op.path}",
        "summary": op.summary,
        "tags": [op.tag],
        "parameters": _parameters(op),
        "responses": _responses(op),
    }
    if op.needs_body:
        described["requestBody"] = {"required": True, "content": _json(_ref(op.body))}
    if op.auth != "none":
        described["security"] = _SECURITY[op.auth]
    return described


_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "user": [{"token": []}],
    "organizer": [{"token": []}],
    "ticket": [{"ticket": []}, {"ticket in the query": []}],
    "user and ticket": [{"token": [], "ticket": []}, {"token": [], "ticket in the query": []}],
}


def _parameters(op: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if "{id}" in op.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": _PATH_IDS[op.path_id]})
    # A struct's schema is a reference; its own component has the properties.
    _, components = msgspec.json.schema_components([op.query], ref_template=_REF)
    for name, schema in components[op.query.__name__]["properties"].items():
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    parameters += [_HEADERS[name] for name in op.headers]
    return parameters


def _responses(op: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {str(op.status): _success(op)}
    if op.path.endswith("/confirm"):
        responses["202"] = {**_success(op), "description": "Not durable yet: repeat it after Retry-After"}
    if op.is_stream:
        responses["204"] = {"description": "Nothing more will come"}
    by_status: dict[int, list[str]] = {}
    for code in _refusals(op):
        by_status.setdefault(_STATUS_OF[code], []).append(code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {"description": ", ".join(codes), "content": _json(_ref_to("Error"))}
    return responses


def _success(op: Operation) -> dict[str, Any]:
    if op.is_stream:
        stream = {"text/event-stream": {"schema": {"type": "string"}}}
        return {"description": op.summary, "content": stream}
    if op.answer is None:
        return {"description": op.summary}
    data = _ref(op.answer)
    properties: dict[str, Any] = {"success": {"const": True}, "data": data}
    if op.is_list:
        properties |= {"data": {"type": "array", "items": data}, "meta": _ref(Paging)}
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {"description": op.summary, "content": _json(schema)}


def _refusals(op: Operation) -> list[str]:
    """The codes of an operation: its own, and those that its form brings with it."""
    codes = list(op.refusals)
    if op.path.startswith("/api/"):
        codes += ["VALIDATION_ERROR", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "INTERNAL_ERROR"]
        codes.append("SERVICE_UNAVAILABLE")
    if op.auth == "ticket":
        codes.append("UNAUTHORIZED")
    elif op.auth != "none":
        codes += ["UNAUTHORIZED", "RATE_LIMITED"]
    elif op.path.startswith("/api/") and op.method == "GET":
        codes.append("RATE_LIMITED")
    if op.auth == "organizer":
        codes.append("FORBIDDEN")
    if op.path == "/readyz":
        codes.append("SERVICE_UNAVAILABLE")
    return list(dict.fromkeys(codes))


def _ref(struct: type) -> dict[str, Any]:
    return _ref_to(struct.__name__)


def _ref_to(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(name=name)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
