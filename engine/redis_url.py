"""Where Redis is: one node, a cluster, or a master that sentinels know. The URL says which.

    redis://[user:password@]host[:port][/db]        one node; rediss:// by TLS, unix:// by a socket
    redis+cluster://[user:password@]host:port,…     some nodes of a cluster, which know the others
    redis+sentinel://[user:password@]host:port,…/service[/db]
                                                    the sentinels that watch a master and its replicas

`rediss+cluster://` and `rediss+sentinel://` are the same by TLS. A single node is read as redis-py reads it.
"""

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote, urlsplit

PORT_DEFAULT = 6379
SENTINEL_PORT_DEFAULT = 26379

_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_CERT_REQS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One Redis server, and who we are there. `path` is a Unix socket and excludes host and port."""

    host: str = "localhost"
    port: int = PORT_DEFAULT
    path: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = field(default=None, compare=False)

    def __str__(self) -> str:
        where = f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
        return f"{where}/{self.database}{' (TLS)' if self.tls else ''}"

    def at(self, host: str, port: int) -> "RedisAddress":
        """Another server, where we are who we are here."""
        return replace(self, host=host, port=port, path=None)


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """Some nodes of a cluster."""

    nodes: tuple[RedisAddress, ...]
    tls_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """As they stand in the URL, for a client that makes its own TLS context."""

    def __str__(self) -> str:
        return f"cluster of {', '.join(f'{node.host}:{node.port}' for node in self.nodes)}"

    def at(self, host: str, port: int) -> RedisAddress:
        """One of its servers."""
        return self.nodes[0].at(host, port)


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """The sentinels that know where a master is, and who we are at either."""

    sentinels: tuple[RedisAddress, ...]
    service: str
    """The name by which the sentinels know the master."""
    master: RedisAddress
    """All but host and port."""

    def __str__(self) -> str:
        sentinels = ", ".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"{self.service}/{self.master.database} by sentinels {sentinels}"

    def at(self, host: str, port: int) -> RedisAddress:
        """One of the servers that they watch."""
        return self.master.at(host, port)


Address = RedisAddress | ClusterAddress | SentinelAddress


def parse_redis_url(url: str) -> Address:
    """Read a URL of one of the forms above.

    The database number is the path or `?db=`; a cluster has only the database 0. TLS takes redis-py's
    options `ssl_ca_certs`, `ssl_cert_reqs` (none, optional, required), `ssl_check_hostname`, `ssl_certfile`
    and `ssl_keyfile`. The login of sentinels, where they want one, stands in `sentinel_username` and
    `sentinel_password`. Raises ValueError, with a message that repeats no secret, for anything else;
    OSError (ssl.SSLError among them) when a certificate file cannot be read.
    """
    scheme, _, kind = url.partition("://")[0].partition("+")
    match scheme, kind:
        case (("redis" | "rediss" | "unix"), ""):
            return _parse_node(url)
        case (("redis" | "rediss"), "cluster"):
            return _parse_cluster(url)
        case (("redis" | "rediss"), "sentinel"):
            return _parse_sentinel(url)
        case _:
            raise ValueError(
                "the Redis URL must begin with redis://, rediss:// or unix://, with redis+cluster:// or "
                "rediss+cluster://, or with redis+sentinel:// or rediss+sentinel://"
            )


def _parse_node(url: str) -> RedisAddress:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the Redis URL is malformed: its host or port") from None
    known = {"redis": {"db"}, "rediss": {"db"} | _TLS_OPTIONS, "unix": {"db", "password"}}[parts.scheme]
    options = _options(parts.query, known)
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    database = options.pop("db", None)
    if parts.scheme == "unix":
        password = password or options.pop("password", None)
        if not parts.path:
            raise ValueError("the Redis URL names no socket: unix:///path/to/socket")
        return RedisAddress(
            path=unquote(parts.path), username=username, password=password, database=_database(database)
        )
    return RedisAddress(
        host=unquote(parts.hostname) if parts.hostname else "localhost",
        port=port or PORT_DEFAULT,
        username=username,
        password=password,
        database=_database(database if database is not None else parts.path.strip("/")),
        tls=_tls_context(options) if parts.scheme == "rediss" else None,
    )


def _parse_cluster(url: str) -> ClusterAddress:
    hosts, rest, is_tls = _several(url, PORT_DEFAULT)
    options = _options(urlsplit(rest).query, _TLS_OPTIONS if is_tls else frozenset())
    if urlsplit(rest).path.strip("/"):
        raise ValueError("the Redis URL names a database: a cluster has only one")
    login = _login(rest, options, is_tls)
    return ClusterAddress(tuple(login.at(host, port) for host, port in hosts), tls_options=options)


def _parse_sentinel(url: str) -> SentinelAddress:
    hosts, rest, is_tls = _several(url, SENTINEL_PORT_DEFAULT)
    parts = urlsplit(rest)
    known = {"db", "sentinel_username", "sentinel_password"} | (_TLS_OPTIONS if is_tls else set())
    options = _options(parts.query, known)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the Redis URL names no service: redis+sentinel://host:port,host:port/service")
    database = options.pop("db", database)
    username, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    login = _login(rest, options, is_tls)
    return SentinelAddress(
        sentinels=tuple(
            replace(login, host=host, port=port, username=username or None, password=password or None)
            for host, port in hosts
        ),
        service=unquote(service),
        master=replace(login, database=_database(database)),
    )


def _several(url: str, port_default: int) -> tuple[list[tuple[str, int]], str, bool]:
    """The hosts and ports of a URL that names several, the URL with one in their place, whether by TLS."""
    scheme, _, rest = url.partition("://")
    end = next((i for i, letter in enumerate(rest) if letter in "/?#"), len(rest))
    credentials, at, names = rest[:end].rpartition("@")
    hosts = []
    for name in names.split(","):
        try:
            parts = urlsplit(f"//{name}")
            hosts.append((unquote(parts.hostname or ""), parts.port or port_default))
        except ValueError:
            raise ValueError("the Redis URL is malformed: its hosts or ports") from None
    if not all(host for host, _ in hosts):
        raise ValueError("the Redis URL names no hosts: host:port,host:port,…")
    one = f"redis://{credentials}{at}host{rest[end:]}"
    try:
        urlsplit(one)
    except ValueError:
        # Its own text repeats the password.
        raise ValueError("the Redis URL is malformed: its user or password") from None
    return hosts, one, scheme.startswith("rediss")


def _login(rest: str, options: dict[str, str], is_tls: bool) -> RedisAddress:
    parts = urlsplit(rest)
    return RedisAddress(
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=_tls_context(options) if is_tls else None,
    )


def _options(query: str, known: Collection[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ValueError(f"the Redis URL has an unknown option {name!r}; there are: {sorted(known)}")
        options[name] = value
    return options


def _database(text: str | None) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the database number in the Redis URL is not a number")
    return int(text)


def _tls_context(options: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs in the Redis URL must be one of {sorted(_CERT_REQS)}")
    checks = options.get("ssl_check_hostname", "true").lower()
    if checks not in _TRUE | _FALSE:
        raise ValueError("ssl_check_hostname in the Redis URL must be true or false")
    # An unverified certificate proves no name either, and Python refuses that combination.
    context.check_hostname = checks in _TRUE and requirement != "none"
    context.verify_mode = _CERT_REQS[requirement]
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
