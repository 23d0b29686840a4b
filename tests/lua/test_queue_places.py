"""Places: the freeze, the draw, numbers that come back after a rebuild, and what verbs say that may not."""

import random
from collections.abc import Callable

import pytest

from engine.status import Status
from tests.lua.cellkit import START_MS, Backend, Cell, Zone
from tests.lua.queuekit import PASS_TTL_MS, Person, QueueCell

NewQueue = Callable[..., QueueCell]
KEY = "5e" * 32


def bits(places: set[int]) -> bytes:
    """The bitmap in which these are gone."""
    if not places:
        return b""
    value = bytearray((max(places) + 7) // 8)
    for place in places:
        value[(place - 1) // 8] |= 0x80 >> (place - 1) % 8
    return bytes(value)


def lottery(new_queue: NewQueue, opens_in_ms: int = 1, **options: object) -> QueueCell:
    return new_queue([Zone(1000)], mode="lottery", opens_at_ms=START_MS + opens_in_ms, **options)


# --- who may join, and when


@pytest.mark.parametrize(
    ("room", "sale", "status"),
    [
        ({}, {}, Status.OK),
        ({"opens_at_ms": START_MS}, {}, Status.OK),
        ({"opens_at_ms": START_MS + 1}, {}, Status.SALE_NOT_OPEN),
        ({"mode": "lottery", "opens_at_ms": START_MS + 1}, {}, Status.OK),
        ({}, {"status": "paused"}, Status.OK),
        ({}, {"status": "cancelled"}, Status.SALE_NOT_OPEN),
        ({}, {"sale_start_at_ms": START_MS + 1}, Status.OK),
        ({}, {"sale_end_at_ms": START_MS}, Status.SALE_NOT_OPEN),
        ({}, {"sale_end_at_ms": START_MS + 1}, Status.OK),
        ({"paused": 1}, {}, Status.OK),
        ({}, {"ledger_max": 1}, Status.LEDGER_FULL),
        ({}, {"ledger_max": 2}, Status.OK),
    ],
)
def test_who_may_join(
    new_queue: NewQueue, room: dict[str, object], sale: dict[str, object], status: Status
) -> None:
    cell = new_queue(sale=sale, **room)
    [answer] = cell.join(cell.new_user())
    assert answer.status == status
    if status == Status.SALE_NOT_OPEN:
        fields = cell.hash("sale")
        opens_at_ms = room.get("opens_at_ms", sale.get("sale_start_at_ms", 0))
        assert answer.detail == (
            fields["status"].encode(),
            opens_at_ms,
            int(fields["sale_end_at_ms"]),
            START_MS,
        )


def test_who_has_a_number_is_told_it_whatever_has_become_of_the_sale(new_queue: NewQueue) -> None:
    cell = new_queue()
    [person] = cell.people(1)
    cell.client.hset(cell.keys.sale, mapping={"status": "cancelled", "ledger_max": 0})
    assert cell.join(person.user)[0][::2] == (Status.REPLAYED, (1,))


def test_a_cell_that_is_not_open_concludes_nothing(new_queue: NewQueue) -> None:
    cell = new_queue()
    [person] = cell.people(1)
    cell.fence()
    before = cell.dump()
    assert [answer.status for answer in cell.join(person.user, cell.new_user())] == [Status.NOT_OPEN] * 2
    answers = [cell.leave(person), cell.claim(person), cell.draw(KEY, 0, b"")]
    assert [answer.status for answer in answers] == [Status.NOT_OPEN] * 3
    with pytest.raises(AssertionError, match="NOT_OPEN"):
        cell.admit()
    assert cell.dump() == before


def test_without_the_queue_itself_its_verbs_wait_and_reserve_does_not(new_queue: NewQueue) -> None:
    cell = new_queue()
    [person] = cell.people(1)
    cell.admit()
    queue_pass = cell.passed(person)
    cell.client.delete(cell.keys.queue)
    answers = [*cell.join(cell.new_user()), cell.leave(person), cell.claim(person), cell.draw(KEY, 0, b"")]
    assert [answer.status for answer in answers] == [Status.REBUILDING] * 4
    cell.hold(person.user, queue_pass=queue_pass)
    assert "queue" not in cell.dump(), "its totals come with it"
    assert cell.dump()["spent"].keys() == {person.user}


def test_a_sale_without_a_waiting_room_has_no_queue(backend: Backend) -> None:
    cell = QueueCell(backend)
    cell.client.hdel(cell.keys.sale, "queue_mode")
    person = Person(cell.new_user(), 1)
    answers = [*cell.join(person.user), cell.leave(person), cell.claim(person), cell.draw(KEY, 0, b"")]
    assert [answer.status for answer in answers] == [Status.QUEUE_NONE] * 4
    assert cell.reserve(person.user, [(cell.zones[0], 1)])[1].status == Status.OK


def test_a_full_ledger_takes_as_many_joins_as_it_has_room_for(new_queue: NewQueue) -> None:
    cell = lottery(new_queue, sale={"ledger_max": 2})
    cell.forward(1)
    assert cell.join(cell.new_user())[0].status == Status.LEDGER_FULL, "the freeze needs an entry as well"
    assert [entry[0] for _, entry in cell.ledger()] == ["open", "freeze"]
    cell.client.hset(cell.keys.sale, "ledger_max", 3)
    answers = cell.join(cell.new_user(), cell.new_user())
    assert [answer.status for answer in answers] == [Status.OK] * 2


# --- the freeze


@pytest.mark.parametrize("verb", ["join", "leave", "admit"])
def test_who_joins_at_the_opening_or_later_is_behind_to_the_millisecond(
    new_queue: NewQueue, verb: str
) -> None:
    cell = lottery(new_queue, 1_000)
    people = cell.people(3)
    cell.forward(999)
    cell.people(1)
    assert "entrants" not in cell.queue()
    cell.forward(1)
    match verb:
        case "join":
            cell.people(2)
        case "leave":
            cell.leave(people[0])
        case "admit":
            cell.admit()
    assert cell.queue()["entrants"] == "4"
    cell.people(1)
    cell.admit()
    freezes = [entry for _, entry in cell.ledger() if entry[0] == "freeze"]
    assert freezes == [["freeze", START_MS + 1_000, 4]], "once"


def test_in_an_open_queue_nothing_is_frozen_or_drawn(new_queue: NewQueue) -> None:
    cell = new_queue()
    cell.people(2)
    cell.admit()
    assert "entrants" not in cell.queue()
    assert cell.draw(KEY, 0, b"").status == Status.QUEUE_NONE


# --- the draw


def test_whoever_leaves_before_during_and_after_the_draw_is_not_let_in(new_queue: NewQueue) -> None:
    """Against a model: a permutation, people who leave at any time, and those who are let in at the end."""
    choose = random.Random(5)
    for _ in range(12):
        cell = lottery(new_queue)
        entrants = cell.people(choose.randint(1, 40))
        left = {p for p in entrants if choose.random() < 0.3}
        for person in left:
            assert cell.leave(person).status == Status.OK
        cell.forward(1)
        behind = cell.people(choose.randint(0, 20))
        places = list(range(1, len(entrants) + 1))
        choose.shuffle(places)
        place_of = {p: places[p.number - 1] for p in entrants} | {p: p.number for p in behind}
        read = int(cell.queue().get("gone", 0))
        if late := [p for p in [*entrants, *behind] if p not in left and choose.random() < 0.2]:
            for person in late:
                assert cell.leave(person).status == Status.OK
            stale = bits({place_of[p] for p in left})
            assert cell.draw(KEY, read, stale).status == Status.EPOCH_STALE
        left |= set(late)
        bitmap = bits({place_of[p] for p in left})
        assert cell.draw(KEY, len(left), bitmap).status == Status.OK
        assert cell.queue()["key"] == KEY
        after = {p for p in [*entrants, *behind] if p not in left and choose.random() < 0.2}
        for person in after:
            assert cell.leave(person, place_of[person]).status == Status.OK
        left |= after
        living = sorted(place_of[p] for p in [*entrants, *behind] if p not in left)
        half = len(living) // 2
        admitted = cell.admit(half)
        assert admitted.people == half
        assert admitted.serving == (living[half - 1] if half else 0)
        for person, place in place_of.items():
            expected = Status.OK if place <= admitted.serving else Status.NOT_SERVED
            expected = Status.PLACE_UNKNOWN if person in left else expected
            assert cell.claim(person, place).status == expected


def test_a_draw_that_counts_right_and_means_others_is_refused(new_queue: NewQueue) -> None:
    cell = lottery(new_queue)
    people = cell.people(16)
    cell.leave(people[0])
    cell.forward(1)
    [behind] = cell.people(1)
    # Read with one gone; then one leaves behind the entrants, and the caller counts that one among them.
    cell.leave(behind)
    assert cell.draw(KEY, 2, bits({3, 9})).status == Status.EPOCH_STALE
    assert cell.draw(KEY, 2, bits({3})).status == Status.OK, "what is behind them stands in Redis"
    assert cell.client.get(cell.keys.gone) == bits({3, 17})
    assert cell.admit(1000).people == 15


def test_a_draw_of_nobody(new_queue: NewQueue) -> None:
    cell = lottery(new_queue)
    cell.forward(1)
    cell.admit()
    assert cell.queue()["entrants"] == "0"
    assert cell.draw(KEY, 0, b"").status == Status.OK
    [person] = cell.people(1)
    assert cell.admit().people == 1
    assert cell.claim(person).status == Status.OK, "behind the entrants a place is the number"


def test_whoever_is_drawn_needs_their_place_told(new_queue: NewQueue) -> None:
    cell = lottery(new_queue)
    [person] = cell.people(1)
    assert cell.claim(person, 1).status == Status.NOT_SERVED, "before the draw nobody has one"
    cell.forward(1)
    cell.admit()
    cell.draw(KEY, 0, b"")
    cell.admit()
    assert cell.claim(person).status == cell.leave(person).status == Status.EPOCH_STALE
    assert cell.claim(person, 1).status == Status.OK
    assert cell.leave(person, 1).status == Status.OK
    assert cell.ledger()[-1][1][3:] == [1, 1]


# --- a rebuilt queue


def rebuilt(cell: QueueCell, tail: int, gap: int, serving: int = 0, **more: object) -> None:
    """Redis has lost its end: behind `tail` lies a gap of so many numbers that are gone."""
    sale, zones = cell.hash("sale"), {zone: cell.hash(f"zone:{zone}") for zone in cell.zones}
    now_ms = cell.now_ms
    cell.client.delete(cell.keys.sale)
    epoch = int(sale["epoch"]) + 1
    token = f"{epoch}-t"
    assert cell.build_begin(token).status == Status.OK
    assert cell.build_wipe(token, [cell.keys.queue, cell.keys.gone]).status == Status.OK
    fields = {"tail": tail + gap, "serving": serving, "gone": gap, "gaps": f"{tail + 1}-{tail + gap}"}
    gone = bits(set(range(tail + 1, tail + gap + 1)))
    assert cell.build_queue(token, fields | more, gone=gone).status == Status.OK
    assert cell.build_open(token, sale | {"epoch": epoch}, zones).status == Status.OK
    cell.set_time(now_ms)


def test_a_signed_number_comes_back_out_of_a_gap_and_from_nowhere_else(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(1000)])
    [first, second] = cell.people(2)
    rebuilt(cell, tail=2, gap=10)
    lost = cell.new_user()
    [back] = cell.join(lost, asserted=5)
    assert (back.status, back.detail) == (Status.OK, (5,))
    assert cell.ledger()[-1][1] == ["join", START_MS, 5, [lost]]
    assert cell.queue()["gone"] == "9"
    assert cell.join(lost, asserted=6)[0][::2] == (Status.REPLAYED, (5,)), "one person, one number"
    assert cell.join(cell.new_user(), asserted=5)[0].detail == (13,), "it is somebody's"
    for outside in (1, 2, 13, 14, 99):
        [answer] = cell.join(cell.new_user(), asserted=outside)
        assert answer.detail[0] > 13, outside
    assert cell.join(first.user, asserted=7)[0][::2] == (Status.REPLAYED, (1,))
    assert cell.join(second.user)[0].detail == (2,)
    edges = [cell.join(cell.new_user(), asserted=number)[0].detail[0] for number in (3, 12)]
    assert edges == [3, 12]
    order = [1, 2, 3, 5, 12, 13]
    for place in order:
        assert cell.admit(1)[:2] == (place, 1)


@pytest.mark.parametrize(("people", "gap"), [(2, 1), (2, 30), (7, 1), (8, 9), (8, 200), (13, 3)])
def test_a_cell_that_is_opened_again_in_order_leaves_a_gap_too(
    new_queue: NewQueue, people: int, gap: int
) -> None:
    cell = new_queue([Zone(1000)])
    cell.people(people)
    tail = people + gap
    assert cell.open(1, 1, 2, "", tail, f"{people + 1}-{tail}").status == Status.OK
    queue = cell.queue()
    assert (queue["tail"], queue["gone"], queue["gaps"]) == (str(tail), str(gap), f"{people + 1}-{tail}")
    assert cell.client.bitcount(cell.keys.gone) == gap
    [behind] = cell.people(1)
    assert behind.number == tail + 1
    assert cell.join(cell.new_user(), asserted=tail)[0].detail == (tail,)
    assert cell.admit() == (tail + 1, people + 2, people + 2, tail + 1)
    assert cell.open(2, int(cell.hash("sale")["seq"]), 3, "", 0, "").status == Status.OK
    assert cell.queue()["tail"] == str(tail + 1), "nothing moves back"


def test_two_in_one_call_do_not_get_one_number(new_queue: NewQueue) -> None:
    cell = new_queue()
    rebuilt(cell, tail=0, gap=4)
    answers = cell.join(cell.new_user(), cell.new_user(), asserted=3)
    assert [answer.detail for answer in answers] == [(3,), (5,)]


@pytest.mark.parametrize("end", ["left", "lapsed"])
def test_a_number_of_a_gap_that_has_ended_does_not_come_back_again(new_queue: NewQueue, end: str) -> None:
    cell = new_queue([Zone(100)])
    rebuilt(cell, tail=0, gap=4)
    person = Person(cell.new_user(), 3)
    cell.join(person.user, asserted=3)
    if end == "left":
        cell.leave(person)
    else:
        cell.admit()
        cell.passed(person)
        cell.forward(PASS_TTL_MS)
        cell.admit()
    assert cell.join(person.user, asserted=3)[0].detail == (5,)


def test_who_was_passed_while_away_is_late_and_takes_nobodys_slot(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], passes_max=1)
    rebuilt(cell, tail=0, gap=4)
    [behind] = cell.people(1)
    assert cell.admit() == (5, 1, 1, 5)
    lost = Person(cell.new_user(), 3)
    assert cell.join(lost.user, asserted=3)[0].detail == (3,)
    assert cell.claim(lost).status == Status.NO_ROOM
    assert cell.claim(behind).status == Status.OK, "the slot is still theirs"
    assert cell.leave(behind).status == Status.OK
    assert cell.claim(lost).status == Status.OK


