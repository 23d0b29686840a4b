"""What machines ask for: health, readiness, metrics; and the documentation's files."""

import asyncio
from functools import cache
from pathlib import Path

import swagger_ui_bundle  # type: ignore[import-untyped]

from engine.errors import NotFound, ServiceUnavailable
from engine.stores import POSTGRES_ERRORS, Stores
from gateway.answers import HealthAnswer
from gateway.operation import Call, Reply
from gateway.wire import Page
from observability import metrics, tallies

CHECK_TIMEOUT_S = 2.0
REDIS_CHECK_TIMEOUT_S = 1.0

_FILES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_START_FILE = "start.js"
_START = b"""window.addEventListener("load", function () {
  SwaggerUIBundle({ url: "/openapi.json", dom_id: "#ui", deepLinking: true, persistAuthorization: true });
});
"""
_HTML = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Ticket Rush</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""


async def healthz(call: Call) -> Reply:
    """The process lives."""
    return Reply(HealthAnswer())


async def readyz(call: Call) -> Reply:
    """Redis answers and is not fenced, Postgres answers; raises ServiceUnavailable with what is missing."""
    redis_state, postgres_state = await asyncio.gather(
        _redis_missing(call.services.stores), _postgres_missing(call.services.stores)
    )
    missing = [state for state in (redis_state, postgres_state) if state]
    if missing:
        raise ServiceUnavailable("Not ready", details={"missing": missing})
    return Reply(HealthAnswer())


async def _redis_missing(stores: Stores) -> str | None:
    """Where cells live on many nodes, one that answers and is not fenced is enough to be of use."""
    shas = [script.sha for script in stores.scripts.group("verb")]
    try:
        asked = stores.line.call_all("SCRIPT", "EXISTS", *shas)
    except ServiceUnavailable:
        return "redis"
    if not asked:
        return "redis"
    # One that is frozen does not speak for the others.
    answered, late = await asyncio.wait(asked, timeout=REDIS_CHECK_TIMEOUT_S)
    for call in late:
        call.cancel()
    loaded = [all(call.result()) for call in answered if call.exception() is None]
    if not loaded:
        return "redis"
    return None if any(loaded) else "redis scripts: the node is fenced"


async def _postgres_missing(stores: Stores) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await stores.pool.fetchval("SELECT 1")
    except POSTGRES_ERRORS:
        return "postgres"
    return None


async def show_metrics(call: Call) -> Reply:
    """All metrics of all processes, as Prometheus reads them."""
    tallies.flush()
    body = await asyncio.to_thread(metrics.exposition)
    return Reply(page=Page(body, metrics.CONTENT_TYPE))


async def docs(call: Call) -> Reply:
    """The contract, to read and to try."""
    return Reply(page=Page(_HTML, "text/html; charset=utf-8", cacheable=True))


async def docs_file(call: Call) -> Reply:
    """A file that the documentation's page loads."""
    return Reply(page=await asyncio.to_thread(_file, call.path_text))


@cache
def _file(name: str) -> Page:
    if name == _START_FILE:
        return Page(_START, "text/javascript; charset=utf-8", cacheable=True)
    if name not in _FILES:
        raise NotFound
    body = (Path(str(swagger_ui_bundle.swagger_ui_path)) / name).read_bytes()
    return Page(body, _FILES[name], cacheable=True)
