"""The processes of `rush up`: every worker runs in exactly one of them."""

from engine.settings import load_settings
from rush.children import workers_children
from workers.runner import WORKERS

SETTINGS = load_settings({"RUSH_ENV": "development"})


def _named(words: list[str]) -> list[str]:
    """The workers that a command line names."""
    return words[words.index("work") + 1 : words.index("--as")]


def test_every_worker_runs_in_one_process() -> None:
    children = workers_children(SETTINGS, None)
    named = [name for child in children for name in _named(child.command())]
    assert sorted(named) == sorted(WORKERS)


def test_the_relay_is_alone_and_behind_the_others() -> None:
    relay, others = workers_children(SETTINGS, None)
    assert (relay.name, _named(relay.command())) == ("relay", ["relay"])
    assert others.name == "workers"
    assert "--nice" in relay.command()
    assert "--nice" not in others.command()
