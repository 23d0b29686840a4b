"""The command line of `rush load`."""

import argparse
import os

from loadtest.profile import NAMES

PEOPLE = 40_000
WAITING_ROOM = "waiting-room"
PEOPLE_WAITING = 5_000
"""With a waiting room, where nothing else is said: each of them asks many times."""
TICKETS_SHARE = 0.3
"""Tickets for each person, where their number is not said: several times more people than tickets."""
RATE_PER_S = 1_000.0
CONNECTIONS = 128
IN_FLIGHT_MAX = 20_000
PROCESSES_MAX = 64
GRACE_S = 60.0
"""How much longer than its arrivals a run may take."""


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


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


_share.__name__, _count.__name__, _positive.__name__ = "share between 0 and 1", "count", "positive number"


def parser() -> argparse.ArgumentParser:
    """All options of the command."""
    made = argparse.ArgumentParser(
        prog="rush load",
        description="A ticket rush, and what it has shown: many people reserve, confirm, cancel and forget, "
        "then what they were told is compared with Redis and Postgres. Loads the `rush up` that runs on this "
        "machine, or starts a complete one of its own. Exit status 0: clean; 1: a violation; 2: not known.",
    )
    size = made.add_argument_group("size")
    size.add_argument(
        "--people",
        "--arrivals",
        type=_count,
        metavar="N",
        help=f"how many arrive ({PEOPLE:,}; {PEOPLE_WAITING:,} with a waiting room)",
        dest="people",
    )
    size.add_argument(
        "--tickets", type=_count, metavar="N", help=f"how many there are ({TICKETS_SHARE} for each person)"
    )
    size.add_argument(
        "--rate",
        type=_positive,
        metavar="N",
        help=f"arrivals a second ({RATE_PER_S:.0f})",
        default=RATE_PER_S,
    )
    size.add_argument(
        "--duration", type=_positive, metavar="SECONDS", help="how long people arrive; instead of --people"
    )
    size.add_argument("--seed", type=int, help="for the same people again; another one each time")
    people = made.add_argument_group("people")
    people.add_argument(
        "--profile",
        choices=(*NAMES, WAITING_ROOM),
        default=NAMES[0],
        help=f"what they buy ({NAMES[0]}); {WAITING_ROOM}: the same, with a waiting room in front",
    )
    people.add_argument("--hold-ttl", type=_count, metavar="SECONDS", default=10, help="of a hold (10)")
    people.add_argument("--confirm-share", type=_share, default=0.8, help="who confirms (0.8)")
    people.add_argument(
        "--cancel-share", type=_share, default=0.08, help="who cancels (0.08); the rest lets go"
    )
    people.add_argument("--twice-share", type=_share, default=0.1, help="who presses twice, same key (0.1)")
    people.add_argument("--keyless-share", type=_share, default=0.05, help="who sends no key (0.05)")
    people.add_argument("--again-share", type=_share, default=0.1, help="who comes back when sold out (0.1)")
    people.add_argument("--think", type=_positive, metavar="SECONDS", default=1.0, help="mean pause (1.0)")
    queue = made.add_argument_group(f"the waiting room (--profile {WAITING_ROOM})")
    queue.add_argument(
        "--admissions", type=_positive, metavar="N", default=200.0, help="let in a second (200)"
    )
    queue.add_argument("--passes-max", type=_count, metavar="N", default=200, help="passes out at once (200)")
    queue.add_argument("--pass-ttl", type=_count, metavar="SECONDS", default=15, help="of a pass (15)")
    queue.add_argument("--claim-grace", type=_count, metavar="SECONDS", default=5, help="to claim it (5)")
    queue.add_argument("--pusher-share", type=_share, default=0.02, help="who tries without a pass (0.02)")
    clients = made.add_argument_group("clients")
    clients.add_argument("--target", metavar="URL", help="a gateway on this machine (http://127.0.0.1:8000)")
    clients.add_argument("--own-stack", action="store_true", help="start one, even where a `rush up` runs")
    clients.add_argument(
        "--connections", "--users", type=_count, metavar="N", default=CONNECTIONS, dest="connections",
        help=f"HTTP connections ({CONNECTIONS})",
    )  # fmt: skip
    clients.add_argument("--processes", type=_count, metavar="N", default=1, help="Locust processes (1)")
    clients.add_argument("--web", action="store_true", help="Locust's own page, until Ctrl-C")
    clients.add_argument("--web-port", type=_count, metavar="PORT", default=8089, help="of that page (8089)")
    clients.add_argument(
        "--relay-wait", type=_positive, metavar="SECONDS", default=60.0, help="at the end (60)"
    )
    clients.add_argument("--json", action="store_true", help="the verdict as JSON on stdout")
    return made


def parse(argv: list[str]) -> argparse.Namespace:
    """The options with what follows from them; exits with status 2 for what does not go together."""
    made = parser()
    options = made.parse_args(argv)
    if options.people is not None and options.duration is not None:
        made.error("--people and --duration say the same in two ways: give one")
    if options.people is None:
        usual = PEOPLE_WAITING if options.profile == WAITING_ROOM else PEOPLE
        options.people = usual if options.duration is None else max(1, int(options.rate * options.duration))
    if options.tickets is None:
        options.tickets = max(3, int(options.people * TICKETS_SHARE))
    if options.confirm_share + options.cancel_share > 1:
        made.error("--confirm-share and --cancel-share are more than everybody")
    if options.processes > min(PROCESSES_MAX, options.people):
        made.error(f"--processes: at most {PROCESSES_MAX}, and one person for each")
    if options.target and options.own_stack:
        made.error("--target and --own-stack exclude each other")
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(4), "big")
    return options
