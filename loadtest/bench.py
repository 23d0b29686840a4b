"""`rush bench`: how many reservations a second the whole stack carries, and what each one costs whom."""

import argparse
import asyncio
import contextlib
import shlex
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec

from engine.audit import audit
from engine.audit_report import Report
from engine.errors import ServiceUnavailable
from engine.redis_clients import REDIS_ERRORS
from engine.settings import SettingsError, child_environment, project_root
from engine.sql import load_queries
from engine.stores import POSTGRES_ERRORS, Stores, open_stores
from loadtest import bench_options as options_of
from loadtest.bench_bare import Bare, bare_server
from loadtest.bench_cpu import cpu
from loadtest.bench_first import FirstAnswer, buy
from loadtest.bench_machine import commit, machine
from loadtest.bench_measure import Measure, Measured
from loadtest.bench_page import render, to_json, write_page
from loadtest.bench_phase import LocustRun, booking_ids
from loadtest.bench_report import BenchReport, Books
from loadtest.hot_plan import HotPlan, Replays
from loadtest.hot_requests import Buyer
from loadtest.organizer import Organizer, TargetError
from loadtest.profile import Basket, Profile, ProfileZone
from loadtest.stack import OwnStack, own_stack

EXIT_CORRECT, EXIT_WRONG, EXIT_UNMEASURED, EXIT_INTERRUPTED = 0, 1, 2, 130
HALL, LOGE = "Hall", "Loge"
LOGE_SEATS = 100
REPLAY_EVERY = 50
HOLD_TTL_S = 3600
MAX_PER_USER = 4
ON_SALE_TIMEOUT_S = 30.0
RELAY_WAIT_S = 120.0
POLL_S = 0.1
IDS_PAGE = 5_000
BARE_REQUESTS = 20_000
PHASES_MAX = 16
STORE_ERRORS = (*POSTGRES_ERRORS, *REDIS_ERRORS, ServiceUnavailable)

