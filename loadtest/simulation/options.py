"""The command line of `rush simulate`, and the sale and the crowd that it means."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from loadtest.profile import NAMES

PEOPLE, SEATS = 20_000, 3_000
TICK_MS = 250
"""How often the admission worker moves a queue: the simulated time goes on in these steps."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated sale. Times in seconds, shares from 0 to 1."""

    people: int = PEOPLE
    seats: int = SEATS
    mode: Literal["open", "lottery"] = "open"
    profile: str = NAMES[0]
    seed: int = 1
    arrive_s: float = 120.0
    """So long after the waiting room has opened everybody is there, one after the other at a steady rate."""
    opens_before_s: float = 300.0
    """So long before the sale begins the waiting room opens."""
    admissions_per_second: float = 100.0
    passes_max: int = 1_000
    pass_ttl_s: int = 300
    claim_grace_s: int = 60
    hold_ttl_s: int = 600
    impatient_share: float = 0.15
    """Who gives up after a while; half of them say so, the others just close the window."""
    patience_s: float = 1_800.0
    """On average."""
    unlikely_leave_share: float = 0.25
    """Of those who are told `unlikely`: who gives the place up then."""
    tabs_share: float = 0.1
    """Who joins again, from another tab."""
    no_show_share: float = 0.08
    """Who is served and never claims the pass."""
    forget_share: float = 0.03
    """Who claims a pass and reserves nothing with it."""
    notice_s: float = 10.0
    """From being told that it is one's turn to claiming the pass, the median."""
    choose_s: float = 40.0
    """From the pass to the reservation, the median."""
    pay_s: float = 60.0
    """From the reservation to its confirmation, the median."""
    unpaid_share: float = 0.06
    """Who reserves and lets the hold run out."""
    cancel_share: float = 0.03
    """Who reserves and cancels instead of paying."""
    return_share: float = 0.3
    """Of those whose hold ended without a sale: who tries again with the place they had."""
    witnesses: int = 5_000
    """People who ask for their state as often as they are told to; the others only act."""
    hours_max: float = 48.0
    """Of simulated time."""

    @property
    def sale_starts_s(self) -> float:
        """When the sale begins, from the beginning of the simulation on."""
        return self.room_opens_s + self.opens_before_s

    @property
    def room_opens_s(self) -> float:
        """When the waiting room opens; for a lottery, when the entrants are frozen: a tenth come later."""
        return 0.9 * self.arrive_s if self.mode == "lottery" else 0.0


class Options(msgspec.Struct, frozen=True):
    """What one run of the command does."""

    plan: Plan
    folder: Path | None
    is_json: bool
    has_picture: bool


def _count(text: str) -> int:
    count = int(text.replace("_", ""))
    if count < 1:
        raise ValueError(text)
    return count


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


_count.__name__, _positive.__name__ = "count", "positive number"
_seconds.__name__, _share.__name__ = "number of seconds", "share between 0 and 1"


def parser() -> argparse.ArgumentParser:
    """All options of the command."""
    made = argparse.ArgumentParser(
        prog="rush simulate",
        description="Plan a sale with a waiting room: the real scripts under a simulated clock, with a crowd "
        "that is made up. Prints a table, draws a picture of queue, passes, stock and wait, and checks what "
        "the waiting room promises. Exit status 0: all of it held; 1: not.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    usual = Plan()

    def add(
        group: argparse._ArgumentGroup, name: str, kind: Callable[[str], float], text: str, field: str = ""
    ) -> None:
        field = field or name[2:].replace("-", "_")
        group.add_argument(name, type=kind, default=getattr(usual, field), help=text, dest=field, metavar="N")

    sale = made.add_argument_group("the sale")
    add(sale, "--people", _count, "how many come")
    add(sale, "--seats", _count, "how many seats there are")
    sale.add_argument("--mode", choices=("open", "lottery"), default=usual.mode, help="of the waiting room")
    sale.add_argument("--profile", choices=NAMES, default=usual.profile, help="what people buy")
    add(
        sale, "--arrive", _seconds, "seconds in which everybody comes, from the room's opening on", "arrive_s"
    )
    add(sale, "--opens-before", _seconds, "seconds from there to the sale", "opens_before_s")
    add(sale, "--rate", _positive, "people let in a second, at most", "admissions_per_second")
    add(sale, "--passes-max", _count, "passes out at once, at most")
    add(sale, "--pass-ttl", _count, "seconds that a pass lives", "pass_ttl_s")
    add(sale, "--claim-grace", _count, "seconds for which a slot is kept for who is served", "claim_grace_s")
    add(sale, "--hold-ttl", _count, "seconds that a hold lives", "hold_ttl_s")
    crowd = made.add_argument_group("the crowd")
    add(crowd, "--impatient-share", _share, "who gives up after a while")
    add(crowd, "--patience", _positive, "seconds after which, on average", "patience_s")
    add(crowd, "--unlikely-leave-share", _share, "who gives up when told that it is most likely in vain")
    add(crowd, "--tabs-share", _share, "who joins again from another tab")
    add(crowd, "--no-show-share", _share, "who is served and does not come")
    add(crowd, "--forget-share", _share, "who claims a pass and does nothing with it")
    add(crowd, "--notice", _positive, "median seconds from one's turn to the claim", "notice_s")
    add(crowd, "--choose", _positive, "median seconds from the pass to the reservation", "choose_s")
    add(crowd, "--pay", _positive, "median seconds from the reservation to its confirmation", "pay_s")
    add(crowd, "--unpaid-share", _share, "who lets the hold run out")
    add(crowd, "--cancel-share", _share, "who cancels instead of paying")
    add(crowd, "--return-share", _share, "of those: who tries again with the same place")
    run = made.add_argument_group("the run")
    add(run, "--seed", int, "for the same crowd again")
    add(run, "--witnesses", _count, "people whose every poll is asked for and judged")
    add(run, "--hours-max", _positive, "hours of simulated time, at most")
    run.add_argument("--folder", type=Path, help="where the picture and the table go")
    run.add_argument("--no-picture", action="store_true", help="draw nothing; it needs matplotlib")
    run.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    return made


def parse(argv: list[str]) -> Options:
    """The options; exits with status 2 for what is wrong."""
    words = vars(parser().parse_args(argv))
    plan = Plan(**{name: words[name] for name in Plan.__struct_fields__})
    return Options(plan, words["folder"], words["json"], not words["no_picture"])
