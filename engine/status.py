"""What a script can answer. Generated from lua/lib/status.lua by `make statuses`: do not edit."""

from enum import IntEnum


class Status(IntEnum):
    """In order of precedence: of two that apply, the first is answered."""

    OK = 0
    """done"""
    NOT_OPEN = 1
    """the cell is not open: nothing may be concluded from what it holds"""
    REBUILDING = 2
    """its record may still be on its way from Postgres"""
    REPLAYED = 3
    """done before, by the same request: the first answer again"""
    KEY_COLLISION = 4
    """somebody else's booking has this id"""
    KEY_REUSED = 5
    """the same idempotency key with another request"""
    SALE_NOT_OPEN = 6
    """before, paused, cancelled or after"""
    RATE_LIMITED = 7
    """too many attempts of this user"""
    ZONE_UNKNOWN = 8
    """no such zone in this cell"""
    SHOW_MISMATCH = 9
    """the zone belongs to another show than the request says"""
    OVER_ORDER_LIMIT = 10
    """more than one order may take of this zone"""
    HOLDS_DUE = 11
    """would be refused, but more holds are due than one call takes back"""
    OVER_USER_LIMIT = 12
    """more than one person may hold of this event"""
    INSUFFICIENT_STOCK = 13
    """not enough left"""
    LEDGER_FULL = 14
    """the relay is too far behind"""
    BOOKING_UNKNOWN = 15
    """no such booking of this user"""
    BOOKING_ENDED = 16
    """its state does not allow this"""
    BOOKING_EXPIRED = 17
    """its deadline has passed"""
    PAYMENT_REQUIRED = 18
    """it has a price and no payment"""
    VERSION_AHEAD = 19
    """an earlier edit is still to be applied"""
    BELOW_IN_USE = 20
    """the edit would take away seats that are in use"""
    EPOCH_STALE = 21
    """the cell is not where the caller believes it to be"""
    BUILD_VOID = 22
    """a newer rebuild has begun"""
