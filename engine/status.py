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
    PASS_REQUIRED = 8
    """the sale has a waiting room, and no pass was shown"""
    PASS_INVALID = 9
    """this person has no such pass: forged, run out or spent"""
    ZONE_UNKNOWN = 10
    """no such zone in this cell"""
    SHOW_MISMATCH = 11
    """the zone belongs to another show than the request says"""
    OVER_ORDER_LIMIT = 12
    """more than one order may take of this zone"""
    HOLDS_DUE = 13
    """would be refused, but more holds are due than one call takes back"""
    OVER_USER_LIMIT = 14
    """more than one person may hold of this event"""
    INSUFFICIENT_STOCK = 15
    """not enough left"""
    LEDGER_FULL = 16
    """the relay is too far behind"""
    BOOKING_UNKNOWN = 17
    """no such booking of this user"""
    BOOKING_ENDED = 18
    """its state does not allow this"""
    BOOKING_EXPIRED = 19
    """its deadline has passed"""
    PAYMENT_REQUIRED = 20
    """it has a price and no payment"""
    QUEUE_NONE = 21
    """the sale has no waiting room"""
    PLACE_UNKNOWN = 22
    """this person has no such place, or it has ended"""
    NOT_SERVED = 23
    """it is not their turn yet"""
    PASS_SPENT = 24
    """their pass has become a booking that lives"""
    NO_ROOM = 25
    """late, and as many are let in as may be: again in a moment"""
    VERSION_AHEAD = 26
    """an earlier edit is still to be applied"""
    BELOW_IN_USE = 27
    """the edit would take away seats that are in use"""
    EPOCH_STALE = 28
    """the cell is not where the caller believes it to be"""
    BUILD_VOID = 29
    """a newer rebuild has begun"""
