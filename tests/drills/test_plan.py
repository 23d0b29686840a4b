"""The plan follows its seed, has every fault, and can be typed again; the tables count what happened."""

from collections import Counter
from pathlib import Path

import pytest

from tests.drills.history import Answered, Asked, ClientWriter, Entry, EntryWriter, Fault, Run
from tests.drills.outage import Outage
from tests.drills.page import Drill, Row, lines, names_in, rows
from tests.drills.plan import UnknownFault, long_plan, short_plan, strike_of, usable
from tests.drills.run import Result
from tests.drills.sometimes import seen_in
from tests.drills.stack import WORKERS
from workers.runner import WORKERS as ALL_WORKERS


def test_every_worker_is_part_of_what_is_drilled() -> None:
    assert WORKERS.keys() == ALL_WORKERS.keys()


def test_the_short_plan_has_every_fault_and_a_third_of_it_overlaps() -> None:
    plan = short_plan(1)
    first = [planned.scenario.partition("+")[0] for planned in plan]
    assert sorted(first) == sorted(usable())
    assert sum("+" in planned.scenario for planned in plan) == -(-len(plan) // 3)


def test_two_that_overlap_break_different_things() -> None:
    faults = usable()
    for planned in [*short_plan(1), *long_plan(range(1, 20))]:
        for step in planned.scenario.split(","):
            targets = [faults[name].target for name in step.split("+")]
            assert len(set(targets)) == len(targets), step


def test_a_plan_follows_its_seed() -> None:
    assert short_plan(7) == short_plan(7) != short_plan(8)
    assert long_plan([7]) == long_plan([7]) != long_plan([8])
    assert long_plan(range(1, 4))[1] == long_plan([2])[0]


def test_a_scenario_can_be_typed_again_and_a_wrong_one_is_refused() -> None:
    for planned in (*short_plan(1), *long_plan([1])):
        strike_of(planned.scenario)
    with pytest.raises(UnknownFault, match="redis-kill"):
        strike_of("redis-kill,nonsense")


def _result(scenario: str, gap_s: float, violations: list[str]) -> Result:
    return Result(scenario, 1, "", [], violations, 2 * gap_s, Outage(gap_s, gap_s + 1), 10, Counter(), 1.0)


def test_the_table_has_a_row_for_each_fault_with_the_worst_of_its_runs() -> None:
    results = [_result("a+b", 1.0, []), _result("a", 3.0, ["x"]), _result("c,a+b", 0.5, [])]
    assert rows(results) == [
        Row("a", 3, 1, 3.0, 4.0, 6.0),
        Row("b", 2, 0, 1.0, 2.0, 2.0),
        Row("c", 1, 0, 0.5, 1.5, 1.0),
    ]
    assert names_in("c,a+b") == {"a", "b", "c"}
    text = "\n".join(lines(Drill("", "", "", "1", 60.0, 7, results, Counter({"rebuild happened": 3}))))
    assert "| a | 3 | 1 | 3.0 | 4.0 | 6.0 |" in text
    assert "| rebuild happened | 3 |" in text
    assert "7 deaths of Redis" in text


def test_what_only_the_history_tells_is_counted(tmp_path: Path) -> None:
    client = ClientWriter(tmp_path, "0")
    for n, at_ns in enumerate((5, 15)):
        client.write(Asked(n, "confirm", at_ns - 1, "u", "e", booking="b"))
        client.write(Answered(n, at_ns, 202))
    client.close()
    watch = EntryWriter(tmp_path)
    texts = ['["expire",7,"a"]', '["reserve",7,"b"]', '["expire",8,"c"]', '["reserve",9,"d"]']
    for number, text in enumerate(texts, 1):
        watch.write(Entry("E.0", f"1-{number}", text, 1))
    watch.close()
    run = Run(1, "x", [], [Fault("postgres-stop", 10, 20)])
    assert seen_in(tmp_path, run) == {
        "confirm 202 while Postgres was away": 1,
        "hold taken back by a reserve": 1,
    }
