"""The processes of `rush up`: every worker runs in exactly one of them."""

import pytest

from engine.settings import load_settings
from rush.children import workers_children
from workers.runner import WORKERS

SETTINGS = load_settings({"RUSH_ENV": "development"})


def _named(words: list[str]) -> list[str]:
    """The workers that a command line names; all of them where it names none."""
    names = words[words.index("work") + 1 : words.index("--as")]
    return names or list(WORKERS)


@pytest.mark.parametrize("is_relay_apart", [False, True])
def test_every_worker_runs_in_one_process(is_relay_apart: bool) -> None:
    children = workers_children(SETTINGS, None, is_relay_apart=is_relay_apart)
    named = [name for child in children for name in _named(child.command())]
    assert sorted(named) == sorted(WORKERS)


def test_apart_the_relay_is_alone() -> None:
    relay, others = workers_children(SETTINGS, None, is_relay_apart=True)
    assert (relay.name, _named(relay.command())) == ("relay", ["relay"])
    assert others.name == "workers"
