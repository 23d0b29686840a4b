"""The command line of the growth benchmark, and which rigs it means."""

import argparse
from pathlib import Path

import msgspec

SIZES = (1_000, 10_000, 100_000, 1_000_000)
EVENTS = (1, 100, 10_000)
EVENTS_HOLDS = 10_000
"""Live holds where the number of events varies."""
ROUNDS = 5
SLICE = 1_000
SURGE = 100_000
SURGE_RATE_PER_S = 500.0
PAUSE_S, PAUSE_SMOKE_S = 4.0, 0.5
TIME_MAX_S = 1_500.0


class RigPlan(msgspec.Struct, frozen=True):
    """One installation to be measured: so many live holds in one event, of so many events on sale."""

    holds: int
    events: int

    @property
    def name(self) -> str:
        """In progress lines and file names."""
        return f"{self.holds:,} holds" + (f", {self.events:,} events" if self.events > 1 else "")


class Options(msgspec.Struct, frozen=True):
    """What one run does."""

    sizes: list[int]
    events: list[int]
    events_holds: int
    rounds: int
    slice_entries: int
    surge_holds: int
    surge_rate_per_s: float
    expiry_slice_max: int | None
    """What the expiry worker of the surge takes back in one call; None for the default."""
    pause_s: float
    """How long it looks at what goes on by itself."""
    time_max_s: float
    folder: Path
    page: Path | None

    @property
    def rigs(self) -> list[RigPlan]:
        """Smallest first; the rig of one event serves both dimensions."""
        plans = {RigPlan(size, 1) for size in self.sizes}
        plans |= {RigPlan(self.events_holds, count) for count in self.events}
        return sorted(plans, key=lambda plan: (plan.events, plan.holds))


def _counts(text: str) -> list[int]:
    counts = sorted({int(part.replace("_", "")) for part in text.split(",")})
    if counts[0] < 1:
        raise ValueError(text)
    return counts


_counts.__name__ = "list of counts"


def parse(argv: list[str]) -> Options:
    """The options; exits with status 2 for what makes no sense."""
    made = argparse.ArgumentParser(
        prog="make bench-growth ARGS=…",
        description="How the CPU of reserve, confirm, expire, the relay and the list of bookings grows with "
        "the live holds and with the events on sale; what many holds that fall due at once do to a reserve; "
        "bytes of Redis memory for a hold. On stores of its own in a temporary folder.",
    )
    made.add_argument("--sizes", type=_counts, default=list(SIZES), help="live holds in one event, by commas")
    made.add_argument("--events", type=_counts, default=list(EVENTS), help="events on sale, by commas")
    made.add_argument(
        "--events-holds", type=int, default=EVENTS_HOLDS, metavar="N", help="holds where the events vary"
    )
    made.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved runs ({ROUNDS})")
    made.add_argument(
        "--slice", type=int, default=SLICE, metavar="N", help=f"operations in one timed slice ({SLICE:,})"
    )
    made.add_argument(
        "--surge", type=int, default=SURGE, metavar="N", help=f"holds due in one second ({SURGE:,}); 0: none"
    )
    made.add_argument(
        "--surge-rate", type=float, default=SURGE_RATE_PER_S, metavar="N",
        help=f"reserves a second meanwhile ({SURGE_RATE_PER_S:.0f})",
    )  # fmt: skip
    made.add_argument(
        "--expiry-slice", type=int, metavar="N", help="holds that one call of expire.lua may take back then"
    )
    made.add_argument(
        "--time-max", type=float, default=TIME_MAX_S, metavar="SECONDS",
        help=f"give up after so long ({TIME_MAX_S:.0f})",
    )  # fmt: skip
    made.add_argument(
        "--out", type=Path, default=Path(".rush/growth"), metavar="FOLDER", help="for JSON, plot and logs"
    )
    made.add_argument("--page", type=Path, metavar="FILE.md", help="also a result page, its plot beside it")
    made.add_argument("--smoke", action="store_true", help="seconds instead of minutes: does it work at all?")
    given = made.parse_args(argv)
    if min(given.rounds, given.slice, given.events_holds) < 1 or given.surge < 0 or given.surge_rate <= 0:
        made.error("counts are positive")
    if given.smoke:
        given.sizes, given.events, given.events_holds = [60, 120], [1], 60
        given.rounds, given.slice, given.surge = 1, 60, min(given.surge, 600)
    return Options(
        sizes=given.sizes,
        events=given.events,
        events_holds=given.events_holds,
        rounds=given.rounds,
        slice_entries=given.slice,
        surge_holds=given.surge,
        surge_rate_per_s=given.surge_rate,
        expiry_slice_max=given.expiry_slice,
        pause_s=PAUSE_SMOKE_S if given.smoke else PAUSE_S,
        time_max_s=given.time_max,
        folder=given.out,
        page=given.page,
    )
