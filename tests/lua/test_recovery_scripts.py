"""fence, open and the rebuild: how a cell is closed, opened in a new epoch, and written anew."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from engine.status import Status
from tests.lua.cellkit import HOLD_TTL_MS, START_MS, Answer, Cell, Dump, Zone, digest

NewCell = Callable[..., Cell]
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"


# --- fence and open


def test_a_fenced_cell_is_as_it_was_but_closed(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.hold(ALICE)
    before = cell.dump()
    assert cell.fence().status == Status.OK
    sale = {name: value for name, value in before["sale"].items() if name != "epoch"}
    assert cell.dump() == before | {"sale": sale | {"fenced_epoch": "1"}}
    assert cell.reserve(ALICE, [(cell.zones[0], 1)])[1] == (Status.NOT_OPEN, "0-0", ())
    assert cell.fence().status == Status.NOT_OPEN, "it is fenced already"
    assert cell.hash("sale")["fenced_epoch"] == "1"


def test_a_cell_that_is_not_there_is_not_fenced(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.client.delete(cell.keys.sale)
    assert cell.fence().status == Status.NOT_OPEN
    assert "sale" not in cell.dump()


@pytest.mark.parametrize("is_fenced", [True, False])
def test_open_begins_an_epoch_whose_ids_start_again(new_cell: NewCell, is_fenced: bool) -> None:
    cell = new_cell()
    booking = cell.hold(ALICE)
    cell.forward(1_000)
    if is_fenced:
        cell.fence()
    assert cell.open(1, 1, 2).status == Status.OK
    sale = cell.hash("sale")
    assert (sale["epoch"], sale["seq"], sale["time_ms"]) == ("2", "0", str(START_MS + 1_000))
    assert "fenced_epoch" not in sale
    assert cell.ledger()[-1] == ("2-0", ["open", START_MS + 1_000])
    assert cell.confirm(ALICE, booking).at == "2-1"
    assert cell.booking(booking)["seq"] == "2-1"


@pytest.mark.parametrize("is_fenced", [True, False])
@pytest.mark.parametrize(("epoch", "seq"), [(1, 0), (1, 2), (0, 1), (2, 1), (2, 0)])
def test_open_refuses_where_the_cell_is_not_where_it_is_believed_to_be(
    new_cell: NewCell, epoch: int, seq: int, is_fenced: bool
) -> None:
    cell = new_cell()
    cell.hold(ALICE)
    if is_fenced:
        cell.fence()
    before = cell.dump()
    assert cell.open(epoch, seq, 3).status == Status.EPOCH_STALE
    assert cell.dump() == before


def test_open_refuses_where_nothing_is_left(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.client.delete(cell.keys.sale)
    assert cell.open(1, 0, 2).status == Status.EPOCH_STALE
    assert "sale" not in cell.dump()


def test_only_who_fenced_a_cell_last_can_open_it(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.hold(ALICE)
    assert cell.fence("woke up late").status == Status.OK
    assert cell.fence("newer").status == Status.OK
    assert cell.fence().status == Status.NOT_OPEN, "without a token there is nothing to do"
    before = cell.dump()
    for token in ((), ("woke up late",), ("other",)):
        assert cell.open(1, 1, 2, *token).status == Status.EPOCH_STALE
    assert cell.dump() == before
    assert cell.open(1, 1, 2, "newer").status == Status.OK
    assert not {"fence", "fenced_epoch"} & set(cell.hash("sale"))
    assert cell.open(2, 0, 3, "newer").status == Status.EPOCH_STALE, "it has been opened already"


def test_an_open_cell_that_nobody_fenced_is_opened_without_a_token(new_cell: NewCell) -> None:
    cell = new_cell()
    assert cell.open(1, 0, 2, "token").status == Status.EPOCH_STALE
    assert cell.open(1, 0, 2).status == Status.OK


def test_a_token_fences_what_is_there_and_nothing_else(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.client.delete(cell.keys.sale)
    assert cell.fence("token").status == Status.NOT_OPEN
    assert "sale" not in cell.dump()


# --- the rebuild


def test_an_open_cell_is_not_rebuilt(new_cell: NewCell) -> None:
    cell = new_cell()
    cell.hold(ALICE)
    before = cell.dump()
    assert cell.build_begin("9-token").status == Status.BUILD_VOID
    assert cell.dump() == before
    cell.fence()
    assert cell.build_begin("2-token").status == Status.OK
    assert "sale" not in cell.dump()


@pytest.mark.parametrize(
    ("first", "second", "is_begun"),
    [
        ("2-b", "2-a", True),
        ("2-a", "3-a", True),
        ("9-a", "10-a", True),
        ("3-a", "2-b", False),
        ("10-a", "9-b", False),
    ],
)
def test_of_two_rebuilds_the_one_for_the_later_epoch_goes_on(
    new_cell: NewCell, first: str, second: str, is_begun: bool
) -> None:
    cell = new_cell()
    cell.fence()
    assert cell.build_begin(first).status == Status.OK
    before = cell.dump()
    assert cell.build_begin(second).status == (Status.OK if is_begun else Status.BUILD_VOID)
    assert cell.dump() == before | {"build": second if is_begun else first}


def build_step(cell: Cell, step: str, token: str) -> Answer:
    match step:
        case "build_wipe":
            return cell.build_wipe(token, [cell.keys.buyers, cell.keys.ledger])
        case "build_load":
            return cell.build_load(
                token, {cell.new_id(): {"user": ALICE, "status": "confirmed", "quantity": 1}}
            )
        case "build_open":
            return cell.build_open(token, {"epoch": 9}, {cell.zones[0]: {"capacity": 1}})
        case _:
            raise ValueError(step)


@pytest.mark.parametrize("step", ["build_wipe", "build_load", "build_open"])
@pytest.mark.parametrize("is_begun", [True, False], ids=["a newer one has begun", "none has begun"])
def test_a_newer_rebuild_makes_void_what_an_older_one_sends(
    new_cell: NewCell, step: str, is_begun: bool
) -> None:
    cell = new_cell()
    cell.hold(ALICE)
    if is_begun:
        cell.fence()
        cell.build_begin("2-older")
        cell.build_begin("2-newer")
    before = cell.dump()
    assert build_step(cell, step, "2-older").status == Status.BUILD_VOID
    assert cell.dump() == before


@pytest.mark.parametrize("step", ["build_wipe", "build_load", "build_open"])
def test_a_finished_rebuild_takes_nothing_more(new_cell: NewCell, step: str) -> None:
    cell = new_cell()
    rebuild(cell, cell.dump(), 2)
    before = cell.dump()
    assert build_step(cell, step, "2-rebuild").status == Status.BUILD_VOID
    assert cell.dump() == before


def test_the_cell_is_closed_from_the_begin_of_a_rebuild_to_its_end(new_cell: NewCell) -> None:
    cell = new_cell()
    booking = cell.hold(ALICE, fingerprint="f")
    dump = cell.dump()

    def assert_closed() -> None:
        attempt = cell.reserve(ALICE, [(cell.zones[0], 1)], booking=booking, fingerprint="f")[1]
        for answer in (attempt, cell.confirm(ALICE, booking), cell.expire(), cell.edit(1, {})):
            assert answer == (Status.NOT_OPEN, "0-0", ())

    cell.fence()
    assert_closed()
    cell.build_begin("2-rebuild")
    assert_closed()
    cell.build_wipe("2-rebuild", [name for name in cell.key_names() if name != cell.keys.build])
    assert list(cell.dump()) == ["build"]
    assert_closed()
    cell.build_load("2-rebuild", records_of(dump))
    assert_closed()
    sale, zones = sale_and_zones_of(dump, 2)
    cell.build_open("2-rebuild", sale, zones)
    assert cell.confirm(ALICE, booking).status == Status.OK


def records_of(dump: Dump) -> dict[str, dict[str, Any]]:
    """The records that recovery takes from Postgres: the living, and the keyed."""
    return {
        name.removeprefix("booking:"): value
        for name, value in dump.items()
        if name.startswith("booking:")
        and (value["status"] in ("reserved", "confirmed") or value["fingerprint"])
    }


def sale_and_zones_of(dump: Dump, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What recovery takes from the rows of the event and its zones."""
    sale = {name: value for name, value in dump["sale"].items() if name not in ("seq", "time_ms")}
    zones = {name.removeprefix("zone:"): value for name, value in dump.items() if name.startswith("zone:")}
    order = dump["sale"]["zones"].split()
    return sale | {"epoch": epoch}, {zone_id: zones[zone_id] for zone_id in order}


