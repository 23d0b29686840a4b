"""The verdict: what clients were told is enough to find what must never be."""

import json
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from engine.audit_report import EventReport, Report, ZoneState
from loadtest.plan import Plan
from loadtest.report import headline, render, render_html
from loadtest.tally import Tally
from loadtest.told import Answer, Beat, End
from loadtest.verdict import Verdict, contradictions, judge, percentiles
from tests.unit.test_loadtest_person import ZONE, make_plan


class Story:
    """Told lines, one after the other."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.tally = Tally(plan or make_plan())
        self.users: dict[int, UUID] = {}
        self._seq = 0
        self._now_s = 50.0

    def says(self, kind: Any, person: int, status: int, booking: UUID | None = None, **more: Any) -> None:
        """One answer, 10 ms after it was due."""
        self._seq += 1
        fields = {
            "kind": kind,
            "person": person,
            "user_id": self.users.setdefault(person, uuid4()),
            "attempt": 0,
            "due_s": self._now_s,
            "sent_s": self._now_s + 0.002,
            "done_s": self._now_s + 0.01,
            "status": status,
            "booking_id": booking,
            "ledger_seq": f"1-{self._seq}",
            "is_first": kind == "reserve",
        }
        self._now_s += 0.1
        self.tally.take(Answer(**(fields | more)))

    def buys(self, person: int, **more: Any) -> UUID:
        """Reserve and confirm."""
        booking = uuid4()
        self.says("reserve", person, 201, booking, **more)
        self.says("confirm", person, 200, booking)
        return booking

    def ends(self, report: Report | None = None) -> Verdict:
        """The last line, and the verdict."""
        self.tally.take(End(0, len(self.users)))
        return judge(self.tally, report or clean_report())


def clean_report(**changes: Any) -> Report:
    """An audit that found nothing."""
    event = EventReport(event_id=uuid4(), title="An event")
    event.zones = [ZoneState(ZONE, "Full", 10, 6, 0, 4, 0)]
    for name, value in changes.items():
        setattr(event, name, value)
    return Report(events=[event])


def test_a_sound_story_is_clean_and_counted() -> None:
    story = Story()
    story.buys(1)
    story.buys(2)
    story.says("reserve", 2, 201, story.tally._attempts[2, 0].booking_id, is_replayed=True, is_first=False)
    story.says("reserve", 3, 409, code="INSUFFICIENT_STOCK")
    verdict = story.ends()
    assert (verdict.state, verdict.exit_status, verdict.violations) == ("clean", 0, [])
    assert (verdict.accepted, verdict.replays, verdict.confirmed, verdict.sold) == (2, 1, 2, 4)
    assert verdict.refusals == {"reserve 409 INSUFFICIENT_STOCK": 1}
    assert (verdict.errors, verdict.late_starts) == ({}, 0)


def test_a_planted_oversell_is_found_from_what_was_told_alone() -> None:
    story = Story()
    for person in range(6):
        story.buys(person)
    verdict = story.ends()
    assert (verdict.state, verdict.exit_status, verdict.oversold) == ("violated", 1, 2)
    assert verdict.violations == ["oversold: Full has 10 seats, 12 were confirmed"]


def test_a_booking_that_the_audit_says_is_lost_violates() -> None:
    report = clean_report()
    report.events[0].violated(4, "reserved_and_lost", uuid4(), "reserve was answered 201")
    story = Story()
    story.buys(1)
    verdict = story.ends(report)
    assert (verdict.exit_status, verdict.lost) == (1, 1)


def test_a_missing_confirm_violates() -> None:
    report = clean_report()
    report.events[0].violated(4, "confirmed_and_lost", uuid4(), "in Postgres it is reserved")
    story = Story()
    story.buys(1)
    assert story.ends(report).exit_status == 1


def test_one_key_with_two_bookings_is_found() -> None:
    story = Story()
    story.says("reserve", 1, 201, uuid4())
    story.says("reserve", 1, 201, uuid4(), is_replayed=True)
    assert any("one key of person 1 gave" in text for text in contradictions(story.tally))


def test_one_key_accepted_twice_is_found() -> None:
    story, booking = Story(), uuid4()
    story.says("reserve", 1, 201, booking)
    story.says("reserve", 1, 201, booking)
    assert any("was accepted 2 times" in text for text in contradictions(story.tally))


def test_one_ledger_entry_for_two_bookings_is_found() -> None:
    story = Story()
    story.says("reserve", 1, 201, uuid4(), ledger_seq="1-5")
    story.says("reserve", 2, 201, uuid4(), ledger_seq="1-5")
    assert any("ledger entry 1-5" in text for text in contradictions(story.tally))


def test_one_booking_given_to_two_people_is_found() -> None:
    story, booking = Story(), uuid4()
    story.says("reserve", 1, 201, booking)
    story.says("reserve", 2, 201, booking)
    assert any("given to two people" in text for text in contradictions(story.tally))


def test_somebody_over_the_limit_is_found() -> None:
    story = Story(make_plan(max_per_user=3))
    story.buys(1)
    story.buys(1, attempt=1)
    assert any("over the limit" in text for text in contradictions(story.tally))


def test_unknown_outcomes_are_resolved_by_asking_again_or_left_open() -> None:
    story = Story()
    story.says("reserve", 1, 503, code="SERVICE_UNAVAILABLE")
    story.says("reserve", 1, 201, uuid4(), is_replayed=True)
    story.says("reserve", 2, 0)
    verdict = story.ends()
    assert (verdict.unknown_resolved, verdict.unknown_left) == (1, 1)
    assert verdict.errors == {"reserve 503 SERVICE_UNAVAILABLE": 1, "reserve no answer": 1}
    assert story.tally.told().users_in_doubt == {story.users[2]}


def test_what_was_told_goes_to_the_audit_as_it_was() -> None:
    story = Story()
    sold = story.buys(1)
    asked, cancelled = uuid4(), uuid4()
    story.says("reserve", 2, 201, asked)
    story.says("confirm", 2, 202, asked)
    story.says("reserve", 3, 201, cancelled)
    story.says("cancel", 3, 200, cancelled)
    told = story.tally.told()
    assert not told.is_complete
    assert (told.bookings[sold].is_confirmed, told.bookings[sold].quantity) == (True, 2)
    assert (told.bookings[asked].is_confirm_asked, told.bookings[asked].is_confirmed) == (True, False)
    assert told.bookings[cancelled].is_cancelled
    assert not told.bookings[cancelled].is_confirm_asked


def test_late_starts_are_counted_and_latency_begins_when_it_was_due() -> None:
    story = Story()
    story.says("reserve", 1, 201, uuid4(), due_s=50.0, sent_s=50.4, done_s=50.5)
    verdict = story.ends()
    assert (verdict.late_starts, verdict.late_max_ms) == (1, 400.0)
    [reserve] = verdict.latencies
    assert (reserve.due_ms[0], reserve.sent_ms[0]) == (500.0, 100.0)


@pytest.mark.parametrize("report", [None, Report(problem="a store does not answer")])
def test_without_an_audit_nothing_is_clean(report: Report | None) -> None:
    story = Story()
    story.buys(1)
    story.tally.take(End(0, 1))
    assert judge(story.tally, report).exit_status == 2


def test_a_run_that_shows_nothing_is_not_clean() -> None:
    assert Story().ends().state == "unknown"
    story = Story()
    story.buys(1)
    assert judge(story.tally, clean_report()).state == "unknown"  # its client never finished


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles([float(number) for number in range(1, 101)]) == [50.0, 95.0, 99.0, 100.0]
    assert percentiles([3.0]) == [3.0, 3.0, 3.0, 3.0]
    assert percentiles([]) == [0.0, 0.0, 0.0, 0.0]


def test_the_reports_say_the_verdict() -> None:
    story = Story()
    story.tally.take(Beat(0, 50.0, 3, 1))
    for person in range(6):
        story.buys(person)
    verdict = story.ends()
    assert headline(verdict).startswith("VIOLATED: 4 of 10 seats sold, oversold 2")
    assert "VIOLATION  oversold" in render(verdict)
    page = render_html(verdict, {"profile": "<b>"})
    assert "class=violated" in page
    assert "&lt;b&gt;" in page
    assert json.loads(msgspec.json.encode(verdict))["accepted"] == 6
