"""The audit of waiting rooms is itself audited: states are broken on purpose, and exactly that is found."""

from uuid import uuid4

import pytest

from engine.audit import audit
from engine.audit_report import EventReport
from engine.audit_round import QuickAuditor
from engine.edits import Edits, Intent, SaleEdit
from tests.integration.kit import Rig
from tests.integration.queues import Person, Room, open_room

Found = set[tuple[int, str, str]]


class Waiting(Room):
    """Five people: the first has spent a pass, the second has one, the third may claim, the fourth left."""

    people_: list[Person]

    async def make(self) -> None:
        self.people_ = await self.people(5)
        await self.admit(3)
        await self.reserve(self.people_[0], await self.claim(self.people_[0]))
        await self.claim(self.people_[1])
        await self.leave(self.people_[3])
        await self.rig.caught_up(self.event)

    async def report(self) -> EventReport:
        [event] = (await audit(self.rig.stores, event_id=self.event.id)).events
        return event

    async def found(self) -> Found:
        report = await self.report()
        assert report.problem is None
        return {(each.rule, each.what, each.subject) for each in report.violations}

    def subject(self, index: int) -> str:
        person = self.people_[index]
        return str((person.number, person.user))


@pytest.fixture
async def waiting(rig: Rig) -> Waiting:
    rig.work()
    room = await open_room(rig)
    waiting = Waiting(rig, room.event, room.bookings)
    await waiting.make()
    return waiting


async def test_a_sound_waiting_room_is_clean(waiting: Waiting) -> None:
    assert await waiting.found() == set()
    quick = await QuickAuditor(waiting.rig.stores).run()
    assert (quick.violations, quick.problems) == ([], [])


async def test_what_the_relay_has_not_carried_is_accounted_for(waiting: Waiting) -> None:
    await waiting.rig.close_workers()
    waiting.rig.work("recovery")
    newest = await waiting.join()
    await waiting.admit(2)
    await waiting.claim(waiting.people_[4])
    await waiting.leave(newest)
    report = (await audit(waiting.rig.stores, event_id=waiting.event.id, relay_wait_s=0.1)).events[0]
    assert report.violations == []
    quick = await QuickAuditor(waiting.rig.stores).run()
    assert quick.violations == []


async def test_somebody_who_stands_nowhere_is_found(waiting: Waiting) -> None:
    await waiting.rig.redis.hdel(waiting.event.keys.places, waiting.people_[4].user.bytes)
    assert await waiting.found() == {
        (3, "queue_count_differs", "places"),
        (3, "place_differs", waiting.subject(4)),
    }


async def test_somebody_who_stands_elsewhere_is_found(waiting: Waiting) -> None:
    await waiting.rig.redis.hset(waiting.event.keys.places, waiting.people_[4].user.bytes, 2)
    assert await waiting.found() == {(3, "place_differs", waiting.subject(4))}


async def test_somebody_whom_nobody_gave_a_number_is_found(waiting: Waiting) -> None:
    await waiting.rig.redis.hset(waiting.event.keys.places, uuid4().bytes, 6)
    assert await waiting.found() == {(3, "queue_count_differs", "places")}


async def test_somebody_who_left_and_still_stands_there_is_found(waiting: Waiting) -> None:
    await waiting.rig.redis.hset(waiting.event.keys.places, waiting.people_[3].user.bytes, 4)
    assert await waiting.found() == {
        (3, "queue_count_differs", "places"),
        (3, "place_differs", waiting.subject(3)),
    }


async def test_a_place_that_postgres_lost_is_found(waiting: Waiting) -> None:
    await waiting.rig.pool.execute("DELETE FROM queue_places WHERE number = 5")
    found = await waiting.found()
    assert {what for _, what, _ in found} == {"queue_count_differs", "entry_lost"}


@pytest.mark.parametrize("breaking", ["gone", "moved", "unspent", "made up"])
async def test_passes_that_differ_are_found(waiting: Waiting, breaking: str) -> None:
    keys, client = waiting.event.keys, waiting.rig.redis
    spender, holder, other, *_ = (str(person.user) for person in waiting.people_)
    if breaking == "gone":
        subject = holder
        await client.zrem(keys.passes, holder)
    elif breaking == "moved":
        subject = holder
        await client.zincrby(keys.passes, 1_000, holder)
    elif breaking == "unspent":
        subject = spender
        await client.hdel(keys.spent, spender)
    else:
        # Nobody claimed: only a look at what Redis has can tell.
        subject = other
        await client.zadd(keys.passes, {other: 1 << 41})
    quick = await QuickAuditor(waiting.rig.stores).run()
    assert [(each.what, each.subject) for each in quick.violations] == [("pass_differs", subject)], quick
    found = await waiting.found()
    assert found == {(3, "pass_differs", subject)}


@pytest.mark.parametrize("name", ["tail", "serving", "admitted", "claimed", "spent", "units", "lapsed"])
async def test_a_total_that_differs_is_found(waiting: Waiting, name: str) -> None:
    await waiting.rig.redis.hincrby(waiting.event.keys.queue, name, 1)
    assert (3, "queue_total_differs", name) in await waiting.found()
    quick = await QuickAuditor(waiting.rig.stores).run()
    assert (3, "queue_total_differs", name) in {
        (each.rule, each.what, each.subject) for each in quick.violations
    }


@pytest.mark.parametrize(
    ("field", "what"), [("unclaimed", "queue_slots_differ"), ("gone", "queue_gone_differs")]
)
async def test_what_the_parts_say_of_each_other_is_compared(waiting: Waiting, field: str, what: str) -> None:
    await waiting.rig.redis.hincrby(waiting.event.keys.queue, field, 1)
    assert await waiting.found() == {(3, what, field)}


async def test_a_queue_that_is_not_there_is_found(waiting: Waiting) -> None:
    await waiting.rig.redis.delete(waiting.event.keys.queue)
    assert await waiting.found() == {(3, "queue_missing", "the waiting room")}


async def test_more_passes_than_may_be_out_are_found(waiting: Waiting) -> None:
    await waiting.rig.redis.hset(waiting.event.keys.sale, "queue_passes_max", 1)
    found = await waiting.found()
    assert (3, "queue_bound_broken", "passes") in found


async def test_terms_that_differ_are_found(waiting: Waiting) -> None:
    await waiting.rig.redis.hset(waiting.event.keys.sale, "queue_interval_us", 7)
    assert await waiting.found() == {(3, "sale_terms_differ", "sale")}


async def test_an_organizer_who_lowers_the_bound_breaks_nothing(waiting: Waiting) -> None:
    intent = Intent(sale=SaleEdit(queue_passes_max=1))
    edits = Edits(waiting.rig.stores)
    async with waiting.rig.pool.acquire() as connection, connection.transaction():
        version = await edits.record(connection, waiting.event.id, intent, uuid4())
    await edits.apply(waiting.event.id, version)
    await waiting.rig.caught_up(waiting.event)
    report = await waiting.report()
    assert "queue_bound_broken" not in report.counts
    assert any("passes are out" in note for note in report.notes)
