"""The table of all fail points: `python -m tests.drills.failpoints`."""

from tests.drills.effect_kinds import this_program
from tests.drills.effect_walk import Point, walk


def table(points: list[Point]) -> str:
    """Name, place, and what has just happened there."""
    rows = [("fail point", "where", "what has just happened"), *((p.name, p.where, p.effect) for p in points)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:<{widths[0]}}  {where:<{widths[1]}}  {effect}" for name, where, effect in rows]
    return "\n".join([*lines, f"{len(points)} fail points"])


if __name__ == "__main__":
    print(table(walk(this_program()).points))
