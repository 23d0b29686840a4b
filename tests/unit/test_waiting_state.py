"""What one person is told of their place: every status, and what was counted against a plain count."""

import random
from typing import Any, TypeVar

import msgspec
import pytest

from engine.errors import NotFound
from engine.waiting.estimate import WAIT_MAX_S, Pace, Stock, outlook
from engine.waiting.gone import Gone
from engine.waiting.lottery import Permutation
from engine.waiting.state import QueueState, must_be_asked_for, state
from engine.waiting.view import View

T = TypeVar("T", bound=msgspec.Struct)
NOW_MS = 1_800_000_000_000
STOCK = Stock(
    available=500, reserved=20, out=10, basket_milli=2000, return_permille=100, admitted=100, units=180,
    spent=90,
)  # fmt: skip
OPEN = View(
    epoch=3, mode="open", sale_status="published", sale_end_at_ms=0, opens_at_ms=NOW_MS - 1000,
    is_paused=False, tail=400, entrants=0, is_drawn=False, draw=None, serving=100, gone=Gone(), stock=STOCK,
    pace=Pace(0, 100.0, 1_000_000, 2.0, 2.0), read_at_s=0.0,
)  # fmt: skip
LOTTERY = msgspec.structs.replace(OPEN, mode="lottery", serving=0)


def told(view: View, number: int, standing: Any = "waiting", now_ms: int = NOW_MS) -> QueueState:
    return state(view, "ticket", number, standing, now_ms, 0.5)


def changed(view: T, **changes: Any) -> T:
    return msgspec.structs.replace(view, **changes)