def test_what_is_frozen_takes_nobody_in_out_of_a_gap(new_queue: NewQueue) -> None:
    cell = lottery(new_queue)
    rebuilt(cell, tail=0, gap=4)
    assert cell.join(cell.new_user(), asserted=2)[0].detail == (2,), "not frozen yet"
    cell.forward(1)
    assert cell.join(cell.new_user(), asserted=3)[0].detail == (5,), "frozen in the same call"
    rebuilt(cell, tail=5, gap=4, entrants=4)
    assert cell.join(cell.new_user(), asserted=7)[0].detail == (7,), "behind the entrants a number comes back"
    assert cell.join(cell.new_user(), asserted=4)[0].detail == (10,)


def test_a_newer_rebuild_makes_what_an_older_one_sends_void(backend: Backend) -> None:
    cell = QueueCell(backend)
    cell.client.delete(cell.keys.sale)
    assert cell.build_begin("3-new").status == Status.OK
    before = cell.dump()
    assert cell.build_places("2-old", [Person(cell.new_user(), 1)]).status == Status.BUILD_VOID
    assert cell.build_queue("2-old", {"tail": 9}).status == Status.BUILD_VOID
    assert cell.dump() == before


def test_a_queue_is_rebuilt_as_it_was(backend: Backend) -> None:
    cell = QueueCell(backend, [Zone(1000)], passes_max=50)
    people = cell.people(1_500)
    cell.leave(people[8])
    cell.admit(20)
    passes = [(person.user, int(cell.passed(person))) for person in people[:5]]
    booking = cell.hold(people[5].user, queue_pass=cell.passed(people[5]))
    before = cell.dump()
    other = QueueCell(backend, [Zone(1000)], passes_max=50)
    other.client.delete(other.keys.sale)
    assert other.build_begin("2-t").status == Status.OK
    living = [person for person in people if person != people[8]]
    for first in range(0, len(living), 700):
        assert other.build_places("2-t", living[first : first + 700]).status == Status.OK
    # In parts, as somebody might send them who has many.
    assert other.build_queue("2-t", {}, passes=passes[:2], gone=bits({9})).status == Status.OK
    assert (
        other.build_queue(
            "2-t",
            before["queue"],
            passes=passes[2:],
            spent=[(people[5].user, booking)],
            waves=[(1, 21, 20, START_MS)],
        ).status
        == Status.OK
    )
    after = other.dump()
    for name in ("queue", "places", "passes", "spent", "waves", "gone"):
        assert after[name] == before[name], name