def rebuild(cell: Cell, dump: Dump, epoch: int) -> None:
    """All steps of a rebuild, the clock as the dump has it."""
    token = f"{epoch}-rebuild"
    cell.fence()
    assert cell.build_begin(token).status == Status.OK
    cell.build_wipe(token, [name for name in cell.key_names() if name != cell.keys.build])
    records = list(records_of(dump).items())
    for begin in range(0, len(records), 3):
        assert cell.build_load(token, dict(records[begin : begin + 3])).status == Status.OK
    sale, zones = sale_and_zones_of(dump, epoch)
    assert cell.build_open(token, sale, zones).status == Status.OK
    cell.set_time(int(dump["sale"]["time_ms"]))


def live_through(
    cell: Cell, chance: random.Random, steps: int, *, rejects: Sequence[str] = ("reject",)
) -> list[str]:
    """Some random days of a cell; the ids of all bookings."""
    verbs = ["reserve", "reserve", "reserve", "confirm", "cancel", "forward", "edit", *rejects]
    users = [cell.new_user() for _ in range(5)]
    owners: dict[str, str] = {}
    for step in range(steps):
        user = chance.choice(users)
        match chance.choice(verbs):
            case "reserve":
                zones = chance.sample(cell.zones, chance.randint(1, 3))
                items = [(zone, chance.randint(1, 3)) for zone in zones]
                keyed = digest(str(step)) if chance.random() < 0.5 else None
                booking, answer = cell.reserve(user, items, fingerprint=keyed)
                if answer.status == Status.OK:
                    owners[booking] = user
            case "forward":
                cell.forward(chance.randint(1, HOLD_TTL_MS))
                cell.expire(3)
            case "edit":
                wish = {"zone_id": chance.choice(cell.zones), "capacity": chance.randint(5, 30)}
                cell.edit(int(cell.hash("sale")["version"]) + 1, {"zones": [wish]})
            case verb if owners:
                booking = chance.choice(list(owners))
                if verb == "confirm":
                    cell.confirm(owners[booking], booking, paid=True)
                elif verb == "cancel":
                    cell.cancel(owners[booking], booking)
                elif chance.random() < 0.3:
                    cell.reject(booking)
    return list(owners)


