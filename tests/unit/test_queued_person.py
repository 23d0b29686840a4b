"""One person in front of a waiting room that answers by a script, and what the tally makes of the answers."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from loadtest.person import Reply
from loadtest.plan import Plan, PlanBasket, QueuePlan
from loadtest.queue_tally import QueueTally
from loadtest.queued_person import QueuedPerson
from loadtest.told import Answer

ZONE, BOOKING = uuid4(), uuid4()
QUEUE = QueuePlan(admissions_per_s=10.0, passes_max=2, pass_ttl_s=60, claim_grace_s=5, pusher_share=0.0)
PLAN = Plan(
    host="127.0.0.1", port=1, folder="", jwt_secret="x" * 32, event_id=uuid4(), capacities={ZONE: 10},
    zone_names={ZONE: "Full"}, max_per_user=6, baskets=[PlanBasket(1, [(ZONE, 2)])], people=10,
    rate_per_s=1.0,
    seed=1, processes=1, connections=1, in_flight_max=10, hold_ttl_s=10, confirm_share=1.0, cancel_share=0.0,
    keyless_share=0.0, twice_share=0.0, again_share=0.0, think_s=1.0, bound_s=60.0, queue=QUEUE,
)  # fmt: skip


def state(status: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return 200, {
        "ticket": "T",
        "status": status,
        "place": 7,
        "poll_after_ms": 2_000,
        "outlook": "likely",
    } | more


SERVED = state("served")
PASS = (201, {"pass": "P", "expires_at": "2026-01-01T00:00:00Z"})
BOOKED = (201, {"id": str(BOOKING)})


class World:
    """Answers in this order, and remembers what was asked."""

    def __init__(self, *answers: tuple[int, dict[str, Any] | str]) -> None:
        self.plan = PLAN
        self.is_over = False
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.told: list[Answer] = []
        self.slept: list[float] = []
        self._answers = list(answers)
        self._now_s = 100.0

    def now_s(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now_s += seconds

    def token(self, user_id: UUID) -> str:
        return f"token-of-{user_id}"

    def at_once(self, act: Callable[[], None]) -> Callable[[], None]:
        act()
        return lambda: None

    def tell(self, answer: Answer) -> None:
        self.told.append(answer)

    def send(self, path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply:
        self.asked.append(f"{method} {path.rpartition('/')[2]}")
        self.headers.append(dict(headers))
        status, what = self._answers.pop(0)
        sent_s, self._now_s = self._now_s, self._now_s + 0.01
        content = {"data": what} if isinstance(what, dict) else {"error": {"code": what}}
        return Reply(status, {"x-ledger-seq": "1-7"}, json.dumps(content).encode(), sent_s, self._now_s)


def live(world: World) -> list[str]:
    QueuedPerson(world, 3, 99.5).live()
    assert not world._answers, "they were to ask for more"
    return world.asked


def test_who_is_served_claims_and_shows_the_pass() -> None:
    joined = (201, state("waiting")[1])
    world = World(joined, state("waiting"), SERVED, PASS, BOOKED, BOOKED)
    asked = ["POST join", "GET status", "GET status", "POST pass", "POST reserve", "POST confirm"]
    assert live(world) == asked
    assert world.slept[:2] == [2.0, 2.0], "as told"
    assert world.headers[1]["X-Queue-Ticket"] == "T"
    assert world.headers[4]["X-Queue-Pass"] == "P"
    assert world.told[0].place == 7


@pytest.mark.parametrize("status", ["sold_out", "closed"])
def test_who_is_told_that_it_is_over_goes_home(status: str) -> None:
    assert live(World((201, state(status)[1]))) == ["POST join"]


def test_who_is_late_asks_again_until_there_is_room() -> None:
    served = (201, SERVED[1])
    world = World(served, (409, "INVALID_STATE"), (409, "INVALID_STATE"), PASS, BOOKED, BOOKED)
    assert live(world)[:4] == ["POST join", "POST pass", "POST pass", "POST pass"]


def answer(kind: str, person: int, at_s: float, status: int = 201, **more: Any) -> Answer:
    return Answer(kind, person, UUID(int=person), 0, at_s, at_s, at_s, status, **more)  # type: ignore[arg-type]


def contradictions(*answers: Answer) -> list[str]:
    tally = QueueTally()
    for each in answers:
        tally.take(each)
    return list(tally.contradictions(QUEUE))


def test_a_place_that_two_people_have_is_found() -> None:
    [found] = contradictions(answer("join", 1, 1.0, place=4), answer("join", 2, 1.0, place=4))
    assert found == "place 4 was given to 2 people"


def test_a_place_that_changes_is_found() -> None:
    [found] = contradictions(answer("join", 1, 1.0, place=4), answer("status", 1, 2.0, 200, place=5))
    assert "place 4, then 5" in found


def test_a_seat_without_a_pass_is_found() -> None:
    [found] = contradictions(answer("reserve", 1, 1.0, is_pushing=True))
    assert "without a pass" in found
    assert not contradictions(answer("reserve", 1, 1.0, 403, is_pushing=True))


def test_more_passes_in_hand_than_may_be_out_are_found() -> None:
    claims = [answer("pass", person, 1.0 + person) for person in range(3)]
    assert contradictions(*claims) == ["3 passes were out at once, 2 may be"]
    spent = answer("reserve", 0, 2.5)
    assert not contradictions(claims[0], spent, *claims[1:])
