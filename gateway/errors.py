"""Exceptions become HTTP here and nowhere else."""

import logging

import asyncpg
import msgspec
import redis.exceptions

from engine.errors import RateLimited, RushError, ServiceUnavailable

log = logging.getLogger("rush.gateway")

Headers = list[tuple[bytes, bytes]]

STORE_RETRY_AFTER_S = 2


class MethodNotAllowed(RushError):
    """This path has no such method"""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(details={"allowed": allowed})
        self.allowed = allowed


class PayloadTooLarge(RushError):
    """The body is too large"""

    code = "PAYLOAD_TOO_LARGE"
    http_status = 413

    def __init__(self, bytes_max: int) -> None:
        super().__init__(details={"bytes_max": bytes_max})


class UnsupportedMediaType(RushError):
    """A body must be application/json"""

    code = "UNSUPPORTED_MEDIA_TYPE"
    http_status = 415


class ClientGone(Exception):
    """The client closed the connection before it had sent its request: there is nobody to answer."""


class _Error(msgspec.Struct):
    code: str
    message: str
    details: dict[str, object]


class _ErrorAnswer(msgspec.Struct):
    success: bool
    error: _Error


_encoder = msgspec.json.Encoder()

# A store that is away, however its client says so. Deadlocks and time-outs too: trying again helps.
_STORE_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)


def to_rush_error(error: Exception, request_id: bytes) -> RushError:
    """The RushError that tells the client of any exception; what is unexpected is logged."""
    if isinstance(error, RushError):
        return error
    if isinstance(error, _STORE_AWAY):
        log.warning("a store is away: %s: %s", type(error).__name__, error, extra=_extra(request_id))
        return ServiceUnavailable(retry_after_s=STORE_RETRY_AFTER_S)
    log.error("unexpected %s", type(error).__name__, exc_info=error, extra=_extra(request_id))
    return RushError()


def render(error: RushError) -> tuple[int, Headers, bytes]:
    """Status, headers of its own, and body of the answer that tells of an error."""
    body = _encoder.encode(_ErrorAnswer(False, _Error(error.code, error.message, error.details)))
    return error.http_status, _headers(error), body


def _headers(error: RushError) -> Headers:
    headers: Headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.ledger_seq is not None:
        headers.append((b"x-ledger-seq", error.ledger_seq.encode()))
    if error.http_status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="ticket-rush"'))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if isinstance(error, RateLimited):
        name, burst, window_s, remaining, reset_s = error.policy
        headers.append((b"ratelimit-policy", f'"{name}";q={burst};w={window_s}'.encode()))
        headers.append((b"ratelimit", f'"{name}";r={remaining};t={reset_s}'.encode()))
    return headers


def _extra(request_id: bytes) -> dict[str, str]:
    return {"request_id": request_id.decode("ascii", "replace")}
