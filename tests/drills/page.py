"""The tables of a drill: faults × runs × violations, what buyers saw, what happened at least once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tests.drills.run import RECOVERED_MAX_S, Result


class Row(msgspec.Struct):
    """All runs in which one fault happened."""

    fault: str
    runs: int = 0
    violations: int = 0
    gap_s: float = 0.0
    wait_s: float = 0.0
    recovered_s: float = 0.0


class Drill(msgspec.Struct):
    """A whole drill."""

    date: str
    commit: str
    machine: str
    seeds: str
    wall_s: float
    redis_deaths: int
    results: list[Result]
    sometimes: Counter[str]

    @property
    def violations(self) -> int:
        """In how many runs something was violated."""
        return sum(bool(result.violations) for result in self.results)


def names_in(scenario: str) -> set[str]:
    """The faults of a scenario."""
    return {name for step in scenario.split(",") for name in step.split("+")}


def rows(results: Sequence[Result]) -> list[Row]:
    """One for each fault. What a run with several faults showed counts for each of them."""
    found: dict[str, Row] = {}
    for result in results:
        for name in names_in(result.scenario):
            row = found.setdefault(name, Row(name))
            row.runs += 1
            row.violations += bool(result.violations)
            row.gap_s = max(row.gap_s, result.outage.gap_s)
            row.wait_s = max(row.wait_s, result.outage.wait_s)
            row.recovered_s = max(row.recovered_s, result.recovered_s)
    return sorted(found.values(), key=lambda row: row.fault)


def lines(drill: Drill) -> Iterator[str]:
    """For a terminal, and as a page."""
    yield "| fault | runs | violations | nobody could reserve, s | one buyer waited, s | recovered in, s |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows(drill.results):
        figures = f"{row.gap_s:.1f} | {row.wait_s:.1f} | {row.recovered_s:.1f}"
        yield f"| {row.fault} | {row.runs} | {row.violations} | {figures} |"
    yield ""
    yield "| happened | times |"
    yield "|---|---:|"
    for name, count in sorted(drill.sometimes.items()):
        yield f"| {name} | {count:,} |"
    yield ""
    operations = sum(result.operations for result in drill.results)
    slow = sum(result.recovered_s > RECOVERED_MAX_S for result in drill.results)
    yield (
        f"{len(drill.results)} runs, {drill.redis_deaths} deaths of Redis, {operations:,} operations in "
        f"{drill.wall_s / 60:.1f} minutes; {slow} recovered in more than {RECOVERED_MAX_S:.0f} s; "
        f"{drill.violations} with violations. Seeds {drill.seeds}, commit {drill.commit or 'unknown'}."
    )


def write_page(drill: Drill, folder: Path) -> Path:
    """The page and its JSON, named after the date and the commit; the page."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{drill.date.replace(':', '-')}-{drill.commit or 'unknown'}"
    head = [
        f"# Drills, {drill.date}",
        "",
        f"On {drill.machine}. A figure is the largest of all runs in which the fault happened; in runs with "
        "two faults it counts for both.",
        "",
    ]
    page = folder / f"{stem}.md"
    page.write_text("\n".join([*head, *lines(drill)]) + "\n", encoding="utf-8")
    # Where the histories were is of no use elsewhere.
    results = [msgspec.structs.replace(result, folder="") for result in drill.results]
    told = msgspec.structs.replace(drill, results=results)
    (folder / f"{stem}.json").write_bytes(msgspec.json.encode(told) + b"\n")
    return page
