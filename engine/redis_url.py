"""Where Redis is: the address, the login and the TLS context in a URL, read as redis-py reads them."""

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

PORT_DEFAULT = 6379

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


def parse_redis_url(url: str) -> RedisAddress:
    """Read a redis://, rediss:// (TLS) or unix:// URL.

    The database number is the path or `?db=`. TLS takes redis-py's options `ssl_ca_certs`,
    `ssl_cert_reqs` (none, optional, required), `ssl_check_hostname`, `ssl_certfile` and
    `ssl_keyfile`. Raises ValueError, with a message that repeats no secret, for anything else;
    OSError (ssl.SSLError among them) when a certificate file cannot be read.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the Redis URL is malformed: its host or port") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("the Redis URL must begin with redis://, rediss:// or unix://")
    options = _options(parts.query, parts.scheme)
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


def _options(query: str, scheme: str) -> dict[str, str]:
    known = {"redis": {"db"}, "rediss": {"db"} | _TLS_OPTIONS, "unix": {"db", "password"}}[scheme]
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
