"""The waiting room, verb by verb: who gets which number, who is let in, and what a pass is good for."""

from collections.abc import Callable

from engine.status import Status
from tests.lua.cellkit import START_MS, Zone
from tests.lua.queuekit import GRACE_MS, PASS_TTL_MS, Person, QueueCell

NewQueue = Callable[..., QueueCell]


def test_everybody_gets_a_number_once(new_queue: NewQueue) -> None:
    cell = new_queue()
    alice, bob = cell.new_user(), cell.new_user()
    first = cell.join(alice, bob, alice)
    assert [answer.status for answer in first] == [Status.OK, Status.OK, Status.REPLAYED]
    assert [answer.detail for answer in first] == [(1,), (2,), (1,)]
    assert cell.ledger()[1:] == [("1-1", ["join", START_MS, 1, [alice, bob]])]
    [again] = cell.join(bob)
    assert (again.status, again.detail, again.at) == (Status.REPLAYED, (2,), "1-1")
    [late] = cell.join(cell.new_user())
    assert late.detail == (3,)
    assert cell.dump()["places"] == {alice: "1", bob: "2"} | {
        user: "3" for user in cell.dump()["places"] if user not in (alice, bob)
    }
    assert cell.queue()["tail"] == "3"


def test_who_leaves_stands_at_the_end_when_they_join_again(new_queue: NewQueue) -> None:
    cell = new_queue()
    first, second = cell.people(2)
    assert cell.leave(first).status == Status.OK
    assert cell.ledger()[-1][1] == ["leave", START_MS, first.user, 1, 1]
    assert cell.leave(first).status == Status.PLACE_UNKNOWN
    [again] = cell.join(first.user)
    assert again.detail == (3,)
    assert cell.leave(first).status == Status.PLACE_UNKNOWN, "an old ticket"
    assert cell.admit(1) == (2, 1, 1, 3), "who left is passed over"
    assert cell.claim(second).status == Status.OK


def test_who_is_let_in_claims_a_pass_and_books_with_it(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(10)])
    alice, bob = cell.people(2)
    assert cell.claim(alice).status == Status.NOT_SERVED
    assert cell.admit(1) == (1, 1, 1, 2)
    assert cell.claim(bob).status == Status.NOT_SERVED
    claimed = cell.claim(alice)
    assert (claimed.status, claimed.detail) == (Status.OK, (START_MS + PASS_TTL_MS,))
    assert cell.claim(alice)[::2] == (Status.REPLAYED, (START_MS + PASS_TTL_MS,))
    basket = [(cell.zones[0], 2)]
    assert cell.reserve(alice.user, basket)[1].status == Status.PASS_REQUIRED
    assert cell.reserve(alice.user, basket, queue_pass="-")[1].status == Status.PASS_INVALID
    queue_pass = str(claimed.detail[0])
    assert cell.reserve(bob.user, basket, queue_pass=queue_pass)[1].status == Status.PASS_INVALID
    booking, answer = cell.reserve(alice.user, basket, queue_pass=queue_pass)
    assert answer.status == Status.OK
    assert cell.ledger()[-1][1][-1] == 1, "the entry says that a pass was spent"
    assert cell.reserve(alice.user, basket, queue_pass=queue_pass)[1].status == Status.PASS_INVALID
    assert cell.claim(alice).status == Status.PASS_SPENT
    assert cell.dump()["spent"] == {alice.user: booking}
    totals = {name: cell.queue()[name] for name in ("admitted", "claimed", "spent", "units", "unclaimed")}
    assert totals == {"admitted": "1", "claimed": "1", "spent": "1", "units": "2", "unclaimed": "0"}
    cell.assert_adds_up()


def test_a_lottery_freezes_and_is_drawn(new_queue: NewQueue) -> None:
    cell = new_queue(mode="lottery", opens_at_ms=START_MS + 1)
    people = cell.people(9)
    assert cell.leave(people[0]).status == Status.OK
    assert cell.draw("ab" * 32, 1, b"\x80").status == Status.EPOCH_STALE, "not frozen"
    cell.forward(1)
    [behind] = cell.join(cell.new_user())
    assert behind.detail == (10,)
    assert cell.ledger()[-2][1] == ["freeze", START_MS + 1, 9]
    assert cell.admit().people == 0, "not drawn"
    assert cell.draw("ab" * 32, 0, b"").status == Status.EPOCH_STALE, "somebody has left"
    # Number 1, who left, drew place 9.
    assert cell.draw("ab" * 32, 1, b"\x00\x80").status == Status.OK
    assert cell.draw("ab" * 32, 1, b"\x00\x80").status == Status.REPLAYED
    assert cell.ledger()[-1][1] == ["draw", START_MS + 1]
    assert cell.claim(people[1]).status == Status.EPOCH_STALE, "who asks must know the place"
    assert cell.admit(9) == (10, 9, 9, 10)
    assert cell.claim(people[1], place=4).status == Status.OK


def test_what_runs_out_makes_room(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)], passes_max=2)
    people = cell.people(6)
    assert cell.admit() == (2, 2, 2, 6)
    cell.passed(people[0])
    assert cell.admit().people == 0
    cell.forward(GRACE_MS)
    assert cell.admit() == (3, 1, 2, 6), "nobody claimed the second slot"
    assert cell.claim(people[1]).status == Status.NO_ROOM, "late"
    cell.forward(PASS_TTL_MS - GRACE_MS)
    admitted = cell.admit(0)
    assert admitted.out == 0
    assert ["lapse", cell.now_ms, [[people[0].user, 1]]] in [entry for _, entry in cell.ledger()]
    assert cell.claim(people[0]).status == Status.PLACE_UNKNOWN
    assert cell.claim(people[1]).status == Status.OK, "late, and there is room"


def test_a_rebuilt_waiting_room_goes_on(new_queue: NewQueue) -> None:
    cell = new_queue([Zone(100)])
    sale = cell.hash("sale")
    zones = {cell.zones[0]: cell.hash(f"zone:{cell.zones[0]}")}
    cell.client.delete(cell.keys.sale, cell.keys.queue)
    assert cell.build_begin("2-t").status == Status.OK
    people = [Person(cell.new_user(), number) for number in (1, 2, 3)]
    assert cell.build_places("2-t", people).status == Status.OK
    in_ms = START_MS + 100
    fields = {"tail": 10_003, "serving": 2, "gaps": "4-10003", "gone": 10_000, "unclaimed": 1, "w:2": 1}
    gone = b"\x1f" + b"\xff" * 1249 + b"\xe0"
    assert (
        cell.build_queue(
            "2-t", fields, passes=[(people[0].user, in_ms)], waves=[(1, 2, 2, START_MS)], gone=gone
        ).status
        == Status.OK
    )
    assert cell.build_open("2-t", sale | {"epoch": 2}, zones).status == Status.OK
    cell.set_time(START_MS)
    assert cell.claim(people[0])[::2] == (Status.REPLAYED, (in_ms,))
    returning = cell.new_user()
    assert [answer.detail for answer in cell.join(returning, asserted=7)] == [(7,)]
    assert [answer.detail for answer in cell.join(cell.new_user(), asserted=7)] == [(10_004,)]
    assert cell.admit() == (10_004, 3, 5, 10_004)
    assert cell.claim(people[1]).status == Status.OK
