"""Simulated sales of some thousands of people: the promises are kept, and broken ones are found out."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from engine.scripts import Scripts
from engine.settings import project_root
from loadtest.simulation import cell
from loadtest.simulation.options import Plan
from loadtest.simulation.places import BLOCK, Places
from loadtest.simulation.result import Result
from loadtest.simulation.run import Simulation
from rush.simulate import private_redis

SMALL = Plan(people=1_500, seats=200, arrive_s=30.0, opens_before_s=30.0, hours_max=0.5, seed=11)


@pytest.fixture(scope="module")
def server() -> Iterator["redis.Redis"]:
    with private_redis() as client:
        yield client


def simulated(client: "redis.Redis", plan: Plan) -> tuple[Simulation, Result]:
    client.flushall()
    simulation = Simulation(client, plan, lambda _: None)
    return simulation, simulation.run()


def broken(result: Result) -> list[str]:
    return [f"{check.promise}: {check.measured}" for check in result.checks if not check.holds]


SLOW = Plan(
    people=2_000,
    seats=900,
    arrive_s=60.0,
    opens_before_s=60.0,
    seed=13,
    admissions_per_second=1.0,
    hold_ttl_s=300,
)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(SLOW, id="everybody at once"),
        pytest.param(msgspec.structs.replace(SLOW, mode="lottery", seed=12), id="a lottery"),
        pytest.param(
            msgspec.structs.replace(SLOW, arrive_s=600.0, opens_before_s=0.0, seed=14),
            id="one after the other",
        ),
    ],
)
def test_every_promise_is_kept(server: "redis.Redis", plan: Plan) -> None:
    simulation, result = simulated(server, plan)
    assert broken(result) == [], simulation.observer.problems
    assert simulation.observer.confirmed >= 0.99 * plan.seats
    assert simulation.observer.left > 0


def test_the_same_seed_gives_the_same_sale(server: "redis.Redis") -> None:
    plan = msgspec.structs.replace(SMALL, people=400, seats=60)
    one, other = simulated(server, plan)[1], simulated(server, plan)[1]
    assert one.points == other.points
    assert one.figures | {"computed in": ""} == other.figures | {"computed in": ""}


@pytest.mark.parametrize(
    ("file", "before", "after", "promise"),
    [
        ("lib/bound.lua", "return math.max(0, people_max - out)", "return people_max", "the bound"),
        (
            "lib/bound.lua",
            "math.min(room.passes_max, math.floor(",
            "math.max(room.passes_max, math.floor(",
            "the bound",
        ),
        ("reserve.lua", "is_pass_needed and passes.check(sale, request)", "nil", "the bound"),
        (
            "admit.lua",
            "gone.walk(KEYS[7], room.serving + 1",
            "gone.walk(KEYS[7], room.serving + 2",
            "overtaken",
        ),
        ("join.lua", "if numbers[i] then", "if false then", "one number"),
    ],
    ids=[
        "passes out are not counted",
        "passes_max is no bound",
        "no pass is asked for",
        "a place is left out",
        "who joins again gets another number",
    ],
)
def test_a_script_that_breaks_a_promise_is_found_out(
    server: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    file: str,
    before: str,
    after: str,
    promise: str,
) -> None:
    lua = tmp_path / "lua"
    shutil.copytree(project_root() / "lua", lua)
    text = (lua / file).read_text()
    assert text.count(before) == 1, f"{file} does not say {before!r} any more"
    (lua / file).write_text(text.replace(before, after))
    shutil.copy(project_root() / "loadtest/simulation/clock.lua", lua / "lib/clock.lua")
    monkeypatch.setattr(cell, "simulated_scripts", lambda: Scripts(lua))
    plan = msgspec.structs.replace(SMALL, hours_max=0.05, passes_max=40, tabs_share=0.5, no_show_share=0.3)
    _, result = simulated(server, plan)
    assert any(promise in line for line in broken(result)), result.checks


def test_living_places_are_counted_between_any_two() -> None:
    places = Places(3 * BLOCK)
    for place in range(1, 3 * BLOCK + 1):
        places.set(place, place % 3 != 0)
    for first, last in (
        (1, 1),
        (1, 3 * BLOCK),
        (BLOCK - 1, BLOCK),
        (BLOCK, 2 * BLOCK),
        (7, 6),
        (5, 2 * BLOCK + 9),
    ):
        assert places.between(first, last) == sum(place % 3 != 0 for place in range(first, last + 1))


def rush_simulate(*options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "rush", "simulate", *options],
        cwd=project_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_prints_a_table_and_draws_a_picture(tmp_path: Path) -> None:
    process = rush_simulate("--people", "300", "--seats", "60", "--arrive", "10", "--opens-before", "5",
                            "--folder", str(tmp_path))  # fmt: skip
    out, err = process.communicate(timeout=50)
    assert process.returncode in (0, 1), err
    assert "seats sold" in out
    assert "nobody is overtaken: never" in out
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert msgspec.json.decode((tmp_path / "result.json").read_bytes(), type=Result).plan.people == 300


def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    process = rush_simulate("--people", "200000", "--seats", "20000", "--folder", str(tmp_path))
    assert process.stderr is not None
    assert "200,000 people" in process.stderr.readline()
    assert "wait" in process.stderr.readline(), "it is under way"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
