"""What the waiting room costs: nothing where there is none, and the millionth person as much as the first."""

import sys
from uuid import UUID

import pytest

from engine.status import Status
from tests.lua.cellkit import Answer, Backend, Cell, Wish, Zone
from tests.lua.queuekit import QueueCell

PEOPLE = 1_000_000
BYTES_MAX = 150


def calls_of(cell: Cell, wishes: list[Wish]) -> dict[str, int]:
    """Which commands one call of reserve gives to Redis, and how often; all of the wishes are granted."""
    cell.client.config_resetstat()
    answers = cell.reserve_all(wishes)
    stats = cell.client.info("commandstats")
    assert all(isinstance(answer, Answer) and answer.status == Status.OK for answer in answers), answers
    not_of_scripts = {"evalsha", "info", "config|resetstat"}
    return {
        name: values["calls"]
        for key, values in sorted(stats.items())
        if (name := key.removeprefix("cmdstat_")) not in not_of_scripts
    }


def four_wishes(cell: Cell) -> list[Wish]:
    return [Wish(cell.new_user(), [(cell.zones[0], 1)], cell.new_id()) for _ in range(4)]


BEFORE = {"hmget": 3, "hset": 3, "mget": 1, "mset": 1, "time": 1, "xadd": 4, "xlen": 1, "zadd": 1}
"""What four reservations in one call cost before there were waiting rooms."""


def test_where_no_pass_is_needed_reserve_asks_redis_nothing_more(real_backend: Backend) -> None:
    plain = Cell(real_backend, [Zone(100)])
    assert calls_of(plain, four_wishes(plain)) == BEFORE
    opening = QueueCell(real_backend, [Zone(100)], opens_at_ms=plain.now_ms + 1)
    assert calls_of(opening, four_wishes(opening)) == BEFORE


def test_passes_cost_six_commands_however_many_are_shown(real_backend: Backend) -> None:
    cell = QueueCell(real_backend, [Zone(100)])
    people = cell.people(4)
    cell.admit()
    wishes = [
        wish._replace(user=person.user, queue_pass=cell.passed(person))
        for wish, person in zip(four_wishes(cell), people, strict=True)
    ]
    more = {"zmscore": 1, "exists": 1, "zrem": 1, "hincrby": 2, "hset": BEFORE["hset"] + 1}
    assert calls_of(cell, wishes) == dict(sorted((BEFORE | more).items()))


def test_a_call_of_joins_costs_as_much_as_one_join(real_backend: Backend) -> None:
    cell = QueueCell(real_backend)

    def calls(people: int) -> dict[str, int]:
        cell.client.config_resetstat()
        assert {answer.status for answer in cell.join(*[cell.new_user() for _ in range(people)])} == {
            Status.OK
        }
        stats = cell.client.info("commandstats")
        return {name: stats[name]["calls"] for name in stats if name != "cmdstat_config|resetstat"}

    assert calls(1) == calls(64)


def _fill(cell: QueueCell, people: int) -> None:
    """So many people, who have joined; straight into the keys, in the form that join gives them."""
    pipeline = cell.client.pipeline(transaction=False)
    first = int(cell.queue()["tail"])
    for start in range(first, people, 1_000):
        numbers = range(start + 1, min(start + 1_000, people) + 1)
        pipeline.hset(cell.keys.places, mapping={_user(number).bytes: number for number in numbers})
    pipeline.hset(cell.keys.queue, "tail", people)
    pipeline.execute()


def _user(number: int) -> UUID:
    # Spread as real ids are.
    return UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128), version=4)


def _cpu_us(cell: QueueCell, calls: int) -> float:
    """What Redis spends on one person, in calls of 64: the least of five rounds."""
    rounds = []
    for _ in range(5):
        cell.client.config_resetstat()
        for _ in range(calls):
            cell.join(*[cell.new_user() for _ in range(64)])
        rounds.append(cell.client.info("commandstats")["cmdstat_evalsha"]["usec"] / calls / 64)
    return min(rounds)


SIZES = (1_000, 850_000, PEOPLE, 1_200_000)
"""Around a million the hash is being made larger by Valkey, a bucket with every operation: an operation costs
two or three times as much there as before and behind."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_million_people_fit_and_the_last_one_costs_what_the_first_did(
    real_backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = QueueCell(real_backend, [Zone(60_000)])
    empty_bytes = cell.client.info("memory")["used_memory"]
    bytes_each, cost_us, commands = {}, {}, []
    try:
        for size in SIZES:
            _fill(cell, size)
            cell.client.setbit(cell.keys.gone, size, 0)
            used_bytes = cell.client.info("memory")["used_memory"] - empty_bytes
            bytes_each[size] = used_bytes / cell.client.hlen(cell.keys.places)
            cost_us[size] = _cpu_us(cell, 10)
            commands.append(_commands(cell))
    finally:
        cell.remove()
    with capsys.disabled():
        for size in SIZES:
            sys.stderr.write(
                f"\n{size} people: {bytes_each[size]:.0f} bytes of Redis each, a join costs it "
                f"{cost_us[size]:.1f} us"
            )
        sys.stderr.write("\n")
    assert max(bytes_each.values()) <= BYTES_MAX
    assert all(each == commands[0] for each in commands), "no more is asked of Redis"


def _commands(cell: QueueCell) -> dict[str, int]:
    """What one join asks of Redis."""
    cell.client.config_resetstat()
    cell.join(cell.new_user())
    stats = cell.client.info("commandstats")
    return {name: values["calls"] for name, values in stats.items()}
