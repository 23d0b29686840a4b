"""Sentinels for tests: they watch a master under the name `rush`."""

from pathlib import Path

from rush.redis_store import embedded_redis, redis_answers
from rush.store import free_port, launched, write_private
from tests.stores import RedisServer, Server

SERVICE = "rush"
PASSWORD = "a password of the sentinels alone"
DOWN_AFTER_MS = 500
QUORUM = 2


class _SentinelStore:
    """One sentinel; it rewrites its configuration itself."""

    name = "sentinel"
    stop_signal = "SIGTERM"

    def __init__(self, folder: Path, master: RedisServer) -> None:
        self.folder = folder.absolute()
        self._master = master
        self._binary = master.store.binary or embedded_redis()
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_private(self.folder / "sentinel.conf", "\n".join(self._configuration()) + "\n")

    def _configuration(self) -> list[str]:
        return [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {self.folder}",
            f'requirepass "{PASSWORD}"',
            f'sentinel sentinel-pass "{PASSWORD}"',
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master.port} {QUORUM}",
            f"sentinel auth-pass {SERVICE} {self._master.store.password}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]

    def command(self) -> list[str]:
        configuration = str(self.folder / "sentinel.conf")
        return launched([str(self._binary), configuration, "--sentinel"], death_signal=self.stop_signal)

    def answers(self) -> bool:
        return redis_answers(self.port, PASSWORD)


def start_sentinels(folder: Path, master: RedisServer, count: int = 3) -> list[Server]:
    """So many sentinels, which find each other and the master's replicas."""
    sentinels = []
    for number in range(count):
        server = Server(_SentinelStore(folder / f"sentinel-{number}", master), folder / f"sentinel-{number}")
        sentinels.append(server)
        server.start()
    return sentinels


def sentinel_url(sentinels: list[Server], master: RedisServer) -> str:
    """What RUSH_REDIS_URL is."""
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    password = PASSWORD.replace(" ", "%20")
    return f"redis+sentinel://:{master.store.password}@{hosts}/{SERVICE}/0?sentinel_password={password}"
