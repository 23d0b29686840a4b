"""Settings: every mistake in the environment is named, no secret is shown."""

import os
from pathlib import Path

import pytest

from engine.settings import (
    PREFIX,
    Settings,
    SettingsError,
    child_environment,
    load_settings,
    project_root,
)

SECRET = "0123456789abcdef0123456789abcdef"
DEVELOPMENT = {"RUSH_ENV": "development"}


def message_of(environment: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment)
    return str(caught.value)


def test_an_unknown_variable_is_an_error_that_names_it_and_those_there_are() -> None:
    message = message_of({**DEVELOPMENT, "RUSH_REDIS_ULR": "redis://x"})
    assert "RUSH_REDIS_ULR is not a setting" in message
    assert "RUSH_REDIS_URL" in message


@pytest.mark.parametrize("variable", ["RUSH_port", "RUSH_", "RUSH_PORT_", "RUSH_IS_PRODUCTION"])
def test_a_variable_that_only_resembles_one_is_unknown(variable: str) -> None:
    assert f"{variable} is not a setting" in message_of({**DEVELOPMENT, variable: "1"})


def test_variables_of_others_are_none_of_our_business() -> None:
    assert load_settings({**DEVELOPMENT, "PORT": "x", "RUSHES": "y", "rush_port": "z"}) == load_settings(
        DEVELOPMENT
    )


@pytest.mark.parametrize("environment", [{}, {"RUSH_ENV": "production"}, {"RUSH_JWT_SECRET": ""}])
def test_a_missing_secret_is_an_error_in_production(environment: dict[str, str]) -> None:
    assert "RUSH_JWT_SECRET is missing" in message_of(environment)


@pytest.mark.parametrize("env", ["production", "development"])
def test_a_short_secret_is_an_error_everywhere_and_is_not_shown(env: str) -> None:
    message = message_of({"RUSH_ENV": env, "RUSH_JWT_SECRET": "hush-hush"})
    assert "RUSH_JWT_SECRET is too short" in message
    assert "hush" not in message.replace("RUSH", "")


def test_production_is_the_default_and_a_secret_all_it_needs() -> None:
    assert load_settings({"RUSH_JWT_SECRET": SECRET}).is_production


def test_development_runs_without_a_secret() -> None:
    assert not load_settings(DEVELOPMENT).is_production


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUSH_PORT", "eighty"),
        ("RUSH_PORT", ""),
        ("RUSH_PORT", "80.5"),
        ("RUSH_PORT", "\uff18\uff10"),
        ("RUSH_ENV", "staging"),
        ("RUSH_LOG_LEVEL", "INFO"),
        ("RUSH_HOT_LINE_TIMEOUT_MS", "2s"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_variable_and_value(variable: str, value: str) -> None:
    message = message_of({**DEVELOPMENT, variable: value})
    assert message.startswith(variable)
    assert repr(value) in message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUSH_PORT", "-1"),
        ("RUSH_PORT", "65536"),
        ("RUSH_GATEWAY_PROCESSES", "0"),
        ("RUSH_BCRYPT_COST", "3"),
        ("RUSH_BCRYPT_COST", "32"),
        ("RUSH_HOT_LINE_IN_FLIGHT_MAX", "0"),
        ("RUSH_HOT_LINE_TIMEOUT_MS", "0"),
        ("RUSH_CONFIRM_WAIT_MS", "99999999999999999999"),
    ],
)
def test_a_value_out_of_bounds_is_an_error_that_names_variable_value_and_bounds(
    variable: str, value: str
) -> None:
    message = message_of({**DEVELOPMENT, variable: value})
    assert message.startswith(f"{variable} must be from ")
    assert message.endswith(f"it is {value}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("RUSH_PORT", "0"), ("RUSH_PORT", "65535"), ("RUSH_REDIS_REPLICAS_MIN", "0"), ("RUSH_BCRYPT_COST", "4")],
)
def test_the_bounds_themselves_are_allowed(variable: str, value: str) -> None:
    settings = load_settings({**DEVELOPMENT, variable: value})
    assert getattr(settings, variable.removeprefix(PREFIX).lower()) == int(value)


def test_every_default_is_within_its_own_bounds() -> None:
    defaults = Settings()
    variables = {PREFIX + name.upper(): str(getattr(defaults, name)) for name in Settings.__struct_fields__}
    assert load_settings(variables | DEVELOPMENT) == load_settings(DEVELOPMENT)


def test_settings_in_a_log_show_no_secret() -> None:
    settings = Settings(
        jwt_secret=SECRET, redis_url="redis://:pass-one@h", database_url="postgresql://u:pass-two@h/d"
    )
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert SECRET not in shown
        assert "pass-" not in shown
        assert "port=8000" in shown


def test_a_child_process_gets_exactly_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSH_PORT", "1")
    monkeypatch.setenv("RUSH_LEFT_OVER", "x")
    settings = load_settings({"RUSH_JWT_SECRET": SECRET, "RUSH_PORT": "8123", "RUSH_DATA_DIR": "a dir"})
    environment = child_environment(settings)
    assert load_settings(environment) == settings
    assert "RUSH_LEFT_OVER" not in environment
    assert environment["PATH"] == os.environ["PATH"]


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUSH_ENV", "development")
    monkeypatch.setenv("RUSH_PORT", "8124")
    assert load_settings().port == 8124


def test_the_project_root_holds_the_packages() -> None:
    assert (project_root() / "engine" / "settings.py").samefile(
        Path(__file__).parents[2] / "engine" / "settings.py"
    )
