"""Rate limits that all gateways share: token buckets in Redis."""

from engine import keys
from engine.errors import LimitPolicy, RateLimited
from engine.failpoints import failpoint
from engine.stores import Stores

MS_PER_MINUTE = 60_000


def interval_ms(per_minute: int) -> int:
    """The time in which one token comes back, at least 1 ms: a faster bucket is as good as no limit."""
    return max(1, MS_PER_MINUTE // per_minute)


def policy(name: str, per_minute: int, burst: int, wait_ms: int, remaining: int = 0) -> LimitPolicy:
    """What the answer's headers say of a bucket; times are rounded up to whole seconds."""
    return LimitPolicy(
        name=name,
        burst=burst,
        window_s=-(-interval_ms(per_minute) * burst // 1000),
        remaining=remaining,
        reset_s=max(1, -(-wait_ms // 1000)),
    )


async def check(stores: Stores, scope: str, subject: str, per_minute: int, burst: int) -> None:
    """Take one token of the bucket (scope, subject).

    Raises RateLimited where it is empty, and ServiceUnavailable where Redis does not answer: the
    caller decides whether its endpoint goes on without the limit.
    """
    allowed, wait_ms, remaining = await stores.run(
        "rate", [keys.rate(scope, subject)], interval_ms(per_minute), burst
    )
    failpoint("limits.after_token")
    if not allowed:
        raise RateLimited(policy(scope, per_minute, burst, wait_ms, remaining))