def bits_of(places: set[int]) -> bytes:
    bits = bytearray(max(places, default=0) // 8 + 1)
    for place in places:
        bits[(place - 1) // 8] |= 0x80 >> (place - 1) % 8
    return bytes(bits)


@pytest.mark.parametrize("people", [0, 7, 8, 600, 5000])
def test_gone_places_are_counted_as_one_by_one(people: int) -> None:
    chance = random.Random(people)
    places = {place for place in range(1, people + 1) if chance.random() < 0.3}
    gone = Gone(bits_of(places))
    for place in range(people + 20):
        assert gone.up_to(place) == len([one for one in places if one <= place]), place
        assert place == 0 or gone.is_gone(place) == (place in places)
    assert Gone().up_to(10**9) == 0


def test_who_waits_is_told_place_and_people_ahead() -> None:
    view = changed(OPEN, gone=Gone(bits_of({50, 101, 120, 150, 151})))
    answer = told(view, 151)
    assert (answer.status, answer.place, answer.ahead) == ("waiting", 151, 151 - 1 - 100 - 3)
    assert answer.estimated_wait_seconds == round((47 + 1) / 2.0)
    assert answer.outlook == "likely"
    assert answer.ticket == "ticket"


def test_ahead_is_what_a_walk_over_the_places_counts() -> None:
    chance = random.Random(17)
    gone = {place for place in range(1, 401) if chance.random() < 0.2}
    view = changed(OPEN, gone=Gone(bits_of(gone)))
    for place in range(101, 401):
        assert view.ahead_of(place) == len(set(range(101, place)) - gone)


@pytest.mark.parametrize(
    ("changes", "number", "standing", "status"),
    [
        ({}, 101, "waiting", "waiting"),
        ({}, 100, "served", "served"),
        ({}, 100, "admitted", "admitted"),
        ({"is_paused": True}, 101, "waiting", "paused"),
        # Whoever was let in may go on while the queue stands; not while the whole sale does.
        ({"is_paused": True}, 100, "served", "served"),
        ({"is_paused": True, "sale_status": "paused"}, 100, "served", "paused"),
        ({"is_paused": True, "sale_status": "paused"}, 100, "admitted", "admitted"),
        ({"stock": changed(STOCK, available=0, reserved=0)}, 101, "waiting", "sold_out"),
        ({"stock": changed(STOCK, available=0, reserved=0)}, 100, "served", "sold_out"),
        ({"stock": changed(STOCK, available=0, reserved=0)}, 100, "admitted", "admitted"),
        ({"stock": changed(STOCK, available=0)}, 101, "waiting", "waiting"),
        ({"sale_status": "cancelled"}, 101, "waiting", "closed"),
        ({"sale_status": "ended"}, 100, "admitted", "closed"),
        ({"sale_end_at_ms": NOW_MS}, 101, "waiting", "closed"),
        ({"sale_end_at_ms": NOW_MS + 1}, 101, "waiting", "waiting"),
    ],
)
def test_every_status_has_its_reason(
    changes: dict[str, Any], number: int, standing: Any, status: str
) -> None:
    answer = told(changed(OPEN, **changes), number, standing)
    assert (answer.status, answer.place) == (status, number)
    assert answer.ahead == max(number - 101, 0)
    assert 750 <= answer.poll_after_ms <= 75_000


def test_a_place_that_has_ended_is_not_found() -> None:
    with pytest.raises(NotFound):
        told(OPEN, 50, "gone")
    # Nothing is sold any more: there is no sense in joining again.
    assert told(changed(OPEN, sale_status="ended"), 50, "gone").status == "closed"


def test_redis_is_asked_only_about_who_was_let_in_or_seems_gone() -> None:
    view = changed(OPEN, gone=Gone(bits_of({150})))
    assert [number for number in range(1, 401) if must_be_asked_for(view, number)] == [*range(1, 101), 150]
    # Before a draw the bits are those of numbers.
    undrawn = changed(LOTTERY, entrants=200, gone=Gone(bits_of({150, 300})))
    assert [number for number in range(1, 401) if must_be_asked_for(undrawn, number)] == [150, 300]


def test_before_the_draw_nobody_among_the_entrants_has_a_place() -> None:
    opens_in = changed(LOTTERY, opens_at_ms=NOW_MS + 600_000)
    answer = told(opens_in, 7)
    assert (answer.status, answer.place, answer.ahead, answer.estimated_wait_seconds, answer.outlook) == (
        "registered", None, None, None, None,
    )  # fmt: skip
    assert answer.opens_at_ms == NOW_MS + 600_000
    assert answer.poll_after_ms > 10_000
    frozen = changed(LOTTERY, entrants=200)
    assert told(frozen, 200).status == "registered"
    behind = told(frozen, 201)
    assert (behind.status, behind.place, behind.ahead) == ("waiting", 201, 200)


def test_a_draw_gives_everybody_a_place_of_their_own() -> None:
    draw = Permutation(bytes(range(32)), 200)
    view = changed(LOTTERY, entrants=200, is_drawn=True, draw=draw, serving=20)
    places = [view.place_of(number) for number in range(1, 401)]
    assert sorted(place for place in places if place is not None) == list(range(1, 401))
    assert places[200:] == list(range(201, 401))
    assert places[:200] != list(range(1, 201))
    number = draw.number_of(21)
    assert told(view, number).ahead == 0
    assert must_be_asked_for(view, draw.number_of(20))
    assert not must_be_asked_for(view, number)


def test_a_queue_that_stands_still_promises_nothing() -> None:
    assert told(changed(OPEN, pace=Pace(0, 1.0, 0, 1.0, 0.0)), 400).estimated_wait_seconds == WAIT_MAX_S


def test_nobody_is_let_in_before_the_sale_begins() -> None:
    view = changed(OPEN, serving=0, opens_at_ms=NOW_MS + 100_000, pace=Pace(10, 100.0, 1_000_000, 1.0, 1.0))
    assert told(view, 1).estimated_wait_seconds == pytest.approx(100, abs=1)


def test_those_in_vain_are_told_so() -> None:
    view = changed(OPEN, stock=changed(STOCK, available=5), tail=100_000)
    assert told(view, 100_000).outlook == "unlikely"


@pytest.mark.parametrize("available", [0, 5, 100, 500, 100_000])
def test_the_outlook_is_that_of_the_estimate_for_everybody(available: int) -> None:
    stock = changed(STOCK, available=available)
    view = changed(OPEN, stock=stock)
    for ahead in (*range(0, 3_000, 7), 10_000, 100_000, 1_000_000):
        assert view.outlook(ahead) == outlook(ahead, stock), ahead
