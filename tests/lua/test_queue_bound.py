"""Admission: by rate, by passes out, by stock; in order; and never more than the bound."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.scripts import Scripts
from engine.status import Status
from tests.lua.cellkit import START_MS, Backend, Zone
from tests.lua.mutations import Mutation, planted
from tests.lua.queuekit import GRACE_MS, PASS_TTL_MS, QueueCell

NewQueue = Callable[..., QueueCell]


# --- the order


def test_people_come_in_the_order_of_their_places(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(1000)])
    people = cell.people(30)
    for number in (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 20, 29):
        cell.leave(people[number])
    served: list[int] = []
    while True:
        before = cell.admit(0).serving
        admitted = cell.admit(4)
        if not admitted.people:
            break
        wave = [p.number for p in people if before < p.number <= admitted.serving]
        living = [number for number in wave if cell.claim(people[number - 1]).status == Status.OK]
        assert len(living) == admitted.people
        served += living
    assert served == [2, 3, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29]
    assert admitted == (29, 0, 18, 30), "whoever is last has left: the place is not walked over"
    entries = [entry[2:] for _, entry in cell.ledger() if entry[0] == "admit"]
    assert entries == [[1, 14, 4], [15, 18, 4], [19, 23, 4], [24, 27, 4], [28, 29, 2]]


@pytest.mark.parametrize("gone", [0, 1, 7, 8, 9, 63, 64, 10_000])
def test_however_many_are_gone_the_next_living_one_comes(new_queue: NewQueue, gone: int) -> None:
    cell = new_queue([Zone(1000)])
    cell.client.hset(cell.keys.queue, mapping={"tail": gone + 3})
    pipeline = cell.client.pipeline(transaction=False)
    for place in range(3, gone + 3):
        pipeline.setbit(cell.keys.gone, place - 1, 1)
    pipeline.execute()
    assert cell.admit(2)[:2] == (2, 2)
    assert cell.admit(5)[:2] == (gone + 3, 1)
    assert cell.admit(5)[:2] == (gone + 3, 0)


# --- whether anybody is let in at all


@pytest.mark.parametrize(
    ("fields", "people"),
    [
        ({"status": "published"}, 1),
        ({"status": "paused"}, 0),
        ({"status": "cancelled"}, 0),
        ({"sale_start_at_ms": START_MS}, 1),
        ({"sale_start_at_ms": START_MS + 1}, 0),
        ({"sale_end_at_ms": START_MS + 1}, 1),
        ({"sale_end_at_ms": START_MS}, 0),
        ({"queue_paused": 1}, 0),
        ({"queue_mode": "lottery", "queue_opens_at_ms": START_MS + 1}, 0),
        ({"queue_mode": "lottery", "queue_opens_at_ms": START_MS}, 0),
        ({"ledger_max": 2}, 0),
        ({"ledger_max": 3}, 1),
    ],
)
def test_people_are_let_in_while_seats_are_sold_and_the_queue_goes_on(
    new_queue: NewQueue, fields: dict[str, object], people: int
) -> None:
    cell = new_queue()
    cell.people(1)
    cell.client.hset(cell.keys.sale, mapping=fields)
    assert cell.admit().people == people


def test_what_ends_makes_room_also_while_nobody_is_let_in(new_queue: NewQueue) -> None:
    cell = new_queue()
    first, _ = cell.people(2)
    cell.admit()
    cell.passed(first)
    cell.client.hset(cell.keys.sale, mapping={"queue_paused": 1, "ledger_max": 0})
    cell.forward(PASS_TTL_MS)
    assert cell.admit() == (2, 0, 0, 2)
    assert {"passes", "waves"}.isdisjoint(cell.dump())
    assert cell.queue()["unclaimed"] == "0"


# --- the rate


def test_people_come_at_the_rate_and_after_a_standstill_those_of_a_second(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(10_000)], interval_us=20_000, passes_max=10_000)
    cell.people(400)
    assert cell.admit().people == 50, "a second's worth at once"
    assert cell.admit().people == 0
    cell.forward(19)
    assert cell.admit().people == 0
    cell.forward(1)
    assert cell.admit().people == 1
    people = sum(cell.admit().people for _ in range(20) if cell.forward(50))
    assert people == 50, "in a second"
    cell.forward(60_000)
    assert cell.admit().people == 50


def test_a_rate_below_one_a_second_lets_one_in_at_a_time(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], interval_us=100_000_000, grace_ms=3_600_000)
    cell.people(3)
    assert cell.admit().people == 1
    cell.forward(99_999)
    assert cell.admit().people == 0
    cell.forward(1)
    assert cell.admit().people == 1


def test_the_moves_of_the_last_minute_are_kept_one_a_second(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100_000)], interval_us=10_000, passes_max=100_000)
    cell.client.hset(cell.keys.queue, "tail", 100_000)
    for _ in range(600):
        cell.forward(250)
        cell.admit()
    points = [tuple(map(int, point.split(":"))) for point in cell.queue()["moves"].split()]
    assert points[-1] == (cell.now_ms, int(cell.queue()["admitted"])), "the newest is there"
    assert len(points) <= 64
    assert points == sorted(points)
    assert points[0][0] <= cell.now_ms - 55_000
    assert points[0][0] > cell.now_ms - 71_000
    for (at_ms, admitted), (next_at_ms, next_admitted) in itertools.pairwise(points[:-1]):
        assert next_at_ms - at_ms == 1_000
        assert next_admitted - admitted == (next_at_ms - at_ms) // 10, "the rate can be read from them"


# --- the bound


@pytest.mark.parametrize(
    ("capacity", "passes_max", "basket_milli", "out"),
    [
        (100, 7, 1_000, 7),
        (10, 100, 2_000, 5),
        (11, 100, 2_000, 5),
        (10, 100, 2_500, 4),
        (10, 100, 3_000, 3),
        (1, 100, 8_000, 1),
        (0, 100, 1_000, 0),
        (5, 100, 1, 100),
    ],
)
def test_no_more_are_let_in_than_the_passes_and_the_stock_allow(
    new_queue: NewQueue, capacity: int, passes_max: int, basket_milli: int, out: int
) -> None:
    cell = new_queue([Zone(capacity)], passes_max=passes_max)
    cell.people(150)
    for _ in range(3):
        assert cell.admit(basket_milli=basket_milli).out == out


def test_holds_that_are_expected_back_let_more_in(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(8), Zone(4)], sale={"max_per_user": 100})
    [buyer, *_] = cell.people(50)
    cell.admit(1)
    booking = cell.hold(buyer.user, 8, queue_pass=cell.passed(buyer))
    assert cell.admit(basket_milli=2_000).out == 2, "of the four that are left"
    assert cell.admit(basket_milli=2_000, return_permille=499).out == 3
    assert cell.admit(basket_milli=2_000, return_permille=500).out == 4
    cell.confirm(buyer.user, booking)
    assert cell.admit(basket_milli=2_000, return_permille=500).people == 0
    told = cell.queue()
    assert (told["basket_milli"], told["return_permille"]) == ("2000", "500")


def test_one_is_always_let_in_while_anything_is_left(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(1)])
    first, second, third = cell.people(3)
    assert cell.admit(basket_milli=5_000).people == 1
    assert cell.admit(basket_milli=5_000).people == 0
    cell.passed(first)
    cell.forward(PASS_TTL_MS)
    assert cell.admit(basket_milli=5_000).people == 1
    cell.hold(second.user, queue_pass=cell.passed(second))
    assert cell.admit(basket_milli=5_000).people == 0, "nothing is left"
    assert cell.claim(third).status == Status.NOT_SERVED


def crowd_in(cell: QueueCell, callers: int = 2) -> int:
    """Several admission workers at once, people who claim, come late, book and give back: how many were out
    at most, as counted from what the keys hold."""
    people = cell.people(120)
    most = 0
    for turn in range(60):
        for _ in range(callers):
            cell.admit(3)
        most = max(most, out_of(cell))
        for person in people[turn % 5 :: 5]:
            answer = cell.claim(person)
            if answer.status == Status.OK and person.number % 3 == 0:
                booking = cell.hold(person.user, queue_pass=str(answer.detail[0]))
                if person.number % 2:
                    cell.cancel(person.user, booking)
            most = max(most, out_of(cell))
        cell.forward(GRACE_MS // 3)
    assert int(cell.queue()["serving"]) > 30, "it went on"
    return most


def out_of(cell: QueueCell) -> int:
    """Passes that have not run out, and slots of waves whose time is not over; counted without scripts."""
    now_ms, queue = cell.now_ms, cell.queue()
    passes = sum(
        expires_at_ms > now_ms
        for _, expires_at_ms in cell.client.zrange(cell.keys.passes, 0, -1, withscores=True)
    )
    kept = 0
    for member in cell.client.zrange(cell.keys.waves, 0, -1):
        _, to, _, served_at_ms = map(int, member.split(b":"))
        kept += int(queue[f"w:{to}"]) if served_at_ms + GRACE_MS > now_ms else 0
    slots = sum(int(value) for name, value in queue.items() if name.startswith("w:"))
    assert slots == int(queue.get("unclaimed", 0))
    return passes + kept


def test_two_workers_and_everything_that_people_do_never_break_the_bound(new_queue: NewQueue) -> None:
    assert crowd_in(new_queue([Zone(1000)], passes_max=7)) == 7


BOUND_FAULTS = (
    Mutation(
        "the passes that are out are not looked at",
        "lib/bound.lua",
        "    return math.max(0, people_max - out)",
        "    return people_max",
    ),
    Mutation(
        "slots that are kept do not count",
        "lib/bound.lua",
        " + room.unclaimed - ending",
        "",
    ),
    Mutation(
        "who is late always finds room",
        "claim.lua",
        "if out >= room.passes_max or bound.left(room, bound.stock(sale, room), out) < 1 then",
        "if out < 0 then",
    ),
    Mutation(
        "a claim leaves its slot behind",
        "claim.lua",
        "    waves.release(KEYS[6], room, wave, 1)",
        "    cell.save(sale)",
    ),
)


@pytest.mark.parametrize("fault", BOUND_FAULTS, ids=lambda fault: fault.name)
def test_with_the_bound_taken_out_that_is_noticed(
    fault: Mutation, real_backend: Backend, tmp_path: Path
) -> None:
    """The negative control of the test above."""
    backend = Backend(real_backend.client, Scripts(planted(fault, tmp_path)))
    with pytest.raises(AssertionError):
        assert crowd_in(QueueCell(backend, [Zone(1000)], passes_max=7)) == 7


# --- that the check is in the step that it protects


def test_two_workers_who_look_first_and_act_later_stay_within_the_bound(real_backend: Backend) -> None:
    cell = QueueCell(real_backend, [Zone(1000)], passes_max=4)
    assert looked_first(cell) == 4


def looked_first(cell: QueueCell) -> int:
    """Two workers find out how many may come, and let so many in, each after the other has looked."""
    cell.people(20)
    room = [4 - out_of(cell) for _ in range(2)]
    for people_max in room:
        cell.admit(people_max)
    return out_of(cell)


def test_without_the_check_in_the_script_they_let_in_too_many(real_backend: Backend, tmp_path: Path) -> None:
    """The negative control: a worker's own look, however correct, is no check."""
    fault = Mutation(
        "the worker has checked",
        "admit.lua",
        "math.min(people_max, by_rate, bound.left(room, bound.stock(sale, room), out))",
        "math.min(people_max, by_rate)",
    )
    backend = Backend(real_backend.client, Scripts(planted(fault, tmp_path)))
    with pytest.raises(AssertionError):
        assert looked_first(QueueCell(backend, [Zone(1000)], passes_max=4)) == 4


