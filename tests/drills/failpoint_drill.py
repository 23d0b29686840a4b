"""Every fail point, struck under load, with each of some seeds; then the checker.

    python -m tests.drills.failpoint_drill [--seeds 3] [--only NAME …] [--folder FOLDER]

The runs share one stack, and a run strikes many points: seven lanes of processes die side by side (see
failpoint_lanes), for a violation is one whichever of them led to it. It is then shown with all points of its
run; `--only` tells them apart. Exit status 1: a violation, or a point that nothing led to.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import msgspec

from tests.drills.effect_kinds import this_program
from tests.drills.effect_walk import walk
from tests.drills.failpoint_lanes import run_lanes
from tests.drills.failpoint_plan import Job, job_of, rounds_of
from tests.drills.failpoint_stage import Struck, open_stage
from tests.drills.run import Result, Scene, drill
from tests.drills.stack import Stack, open_stack

ROUNDS = 2
"""Runs for each seed."""
SHOWN_MAX = 20
"""Violations of one run."""
SETTINGS: dict[str, object] = {"ledger_trim_lag_s": 2} | {
    f"{name}_{kind}": 1_000_000
    for name in ("login", "register", "user")
    for kind in ("rate_per_minute", "burst")
}
"""A gateway that is to be struck is asked more often than anybody may ask."""


class Row(msgspec.Struct):
    """One line of the table."""

    point: str
    runs: int = 0
    struck: int = 0
    violations: int = 0


async def strike_all(points: list[str], seeds: int, folder: Path) -> tuple[list[Struck], list[Result]]:
    """Strike every point once with each seed."""
    struck: list[Struck] = []
    results: list[Result] = []
    async with open_stack(folder / "stack", settings=SETTINGS) as stack:
        for seed in range(seeds):
            of_seed: list[Struck] = []
            for number, jobs in enumerate(rounds_of(points, ROUNDS)):
                result, ours = await _one_run(stack, folder / f"run-{seed}-{number}", seed, number, jobs)
                results.append(result)
                of_seed += ours
                _say(result, ours)
            # Another lane may have mended first what was to lead there: once more, without the others.
            if missed := [each.point for each in of_seed if each.problem]:
                run_folder, jobs = folder / f"run-{seed}-again", [job_of(point) for point in missed]
                result, ours = await _one_run(stack, run_folder, seed, ROUNDS, jobs)
                results.append(result)
                of_seed = [each for each in of_seed if not each.problem] + ours
                _say(result, ours)
            struck += of_seed
    return struck, results


async def _one_run(
    stack: Stack, folder: Path, seed: int, number: int, jobs: list[Job]
) -> tuple[Result, list[Struck]]:
    struck: list[Struck] = []

    async def strike(scene: Scene) -> None:
        async with open_stage(scene, folder.with_name(folder.name + "-stage")) as stage:
            try:
                await run_lanes(stage, jobs)
            finally:
                struck.extend(stage.struck)

    result = await drill(stack, folder, seed=seed, scenario=f"fail points {number}", strike=strike)
    await _forget_refusals(stack)
    return result, struck


async def _forget_refusals(stack: Stack) -> None:
    """What Postgres was made to refuse is no business of the next run's."""
    connection = await asyncpg.connect(stack.postgres.url)
    try:
        await connection.execute("DELETE FROM dead_letters")
    finally:
        await connection.close()


def _say(result: Result, struck: list[Struck]) -> None:
    missed = [each for each in struck if each.problem]
    print(
        f"seed {result.seed}, {result.scenario}: {len(struck) - len(missed)} of {len(struck)} struck, "
        f"{result.operations} operations, {len(result.violations)} violations, {result.wall_s:.0f} s",
        flush=True,
    )
    for each in missed:
        print(f"  {each.point} (number {each.number}, {each.action}) {each.problem}", flush=True)
    for violation in result.violations[:SHOWN_MAX]:
        print(f"  {violation}", flush=True)


def rows_of(struck: list[Struck], results: list[Result]) -> list[Row]:
    """The table's lines, in the order of their names."""
    rows: dict[str, Row] = {}
    violations = {result.seed: 0 for result in results}
    for result in results:
        violations[result.seed] += len(result.violations)
    for each in struck:
        row = rows.setdefault(each.point, Row(each.point))
        row.runs += 1
        row.struck += not each.problem
        row.violations += violations[each.seed]
    return [rows[name] for name in sorted(rows)]


def table(rows: list[Row]) -> str:
    """Fail point, runs, struck, violations of the runs that it was in."""
    width = max(len(row.point) for row in rows)
    lines = [f"{'fail point':<{width}}  runs  struck  violations"]
    lines += [f"{row.point:<{width}}  {row.runs:>4}  {row.struck:>6}  {row.violations:>10}" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Strike, print the table; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="Strike every fail point under load, and check.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--folder", type=Path, help="where to leave what was written down")
    parser.add_argument(
        "--missed-max", type=int, default=0, help="so many may be missed: a busy machine may be too slow (0)"
    )
    arguments = parser.parse_args()
    points = [point.name for point in walk(this_program()).points]
    if unknown := set(arguments.only) - set(points):
        parser.error(f"there is no fail point {', '.join(sorted(unknown))}")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="failpoints-"))
    began_s = time.monotonic()
    struck, results = asyncio.run(strike_all(arguments.only or points, arguments.seeds, folder))
    rows = rows_of(struck, results)
    print(table(rows))
    violations = sum(len(result.violations) for result in results)
    missed = sum(row.runs - row.struck for row in rows)
    print(
        f"{len(rows)} fail points, {len(struck)} strikes wanted, {missed} missed, {violations} violations, "
        f"{len(results)} runs, {time.monotonic() - began_s:.0f} s"
    )
    return 1 if missed > arguments.missed_max or violations else 0


if __name__ == "__main__":
    sys.exit(main())
