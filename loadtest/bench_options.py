"""The command line of `rush bench`."""

import argparse
import os

SECONDS = 60.0
RATE_PER_S = 10_000.0
CONNECTIONS = 64
OPEN_CONNECTIONS_FACTOR = 4
"""An open loop needs a free connection when a request is due, whatever is under way."""
SEATS_MIN = 650_000
SEATS_MAX = 10_000_000
PREPARED_FACTOR = 2.0
"""How many requests are prepared for a closed loop, against those of the open one."""
REFUSED_FACTOR = 4.0
PROCESSES_MAX = 64
SMOKE_SECONDS = 2.0
SMOKE_RATE_PER_S = 200.0
SMOKE_CONNECTIONS = 8


def _count(text: str) -> int:
    count = int(text.replace("_", "").replace(",", ""))
    if count < 1:
        raise ValueError(text)
    return count


def _positive(text: str) -> float:
    value = float(text.replace("_", "").replace(",", ""))
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


_count.__name__, _positive.__name__ = "count", "positive number"


def parser() -> argparse.ArgumentParser:
    """All options of the command."""
    made = argparse.ArgumentParser(
        prog="rush bench",
        description="How many reservations a second the whole stack carries on this machine, Locust "
        "included, and what each one costs whom. Starts a Ticket Rush of its own on a fresh data folder, "
        "loads it in an open and in a closed loop, then when it is sold out; measures a bare ASGI answer "
        "with the same load; checks that every 201 is a row in Postgres, and audits. "
        "Exit status 0: all correct; 1: something is wrong; 2: it could not be measured.",
    )
    made.add_argument(
        "--seconds", type=_positive, metavar="S", help=f"of the open and of the closed loop ({SECONDS:.0f})"
    )
    made.add_argument(
        "--rate", type=_positive, metavar="N", help=f"requests a second, open loop ({RATE_PER_S:,.0f})"
    )
    made.add_argument(
        "--connections", type=_count, metavar="N",
        help=f"of the closed loop ({CONNECTIONS}); the open one has {OPEN_CONNECTIONS_FACTOR} times as many",
    )  # fmt: skip
    made.add_argument("--gateways", type=_count, metavar="N", default=1, help="gateway processes (1)")
    made.add_argument(
        "--seats", type=_count, metavar="N",
        help=f"on sale (as many as can be asked for, at least {SEATS_MIN:,})",
    )  # fmt: skip
    made.add_argument("--locust-processes", type=_count, metavar="N", default=1, help="(1)")
    made.add_argument("--seed", type=_count, help="for the same buyers again; another one each time")
    made.add_argument("--json", action="store_true", help="the results as JSON on stdout, not as a table")
    made.add_argument("--no-page", action="store_true", help="write no page under loadtest/results/")
    made.add_argument(
        "--smoke", action="store_true", help="a few seconds with little load: is it correct, not how fast"
    )
    made.add_argument("--keep", metavar="FOLDER", help="Locust's files and logs go here and stay")
    return made


def parse(argv: list[str]) -> argparse.Namespace:
    """The options with what follows from them; exits with status 2 for what cannot be."""
    made = parser()
    options = made.parse_args(argv)
    small = options.smoke
    options.seconds = options.seconds or (SMOKE_SECONDS if small else SECONDS)
    options.rate = options.rate or (SMOKE_RATE_PER_S if small else RATE_PER_S)
    options.connections = options.connections or (SMOKE_CONNECTIONS if small else CONNECTIONS)
    options.no_page = options.no_page or small
    if options.locust_processes > min(PROCESSES_MAX, options.connections):
        made.error(f"--locust-processes: at most {PROCESSES_MAX}, and a connection for each")
    if options.rate * options.seconds < 1:
        made.error("--rate and --seconds: not even one request")
    wanted = most_reservations(options)
    if options.seats is None:
        options.seats = wanted if small else max(SEATS_MIN, wanted)
    if options.seats < wanted:
        made.error(f"--seats: up to {wanted:,} can be asked for in this run, and nobody may find it sold out")
    if options.seats > SEATS_MAX:
        made.error(f"--seats, or --rate times --seconds: one zone has at most {SEATS_MAX:,} seats")
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(3), "big") + 1
    return options


def most_reservations(options: argparse.Namespace) -> int:
    """How many reservations all phases together can make."""
    once = options.rate * options.seconds
    return int(once * (1 + PREPARED_FACTOR) + options.rate * warm_up_s(options) * PREPARED_FACTOR) + 1_000


def warm_up_s(options: argparse.Namespace) -> float:
    """Of the phase that nobody looks at."""
    return float(min(5.0, options.seconds))


def short_s(options: argparse.Namespace) -> float:
    """Of the phases that need no whole minute: sold out, and the bare answer."""
    return float(min(options.seconds, max(5.0, options.seconds / 4)))
