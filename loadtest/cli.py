"""`rush load`: puts an event on sale, sends the crowd, waits for the relay, audits, and says the verdict."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from engine.audit import audit
from engine.audit_report import Report
from engine.settings import Settings, SettingsError, child_environment, load_running_settings
from engine.stores import Stores, open_stores
from loadtest.clients import Clients
from loadtest.options import GRACE_S, IN_FLIGHT_MAX, WAITING_ROOM, parse
from loadtest.organizer import Organizer, Target, TargetError
from loadtest.plan import Plan, PlanBasket, QueuePlan
from loadtest.profile import NAMES, Profile, load_profile
from loadtest.progress import Progress
from loadtest.report import render, render_html
from loadtest.stack import own_stack
from loadtest.tally import Tally
from loadtest.verdict import EXIT_UNKNOWN, Verdict, judge

EXIT_INTERRUPTED = 130
ON_SALE_TIMEOUT_S = 30.0
POLL_S = 0.1
PROGRESS_INTERVAL_S = 1.0
CLIENTS_START_TIMEOUT_S = 30.0
ARRIVAL_SLACK = 1.5
"""How much longer than planned arriving may take before the run is ended."""


QUEUE_GRACE_S = 60.0


def _queue_plan(options: argparse.Namespace) -> QueuePlan | None:
    """The waiting room that the options ask for."""
    if options.profile != WAITING_ROOM:
        return None
    return QueuePlan(
        admissions_per_s=options.admissions,
        passes_max=options.passes_max,
        pass_ttl_s=options.pass_ttl,
        claim_grace_s=options.claim_grace,
        pusher_share=options.pusher_share,
    )


def _waiting_room(queue: QueuePlan) -> dict[str, Any]:
    """The same as an event has it."""
    return {
        "mode": "open",
        "admissions_per_second": queue.admissions_per_s,
        "passes_max": queue.passes_max,
        "pass_ttl_seconds": queue.pass_ttl_s,
        "claim_grace_seconds": queue.claim_grace_s,
    }


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Run:
    """One run against one target."""

    def __init__(self, options: argparse.Namespace, folder: Path, stop: asyncio.Event) -> None:
        self._options = options
        self._folder = folder
        self._stop = stop

    async def run(self, target: Target, settings: Settings) -> Verdict:
        """From the event to the verdict. Raises TargetError where it cannot begin."""
        is_queued = self._options.profile == WAITING_ROOM
        profile = load_profile(NAMES[0] if is_queued else self._options.profile)
        organizer = Organizer(target, settings.jwt_secret)
        plan = await self._prepare(target, settings, profile, organizer)
        stores = await open_stores(settings, "load")
        clients = Clients(plan, self._folder, web_port=self._options.web_port if self._options.web else None)
        tally = Tally(plan)
        try:
            await clients.start(child_environment(settings))
            await self._follow(clients, tally, stores)
            report = await self._audit(stores, plan.event_id, tally)
            verdict = judge(tally, report, is_interrupted=self._stop.is_set())
            self._write(verdict, plan, profile, target)
            self._tell(verdict)
            if self._options.web and clients.is_running and not self._stop.is_set():
                _say(f"Locust's page stays at http://127.0.0.1:{self._options.web_port} until Ctrl-C.")
                await self._stop.wait()
        finally:
            await clients.close()
            await stores.close()
            with contextlib.suppress(TargetError, OSError):
                await asyncio.to_thread(organizer.pause, plan.event_id)
        return verdict

    async def _prepare(
        self, target: Target, settings: Settings, profile: Profile, organizer: Organizer
    ) -> Plan:
        options = self._options
        queue = _queue_plan(options)
        try:
            capacities = profile.capacities(options.tickets)
        except ValueError as error:
            raise TargetError(f"--tickets: {error}") from None
        event_id, zone_ids = await asyncio.to_thread(
            organizer.put_on_sale,
            profile,
            capacities,
            hold_ttl_s=options.hold_ttl,
            waiting_room=None if queue is None else _waiting_room(queue),
        )
        deadline_s = time.monotonic() + ON_SALE_TIMEOUT_S
        while not await asyncio.to_thread(organizer.is_on_sale, event_id):
            if time.monotonic() > deadline_s:
                raise TargetError("the event did not come on sale: does recovery work?")
            await asyncio.sleep(POLL_S)
        _say(
            f"{profile.title}: {options.tickets:,} tickets, {options.people:,} people, "
            f"{options.rate:,.0f} a second"
        )
        arriving_s = options.people / options.rate
        # Who waits is let in no faster than that, and for the last ones seats have to come back.
        waiting_s = 0.0 if queue is None else options.people / queue.admissions_per_s + QUEUE_GRACE_S
        return Plan(
            host=target.host,
            port=target.port,
            folder=str(self._folder),
            jwt_secret=settings.jwt_secret,
            event_id=event_id,
            capacities={zone_ids[name]: capacity for name, capacity in capacities.items()},
            zone_names={zone_id: name for name, zone_id in zone_ids.items()},
            max_per_user=profile.max_per_user,
            baskets=[
                PlanBasket(basket.weight, [(zone_ids[name], count) for name, count in basket.items.items()])
                for basket in profile.baskets
            ],
            people=options.people,
            rate_per_s=options.rate,
            seed=options.seed,
            processes=options.processes,
            connections=max(1, options.connections // options.processes),
            in_flight_max=max(1, IN_FLIGHT_MAX // options.processes),
            hold_ttl_s=options.hold_ttl,
            confirm_share=options.confirm_share,
            cancel_share=options.cancel_share,
            keyless_share=options.keyless_share,
            twice_share=options.twice_share,
            again_share=options.again_share,
            think_s=options.think,
            bound_s=(arriving_s + waiting_s) * ARRIVAL_SLACK + GRACE_S,
            queue=queue,
        )

    async def _follow(self, clients: Clients, tally: Tally, stores: Stores) -> None:
        """Until all people are done, or somebody presses Ctrl-C."""
        progress = Progress(tally, stores)
        start_s = time.monotonic()
        bound_s = start_s + tally.plan.bound_s + GRACE_S
        while clients.is_running and not tally.is_complete and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), PROGRESS_INTERVAL_S)
            clients.read(tally)
            _say(await progress.line())
            if time.monotonic() > (bound_s if tally.has_begun else start_s + CLIENTS_START_TIMEOUT_S):
                _say(
                    f"The clients take too long: ending them. What they say is in {self._folder}/locust.log."
                )
                break
        if not tally.is_complete:
            if self._stop.is_set():
                _say("Ending the rush; the verdict follows.")
            clients.ask_to_stop()
            await clients.drain(tally)
        clients.read(tally)

    async def _audit(self, stores: Stores, event_id: UUID, tally: Tally) -> Report | None:
        _say("Waiting for the relay, then comparing Redis, Postgres and what everybody was told.")
        return await audit(
            stores,
            event_id=event_id,
            told=tally.told(),
            relay_wait_s=self._options.relay_wait,
            say=lambda text: _say(f"… {text}"),
        )

    def _tell(self, verdict: Verdict) -> None:
        text = msgspec.json.encode(verdict).decode() if self._options.json else render(verdict)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        _say(f"Reports: {self._folder}")

    def _write(self, verdict: Verdict, plan: Plan, profile: Profile, target: Target) -> None:
        """The reports, beside what they were made of."""
        parameters = {
            "profile": f"{profile.title}. {profile.source}",
            "target": target.url,
            "event": plan.event_id,
            "people": f"{plan.people:,}",
            "arrivals a second": plan.rate_per_s,
            "tickets": f"{sum(plan.capacities.values()):,}",
            "hold time": f"{plan.hold_ttl_s} s",
            "connections": plan.connections * plan.processes,
            "processes": plan.processes,
            "seed": plan.seed,
            "processor cores": os.cpu_count(),
        }
        content = msgspec.json.encode({"verdict": verdict, "parameters": parameters})
        (self._folder / "verdict.json").write_bytes(msgspec.json.format(content, indent=2))
        page = render_html(verdict, parameters)
        (self._folder / "verdict.html").write_text(page, encoding="utf-8")


@contextlib.asynccontextmanager
async def _target(options: argparse.Namespace, folder: Path) -> AsyncIterator[tuple[Target, Settings]]:
    """The gateway to be loaded, one that runs or one of our own. Raises TargetError."""
    settings = load_running_settings()
    target = Target(options.target or f"http://127.0.0.1:{settings.port}")
    if not options.own_stack and await asyncio.to_thread(target.is_up):
        if not settings.jwt_secret:
            raise TargetError(
                f"{target.url} answers, but its settings are not known: start it with `rush up` in this "
                "folder, or set RUSH_JWT_SECRET, RUSH_REDIS_URL and RUSH_DATABASE_URL as it has them"
            )
        _say(f"Loading {target.url}.")
        yield target, settings
        return
    if options.target:
        raise TargetError(f"nobody answers at {target.url}")
    _say("Starting a complete Ticket Rush for this run.")
    async with own_stack(folder / "stack.log") as own:
        yield own.target, own.settings


def _new_folder(data_dir: str) -> Path:
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = (Path(data_dir) / "load" / (name + suffix)).absolute()
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise TargetError(f"cannot make a new folder in {data_dir}")


async def _run(options: argparse.Namespace) -> int:
    folder = _new_folder(load_running_settings().data_dir)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _target(options, folder) as (target, settings):
        verdict = await Run(options, folder, stop).run(target, settings)
    if verdict.is_interrupted and verdict.state == "clean":
        return EXIT_INTERRUPTED
    return verdict.exit_status


def main(argv: list[str]) -> int:
    """The command; its exit status."""
    options = parse(argv)
    try:
        return asyncio.run(_run(options))
    except (TargetError, SettingsError, OSError) as error:
        _say(f"rush load: {error}")
        return EXIT_UNKNOWN
