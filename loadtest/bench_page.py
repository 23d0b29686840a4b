"""A benchmark's results as a person reads them: a table in the terminal, a page in Markdown."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from loadtest.bench_cpu import GROUPS
from loadtest.bench_measure import Measured
from loadtest.bench_report import BenchReport

RESULTS = Path(__file__).with_name("results")
_NAMES = {
    "gateway": "gateway",
    "redis": "Redis",
    "relay": "relay",
    "workers": "other workers",
    "postgres": "Postgres, all its processes",
    "supervisor": "supervisor",
    "locust": "Locust",
}

Row = tuple[str, ...]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _latency_rows(phases: list[Measured]) -> Iterator[Row]:
    for name in ("P50", "P95", "P99", "P99.9", "max"):
        yield (f"client {name}, ms", *(_number(each.seen.latency_ms.get(name), 2) for each in phases))
    for name in ("P50", "P95", "P99", "P99.9"):
        yield (f"server {name}, ms", *(_number(each.server_ms.get(name), 2) for each in phases))


def main_table(report: BenchReport) -> list[Row]:
    """A row for each figure, a column for each phase."""
    phases = [report.open, report.closed, report.sold_out]
    rows: list[Row] = [
        ("", "open loop", "closed loop", "sold out"),
        ("connections", *(f"{each.seen.connections}" for each in phases)),
        ("asked for, 1/s", *(_number(each.seen.rate_asked_per_s, 0) for each in phases)),
        ("seconds", *(_number(each.seen.seconds) for each in phases)),
        ("answers", *(f"{sum(each.seen.answers.values()):,}" for each in phases)),
        ("right answers, 1/s", *(_number(each.seen.per_s, 0) for each in phases)),
        (
            "accepted, 1/s",
            *(_number(each.seen.accepted / max(0.001, each.seen.seconds), 0) for each in phases),
        ),
        ("errors", *(f"{sum(each.seen.errors.values()):,}" for each in phases)),
        *_latency_rows(phases),
        ("latest request sent after, ms", *(_number(each.seen.late_max_ms) for each in phases)),
        ("relay lag at most, s", *(_number(each.lag_max_s, 2) for each in phases)),
        ("relay lag at most, entries", *(f"{each.lag_max_entries:,}" for each in phases)),
    ]
    for name in (*GROUPS, "locust"):
        rows.append((f"CPU us: {_NAMES[name]}", *(_number(each.cpu_us[name]) for each in phases)))
    for name in ("gateway", "redis"):
        label = f"of it in the kernel: {_NAMES[name]}"
        rows.append((label, *(_number(each.kernel_us[name]) for each in phases)))
    rows.append(("CPU us: all of it", *(_number(each.total_us) for each in phases)))
    rows.append(("Redis us in scripts, commandstats", *(_number(each.redis_us) for each in phases)))
    return rows


def bare_table(report: BenchReport) -> list[Row]:
    """The gateway beside the bare answer."""
    multiple = report.gateway_multiple
    return [
        ("", "open loop", "closed loop"),
        ("gateway, CPU us", *(_number(each.cpu_us["gateway"]) for each in (report.open, report.closed))),
        (
            "bare ASGI answer, CPU us",
            *(_number(each.cpu_us) for each in (report.bare_open, report.bare_closed)),
        ),
        (
            "bare ASGI answers, 1/s",
            *(_number(b.seen.per_s, 0) for b in (report.bare_open, report.bare_closed)),
        ),
        ("multiple", f"{multiple['open']:.2f}", f"{multiple['closed']:.2f}"),
    ]


def command_table(report: BenchReport) -> list[Row]:
    """Redis by its own books, closed loop."""
    rows: list[Row] = [("command, closed loop", "calls", "us a call")]
    for each in report.closed.redis_commands:
        rows.append((each.name, f"{each.calls:,}", _number(each.us_per_call, 2)))
    return rows


def facts(report: BenchReport) -> Iterator[tuple[str, str]]:
    """What else is to be said."""
    books, sold_out = report.books, report.sold_out
    yield "201 answers", f"{books.accepted:,}, all phases together"
    yield "rows in Postgres", f"{books.rows:,}; ids of a 201 without a row: {books.missing:,}"
    yield "audit", f"{report.audit_state}, in {report.audit_seconds:,.0f} s"
    refusals = sum(sold_out.seen.answers.values()) - sold_out.seen.replayed
    per_s = refusals / max(0.001, sold_out.seen.seconds)
    yield (
        "sold out",
        f"{per_s:,.0f} refusals a second, {sold_out.cpu_us['gateway']:.1f} us of gateway for each answer; "
        f"{sold_out.seen.replayed:,} of {sold_out.seen.replays_sent:,} replays got their 201 again",
    )
    yield "seats", f"{report.seats:,}; gateways {report.gateways}; Locust processes {report.locust_processes}"
    for phase in (report.open, report.closed, report.sold_out):
        if phase.seen.is_used_up:
            yield "note", f"{phase.seen.phase} ended early: its prepared requests were used up"


def _aligned(rows: list[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def render(report: BenchReport) -> str:
    """The results as text."""
    lines = []
    for rows in (main_table(report), bare_table(report), command_table(report)):
        lines += [*_aligned(rows), ""]
    lines += [f"{name:<17} {text}" for name, text in facts(report)]
    lines += [f"WRONG  {text}" for text in report.wrong()]
    return "\n".join([*lines, "", _verdict(report)])


def _verdict(report: BenchReport) -> str:
    return "NOT CORRECT" if any(True for _ in report.wrong()) else "CORRECT"


def _markdown(rows: list[Row]) -> list[str]:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in body), ""]


def render_markdown(report: BenchReport) -> str:
    """The results as a page."""
    lines = [
        f"# The whole stack on {report.machine['cores']} cores, {report.at[:10]}",
        "",
        f"`{report.command}` at commit {report.commit}, {report.at}. {_verdict(report)}.",
        "",
        *_markdown([("machine", ""), *report.machine.items()]),
        *_markdown(main_table(report)),
        *_markdown(bare_table(report)),
        *_markdown(command_table(report)),
        *(f"- {name}: {text}" for name, text in facts(report)),
        *(f"- **wrong**: {text}" for text in report.wrong()),
        "",
        "CPU is user and system time by the operating system's books, children included, divided by all "
        "answers of the phase; that of the relay and of Postgres counts until all was durable. Client times "
        "of the open loop run from the moment a request was due, server times are linear within a bucket of "
        "the gateway's histogram. Requests, with their users, signed tokens and keys, were made before the "
        "clock started; the load generator's garbage collector is off while it runs. The load comes from the "
        "same cores.",
        "",
    ]
    return "\n".join(lines)


def write_page(report: BenchReport) -> Path:
    """The page and the JSON beside it; the page's path."""
    RESULTS.mkdir(exist_ok=True)
    name = f"{report.at[:19].replace(':', '-')}-{report.commit.split()[0]}"
    page = RESULTS / f"{name}.md"
    page.write_text(render_markdown(report), encoding="utf-8")
    page.with_suffix(".json").write_bytes(msgspec.json.format(to_json(report), indent=1) + b"\n")
    return page


def to_json(report: BenchReport) -> bytes:
    """All of it, and what follows from it."""
    content = msgspec.to_builtins(report)
    content["gateway_multiple"] = report.gateway_multiple
    content["wrong"] = list(report.wrong())
    return msgspec.json.encode(content)
