"""`rush up`: the whole product on one machine, from nothing to a sale that is open."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.settings import RUNNING_FILE, Settings, load_settings, running_text
from rush.children import address, gateway_children, get_status, store_child, workers_children
from rush.console import Console
from rush.demo import Demo, make_demo
from rush.migrate import MigrationError, migrate
from rush.postgres_store import PostgresStore
from rush.redis_store import RedisStore
from rush.state import InUseError, fresh_metrics_folder, sole_use
from rush.store import Store, StoreError, free_port, is_port_free, remembered_secret, write_private
from rush.supervisor import Child, StartError, Supervisor

ON_SALE_TIMEOUT_S = 30.0
POLL_S = 0.1
UP_DEFAULTS = {"RUSH_ENV": "development", "RUSH_REDIS_URL": "", "RUSH_DATABASE_URL": ""}
"""What `up` uses where the environment says nothing; no address of a store: our own."""


class UpError(Exception):
    """It cannot come up; the message says why and what to do."""


def up_settings(*, port: int | None = None, gateways: int | None = None) -> Settings:
    """The settings of `rush up`; store addresses are still empty where the embedded stores are meant."""
    settings = load_settings(defaults=UP_DEFAULTS)
    chosen = {"port": port, "gateway_processes": gateways}
    settings = msgspec.structs.replace(
        settings, **{name: value for name, value in chosen.items() if value is not None}
    )
    return msgspec.structs.replace(settings, data_dir=str(Path(settings.data_dir).absolute()))


class Up:
    """One run: brings everything up in order, and down in the opposite one."""

    def __init__(self, settings: Settings, console: Console, *, has_demo: bool = True) -> None:
        self._settings = settings
        self._console = console
        self._has_demo = has_demo
        self._supervisor = Supervisor(console)
        self._groups: list[list[str]] = []
        self._hurry = asyncio.Event()
        self._stop = asyncio.Event()

    def ask_to_stop(self) -> None:
        """The first time: stop in order. Again: do not wait for gateways and workers."""
        if self._stop.is_set():
            self._console.say("Stopping at once.")
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Until asked to stop; raises UpError when it does not come up. Afterwards no child is left."""
        rising = asyncio.create_task(self._rise())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({rising, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if rising.done():
                rising.result()
                await stopping
        except (StartError, StoreError, MigrationError) as error:
            raise UpError(str(error)) from None
        finally:
            for task in (rising, stopping):
                task.cancel()
            await asyncio.gather(rising, stopping, return_exceptions=True)
            await self._fall()

    async def _rise(self) -> None:
        folder = Path(self._settings.data_dir)
        settings = self._settings
        if not settings.jwt_secret:
            settings = msgspec.structs.replace(settings, jwt_secret=remembered_secret(folder / "jwt_secret"))
        settings = await self._raise_stores(settings, folder)
        # For `rush audit` and `rush load` beside us.
        write_private(folder / RUNNING_FILE, running_text(settings))
        await migrate(settings)
        metrics = fresh_metrics_folder(folder)
        await self._start(*workers_children(settings, metrics))
        await self._start(*gateway_children(settings, metrics))
        demo = await make_demo(settings) if self._has_demo else None
        await self._tell(settings, demo)

    async def _start(self, *children: Child) -> None:
        # Noted before they run, so that who is interrupted here stops them too.
        self._groups.append([child.name for child in children])
        await self._supervisor.start(*children)

    async def _raise_stores(self, settings: Settings, folder: Path) -> Settings:
        embedded: list[Store] = []
        if not settings.redis_url:
            embedded.append(RedisStore(folder / "redis"))
        if not settings.database_url:
            embedded.append(PostgresStore(folder / "postgres"))
        if embedded:
            await self._start(*(store_child(store) for store in embedded))
        for store in embedded:
            field = "redis_url" if isinstance(store, RedisStore) else "database_url"
            settings = msgspec.structs.replace(settings, **{field: store.url})
        return settings

    async def _fall(self) -> None:
        if self._groups:
            self._console.say("Stopping.")
        (Path(self._settings.data_dir) / RUNNING_FILE).unlink(missing_ok=True)
        for depth, group in enumerate(reversed(self._groups)):
            is_stores = depth == len(self._groups) - 1
            await self._supervisor.stop(group, is_hurry=None if is_stores else self._hurry)
        if self._groups:
            self._console.say("Stopped. The data stays in " + self._settings.data_dir)

    async def _tell(self, settings: Settings, demo: Demo | None) -> None:
        base = address(settings)
        deadline = asyncio.get_running_loop().time() + ON_SALE_TIMEOUT_S
        while (status := await asyncio.to_thread(get_status, base + "/readyz")) != 200:
            if asyncio.get_running_loop().time() > deadline:
                self._console.say(f"{base}/readyz still answers {status or 'nothing'}: see the lines above.")
                break
            await asyncio.sleep(POLL_S)
        for line in _greeting(base, settings, demo):
            self._console.say(line)


def _greeting(base: str, settings: Settings, demo: Demo | None) -> Sequence[str]:
    lines = [
        "",
        f"Ticket Rush is up: {base}",
        f"  the contract    {base}/docs",
        f"  health          {base}/healthz   {base}/readyz   {base}/metrics",
        f"  data and keys   {settings.data_dir}",
    ]
    if demo is not None:
        lines += [
            f"  accounts        {', '.join(demo.emails)}; password {demo.password}",
            f"  on sale         {demo.title}: {base}/api/v1/events/{demo.slug}",
            "",
            "Reserve two tickets:",
            f"  TOKEN=$(curl -s {base}/api/v1/auth/login -H 'Content-Type: application/json' \\",
            f'    -d \'{{"email": "{demo.emails[0]}", "password": "{demo.password}"}}\' \\',
            '    | sed \'s/.*"access_token": *"\\([^"]*\\)".*/\\1/\')',
            f'  curl -s {base}/api/v1/bookings/reserve -H "Authorization: Bearer $TOKEN" \\',
            "    -H 'Content-Type: application/json' \\",
            f'    -d \'{{"items": [{{"zone_id": "{demo.zone_id}", "quantity": 2}}]}}\'',
        ]
    return [*lines, "", "Ctrl-C stops it.", ""]


def _require_port(settings: Settings) -> None:
    if not is_port_free(settings.port, settings.host):
        raise UpError(
            f"port {settings.port} on {settings.host} is taken: stop what uses it, "
            f"or choose another one (make up PORT={settings.port + 1})"
        )


async def up(settings: Settings, console: Console, *, has_demo: bool = True) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP; raises UpError, with nothing left running."""
    if settings.port == 0:
        settings = msgspec.structs.replace(settings, port=free_port())
    try:
        with sole_use(Path(settings.data_dir)):
            _require_port(settings)
            this = Up(settings, console, has_demo=has_demo)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, this.ask_to_stop)
            await this.run()
    except (InUseError, OSError) as error:
        raise UpError(str(error)) from None
