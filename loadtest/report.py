"""The verdict as a person reads it: in the terminal, and as one small page."""

import html
from collections.abc import Iterable, Iterator, Mapping

from loadtest.verdict import Second, Verdict

_CHART_WIDTH, _CHART_HEIGHT = 720, 120


def headline(verdict: Verdict) -> str:
    """The verdict in a line."""
    words = {"clean": "CLEAN", "violated": "VIOLATED", "unknown": "NOT KNOWN"}[verdict.state]
    cut = " (interrupted)" if verdict.is_interrupted else ""
    return (
        f"{words}{cut}: {verdict.sold:,} of {verdict.capacity:,} seats sold, "
        f"oversold {verdict.oversold:,}, lost {verdict.lost:,}"
    )


def _facts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    yield (
        "arrived",
        f"{verdict.arrived:,} of {verdict.people:,} people, {verdict.rate_per_s:,.0f} a second; "
        f"{verdict.answers:,} answers in {verdict.seconds:,.1f} s",
    )
    yield (
        "accepted",
        f"{verdict.accepted:,} reservations (201), and {verdict.replays:,} times the same answer again",
    )
    yield "then", f"{verdict.confirmed:,} confirmed, {verdict.cancelled:,} cancelled, the others let go"
    if verdict.queue is not None:
        queue = verdict.queue
        yield (
            "queue",
            f"{queue.joined:,} joined, {queue.passes:,} passes, {queue.most_out:,} out at once "
            f"({queue.passes_max:,} at most); waited P50 {queue.waited_s[0]:,.1f} s, "
            f"P99 {queue.waited_s[1]:,.1f} s; {queue.polls:,} times asked; "
            f"{queue.pushers:,} pressed without a pass, {queue.pushed_in:,} got in",
        )
    yield "refused", f"{sum(verdict.refusals.values()):,}"
    yield "errors", f"{sum(verdict.errors.values()):,}"
    yield (
        "unknown",
        f"{verdict.unknown_resolved:,} outcomes resolved by asking again, {verdict.unknown_left:,} left open",
    )
    yield (
        "late",
        f"{verdict.late_starts:,} people started more than 50 ms late "
        f"(P99 {verdict.late_p99_ms:,.1f} ms, at most {verdict.late_max_ms:,.1f} ms)",
    )


def render(verdict: Verdict) -> str:
    """The verdict as text."""
    lines = [f"{name:<9} {text}" for name, text in _facts(verdict)]
    for title, counts in (("refused", verdict.refusals), ("errors", verdict.errors)):
        lines += [f"  {title}: {count:>8,}  {reason}" for reason, count in counts.items()]
    lines += [
        "",
        f"{'milliseconds':<13}{'answers':>9}{'P50':>10}{'P95':>10}{'P99':>10}{'max':>10}"
        "   from sending: P50 / P95 / P99",
    ]
    for each in verdict.latencies:
        due = "".join(f"{value:>10,.1f}" for value in each.due_ms)
        sent = " / ".join(f"{value:,.1f}" for value in each.sent_ms[:3])
        lines.append(f"{each.kind:<13}{each.answers:>9,}{due}   {sent}")
    lines += ["", f"{'zone':<20}{'capacity':>9}{'sold':>9}{'told':>9}{'held':>9}"]
    for zone in verdict.zones:
        sold = "?" if zone.confirmed is None else f"{zone.confirmed:,}"
        held = "?" if zone.reserved is None else f"{zone.reserved:,}"
        lines.append(f"{zone.name:<20}{zone.capacity:>9,}{sold:>9}{zone.told:>9,}{held:>9}")
    lines += [f"VIOLATION  {text}" for text in verdict.violations]
    lines += [f"note: {text}" for text in verdict.notes]
    return "\n".join([*lines, "", headline(verdict)])


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}.clean{color:#176e2c}
.violated{color:#b00020}.unknown{color:#8a5a00}svg{background:#f6f6f6;display:block;margin:.3rem 0 1rem}
"""


def render_html(verdict: Verdict, parameters: Mapping[str, object]) -> str:
    """The verdict as one page without any other file."""
    rows = [
        [each.kind, f"{each.answers:,}", *(f"{value:,.1f}" for value in [*each.due_ms, *each.sent_ms[:3]])]
        for each in verdict.latencies
    ]
    zones = [
        [zone.name, f"{zone.capacity:,}", _number(zone.confirmed), f"{zone.told:,}", _number(zone.reserved)]
        for zone in verdict.zones
    ]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Ticket Rush: load and verdict</title>",
        f"<style>{_STYLE}</style>",
        f"<h1 class={verdict.state}>{html.escape(headline(verdict))}</h1>",
        _table(["", ""], [[name, text] for name, text in _facts(verdict)]),
        _items("Violations", verdict.violations),
        _items("Notes", verdict.notes),
        "<h2>Zones</h2>",
        _table(["zone", "capacity", "sold", "told", "still held"], zones),
        "<h2>Milliseconds</h2><p>From when the request was due; on the right from when it was sent.</p>",
        _table(["", "answers", "P50", "P95", "P99", "max", "P50 sent", "P95 sent", "P99 sent"], rows),
        "<h2>Second by second</h2>",
        _charts(verdict.timeline),
        "<h2>Refused, and errors</h2>",
        _table(
            ["reason", "answers"], [[r, f"{n:,}"] for r, n in (verdict.refusals | verdict.errors).items()]
        ),
        "<h2>Run</h2>",
        _table(["", ""], [[name, str(value)] for name, value in parameters.items()]),
        "</html>",
    ]
    return "\n".join(parts)


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def _items(title: str, texts: list[str]) -> str:
    if not texts:
        return ""
    return f"<h2>{title}</h2><ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def _charts(timeline: list[Second]) -> str:
    series = {
        "answers a second": [float(each.answered) for each in timeline],
        "accepted a second": [float(each.accepted) for each in timeline],
        "P99, milliseconds": [each.p99_ms for each in timeline],
    }
    return "".join(
        f"<div>{name} (at most {max(values):,.0f})</div>{_line(values)}"
        for name, values in series.items()
        if values
    )


def _line(values: list[float]) -> str:
    highest, last = max(*values, 1.0), max(len(values) - 1, 1)
    points = " ".join(
        f"{i * _CHART_WIDTH / last:.1f},{_CHART_HEIGHT - value * _CHART_HEIGHT / highest:.1f}"
        for i, value in enumerate(values)
    )
    return (
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" width="{_CHART_WIDTH}" height="{_CHART_HEIGHT}">'
        f'<polyline points="{points}" fill="none" stroke="#2457a7" stroke-width="1.5"/></svg>'
    )
