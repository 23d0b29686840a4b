"""Configuration: the only module that reads the environment."""

import os
import typing
from collections.abc import Mapping
from pathlib import Path

import msgspec

PREFIX = "RUSH_"
SECRET_BYTES_MIN = 32
SECRET_FIELDS = frozenset({"jwt_secret", "redis_url", "database_url"})
"""Never shown: the URLs may hold a password."""


class SettingsError(Exception):
    """The environment is not usable; the message says which variable and what to do."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, from the variable `RUSH_<NAME>`. Units come last in a name."""

    env: typing.Literal["development", "production"] = "production"
    redis_url: str = "redis://127.0.0.1:6379/0"
    """redis:// or rediss:// (TLS), with user, password and database number where needed; or sentinels, or a
    cluster: see engine/redis_url.py."""
    database_url: str = "postgresql://postgres@127.0.0.1:5432/rush"
    jwt_secret: str = ""
    """Signs and verifies access tokens (HS256); at least 32 characters. It has no default."""

    host: str = "127.0.0.1"
    port: int = 8000
    gateway_processes: int = 1
    database_pool_max: int = 8
    log_level: typing.Literal["debug", "info", "warning", "error"] = "info"

    access_token_ttl_s: int = 900
    refresh_token_ttl_s: int = 30 * 24 * 3600
    refresh_grace_s: int = 5
    """How long a repeat of the newest predecessor of a refresh token is forgiven."""
    bcrypt_cost: int = 12

    body_bytes_max: int = 64 * 1024
    confirm_wait_ms: int = 5_000
    """How long confirm waits for its ledger entry to be durable before it answers 202."""
    hot_line_in_flight_max: int = 10_000
    """Calls of a process that wait for Redis at most, and reservations; more are answered 503."""
    hot_line_timeout_ms: int = 2_000
    redis_replicas_min: int = 0
    """Replicas that must have a batch before it is answered (WAIT); 0 asks none."""

    reserve_rate_per_minute: int = 20
    reserve_burst: int = 10
    login_rate_per_minute: int = 5
    login_burst: int = 3
    register_rate_per_minute: int = 3
    register_burst: int = 2
    user_rate_per_minute: int = 100
    user_burst: int = 20
    public_rate_per_minute: int = 0
    """Public reads per address and process; 0 is no limit."""
    trusted_proxies: str = ""
    """Comma-separated addresses whose X-Forwarded-For is believed."""

    queue_streams_max: int = 5_000
    """People who watch their place by server-sent events, in one gateway process; the others poll."""

    ledger_entries_max: int = 5_000_000
    """A longer ledger refuses new reservations."""
    ledger_trim_lag_s: int = 120
    """How far trimming stays behind what is durable."""
    relay_batch_entries_max: int = 2_000
    relay_shards: int = 256
    expiry_slice_max: int = 100
    """Holds that one call of expire.lua takes back at most."""
    recovery_poll_ms: int = 200
    audit_interval_s: int = 60
    """How often the auditor looks whether anything is false that must never be."""
    cell_retention_s: int = 24 * 3600
    """How long a closed cell stays in Redis."""
    data_dir: str = ".rush"
    failpoint: str = ""
    """Where this process ends or freezes itself (engine/failpoints.py): for drills, production refuses it."""

    def __repr__(self) -> str:
        """Every setting that is no secret and holds none: fit for a log."""
        shown = (
            f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in SECRET_FIELDS
        )
        return f"Settings({', '.join(shown)})"

    @property
    def is_production(self) -> bool:
        """Whether missing secrets are an error."""
        return self.env == "production"


_BOUNDS_MIN = {
    "port": 0,
    "redis_replicas_min": 0,
    "public_rate_per_minute": 0,
    "refresh_grace_s": 0,
    "ledger_trim_lag_s": 0,
    "bcrypt_cost": 4,
    "cell_retention_s": 0,
}
_BOUNDS_MAX = {"port": 65_535, "bcrypt_cost": 31}
"""For the others it is what a 32-bit number holds."""


def load_settings(
    environment: Mapping[str, str] | None = None, *, defaults: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings from the environment; raises SettingsError that names what is wrong.

    `defaults` are variables that stand where the environment has none.
    """
    source = {**(defaults or {}), **(os.environ if environment is None else environment)}
    hints = typing.get_type_hints(Settings)
    values: dict[str, object] = {}
    for variable, text in source.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in Settings.__struct_fields__ or variable != variable.upper():
            known = ", ".join(PREFIX + field.upper() for field in Settings.__struct_fields__)
            raise SettingsError(f"{variable} is not a setting; there are: {known}")
        try:
            values[name] = msgspec.convert(text, hints[name], strict=False)
        except msgspec.ValidationError as error:
            shown = "" if name in SECRET_FIELDS else f" (it is {text!r})"
            raise SettingsError(f"{variable}: {error}{shown}") from None
        _check_bounds(variable, name, values[name])
    settings = Settings(**values)  # type: ignore[arg-type]
    if settings.is_production or settings.jwt_secret:
        _require_secret(settings)
    if settings.is_production and settings.failpoint:
        raise SettingsError(
            "RUSH_FAILPOINT ends this process on purpose: only RUSH_ENV=development allows it"
        )
    return settings


RUNNING_FILE = "running.env"
"""Where, in its data folder, `rush up` writes the settings it runs with; mode 600, gone when it stops."""


def running_text(settings: Settings) -> str:
    """The content of RUNNING_FILE: one RUSH_NAME=value a line."""
    values = ((name, getattr(settings, name)) for name in settings.__struct_fields__)
    return "".join(f"{PREFIX}{name.upper()}={value}\n" for name, value in values)


def load_running_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of the `rush up` that runs on this machine; what the environment sets wins.

    Without one they are those of the environment alone, and nobody who only looks needs the secret that a
    server must have. Raises SettingsError.
    """
    source = os.environ if environment is None else environment
    folder = Path(source.get(PREFIX + "DATA_DIR", ".rush"))
    try:
        text = (folder / RUNNING_FILE).read_text(encoding="utf-8")
    except OSError:
        return load_settings(source, defaults={PREFIX + "ENV": "development"})
    pairs = (line.partition("=") for line in text.splitlines() if line.startswith(PREFIX))
    return load_settings(source, defaults={name: value for name, _, value in pairs})


def _check_bounds(variable: str, name: str, value: object) -> None:
    lowest, highest = _BOUNDS_MIN.get(name, 1), _BOUNDS_MAX.get(name, 2**31 - 1)
    if isinstance(value, int) and not lowest <= value <= highest:
        raise SettingsError(f"{variable} must be from {lowest} to {highest}, it is {value}")


def _require_secret(settings: Settings) -> None:
    if len(settings.jwt_secret) < SECRET_BYTES_MIN:
        state = "too short" if settings.jwt_secret else "missing"
        raise SettingsError(
            f"RUSH_JWT_SECRET is {state}: set it to at least {SECRET_BYTES_MIN} random characters "
            "(openssl rand -hex 32), the same for every gateway"
        )


def project_root() -> Path:
    """The folder that holds lua/, migrations/ and the packages."""
    return Path(__file__).resolve().parent.parent


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a child process exactly these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {PREFIX + name.upper(): str(getattr(settings, name)) for name in settings.__struct_fields__}
    return inherited | ours
