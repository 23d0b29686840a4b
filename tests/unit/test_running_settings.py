"""What works beside a running `rush up` finds its settings."""

from pathlib import Path

from engine.settings import RUNNING_FILE, Settings, load_running_settings, running_text

RUNNING = Settings(
    env="development",
    redis_url="redis://:a=b@127.0.0.1:1/0",
    port=8123,
    jwt_secret="s" * 32,
    data_dir="there",
)


def test_everything_is_as_the_running_one_has_it(tmp_path: Path) -> None:
    (tmp_path / RUNNING_FILE).write_text(running_text(RUNNING))
    found = load_running_settings({"RUSH_DATA_DIR": str(tmp_path)})
    assert (found.redis_url, found.port, found.jwt_secret) == ("redis://:a=b@127.0.0.1:1/0", 8123, "s" * 32)


def test_what_the_environment_sets_wins(tmp_path: Path) -> None:
    (tmp_path / RUNNING_FILE).write_text(running_text(RUNNING))
    found = load_running_settings({"RUSH_DATA_DIR": str(tmp_path), "RUSH_PORT": "9000"})
    assert (found.port, found.redis_url) == (9000, RUNNING.redis_url)


def test_where_none_runs_the_environment_is_enough_and_no_secret_is_needed(tmp_path: Path) -> None:
    found = load_running_settings({"RUSH_DATA_DIR": str(tmp_path), "RUSH_REDIS_URL": "redis://127.0.0.1:7/0"})
    assert (found.redis_url, found.jwt_secret) == ("redis://127.0.0.1:7/0", "")
