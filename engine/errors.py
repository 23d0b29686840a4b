"""What can go wrong, in one place.

A class names the case, `code` and `http_status` are what the contract says of it, the docstring's
first line is the message. `details` go out to the client as they are, so they hold plain values.
"""

from typing import Any, ClassVar, NamedTuple


class RushError(Exception):
    """Something went wrong"""

    code: ClassVar[str] = "INTERNAL_ERROR"
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str | None = None,
        *,
        details: dict[str, Any] | None = None,
        retry_after_s: int | None = None,
        ledger_seq: str | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.details = details or {}
        self.retry_after_s = retry_after_s
        self.ledger_seq = ledger_seq
        """Where the cell's ledger stood when a script refused: `<epoch>-<seq>`."""
        super().__init__(self.message)


class ValidationFailed(RushError):
    """The request is not of its form"""

    code = "VALIDATION_ERROR"
    http_status = 400

    def __init__(self, field: str, reason: str, **kwargs: Any) -> None:
        super().__init__(f"{field}: {reason}", details={"field": field, "reason": reason}, **kwargs)


class Unauthorized(RushError):
    """A valid access token is needed"""

    code = "UNAUTHORIZED"
    http_status = 401


class PaymentRequired(RushError):
    """This booking is confirmed by its payment"""

    code = "PAYMENT_REQUIRED"
    http_status = 402


class Forbidden(RushError):
    """Your role does not allow this"""

    code = "FORBIDDEN"
    http_status = 403


class QueuePassRequired(RushError):
    """This sale has a waiting room: join the queue, and claim a pass when you are served"""

    code = "QUEUE_PASS_REQUIRED"
    http_status = 403


class QueuePassInvalid(RushError):
    """This pass is not yours, has run out or was used"""

    code = "QUEUE_PASS_INVALID"
    http_status = 403


class NotFound(RushError):
    """There is no such thing"""

    code = "NOT_FOUND"
    http_status = 404


class InsufficientStock(RushError):
    """Not enough seats available"""

    code = "INSUFFICIENT_STOCK"
    http_status = 409


class MaxPerUserExceeded(RushError):
    """That is more than one person may book"""

    code = "MAX_PER_USER_EXCEEDED"
    http_status = 409


class SaleNotOpen(RushError):
    """The sale is not open"""

    code = "SALE_NOT_OPEN"
    http_status = 409


class InvalidState(RushError):
    """Its state does not allow this"""

    code = "INVALID_STATE"
    http_status = 409


class Conflict(RushError):
    """It exists already"""

    code = "CONFLICT"
    http_status = 409


class ReservationExpired(RushError):
    """The reservation has expired"""

    code = "RESERVATION_EXPIRED"
    http_status = 410


class IdempotencyKeyReused(RushError):
    """This Idempotency-Key was used for another request"""

    code = "IDEMPOTENCY_KEY_REUSED"
    http_status = 422


class LimitPolicy(NamedTuple):
    """A token bucket as the RateLimit headers tell it (IETF draft-ietf-httpapi-ratelimit-headers)."""

    name: str
    burst: int
    window_s: int
    """In how many seconds an empty bucket is full again."""
    remaining: int
    reset_s: int
    """In how many seconds the next token is there."""


class RateLimited(RushError):
    """Too many requests, slow down"""

    code = "RATE_LIMITED"
    http_status = 429

    def __init__(self, policy: LimitPolicy, *, ledger_seq: str | None = None) -> None:
        self.policy = policy
        super().__init__(retry_after_s=policy.reset_s, ledger_seq=ledger_seq)


class ServiceUnavailable(RushError):
    """Not available at the moment, try again"""

    code = "SERVICE_UNAVAILABLE"
    http_status = 503

    def __init__(self, message: str | None = None, *, retry_after_s: int = 1, **kwargs: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **kwargs)


class Fenced(ServiceUnavailable):
    """The sale is being recovered, try again in a moment"""


class Overloaded(ServiceUnavailable):
    """Too many requests at once, try again in a moment"""


class StoreUnavailable(ServiceUnavailable):
    """A store is away, nothing was done"""


class OutcomeUnknown(ServiceUnavailable):
    """The answer was lost: a retry with the same Idempotency-Key finds out what happened"""
