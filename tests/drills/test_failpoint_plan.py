"""The fail-point drill: nothing is left out, and a point that nothing led to is seen."""

from pathlib import Path

import pytest

from tests.drills.effect_kinds import this_program
from tests.drills.effect_walk import walk
from tests.drills.failpoint_api import FLOWS
from tests.drills.failpoint_drill import Row, rows_of, strike_all, table
from tests.drills.failpoint_lanes import LANES
from tests.drills.failpoint_plan import SPECIAL, job_of, rounds_of
from tests.drills.failpoint_stage import Struck
from tests.drills.outage import Outage
from tests.drills.run import Result

POINTS = [point.name for point in walk(this_program()).points]


def test_something_is_known_to_lead_to_every_fail_point() -> None:
    for point in POINTS:
        job = job_of(point)
        assert job.lane in LANES
        assert job.number_max >= 1
        if job.lane in ("accounts", "drafts", "sales"):
            assert job.way in FLOWS


def test_no_way_is_kept_for_a_fail_point_that_is_gone() -> None:
    assert set(SPECIAL) <= set(POINTS)


def test_a_fail_point_of_a_new_file_is_asked_for() -> None:
    with pytest.raises(LookupError, match="failpoint_plan"):
        job_of("somewhere.after_something")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_is_struck_once_and_poison_comes_last(count: int) -> None:
    rounds = rounds_of(POINTS, count)
    assert sorted(job.point for jobs in rounds for job in jobs) == sorted(POINTS)
    poisoned = [number for number, jobs in enumerate(rounds) if any("poison" in job.way for job in jobs)]
    assert poisoned[-1] == len(rounds) - 1


@pytest.mark.timeout(180)
async def test_processes_die_where_they_are_told_to_and_nothing_is_lost(tmp_path: Path) -> None:
    points = ["accounts.after_login", "bookings.after_confirm", "lift.after_drain", "projection.after_commit"]
    struck, results = await strike_all(points, 1, tmp_path)
    assert sorted(each.point for each in struck) == points
    assert [each.problem for each in struck if each.problem] == []
    assert [violation for result in results for violation in result.violations] == []


def _result(seed: int, violations: list[str]) -> Result:
    return Result(
        scenario="fail points", seed=seed, folder="", faults=[], violations=violations, recovered_s=0.0,
        outage=Outage(), operations=1, seen={}, wall_s=1.0,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_table_counts_what_struck_and_what_did_not() -> None:
    struck = [
        Struck("relay.after_trim", 0, "kill", 1),
        Struck("relay.after_trim", 1, "kill", 1, problem="was never reached"),
        Struck("expiry.after_expire", 0, "stop", 2),
    ]
    rows = rows_of(struck, [_result(0, ["oversold"]), _result(1, [])])
    assert rows == [Row("expiry.after_expire", 1, 1, 1), Row("relay.after_trim", 2, 1, 1)]
    assert [line.split() for line in table(rows).splitlines()[1:]] == [
        ["expiry.after_expire", "1", "1", "1"],
        ["relay.after_trim", "2", "1", "1"],
    ]