def looked_at_the_pass_first(cell: QueueCell) -> int:
    """Two gateways look whether a pass is out, and reserve with it, each after the other has looked; how many
    bookings it became."""
    [person] = cell.people(1)
    cell.admit()
    queue_pass = cell.passed(person)
    is_out = [cell.client.zscore(cell.keys.passes, person.user) == float(queue_pass) for _ in range(2)]
    asked = [
        cell.reserve(person.user, [(cell.zones[0], 1)], queue_pass=queue_pass)[1] for seen in is_out if seen
    ]
    return sum(answer.status == Status.OK for answer in asked)


def test_one_pass_is_one_booking_whoever_has_looked_before(real_backend: Backend) -> None:
    assert looked_at_the_pass_first(QueueCell(real_backend)) == 1


def without_passes(cell: QueueCell) -> tuple[int, int]:
    """People who wait push past those who are let in; how many booked, and how many were ever let in."""
    people = cell.people(40)
    for person in people:
        cell.admit(1)
        cell.claim(person)
        for pushing in (person, people[-1]):
            cell.reserve(pushing.user, [(cell.zones[0], 1)], queue_pass=str(cell.now_ms + PASS_TTL_MS))
    return len(cell.units()), int(cell.queue()["claimed"])


def test_nobody_books_who_was_not_let_in(real_backend: Backend) -> None:
    booked, claimed = without_passes(
        QueueCell(real_backend, [Zone(100)], passes_max=3, interval_us=1_000_000)
    )
    assert booked <= claimed


@pytest.mark.parametrize(
    "fault",
    [
        Mutation(
            "a pass is only looked at by the gateway",
            "reserve.lua",
            "local refused = is_pass_needed and passes.check(sale, request)",
            "local refused = nil",
        ),
        Mutation("a pass stays", "lib/passes.lua", "    redis.call('ZREM', keys.passes, unpack(gone))", ""),
    ],
    ids=lambda fault: fault.name,
)
def test_without_the_check_in_reserve_one_pass_is_two_bookings(
    fault: Mutation, real_backend: Backend, tmp_path: Path
) -> None:
    """The negative control of both: the check, or the spending, taken out of the atomic step."""
    backend = Backend(real_backend.client, Scripts(planted(fault, tmp_path)))
    assert looked_at_the_pass_first(QueueCell(backend)) == 2
    if "reserve" in fault.file:
        cell = QueueCell(backend, [Zone(100)], passes_max=3, interval_us=1_000_000)
        booked, claimed = without_passes(cell)
        assert booked > claimed
