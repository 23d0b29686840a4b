"""Which process comes by a fail point, and what makes it come by.

A lane is a row of processes that die one after the other; the lanes of a run work at the same time, because
what they arm are different processes. A new fail point of a known file has its lane already; if nothing leads
to it there, the drill says so.
"""

from typing import NamedTuple


class Job(NamedTuple):
    """One fail point to be struck."""

    point: str
    lane: str
    way: str
    """What leads to it: a name that the lane knows."""
    number_max: int = 1
    """It strikes at some time up to this one that the point is reached."""


LANES: dict[str, tuple[str, str, int]] = {
    "accounts": ("accounts", "account", 1),
    "admission": ("admission", "load", 3),
    "bookings": ("gateway", "load", 3),
    "calls": ("gateway", "load", 2),
    "catalogue": ("sales", "sale", 1),
    "catalogue_children": ("drafts", "draft", 2),
    "catalogue_edit": ("drafts", "draft", 1),
    "cells": ("sales", "sale", 1),
    "draining": ("recovery", "ahead", 1),
    "draw": ("lottery", "load", 1),
    "edits": ("sales", "sale", 3),
    "entrant_lists": ("gateway", "load", 1),
    "expiry": ("sweeping", "expiry", 3),
    "gathering": ("gateway", "load", 25),
    "lease": ("relay", "load", 1),
    "lift": ("recovery", "unlifted", 1),
    "limits": ("gateway", "load", 6),
    "operating": ("recovery", "operator", 1),
    "projection": ("relay", "load", 3),
    "protocol": ("gateway", "load", 25),
    "publisher": ("sweeping", "publisher", 1),
    "rebuild": ("recovery", "rebuilt", 1),
    "rebuild_queue": ("recovery", "queue rebuilt", 1),
    "recovery": ("recovery", "unlifted", 1),
    "redis_link": ("gateway", "load", 60),
    "relay": ("relay", "load", 3),
    "repair_queue": ("recovery", "queue ahead", 1),
    "streams": ("gateway", "load", 2),
    "wire": ("gateway", "load", 6),
}
"""File → lane, way, number."""

SPECIAL: dict[str, tuple[str, str, int]] = {
    "catalogue_edit.after_terms": ("sales", "sale", 1),
    "catalogue_edit.after_terms_change": ("sales", "sale", 1),
    "cells.after_waking": ("gateway", "lost sale", 1),
    "draw.after_randomness": ("gateway", "load", 1),
    "lift.after_closing": ("recovery", "finished", 1),
    "lift.after_last_look": ("recovery", "finished", 1),
    "lift.after_lost_epoch": ("recovery", "rebuilt", 1),
    "lift.after_move": ("recovery", "closed by hand", 1),
    "lift.after_new_epoch": ("recovery", "operator", 1),
    "lift.after_script": ("recovery", "unlifted", 12),
    "projection.after_applied_version": ("relay", "edits", 1),
    "projection.after_bisected_commit": ("relay", "poison", 1),
    "projection.after_dead_letter": ("relay", "poison", 1),
    "projection.after_edits": ("relay", "edits", 1),
    "projection.after_savepoint": ("relay", "poison", 2),
    "projection.after_undo": ("relay", "poisoned confirm", 1),
    "projection.after_undo_kept": ("relay", "poisoned confirm", 1),
    "protocol.after_refusal": ("gateway", "garbage", 1),
    "publisher.after_commit": ("sweeping", "full outbox", 1),
    "publisher.after_truncate": ("sweeping", "full outbox", 1),
    "rebuild.after_forgetting": ("recovery", "finished", 1),
    "rebuild.after_gap": ("recovery", "queue rebuilt", 1),
    "rebuild.after_repaired_booking": ("recovery", "ahead", 5),
    "rebuild.after_repaired_item": ("recovery", "ahead", 5),
    "rebuild.after_repaired_zone": ("recovery", "ahead", 2),
    "rebuild.after_rest": ("recovery", "large", 1),
    "rebuild.after_rest_slice": ("recovery", "large", 20),
    "rebuild.after_resume": ("recovery", "half loaded", 1),
    "rebuild.after_units": ("recovery", "large", 20),
    "rebuild.after_wipe": ("recovery", "old form", 1),
    "rebuild.after_wiped_slice": ("recovery", "full cell", 1),
    "recovery.after_replica": ("recovery", "replica", 1),
    "relay.after_fence": ("relay", "ahead", 1),
    "relay.after_reject": ("relay", "poison", 1),
    "relay.after_return": ("relay", "poison", 1),
    "relay.after_trim": ("relay", "quiet", 1),
    "relay.after_waking": ("relay", "ahead", 1),
}
"""Where it is another one."""


def job_of(point: str) -> Job:
    """How to reach a fail point; raises LookupError for one of a file that nobody has thought about."""
    found = SPECIAL.get(point) or LANES.get(point.partition(".")[0])
    if found is None:
        raise LookupError(f"nothing is known to lead to {point}: say it in tests/drills/failpoint_plan.py")
    return Job(point, *found)


def rounds_of(points: list[str], count: int) -> list[list[Job]]:
    """So many runs in which all of them are struck, about as many of each lane in each. What Postgres is made
    to refuse comes last: afterwards its rows are not as the ledger left them."""
    jobs = sorted((job_of(point) for point in points), key=lambda job: ("poison" in job.way, job.way))
    rounds: list[list[Job]] = [[] for _ in range(count)]
    for lane in sorted({job.lane for job in jobs}):
        mine = [job for job in jobs if job.lane == lane]
        size = -(-len(mine) // count)
        for number in range(count):
            rounds[number] += mine[number * size : (number + 1) * size]
    return [jobs for jobs in rounds if jobs]