# --- what is written together


WRITERS: dict[str, Callable[[QueueCell, list[Person]], object]] = {
    "join": lambda cell, people: cell.join(cell.new_user()),
    "leave": lambda cell, people: cell.leave(people[0]),
    "leave with a slot": lambda cell, people: cell.leave(people[1]),
    "claim": lambda cell, people: cell.claim(people[1]),
    "admit": lambda cell, people: cell.admit(),
    "reserve": lambda cell, people: cell.hold(people[0].user, queue_pass=str(START_MS + PASS_TTL_MS)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_where_the_ledger_is_ahead_nothing_is_written(new_queue: NewQueue, writer: str) -> None:
    cell = new_queue([Zone(100)])
    people = cell.people(5)
    cell.admit(2)
    cell.passed(people[0])
    cell.client.xadd(cell.keys.ledger, {"e": '["open",0]'}, id="9-9")
    before = cell.dump()
    with pytest.raises(Exception, match=r"(?i)equal or smaller"):
        WRITERS[writer](cell, people)
    assert cell.dump() == before


def test_the_ledger_tells_all_that_happened(new_queue: NewQueue) -> None:
    """Who reads it knows the queue: numbers, places that ended, serving, passes."""
    cell = new_queue([Zone(100)], passes_max=5)
    people = cell.people(20)
    for turn, person in enumerate(people):
        cell.admit(2)
        cell.claim(person)
        if turn % 4 == 3:
            cell.leave(person)
        cell.forward(3_000)
    cell.forward(PASS_TTL_MS)
    cell.admit()
    places: dict[str, int] = {}
    serving = tail = admitted = 0
    for _, entry in cell.ledger():
        match entry:
            case ["join", _, first, users]:
                places |= {user: first + i for i, user in enumerate(users)}
                tail = max(tail, first + len(users) - 1)
            case ["leave", _, user, number, _]:
                assert places.pop(user) == number
            case ["lapse", _, lapsed]:
                for user, number in lapsed:
                    assert places.pop(user) == number
            case ["admit", _, first, to, people_in]:
                assert first == serving + 1
                serving, admitted = to, admitted + people_in
    assert cell.dump().get("places", {}) == {user: str(number) for user, number in places.items()}
    queue = cell.queue()
    assert (int(queue["serving"]), int(queue["tail"]), int(queue["admitted"])) == (serving, tail, admitted)


def test_an_edit_changes_the_waiting_room(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)])
    cell.people(50)
    changes = {"queue_passes_max": 3, "queue_interval_us": 1_000_000, "queue_paused": 1}
    assert cell.edit(1, {"sale": changes}).status == Status.OK
    assert cell.admit().people == 0
    assert cell.edit(2, {"sale": {"queue_paused": 0}}).status == Status.OK
    assert cell.admit().people == 1
    assert cell.edit(3, {"sale": {"queue_interval_us": 10, "queue_pass_ttl_ms": 5_000}}).status == Status.OK
    assert cell.admit().people == 0
    cell.forward(1)
    assert cell.admit().out == 3, "what the slow rate had put off is not waited for"
    assert Cell.hash(cell, "sale")["queue_grace_ms"] == "5000"
