"""Every rule of the waiting room finds what breaks it, and nothing where nothing is broken."""

from collections.abc import Callable

import pytest

from tests.drills.checker_queue import QueueStores, check_queue
from tests.drills.checker_report import Report
from tests.drills.history import Fault, Run
from tests.drills.queue_facts import Facts, Sample, Told

ADA, BOB = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
PASS_MS = 1_000


def _told(verb: str, user: str, **more: object) -> Told:
    return Told(verb, user, 0, 0, 201, **more)  # type: ignore[arg-type]


def _facts() -> Facts:
    told = [
        _told("join", ADA, place=1),
        _told("join", BOB, place=2),
        _told("status", ADA, place=1),
        _told("pass", ADA, expires_at_ms=PASS_MS),
        _told("reserve", ADA, with_pass_ms=PASS_MS, booking="one"),
        _told("reserve", ADA, with_pass_ms=PASS_MS, booking="one"),
    ]
    return Facts("event", 2, told, [Sample(0, 2)])


def _stores() -> QueueStores:
    rows = [(1, ADA, False), (2, BOB, False)]
    return QueueStores(rows, tail=2, serving=1, places={ADA: 1, BOB: 2}, redis_tail=2, redis_serving=1)


def _found(facts: Facts, stores: QueueStores, *faults: Fault) -> dict[str, int]:
    report = Report()
    check_queue(facts, stores, Run(1, "", [], faults=list(faults)), report)
    return dict(report.found)


def test_nothing_is_found_where_nothing_is_broken() -> None:
    assert _found(_facts(), _stores()) == {}


def test_who_left_and_joined_again_stands_behind() -> None:
    facts, stores = _facts(), _stores()
    facts.told += [_told("leave", BOB), _told("join", BOB, place=3)]
    stores.rows = [(1, ADA, False), (2, BOB, True), (3, BOB, False)]
    stores.places[BOB] = stores.tail = stores.redis_tail = 3
    assert _found(facts, stores) == {}


BROKEN: dict[str, tuple[str, Callable[[Facts, QueueStores], object]]] = {
    "a place given twice": ("places", lambda facts, _: facts.told.append(_told("join", BOB, place=1))),
    "a place that changes": ("places", lambda facts, _: facts.told.append(_told("status", ADA, place=9))),
    "a way to the front": (
        "places",
        lambda facts, _: facts.told.extend([_told("leave", BOB), _told("join", BOB, place=0)]),
    ),
    "a booking without a pass": (
        "passes",
        lambda facts, _: facts.told.append(_told("reserve", BOB, booking="two")),
    ),
    "two bookings with one pass": (
        "passes",
        lambda facts, _: facts.told.append(_told("reserve", ADA, with_pass_ms=PASS_MS, booking="two")),
    ),
    "too many passes": ("bound", lambda facts, _: facts.samples.append(Sample(1, 3))),
    "a place that is not durable": ("queue stores", lambda _, stores: stores.rows.pop()),
    "somebody else's row": ("queue stores", lambda _, stores: stores.rows.__setitem__(0, (1, BOB, False))),
    "a place that Redis lacks": ("queue stores", lambda _, stores: stores.places.pop(BOB)),
    "serving that differs": ("queue stores", lambda _, stores: setattr(stores, "serving", 2)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name: str) -> None:
    facts, stores = _facts(), _stores()
    rule, break_it = BROKEN[name]
    break_it(facts, stores)
    assert rule in _found(facts, stores)


def test_what_redis_lost_may_be_missing_but_is_nobody_elses() -> None:
    lost = Fault("redis-flushall", 0, 0, may_lose=True)
    facts, stores = _facts(), _stores()
    stores.rows.pop()
    stores.places.pop(BOB)
    assert _found(facts, stores, lost) == {}
    stores.rows.append((2, ADA, True))
    assert _found(facts, stores, lost) == {"queue stores": 1}
