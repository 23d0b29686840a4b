"""The result as a person reads it: tables for the terminal, and a page with the plot beside it."""

from collections.abc import Iterator, Sequence

from loadtest.growth.result import GROWTH_MAX, Line, Result
from loadtest.growth.steady import Latency
from loadtest.growth.turn import OPERATIONS

Rows = Sequence[Sequence[str]]


def verdict_of(line: Line) -> str:
    """One word for one line."""
    if line.is_control:
        return "control"
    return "yes" if line.is_flat else "NO"


def growth_rows(lines: Sequence[Line], unit: str) -> Rows:
    """The head, then a row for each operation."""
    if not lines:
        return []
    head = ["CPU µs per operation", *(f"{point.at:,}" for point in lines[0].points), "growth", "within 20 %"]
    head[1] += f" {unit}"
    return [head] + [
        [
            line.operation,
            *(f"{point.median_us:,.1f}" for point in line.points),
            f"x {line.growth:.2f} ({line.added_us:+,.1f})",
            verdict_of(line),
        ]
        for line in lines
    ]


def memory_rows(result: Result) -> Rows:
    """Bytes of Redis memory."""
    head = ["bytes of Redis memory", "a hold in all", "record", "deadlines", "buyer", "rest", "ledger entry"]
    return [head] + [
        [
            f"{each.holds:,} holds",
            *(
                f"{value:,.0f}"
                for value in (
                    each.per_hold, each.record, each.deadlines, each.buyer, each.rest, each.ledger_entry,
                )
            ),
        ]
        for each in result.memory
    ]  # fmt: skip


def idle_rows(result: Result) -> Rows:
    """What the workers cost while nothing happens."""
    if not result.idle:
        return []
    head = ["idle: CPU ms a second", "events", "the worker", "Redis", "Postgres"]
    return [head] + [
        [each.worker, f"{each.events:,}", *(f"{value:,.1f}" for value in _costs(each))]
        for each in sorted(result.idle, key=lambda each: (each.worker, each.events))
    ]


def _costs(each: object) -> Iterator[float]:
    for name in ("process_ms", "redis_ms", "postgres_ms"):
        yield getattr(each, name)


def latency_rows(result: Result) -> Rows:
    """What a steady stream of reservations noticed of the rest."""
    rows = [["reserve, milliseconds", "reserves", "P50", "P99", "max"]]
    for name, seen in (("surge", result.surge), ("AOF rewrite", result.rewrite)):
        if seen is not None:
            rows += [_latency_row(f"before the {name}", seen.before), _latency_row("meanwhile", seen.during)]
    return rows if len(rows) > 1 else []


def _latency_row(name: str, latency: Latency) -> list[str]:
    times = (latency.p50_ms, latency.p99_ms, latency.max_ms)
    return [name, f"{latency.reserves:,}", *(f"{value:,.1f}" for value in times)]


def sentences(result: Result) -> Iterator[str]:
    """What no table holds."""
    if (surge := result.surge) is not None:
        yield (
            f"Surge: {surge.holds:,} holds fell due in one second and were back after "
            f"{surge.taken_back_s:.1f} s, with {surge.rate_per_s:,.0f} reservations a second meanwhile. "
            f"Expiry works in bounded slices: {surge.calls:,} calls of expire.lua, each allowed "
            f"{surge.slice_max}; one took {surge.call_median_us / 1000:.1f} ms in the median and "
            f"{surge.call_max_us / 1000:.1f} ms at most (SLOWLOG)."
        )
    if (rewrite := result.rewrite) is not None:
        yield (
            f"AOF rewrite with {rewrite.holds:,} holds: {rewrite.seconds:.1f} s, {rewrite.child_cpu_s:.1f} s "
            f"of CPU in the child, the fork {rewrite.fork_ms:.1f} ms; a reservation cost the Redis process "
            f"{rewrite.reserve_before_us:,.0f} µs before and {rewrite.reserve_during_us:,.0f} µs meanwhile "
            "(one at a time: none shares its fsync)."
        )
    if (upkeep := result.upkeep) is not None:
        yield (
            f"Postgres with {upkeep.holds:,} bookings: a checkpoint after the rounds took "
            f"{upkeep.checkpoint_s:.1f} s ({upkeep.checkpoint_cpu_s:.2f} s of CPU), VACUUM ANALYZE "
            f"{upkeep.vacuum_s:.1f} s ({upkeep.vacuum_cpu_s:.2f} s of CPU)."
        )


def headline(result: Result) -> str:
    """The verdict in a line."""
    lines = [line for line in (*result.by_holds, *result.by_events) if not line.is_control]
    grown = [line for line in lines if not line.is_flat]
    percent = round((GROWTH_MAX - 1) * 100)
    if not grown:
        return f"All {len(lines)} lines stay within {percent} %."
    named = ", ".join(f"{line.operation} x {line.growth:.2f}" for line in grown)
    return f"{len(lines) - len(grown)} of {len(lines)} lines stay within {percent} %; not: {named}."


def tables(result: Result) -> Iterator[Rows]:
    """Every table that has something in it."""
    for rows in (
        growth_rows(result.by_holds, "holds"),
        growth_rows(result.by_events, "events"),
        latency_rows(result),
        memory_rows(result),
        idle_rows(result),
    ):
        if rows:
            yield rows


def render(result: Result) -> str:
    """For the terminal."""
    parts = [_aligned(rows) for rows in tables(result)]
    return "\n\n".join([*parts, *sentences(result), headline(result)])


def _aligned(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def render_page(result: Result, plot_name: str) -> str:
    """As Markdown."""
    place = result.place
    parts = [
        "# How cost grows",
        headline(result),
        f"![CPU per operation against the number of live holds, and of events on sale]({plot_name})",
        f"Machine: {place.machine}, {place.cores} cores. Date: {place.date}. Commit: {place.commit}. "
        f"Command: `{place.command}`. Each figure is the median of {place.rounds} interleaved runs of "
        f"{place.slice_entries:,} operations, each size on stores of its own, CPU from the kernel's "
        f"accounting of the process that is named. AOF rewrites, checkpoints and autovacuum are off "
        f"meanwhile and measured apart. The whole run took {place.seconds / 60:.0f} minutes.",
        *(_markdown(rows) for rows in tables(result)),
        *sentences(result),
        "What is measured:",
        "\n".join(f"- {name}: {text}" for name, text in OPERATIONS.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown(rows: Rows) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|---" + "|---:" * (len(rows[0]) - 1) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
