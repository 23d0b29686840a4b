"""Postgres: stopped, killed, frozen, restarted, under full load."""

import asyncio
import contextlib
import os
import signal

import asyncpg

from tests.drills.checker import POISON
from tests.drills.faults import fault
from tests.drills.run import Scene

KILLS = (2, 4)
TIMEOUT_S = 10.0
RECOVERY_TIMEOUT_S = 60.0
POLL_S = 0.05
POISONING = (
    """
    CREATE OR REPLACE FUNCTION drill_poison() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF right(NEW.id::text, 1) = '7' THEN
            RAISE check_violation USING MESSAGE = 'poisoned by a drill';
        END IF;
        RETURN NEW;
    END $$
    """,
    "CREATE OR REPLACE TRIGGER drill_poison BEFORE INSERT ON bookings "
    "FOR EACH ROW EXECUTE FUNCTION drill_poison()",
)


@fault("postgres-stop", "postgres")
async def postgres_stop(scene: Scene) -> None:
    """Stopped in order, away for a while, back."""
    with scene.fault("postgres-stop"):
        await scene.stack.postgres.stop_async()
        await scene.sleep_a_while(2.0, 60.0)
        await scene.stack.postgres.start_async()


@fault("postgres-restart", "postgres")
async def postgres_restart(scene: Scene) -> None:
    """Restarted in order."""
    with scene.fault("postgres-restart"):
        await scene.stack.postgres.restart_async()


@fault("postgres-kill", "postgres")
async def postgres_kill(scene: Scene) -> None:
    """kill -9 of all its processes, in the middle of whatever they commit; some times over."""
    server = scene.stack.postgres
    for _ in range(scene.random.randint(*KILLS)):
        with scene.fault("postgres-kill"):
            children = _children(server.pid)
            server.kill()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await scene.sleep(0.0, 0.5)
            await server.start_async()
        await scene.sleep(0.2, 1.5)


@fault("postgres-crash", "postgres")
async def postgres_crash(scene: Scene) -> None:
    """One of its backends is killed: it ends all others and recovers, by itself."""
    with scene.fault("postgres-crash"):
        children = _children(scene.stack.postgres.pid)
        # The youngest are the ones that work for us.
        with contextlib.suppress(ProcessLookupError):
            os.kill(scene.random.choice(children[-3:]), signal.SIGKILL)
        await scene.sleep(0.2, 0.6)
        # How long it takes to recover by itself is no affair of ours.
        async with asyncio.timeout(RECOVERY_TIMEOUT_S):
            while not await asyncio.to_thread(scene.stack.postgres.store.answers):
                await asyncio.sleep(POLL_S)


@fault("postgres-pause", "postgres")
async def postgres_pause(scene: Scene) -> None:
    """All its processes are frozen: connections stay open, and locks are held."""
    server = scene.stack.postgres
    with scene.fault("postgres-pause"):
        pids = [server.pid, *_children(server.pid)]
        _signal(pids, signal.SIGSTOP)
        await scene.sleep_a_while()
        _signal(pids, signal.SIGCONT)


@fault("poison", "postgres")
async def poison(scene: Scene) -> None:
    """Postgres refuses some of the bookings that come in, and for good: they become dead letters."""
    with scene.fault(POISON):
        await _execute(scene, *POISONING)
        await scene.sleep_a_while(0.5, 4.0)
        await _execute(scene, "DROP TRIGGER drill_poison ON bookings")


async def _execute(scene: Scene, *statements: str) -> None:
    connection = await asyncpg.connect(scene.stack.postgres.url, timeout=TIMEOUT_S)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        connection.terminate()


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
