"""Several requests in one call of reserve: each is answered as if it had come alone."""

from collections.abc import Callable

import pytest
import redis

from engine.scripts import Scripts
from engine.status import Status
from tests.lua.cellkit import HOLD_TTL_MS, Answer, Backend, Basket, Cell, Wish, Zone

NewCell = Callable[..., Cell]


def wishes(cell: Cell, *quantities: int, user: str = "") -> list[Wish]:
    """One request for each quantity of the first zone, each by somebody else unless `user` is named."""
    return [Wish(user or cell.new_user(), [(cell.zones[0], n)], cell.new_id()) for n in quantities]


def statuses(answers: list[Answer | Exception]) -> list[Status]:
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return [answer.status for answer in answers if isinstance(answer, Answer)]


def test_the_last_seats_go_to_the_first_of_a_call(new_cell: NewCell) -> None:
    cell = new_cell([Zone(5)])
    answers = cell.reserve_all(wishes(cell, 2, 2, 2, 1, 1))
    assert statuses(answers) == [Status.OK] * 2 + [
        Status.INSUFFICIENT_STOCK,
        Status.OK,
        Status.INSUFFICIENT_STOCK,
    ]
    assert [answer.at for answer in answers if isinstance(answer, Answer)] == [
        "1-1",
        "1-2",
        "1-2",
        "1-3",
        "1-3",
    ]
    assert cell.counters() == (5, 0, 5, 0, 0)
    assert [entry_id for entry_id, _ in cell.ledger()] == ["1-0", "1-1", "1-2", "1-3"]
    cell.assert_adds_up()


def test_one_buyer_many_times_in_a_call_is_held_to_the_limit(new_cell: NewCell) -> None:
    cell = new_cell([Zone(20)], max_per_user=4)
    user = cell.new_user()
    assert statuses(cell.reserve_all(wishes(cell, 2, 2, 1, user=user))) == [
        Status.OK,
        Status.OK,
        Status.OVER_USER_LIMIT,
    ]
    assert cell.units() == {user: 4}
    assert len(cell.holds(user)) == 2


def test_the_rate_limit_counts_every_request_of_a_call(new_cell: NewCell) -> None:
    cell = new_cell([Zone(20)])
    asked = wishes(cell, 1, 1, 1, user=cell.new_user())
    assert statuses(cell.reserve_all(asked, rate=(1_000, 2))) == [Status.OK, Status.OK, Status.RATE_LIMITED]


def test_one_key_twice_in_a_call_is_one_booking(new_cell: NewCell) -> None:
    cell = new_cell([Zone(20)])
    wish = Wish(cell.new_user(), [(cell.zones[0], 1)], cell.new_id(), "f")
    first, again = cell.reserve_all([wish, wish])
    assert isinstance(again, Answer)
    assert statuses([first, again]) == [Status.OK, Status.REPLAYED]
    assert again.detail[4:10] == tuple(
        str(part).encode() if isinstance(part, int) else part for part in first.detail
    )  # type: ignore[union-attr]
    assert cell.counters() == (20, 19, 1, 0, 0)


@pytest.mark.parametrize(
    ("quantity", "show", "status"),
    [(3, "", Status.OVER_ORDER_LIMIT), (1, "another", Status.SHOW_MISMATCH), (2, "", Status.OK)],
)
def test_the_same_items_are_checked_for_everybody_who_asks_for_them(
    new_cell: NewCell, quantity: int, show: str, status: Status
) -> None:
    cell = new_cell([Zone(20, max_per_order=2)])
    asked = [Wish(cell.new_user(), [(cell.zones[0], quantity, show)], cell.new_id()) for _ in range(3)]
    assert statuses(cell.reserve_all(asked)) == [status] * 3


def test_what_looks_alike_is_not_the_same(new_cell: NewCell) -> None:
    """The items of a call are made once for all who ask for the same: zone, show and quantity."""
    cell = new_cell([Zone(20, 100), Zone(20, 7)])
    first, second = cell.zones
    show = cell.shows[0]
    baskets: list[list[Basket]] = [
        [(first, 1)],
        [(first, 2)],
        [(second, 1)],
        [(first, 1, show)],
        [(first, 1), (second, 1)],
        [(second, 1), (first, 1)],
    ]
    answers = cell.reserve_all([Wish(cell.new_user(), basket, cell.new_id()) for basket in baskets])
    assert [int(answer.detail[2]) for answer in answers if isinstance(answer, Answer)] == [
        100,
        200,
        7,
        100,
        107,
        107,
    ]
    assert [[item[:2] for item in entry[-1]] for _, entry in cell.ledger()[1:]] == [
        [list(item[:2]) for item in basket] for basket in baskets
    ]
    cell.assert_adds_up()