queries = load_queries("audit")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Bench:
    """One benchmark on one stack."""

    def __init__(self, options: argparse.Namespace, folder: Path, own: OwnStack) -> None:
        self._options = options
        self._folder = folder
        self._own = own
        self._environment = child_environment(own.settings)
        self._locust = LocustRun(self._environment)
        self._phases = 0
        self._told: list[HotPlan] = []
        """Phases whose 201 must be rows."""

    async def run(self) -> BenchReport:
        """All phases and checks; raises TargetError."""
        options, own = self._options, self._own
        began_s = time.monotonic()
        event_id, zones = await self._put_on_sale()
        first = await self._first_buyers(zones[LOGE])
        stores = await open_stores(own.settings, "bench")
        try:
            measure = Measure(own, stores, event_id, _say)
            warm_s = options_of.warm_up_s(options)
            warm = self._plan("warm-up", zones[HALL], "closed", warm_s)
            _say(f"Warming up for {warm_s:.0f} s.")
            self._told.append(warm)
            await self._locust.run(warm)
            open_loop = await self._phase(
                measure, self._plan("open loop", zones[HALL], "open", options.seconds)
            )
            closed = await self._phase(
                measure, self._plan("closed loop", zones[HALL], "closed", options.seconds)
            )
            sold_out = await self._phase(measure, self._sold_out_plan(zones[LOGE]))
            bare_open, bare_closed = await self._bare(first, zones[HALL])
            _say("Comparing what the clients were told with Postgres, then auditing.")
            books = await self._compare(stores, event_id)
            report = await audit(
                stores, event_id=event_id, relay_wait_s=RELAY_WAIT_S, say=lambda text: _say(f"… {text}")
            )
        finally:
            await stores.close()
        return BenchReport(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=commit(),
            command=self._options.command,
            machine=machine(),
            seats=options.seats,
            gateways=options.gateways,
            locust_processes=options.locust_processes,
            answer_bytes=first.size,
            open=open_loop,
            closed=closed,
            sold_out=sold_out,
            bare_open=bare_open,
            bare_closed=bare_closed,
            books=books,
            audit_state="clean" if report.exit_status == 0 else "not clean",
            audit_seconds=round(report.seconds, 1),
            audit_found=_findings(report),
            seconds=round(time.monotonic() - began_s, 1),
        )

    async def _put_on_sale(self) -> tuple[UUID, dict[str, UUID]]:
        profile = Profile(
            name="bench",
            title="Benchmark",
            source="",
            currency="EUR",
            max_per_user=MAX_PER_USER,
            zones=[ProfileZone(HALL, "0.00"), ProfileZone(LOGE, "0.00")],
            baskets=[Basket(1, {HALL: 1})],
        )
        organizer = Organizer(self._own.target, self._own.settings.jwt_secret)
        capacities = {HALL: self._options.seats, LOGE: LOGE_SEATS}
        event_id, zones = await asyncio.to_thread(
            organizer.put_on_sale, profile, capacities, hold_ttl_s=HOLD_TTL_S
        )
        deadline_s = time.monotonic() + ON_SALE_TIMEOUT_S
        while not await asyncio.to_thread(organizer.is_on_sale, event_id):
            if time.monotonic() > deadline_s:
                raise TargetError("the event did not come on sale")
            await asyncio.sleep(POLL_S)
        return event_id, zones

    @property
    def _loge_seed(self) -> int:
        return int(self._options.seed) * PHASES_MAX + PHASES_MAX - 1

    async def _first_buyers(self, zone_id: UUID) -> FirstAnswer:
        target, secret = self._own.target, self._own.settings.jwt_secret
        buyer = Buyer(target.host, target.port, secret, zone_id)
        requests = list(buyer.requests(self._loge_seed, LOGE_SEATS))
        return await asyncio.to_thread(buy, target.host, target.port, requests)

    def _plan(self, phase: str, zone_id: UUID, mode: str, seconds: float) -> HotPlan:
        """The plan of the next phase; its counts are shared out among the Locust processes."""
        options, target = self._options, self._own.target
        processes = options.locust_processes
        connections = options.connections * (options_of.OPEN_CONNECTIONS_FACTOR if mode == "open" else 1)
        factor = 1.0 if mode == "open" else options_of.PREPARED_FACTOR
        self._phases += 1
        return HotPlan(
            phase=phase,
            host=target.host,
            port=target.port,
            folder=str(self._folder / phase.replace(" ", "-")),
            jwt_secret=self._own.settings.jwt_secret,
            zone_id=zone_id,
            seed=int(options.seed) * PHASES_MAX + self._phases,
            processes=processes,
            connections=max(1, connections // processes),
            mode="open" if mode == "open" else "closed",
            rate_per_s=options.rate / processes,
            seconds=seconds,
            requests=max(1, int(options.rate * seconds * factor) // processes),
        )

    def _sold_out_plan(self, zone_id: UUID) -> HotPlan:
        seconds = options_of.short_s(self._options)
        plan = self._plan("sold out", zone_id, "closed", seconds)
        wanted = int(self._options.rate * seconds * options_of.REFUSED_FACTOR) // plan.processes
        return _changed(
            plan,
            requests=max(REPLAY_EVERY, wanted),
            accepts=frozenset({201, 409}),
            replays=Replays(seed=self._loge_seed, count=LOGE_SEATS, zone_id=zone_id, every=REPLAY_EVERY),
        )

    async def _phase(self, measure: Measure, plan: HotPlan) -> Measured:
        _say(
            f"{plan.phase}: {plan.connections * plan.processes} connections, {plan.seconds:.0f} s; "
            f"preparing {plan.requests * plan.processes:,} requests first."
        )
        self._told.append(plan)
        return await measure.around(plan.phase, lambda: self._locust.run(plan))

    async def _bare(self, first: FirstAnswer, zone_id: UUID) -> tuple[Bare, Bare]:
        measured = []
        seconds = options_of.short_s(self._options)
        async with bare_server(self._folder, self._environment, 201, first.headers, first.body) as server:
            for phase, mode in (("bare warm-up", "closed"), ("bare open", "open"), ("bare closed", "closed")):
                plan = _changed(
                    self._plan(phase, zone_id, mode, 1.0 if "warm" in phase else seconds),
                    port=server.port,
                    requests=BARE_REQUESTS,
                    is_endless=True,
                )
                _say(f"{phase}: the same load on an ASGI application that does nothing.")
                before_s = cpu(server.pid).all
                seen = await self._locust.run(plan)
                measured.append(Bare(seen, server.cpu_us(before_s, sum(seen.answers.values()))))
        return measured[1], measured[2]

    async def _compare(self, stores: Stores, event_id: UUID) -> Books:
        """Every 201 is a row: by its id, one by one; and nothing else is there."""
        accepted, missing = LOGE_SEATS, 0
        page: list[UUID] = []
        for plan in self._told:
            for booking_id in booking_ids(plan):
                page.append(booking_id)
                accepted += 1
                if len(page) == IDS_PAGE:
                    missing += await _missing(stores, page)
                    page = []
        missing += await _missing(stores, page)
        rows = int(await queries.bookings_count(stores.pool, event_id=event_id))
        return Books(accepted=accepted, rows=rows, missing=missing)


async def _missing(stores: Stores, page: list[UUID]) -> int:
    """How many of these bookings are not in Postgres; one that stands here twice is missing once."""
    known = [row async for row in queries.known_ids(stores.pool, booking_ids=page)]
    return len(page) - len(known)


def _changed(plan: HotPlan, **changes: object) -> HotPlan:
    return msgspec.structs.replace(plan, **changes)


def _findings(report: Report) -> list[str]:
    found = list(report.problems)
    for event in report.events:
        found += [f"{each.rule}. {each.what}: {each.subject}: {each.detail}" for each in event.violations]
    return found


async def _measure(options: argparse.Namespace, folder: Path) -> BenchReport:
    _say("Starting a complete Ticket Rush on a fresh data folder.")
    words = ["--gateways", str(options.gateways)]
    async with own_stack(folder / "stack.log", *words) as own:
        return await Bench(options, folder, own).run()


async def _run(options: argparse.Namespace, folder: Path) -> int:
    measuring = asyncio.create_task(_measure(options, folder))

    def stop() -> None:
        # Once: what is being stopped already is not to be cut off in the middle of it.
        if not measuring.cancelling():
            measuring.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        report = await measuring
    except asyncio.CancelledError:
        _say("Stopped; nothing of it is left.")
        return EXIT_INTERRUPTED
    text = to_json(report).decode() if options.json else render(report)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if not options.no_page:
        _say(f"Written to {write_page(report).relative_to(project_root())}")
    return EXIT_WRONG if any(True for _ in report.wrong()) else EXIT_CORRECT


def main(argv: list[str]) -> int:
    """The command; its exit status."""
    options = options_of.parse(argv)
    options.command = shlex.join(["rush", "bench", *argv])
    with contextlib.ExitStack() as stack:
        kept = options.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="rush-bench-"))
        folder = Path(kept).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return asyncio.run(_run(options, folder))
        except (TargetError, SettingsError, *STORE_ERRORS) as error:
            _say(f"rush bench: {error}")
            return EXIT_UNMEASURED
