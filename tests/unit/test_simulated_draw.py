"""The draw of a simulated sale is one that everybody can check."""

from pathlib import Path

import pytest

from engine.ids import make_id
from loadtest.simulation.crowd import user_text
from loadtest.simulation.draw import SimulatedDraw
from rush.cli import main


def test_what_is_written_of_it_is_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = [None if person == 3 else user_text(person) for person in range(1500)]
    draw = SimulatedDraw(make_id(1, 0, 0), users, 17, 1_800_000_000_000)
    files = [str(path) for path in draw.write(tmp_path)]
    assert main(["verify-lottery", *files, "--user", user_text(41)]) == 0
    said = capsys.readouterr().out
    assert "1,500 numbers, 1,499 people, 1 nobody's" in said
    assert "have the number 42" in said


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    users = [user_text(person) for person in range(10)]
    event_id = make_id(1, 0, 0)
    one, same, other = (SimulatedDraw(event_id, users, seed, 0) for seed in (1, 1, 2))
    assert one.key == same.key != other.key