@pytest.mark.parametrize("seed", range(4))
def test_a_rebuilt_cell_is_the_same_cell_in_a_new_epoch(new_cell: NewCell, seed: int) -> None:
    cell = new_cell([Zone(20, 500), Zone(15, 0, blocked=2), Zone(30, 5)], max_per_user=12)
    bookings = live_through(cell, random.Random(seed), 80)
    before = cell.dump(rates=False)
    rebuild(cell, before, 7)
    after = cell.dump(rates=False)
    for name in (f"booking:{booking}" for booking in bookings):
        record = before.get(name)
        if record and "ttl_s" in record:
            assert name not in after, "without a key and ended: nobody will ask Redis for it"
            del before[name]
    [(opened_id, _)] = after.pop("ledger")
    assert opened_id == "7-0"
    before["sale"] |= {"epoch": "7", "seq": "0"}
    del before["ledger"]
    assert after == before
    cell.assert_adds_up()
    live_through(cell, random.Random(seed + 1), 40)
    cell.assert_adds_up()


def test_a_rebuilt_keyed_booking_is_still_the_answer_to_its_key(new_cell: NewCell) -> None:
    cell = new_cell()
    ended = cell.hold(ALICE, fingerprint="f")
    cell.cancel(ALICE, ended)
    rebuild(cell, cell.dump(), 2)
    _, answer = cell.reserve(ALICE, [(cell.zones[0], 1)], booking=ended, fingerprint="f")
    assert answer.status == Status.REPLAYED
    assert cell.client.ttl(cell.keys.booking(ended)) == -1


def test_a_rebuilt_hold_keeps_its_deadline(new_cell: NewCell) -> None:
    cell = new_cell([Zone(1)])
    held = cell.hold(ALICE)
    rebuild(cell, cell.dump(), 2)
    cell.set_time(START_MS + HOLD_TTL_MS - 1)
    assert cell.expire().detail[:2] == (0, START_MS + HOLD_TTL_MS)
    cell.forward(1)
    cell.hold(BOB)
    assert cell.booking(held)["status"] == "expired"


def test_a_rebuild_of_a_cell_whose_ledger_is_ahead_opens_nothing(new_cell: NewCell) -> None:
    cell = new_cell()
    dump = cell.dump()
    cell.client.xadd(cell.keys.ledger, {"e": '["open",0]'}, id="9-9")
    cell.fence()
    cell.build_begin("2-rebuild")
    sale, zones = sale_and_zones_of(dump, 2)
    before = cell.dump()
    with pytest.raises(redis.ResponseError):
        cell.build_open("2-rebuild", sale, zones)
    assert cell.dump() == before
