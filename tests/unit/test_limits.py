"""Token buckets as the engine asks for them and as the headers tell them."""

import pytest

from engine import limits


@pytest.mark.parametrize(("per_minute", "interval_ms"), [(1, 60_000), (20, 3_000), (7, 8_571), (60_000, 1)])
def test_one_token_comes_back_each_interval(per_minute: int, interval_ms: int) -> None:
    assert limits.interval_ms(per_minute) == interval_ms


def test_the_fastest_bucket_still_has_an_interval() -> None:
    assert limits.interval_ms(2**31 - 1) == 1


def test_waits_are_told_in_whole_seconds_and_never_as_none() -> None:
    policy = limits.policy("reserve", 20, 10, 3_001)
    assert policy == ("reserve", 10, 30, 0, 4)
    assert limits.policy("reserve", 20, 10, 0).reset_s == 1
