"""One person in the rush, against a system that answers by a script."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from loadtest.person import Person, Reply
from loadtest.plan import Plan, PlanBasket
from loadtest.told import Answer, Beat, End, ToldReader, ToldWriter, told_path

ZONE = uuid4()
BOOKING = uuid4()


def make_plan(**changes: object) -> Plan:
    """A plan in which everybody confirms and nobody does anything odd."""
    plan = Plan(
        host="127.0.0.1",
        port=1,
        folder="",
        jwt_secret="x" * 32,
        event_id=uuid4(),
        capacities={ZONE: 10},
        zone_names={ZONE: "Full"},
        max_per_user=6,
        baskets=[PlanBasket(1, [(ZONE, 2)])],
        people=10,
        rate_per_s=1.0,
        seed=1,
        processes=1,
        connections=1,
        in_flight_max=10,
        hold_ttl_s=10,
        confirm_share=1.0,
        cancel_share=0.0,
        keyless_share=0.0,
        twice_share=0.0,
        again_share=0.0,
        think_s=1.0,
        bound_s=60.0,
    )
    return msgspec.structs.replace(plan, **changes)


class ScriptedWorld:
    """Answers what the script says, request after request, and remembers what was asked."""

    def __init__(self, plan: Plan, *answers: tuple[int, str | UUID]) -> None:
        self.plan = plan
        self.is_over = False
        self.asked: list[tuple[str, str | None]] = []
        self.told: list[Answer] = []
        self.slept: list[float] = []
        self._answers = list(answers)
        self._time_s = 100.0

    def now_s(self) -> float:
        return self._time_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._time_s += seconds

    def token(self, user_id: UUID) -> str:
        return f"token-of-{user_id}"

    def at_once(self, act: Callable[[], None]) -> Callable[[], None]:
        act()
        return lambda: None

    def tell(self, answer: Answer) -> None:
        self.told.append(answer)

    def send(self, path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply:
        self.asked.append((path.rpartition("/")[2], headers.get("Idempotency-Key")))
        status, what = self._answers.pop(0)
        sent_s = self._time_s
        self._time_s += 0.01
        content = b""
        if isinstance(what, UUID):
            content = json.dumps({"success": True, "data": {"id": str(what)}}).encode()
        elif what:
            content = json.dumps({"success": False, "error": {"code": what}}).encode()
        found = {"x-ledger-seq": "1-7", "retry-after": "1"}
        return Reply(status, found, content, sent_s, self._time_s)


def live(world: ScriptedWorld) -> list[str]:
    """Let person 3 live; what they asked for."""
    Person(world, 3, 99.5).live()
    assert not world._answers, "they were to ask for more"
    return [verb for verb, _ in world.asked]


def test_who_gets_a_hold_thinks_and_confirms() -> None:
    world = ScriptedWorld(make_plan(), (201, BOOKING), (200, BOOKING))
    assert live(world) == ["reserve", "confirm"]
    reserved, confirmed = world.told
    assert (reserved.status, reserved.booking_id, reserved.ledger_seq) == (201, BOOKING, "1-7")
    assert (reserved.due_s, reserved.sent_s, reserved.is_first) == (99.5, 100.0, True)
    assert (confirmed.kind, confirmed.booking_id, confirmed.is_first) == ("confirm", BOOKING, False)
    assert 0 < world.slept[0] <= 5


def test_some_cancel_and_some_let_it_expire() -> None:
    cancelling = make_plan(confirm_share=0.0, cancel_share=1.0)
    assert live(ScriptedWorld(cancelling, (201, BOOKING), (200, BOOKING))) == ["reserve", "cancel"]
    assert live(ScriptedWorld(make_plan(confirm_share=0.0), (201, BOOKING))) == ["reserve"]


def test_after_503_and_after_silence_the_same_key_asks_again() -> None:
    world = ScriptedWorld(make_plan(), (503, "SERVICE_UNAVAILABLE"), (0, ""), (201, BOOKING), (200, BOOKING))
    assert live(world) == ["reserve", "reserve", "reserve", "confirm"]
    assert len({key for verb, key in world.asked if verb == "reserve"}) == 1
    assert world.slept[0] >= 1


def test_who_sent_no_key_cannot_ask_again() -> None:
    world = ScriptedWorld(make_plan(keyless_share=1.0), (503, "SERVICE_UNAVAILABLE"))
    assert live(world) == ["reserve"]
    assert world.asked[0][1] is None


def test_a_confirm_that_is_not_durable_yet_is_repeated() -> None:
    world = ScriptedWorld(make_plan(), (201, BOOKING), (202, BOOKING), (202, BOOKING), (200, BOOKING))
    assert live(world) == ["reserve", "confirm", "confirm", "confirm"]


def test_who_presses_twice_does_so_with_the_same_key_and_confirms_once() -> None:
    plan = make_plan(twice_share=1.0)
    world = ScriptedWorld(plan, (201, BOOKING), (201, BOOKING), (200, BOOKING))
    assert live(world) == ["reserve", "reserve", "confirm"]
    assert world.asked[0] == world.asked[1]


def test_who_finds_it_sold_out_may_come_back_for_one_ticket_with_a_new_key() -> None:
    world = ScriptedWorld(
        make_plan(again_share=1.0), (409, "INSUFFICIENT_STOCK"), (409, "INSUFFICIENT_STOCK")
    )
    assert live(world) == ["reserve", "reserve"]
    assert world.asked[0] != world.asked[1]
    assert [(each.attempt, each.basket) for each in world.told] == [(0, 0), (1, -1)]


def test_a_system_that_never_answers_is_not_asked_for_ever() -> None:
    world = ScriptedWorld(make_plan(), *[(503, "SERVICE_UNAVAILABLE")] * 8)
    assert live(world) == ["reserve"] * 8


def test_nobody_begins_anything_once_the_run_is_over() -> None:
    world = ScriptedWorld(make_plan(), (201, BOOKING))
    world.is_over = True
    assert live(world) == ["reserve"]


def test_a_request_that_is_cut_off_is_written_down_as_unknown() -> None:
    class Cut(BaseException):
        pass

    class CutWorld(ScriptedWorld):
        def send(self, path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply:
            raise Cut

    world = CutWorld(make_plan())
    with contextlib.suppress(Cut):
        Person(world, 1, 0.0).live()
    assert [answer.status for answer in world.told] == [0]


def test_what_was_told_is_read_as_it_grows(tmp_path: Path) -> None:
    writer, reader = ToldWriter(told_path(tmp_path, 0)), ToldReader(told_path(tmp_path, 0))
    world = ScriptedWorld(make_plan(), (201, BOOKING), (200, BOOKING))
    live(world)
    writer.write(world.told[0])
    assert list(reader.read()) == []
    writer.flush()
    assert list(reader.read()) == [world.told[0]]
    writer.write(world.told[1])
    writer.write(Beat(0, 1.5, 1, 0))
    writer.write(End(0, 1))
    writer.close()
    assert list(reader.read()) == [world.told[1], Beat(0, 1.5, 1, 0), End(0, 1)]
    reader.close()


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    path = told_path(tmp_path, 0)
    reader = ToldReader(path)
    assert list(reader.read()) == []
    path.write_bytes(b'["e",0,')
    assert list(reader.read()) == []
    with path.open("ab") as file:
        file.write(b"5]\n")
    assert list(reader.read()) == [End(0, 5)]
    reader.close()
