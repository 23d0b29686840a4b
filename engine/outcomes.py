"""Statuses of the scripts become exceptions, here and nowhere else."""

from collections.abc import Sequence
from typing import Any, assert_never

from engine import limits
from engine.errors import (
    Fenced,
    IdempotencyKeyReused,
    InsufficientStock,
    InvalidState,
    MaxPerUserExceeded,
    NotFound,
    Overloaded,
    PaymentRequired,
    QueuePassInvalid,
    QueuePassRequired,
    RateLimited,
    ReservationExpired,
    RushError,
    SaleNotOpen,
    ValidationFailed,
)
from engine.settings import Settings
from engine.status import Status
from engine.times import rfc3339

BOOKING_STATUS = 1
"""Where a record, as the scripts return it, has the booking's status."""
QUEUE_WAITING, QUEUE_ADMITTED = "waiting", "admitted"
"""What a queue state says of who is not served yet, and of who has booked."""


def refusal(status: Status, at: str, detail: Sequence[Any], settings: Settings) -> RushError:
    """The exception for a script's answer `[status, at, *detail]` that is neither OK nor REPLAYED."""
    match status:
        case Status.NOT_OPEN | Status.EPOCH_STALE | Status.BUILD_VOID | Status.VERSION_AHEAD:
            return Fenced()
        case Status.REBUILDING:
            return Overloaded(
                "Bookings of this sale are being brought back, again in a moment", ledger_seq=at
            )
        case Status.KEY_COLLISION | Status.KEY_REUSED:
            return IdempotencyKeyReused(ledger_seq=at)
        case Status.SALE_NOT_OPEN:
            return _sale_not_open(at, *detail)
        case Status.RATE_LIMITED:
            policy = limits.policy(
                "reserve", settings.reserve_rate_per_minute, settings.reserve_burst, detail[0]
            )
            return RateLimited(policy, ledger_seq=at)
        case Status.PASS_REQUIRED:
            return QueuePassRequired(ledger_seq=at)
        case Status.PASS_INVALID:
            return QueuePassInvalid(ledger_seq=at)
        case Status.ZONE_UNKNOWN:
            return NotFound("There is no such zone", details={"zone_id": detail[0].decode()}, ledger_seq=at)
        case Status.SHOW_MISMATCH:
            return ValidationFailed("show_id", "is not the zone's show", ledger_seq=at)
        case Status.OVER_ORDER_LIMIT:
            return ValidationFailed("quantity", f"at most {detail[2]} in one order", ledger_seq=at)
        case Status.OVER_USER_LIMIT:
            requested, held, limit = detail
            details = {"requested": requested, "held": held, "limit": limit}
            return MaxPerUserExceeded(details=details, ledger_seq=at)
        case Status.INSUFFICIENT_STOCK:
            zone_id, requested, available = detail
            details = {"zone_id": zone_id.decode(), "requested": requested, "available": available}
            return InsufficientStock(details=details, ledger_seq=at)
        case Status.HOLDS_DUE:
            return Overloaded("Seats are just being given back, try again in a moment", ledger_seq=at)
        case Status.LEDGER_FULL:
            return Overloaded(ledger_seq=at)
        case Status.BOOKING_UNKNOWN:
            return NotFound(ledger_seq=at)
        case Status.BOOKING_ENDED:
            return InvalidState(details={"status": detail[BOOKING_STATUS].decode()}, ledger_seq=at)
        case Status.BOOKING_EXPIRED:
            return ReservationExpired(ledger_seq=at)
        case Status.PAYMENT_REQUIRED:
            return PaymentRequired(ledger_seq=at)
        case Status.QUEUE_NONE:
            return NotFound("This sale has no waiting room", ledger_seq=at)
        case Status.PLACE_UNKNOWN:
            return NotFound("There is no such place in the queue", ledger_seq=at)
        case Status.NOT_SERVED:
            return InvalidState("It is not your turn yet", details={"status": QUEUE_WAITING}, ledger_seq=at)
        case Status.PASS_SPENT:
            return InvalidState(
                "Your pass has become a booking", details={"status": QUEUE_ADMITTED}, ledger_seq=at
            )
        case Status.NO_ROOM:
            return InvalidState(
                "You come late, and there is no room now: again in a moment",
                details={"status": QUEUE_WAITING},
                retry_after_s=1,
                ledger_seq=at,
            )
        case Status.BELOW_IN_USE:
            return InvalidState("That would take away seats that are in use", ledger_seq=at)
        case Status.OK | Status.REPLAYED:
            raise ValueError(f"{status.name} is not a refusal")
        case _:
            assert_never(status)


def _sale_not_open(at: str, status: bytes, start_ms: int, end_ms: int, now_ms: int) -> SaleNotOpen:
    shown = "ended" if status == b"published" and end_ms and now_ms >= end_ms else status.decode()
    return SaleNotOpen(details={"status": shown, "opens_at": rfc3339(start_ms)}, ledger_seq=at)