def test_a_hold_that_one_request_takes_back_is_not_taken_back_again(new_cell: NewCell) -> None:
    cell = new_cell([Zone(4)])
    held = [cell.hold(cell.new_user()) for _ in range(4)]
    cell.forward(HOLD_TTL_MS)
    assert statuses(cell.reserve_all(wishes(cell, 1, 2, 1, 1))) == [Status.OK] * 3 + [
        Status.INSUFFICIENT_STOCK
    ]
    assert {cell.booking(booking)["status"] for booking in held} == {"expired"}
    assert cell.counters() == (4, 0, 4, 0, 0)
    assert len(cell.dump()["deadlines"]) == 3
    cell.assert_adds_up()


def test_what_is_common_is_written_once(new_cell: NewCell) -> None:
    """The point of it: four requests cost the cell's own keys as many writes as one."""
    cell = new_cell([Zone(50)])

    def writes(count: int) -> dict[str, int]:
        cell.client.config_resetstat()
        cell.reserve_all(wishes(cell, *[1] * count))
        stats = cell.client.info("commandstats")
        names = ("hset", "mset", "zadd", "time", "hmget", "mget", "get", "hget", "xlen", "xadd")
        return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names}

    if not cell.backend.is_real:
        pytest.skip("fakeredis counts no commands")
    one, four = writes(1), writes(4)
    assert four.pop("xadd") == 4 * one.pop("xadd") == 4
    assert four == one


def test_a_request_that_fails_takes_nothing_with_it_that_was_done_before(real_backend: Backend) -> None:
    cell = Cell(real_backend, [Zone(10)])
    first, broken, behind = wishes(cell, 1, 1, 1)
    # A buyer's value that no script of ours wrote.
    cell.client.hset(cell.keys.buyers, broken.user, "nonsense")
    answers = cell.reserve_all([first, broken, behind])
    assert statuses(answers[:1]) == [Status.OK]
    assert isinstance(answers[1], redis.ResponseError)
    assert "lua/lib/buyers.lua" in real_backend.scripts["reserve"].locate(str(answers[1]))
    assert len(answers) == 2, "what stood behind it was not looked at"
    cell.client.hdel(cell.keys.buyers, broken.user)
    assert cell.counters() == (10, 9, 1, 0, 0)
    assert [entry[2] for _, entry in cell.ledger()[1:]] == [first.booking]
    cell.assert_adds_up()
    assert statuses(cell.reserve_all([broken, behind])) == [Status.OK] * 2
    assert cell.ledger()[-1][0] == "1-3", "the ledger goes on without a gap"


def test_a_zone_that_cannot_be_read_stops_a_call_before_anything_is_done(real_backend: Backend) -> None:
    cell = Cell(real_backend, [Zone(10), Zone(10)])
    whole, key = cell.dump(), cell.keys.zone(cell.zones[1])
    fine, broken = wishes(cell, 1), Wish(cell.new_user(), [(cell.zones[1], 1)], cell.new_id())
    zone = cell.client.dump(key)
    cell.client.set(key, "no hash")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cell.reserve_all([*fine, broken])
    cell.client.restore(key, 0, zone, replace=True)
    assert cell.dump() == whole


def test_without_that_isolation_what_was_done_would_be_lost(
    real_backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The negative control of the test above."""
    from tests.lua.mutations import Mutation, planted

    fault = Mutation(
        "a failure ends the call",
        "reserve.lua",
        "local is_well, reply = pcall(answer, asked[i])",
        "local is_well, reply = true, answer(asked[i])",
    )
    backend = Backend(real_backend.client, Scripts(planted(fault, tmp_path_factory.mktemp("planted"))))
    cell = Cell(backend, [Zone(10)])
    first, broken = wishes(cell, 1, 1)
    cell.client.hset(cell.keys.buyers, broken.user, "nonsense")
    with pytest.raises(redis.ResponseError):
        cell.reserve_all([first, broken])
    assert cell.counters() == (10, 10, 0, 0, 0), "an entry in the ledger, and the seat still free"
    assert len(cell.ledger()) == 2
