"""The same installation on two machines: gateways and workers on one, the stores on the other.

Each is a network namespace of Linux; a third way leads from us to each of them.

    us 10.213.N.1 ── 10.213.N.2 applications 10.213.N.5 ──── 10.213.N.6 stores 10.213.N.10 ── 10.213.N.9 us

What is broken is the link in the middle; the clients and the harness have their own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from engine.settings import Settings
from rush.postgres_store import PostgresStore
from tests.drills.fault_clocks import ClockedRedis
from tests.drills.stack import Stack
from tests.integration.proxy import Proxy
from tests.stores import PostgresServer, RedisServer

TRUSTED = "host all all 10.213.0.0/16 scram-sha-256\n"


def missing() -> str | None:
    """What this machine lacks for it, in a word."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return "it takes root on Linux, and the command ip"
    number = os.getpid() % 250
    try:
        _ip(f"netns add rush-try-{number}")
        _ip(f"netns del rush-try-{number}")
    except subprocess.CalledProcessError:
        return "network namespaces are not allowed here"
    return None


def missing_delay() -> str | None:
    """The same for a link that is slow."""
    if (lacking := missing()) is not None:
        return lacking
    number = os.getpid() % 250
    try:
        _ip(f"netns add rush-try-{number}")
        subprocess.run(
            f"ip netns exec rush-try-{number} tc qdisc add dev lo root netem delay 1ms".split(),
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "the kernel has no netem"
    finally:
        _ip(f"netns del rush-try-{number}")
    return None


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


class Machines:
    """The two namespaces and their links; `close` takes them away."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self._net = f"10.213.{number}"
        self.applications, self.stores = f"rush-app-{number}", f"rush-store-{number}"
        self._ours = [f"rush{number}a", f"rush{number}s"]
        self.application_host, self.store_host = f"{self._net}.2", f"{self._net}.10"
        self.store_host_inside, self._application_inside = f"{self._net}.6", f"{self._net}.5"

    def open(self) -> None:
        """Make them."""
        app, store, net = self.applications, self.stores, self._net
        for name in (app, store):
            _ip(f"netns add {name}")
            _ip(f"-n {name} link set lo up")
        _ip(f"link add {self._ours[0]} type veth peer name out netns {app}")
        _ip(f"link add {self._ours[1]} type veth peer name out netns {store}")
        _ip(f"-n {app} link add between type veth peer name between netns {store}")
        for place, device, host in (
            ("", self._ours[0], 1), (f"-n {app} ", "out", 2), (f"-n {app} ", "between", 5),
            (f"-n {store} ", "between", 6), ("", self._ours[1], 9), (f"-n {store} ", "out", 10),
        ):  # fmt: skip
            _ip(f"{place}addr add {net}.{host}/30 dev {device}")
            _ip(f"{place}link set {device} up")

    def cut(self, *, at_the_stores: bool) -> None:
        """Nothing passes. One end sees that its link is down, the other one sees nothing."""
        _ip(f"-n {self.stores if at_the_stores else self.applications} link set between down")

    def lose_answers(self) -> None:
        """What the applications send arrives; what the stores answer does not."""
        _ip(f"-n {self.stores} route add blackhole {self._application_inside}/32")

    def delay(self, delay_ms: int) -> None:
        """Everything takes so long in each direction."""
        for name in (self.applications, self.stores):
            _ip(f"netns exec {name} tc qdisc add dev between root netem delay {delay_ms}ms")

    def heal(self) -> None:
        """The link is good, whatever it was before."""
        for undo in (
            f"-n {self.applications} link set between up",
            f"-n {self.stores} link set between up",
            f"-n {self.stores} route del blackhole {self._application_inside}/32",
            f"netns exec {self.applications} tc qdisc del dev between root",
            f"netns exec {self.stores} tc qdisc del dev between root",
        ):
            subprocess.run(["ip", *undo.split()], check=False, capture_output=True)

    def close(self) -> None:
        """Take them away; their processes must have ended."""
        for name in (self.applications, self.stores):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def inside(namespace: str, command: list[str]) -> list[str]:
    """The command line that runs a command there; it stays the same process."""
    return ["ip", "netns", "exec", namespace, *command]


class _RemoteRedis(ClockedRedis):
    """On the stores' machine, for everybody."""

    def __init__(self, folder: Path, namespace: str) -> None:
        super().__init__(folder)
        store, plain = self.store, self.store.command
        configuration = store._configuration
        store._configuration = lambda: configuration().replace("bind 127.0.0.1", "bind 0.0.0.0")  # type: ignore[method-assign]
        store.command = lambda: inside(namespace, plain())  # type: ignore[method-assign]


class _RemotePostgresStore(PostgresStore):
    namespace = ""

    def prepare(self) -> None:
        super().prepare()
        path = self.folder / "pg_hba.conf"
        text = path.read_text(encoding="utf-8")
        if TRUSTED not in text:
            path.write_text(text + TRUSTED, encoding="utf-8")

    def command(self) -> list[str]:
        command = [
            word.replace("listen_addresses=127.0.0.1", "listen_addresses=*") for word in super().command()
        ]
        return inside(self.namespace, command)


class TwoMachines(Stack):
    """A stack whose parts are on two machines."""

    def __init__(self, folder: Path, *, source: Path | None = None) -> None:
        self.machines = Machines()
        self._forwards: list[Proxy] = []
        super().__init__(
            folder, source=source, make_redis=lambda place: _RemoteRedis(place, self.machines.stores)
        )
        store = _RemotePostgresStore(folder / "postgres", is_quick=True)
        store.namespace = self.machines.stores
        self.postgres.store = store

    async def start(self) -> None:
        """As a stack on one machine, on two."""
        self.machines.open()
        for server in (self.redis, self.postgres):
            await self._forward(server)
        await super().start()

    async def _forward(self, server: RedisServer | PostgresServer) -> None:
        """Have the server's own address lead to it, for the harness."""
        server.store.prepare()
        way = Proxy(server.port, target_host=self.machines.store_host)
        await way.start(server.port)
        self._forwards.append(way)

    async def _open_ways(self, name: str) -> None:
        """There is one way to the stores, for all."""

    def settings_of(self, name: str, port: int = 0) -> Settings:
        """The stores by the address of their machine."""
        there = self.machines.store_host_inside
        settings = self.settings
        return msgspec.structs.replace(
            settings,
            host="0.0.0.0",
            port=port,
            redis_url=settings.redis_url.replace("@127.0.0.1:", f"@{there}:"),
            database_url=settings.database_url.replace("@127.0.0.1:", f"@{there}:"),
        )

    @property
    def gateway_host(self) -> str:
        """Where the gateways are."""
        return self.machines.application_host

    def placed(self, command: list[str]) -> list[str]:
        """A member's command line, on its machine."""
        return inside(self.machines.applications, command)

    async def heal(self) -> None:
        """The link too."""
        self.machines.heal()
        await super().heal()

    async def close(self) -> None:
        """And both machines."""
        self.machines.heal()
        await super().close()
        for way in self._forwards:
            await way.close()
        self.machines.close()
