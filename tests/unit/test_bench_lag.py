"""How far the relay is behind, from samples: an upper bound, and never made up."""

from typing import Any
from uuid import UUID

import pytest

from loadtest.bench_lag import SAMPLE_S, Lag


class Samples:
    """What both stores say, one step after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[float, int, int]]) -> None:
        self.lag = Lag(Any, UUID(int=0), lambda _: None, lambda: self._at[0])  # type: ignore[arg-type]
        self._steps = steps
        self._at = (0.0, 0, 0)

        async def live() -> int:
            return self._at[1]

        async def durable() -> int:
            return self._at[2]

        monkeypatch.setattr(self.lag, "live_seq", live)
        monkeypatch.setattr(self.lag, "durable_seq", durable)

    async def run(self) -> Lag:
        for step in self._steps:
            self._at = step
            await self.lag.sample()
        return self.lag


async def test_a_relay_that_keeps_up_is_not_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    lag = await Samples(monkeypatch, [(at / 20, at * 100, at * 100) for at in range(20)]).run()
    assert (lag.max_s, lag.max_entries, lag.now_entries) == (0.0, 0, 0)


async def test_a_lag_in_seconds_is_how_old_the_first_entry_is_that_is_not_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A hundred entries each twentieth of a second; what is durable is what was there half a second ago.
    steps = [(at / 20, at * 100, max(0, at - 10) * 100) for at in range(1, 60)]
    lag = await Samples(monkeypatch, steps).run()
    assert 0.5 <= lag.max_s <= 0.5 + SAMPLE_S + 1e-9
    assert lag.max_entries == 1000


async def test_a_relay_that_stands_still_gets_older_and_older(monkeypatch: pytest.MonkeyPatch) -> None:
    lag = await Samples(monkeypatch, [(at / 20, 500, 100) for at in range(61)]).run()
    assert lag.max_s == pytest.approx(3.0)
    assert lag.now_entries == 400


async def test_what_was_behind_and_has_caught_up_is_behind_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [(0.0, 100, 100), (1.0, 200, 100), (2.0, 200, 200), (3.0, 200, 200)]
    lag = await Samples(monkeypatch, steps).run()
    assert (lag.max_s, lag.max_entries, lag.now_entries) == (1.0, 100, 0)
