"""What a benchmark found, and whether it was correct."""

from collections.abc import Iterator

import msgspec

from loadtest.bench_bare import Bare
from loadtest.bench_measure import Measured


class Books(msgspec.Struct, frozen=True):
    """What clients were told against the rows."""

    accepted: int
    """201 that were no replays, in all phases."""
    rows: int
    """Bookings in Postgres."""
    missing: int
    """Ids in a 201 that no row has, or that two of them had."""


class BenchReport(msgspec.Struct, kw_only=True):
    """One run of `rush bench`."""

    at: str
    commit: str
    command: str
    machine: dict[str, str]
    seats: int
    gateways: int
    locust_processes: int
    answer_bytes: int
    open: Measured
    closed: Measured
    sold_out: Measured
    bare_open: Bare
    bare_closed: Bare
    books: Books
    audit_state: str
    audit_seconds: float
    audit_found: list[str]
    seconds: float

    @property
    def gateway_multiple(self) -> dict[str, float]:
        """The gateway's processor time for a reservation as a multiple of a bare answer's."""
        pairs = {"open": (self.open, self.bare_open), "closed": (self.closed, self.bare_closed)}
        return {
            name: round(full.cpu_us["gateway"] / bare.cpu_us, 2) if bare.cpu_us else 0.0
            for name, (full, bare) in pairs.items()
        }

    def wrong(self) -> Iterator[str]:
        """What is not as it must be, in words. How fast it was is not judged."""
        for phase in (self.open, self.closed, self.sold_out):
            seen = phase.seen
            for kind, count in seen.errors.items():
                yield f"{seen.phase}: {count:,} times {kind}"
            if not phase.is_drained:
                yield f"{seen.phase}: the relay did not catch up"
            if phase.restarted:
                yield f"{seen.phase}: a process was started again; its processor times are not to be trusted"
        for phase in (self.open, self.closed):
            if not phase.seen.accepted:
                yield f"{phase.seen.phase}: nothing was accepted"
        sold_out = self.sold_out.seen
        if sold_out.replayed != sold_out.replays_sent:
            yield (
                f"sold out: {sold_out.replays_sent:,} successful bookings were asked for again, "
                f"{sold_out.replayed:,} were answered as replays"
            )
        if sold_out.accepted:
            yield f"sold out: {sold_out.accepted:,} were accepted"
        if self.books.missing:
            yield f"{self.books.missing:,} bookings that clients were given are not in Postgres"
        if self.books.rows != self.books.accepted:
            yield f"{self.books.accepted:,} reservations were answered 201, Postgres has {self.books.rows:,}"
        if self.audit_state != "clean":
            yield f"the audit is {self.audit_state}"
        yield from self.audit_found
