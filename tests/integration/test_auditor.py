"""The auditor: what it finds stands in the metrics until it is gone."""

import asyncio
from uuid import uuid4

import pytest

from observability.metrics import exposition
from tests.integration.kit import Event, Rig, changed, until
from workers import auditor
from workers.auditor import Auditor


def shown(name: str) -> float:
    for line in exposition().decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"{name} is not there")


async def _sold(rig: Rig) -> Event:
    event = await rig.sale()
    gateway = await rig.gateway()
    await gateway.reserve(uuid4(), event.items(), "key")
    await rig.caught_up(event)
    return event


async def _break(rig: Rig, event: Event, by: int) -> None:
    await rig.redis.hincrby(event.keys.zone(event.zones[0]), "available", by)


async def test_the_worker_shows_a_violation_and_that_it_is_gone(rig: Rig) -> None:
    rig.work()
    event = await _sold(rig)
    rig.work("auditor", settings=changed(rig.settings, audit_interval_s=1))
    await until(lambda: shown("audit_last_success_timestamp_seconds") > 0, "it has looked")
    assert (shown('audit_violations{rule="1"}'), shown('audit_cells{outcome="clean"}')) == (0, 1)
    await _break(rig, event, 1)
    await until(lambda: shown('audit_violations{rule="1"}') == 1, "it is found")
    assert shown('audit_cells{outcome="violated"}') == 1
    await _break(rig, event, -1)
    await until(lambda: shown('audit_violations{rule="1"}') == 0, "it is gone")


async def test_one_of_two_works_and_the_other_takes_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Auditor] = []

    async def note(self: Auditor) -> None:
        rounds.append(self)

    monkeypatch.setattr(Auditor, "round", note)
    often = changed(rig.settings, audit_interval_s=1)
    first = rig.work("auditor", settings=often)
    await until(lambda: len(rounds) >= 1)
    rig.work("auditor", settings=often)
    await until(lambda: len(rounds) >= 3)
    assert len(set(rounds)) == 1
    await first.cut()
    await until(lambda: len(set(rounds)) == 2, "the second works")


async def test_of_many_sales_each_gets_its_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor, "CELLS_PER_ROUND_MAX", 2)
    rig.work()
    events = [await _sold(rig) for _ in range(5)]
    broken = events[3]
    await _break(rig, broken, 1)
    works = Auditor(rig.stores)
    for _ in range(3):
        await works.round()
    assert shown('audit_violations{rule="1"}') == 1
    assert shown('audit_cells{outcome="clean"}') == 4
    await works.round()
    assert shown('audit_violations{rule="1"}') == 1, "what was found stays until it is looked at again"


async def test_a_sale_that_cannot_be_looked_at_is_blind_unless_an_operator_closed_it(rig: Rig) -> None:
    worker = rig.work()
    event = await _sold(rig)
    await worker.stop()
    works = Auditor(rig.stores)
    await works.round()
    before = shown("audit_last_success_timestamp_seconds")
    await rig.redis.hdel(event.keys.sale, "epoch")
    await works.round()
    assert (shown('audit_cells{outcome="blind"}'), shown('audit_violations{rule="3"}')) == (1, 0)
    assert shown("audit_last_success_timestamp_seconds") == before
    await rig.pool.execute("UPDATE cells SET fenced_at = now()")
    await asyncio.sleep(0.01)
    await works.round()
    assert shown('audit_cells{outcome="blind"}') == 0
    assert shown("audit_last_success_timestamp_seconds") > before
