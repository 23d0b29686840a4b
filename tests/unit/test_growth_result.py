"""The growth benchmark's pure parts: which rigs are meant, medians and verdicts, tables and pages."""

import msgspec
import pytest

from loadtest.growth.background import Idle, Rewrite, Upkeep
from loadtest.growth.fill import Memory
from loadtest.growth.options import RigPlan, parse
from loadtest.growth.page import growth_rows, headline, render, render_page, verdict_of
from loadtest.growth.plot import spread
from loadtest.growth.result import Line, Place, Point, Result, lines_by_events, lines_by_holds
from loadtest.growth.steady import Latency, latency_of
from loadtest.growth.surge import Surge
from loadtest.growth.turn import OPERATIONS, PLAIN_RECORD, Turn

LATENCY = Latency(10, 1.0, 2.0, 3.0)


def line(operation: str, *costs_us: float) -> Line:
    """An operation at 1, 10, 100 … holds."""
    return Line(operation, [Point(10**n, cost, cost, cost) for n, cost in enumerate(costs_us)])


def result(*by_holds: Line) -> Result:
    """A run in which everything was measured."""
    return Result(
        place=Place("a machine", 2, "2026-11-21", "abc1234", "a command", 5, 1_000, 600.0),
        by_holds=list(by_holds),
        by_events=[line("reserve", 10.0, 11.0)],
        memory=[Memory(1_000, 1_200.0, 800.0, 70.0, 300.0, 30.0, 260.0)],
        idle=[Idle("relay", 100, 7.0, 2.0, 1.0), Idle("relay", 1, 6.0, 2.0, 1.0)],
        surge=Surge(100_000, 500.0, LATENCY, LATENCY, 7.5, 100, 1_001, 4_000.0, 9_000.0),
        rewrite=Rewrite(1_000, 500.0, LATENCY, LATENCY, 3.0, 12.0, 2.5, 300.0, 330.0),
        upkeep=Upkeep(1_000, 1.0, 0.5, 2.0, 1.5),
    )


@pytest.mark.parametrize(
    ("smallest_us", "largest_us", "is_flat"),
    [(10.0, 10.0, True), (10.0, 12.0, True), (10.0, 12.04, True), (10.0, 12.06, False), (10.0, 5.0, True)],
)
def test_a_fifth_more_is_still_flat(smallest_us: float, largest_us: float, is_flat: bool) -> None:
    assert line("reserve", smallest_us, 999.0, largest_us).is_flat is is_flat


def test_a_point_is_the_median_of_its_runs() -> None:
    small, large = RigPlan(10, 1), RigPlan(1_000, 1)
    turns = {
        large: [Turn({"reserve": 4.0})],
        small: [Turn({"reserve": cost}) for cost in (9.0, 1.0, 2.0)],
    }
    (reserve,) = lines_by_holds(turns)
    assert reserve.points == [Point(10, 2.0, 1.0, 9.0), Point(1_000, 4.0, 4.0, 4.0)]
    assert (reserve.growth, reserve.added_us) == (2.0, 2.0)


def test_the_two_dimensions_share_the_rig_of_one_event() -> None:
    plans = parse(["--sizes", "10,1_000", "--events", "1,50", "--events-holds", "10"]).rigs
    assert plans == [RigPlan(10, 1), RigPlan(1_000, 1), RigPlan(10, 50)]
    turns = {plan: [Turn({"reserve": float(plan.holds * plan.events)})] for plan in plans}
    assert [point.at for point in lines_by_holds(turns)[0].points] == [10, 1_000]
    assert [point.at for point in lines_by_events(turns, 10)[0].points] == [1, 50]


def test_one_size_alone_says_nothing_about_growth() -> None:
    assert lines_by_holds({RigPlan(10, 1): [Turn({"reserve": 1.0})]}) == []


def test_the_control_has_no_verdict() -> None:
    assert verdict_of(line(PLAIN_RECORD, 1.0, 9.0)) == "control"
    assert headline(result(line(PLAIN_RECORD, 1.0, 9.0))) == "All 1 lines stay within 20 %."


def test_what_grows_is_named() -> None:
    found = result(line("reserve", 10.0, 13.0), line("confirm", 10.0, 11.0))
    assert headline(found) == "2 of 3 lines stay within 20 %; not: reserve x 1.30."
    rows = growth_rows(found.by_holds, "holds")
    assert rows[1] == ["reserve", "10.0", "13.0", "x 1.30 (+3.0)", "NO"]
    assert rows[2][-1] == "yes"


def test_terminal_and_page_say_all_that_was_measured() -> None:
    found = result(line("reserve", 10.0, 13.0))
    page = render_page(found, "growth.png")
    for text in (render(found), page):
        for part in ("x 1.30", "bounded slices", "each allowed 100", "AOF rewrite", "checkpoint", "1,200"):
            assert part in text
    for part in ("a machine", "2026-11-21", "abc1234", "`a command`", "](growth.png)", *OPERATIONS):
        assert part in page


def test_what_was_not_measured_is_left_out() -> None:
    bare = msgspec.structs.replace(result(), surge=None, rewrite=None, upkeep=None, idle=[], by_events=[])
    assert "Surge" not in render(bare)
    assert "idle" not in render(bare)


def test_latency_is_of_all_that_was_answered() -> None:
    assert latency_of([float(value) for value in range(1, 101)]) == Latency(100, 50.0, 99.0, 100.0)
    assert latency_of([]) == Latency(0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--surge", "-1"], ["--sizes", "0,5"]])
def test_a_senseless_command_line_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(arguments)
    capsys.readouterr()


def test_names_move_apart_as_little_as_possible() -> None:
    assert spread([0.0, 0.5, 1.0], 0.1) == pytest.approx([0.0, 0.5, 1.0])
    assert spread([0.3, 0.3, 0.3], 0.1) == pytest.approx([0.2, 0.3, 0.4])
    assert spread([0.0, 0.3, 0.32], 0.1) == pytest.approx([0.0, 0.26, 0.36])
