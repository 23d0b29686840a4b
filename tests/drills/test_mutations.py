"""The planted bugs can be planted, and the gate sees the difference between a bug and none."""

import shutil
from pathlib import Path

import pytest

from engine.settings import project_root
from tests.drills import mutation_gate
from tests.drills.mutation_scenes import ARMED, SCENES
from tests.drills.mutations import MUTATIONS, Mutation, NotPlanted, Patch, plant
from tests.drills.stack import open_stack

BUGS = 20
"""So many are asked for; more are welcome."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_source_still_reads_as_the_bug_needs_it(mutation: Mutation, tmp_path: Path) -> None:
    for patch in mutation.patches:
        (tmp_path / patch.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project_root() / patch.file, tmp_path / patch.file)
    plant(mutation, tmp_path)
    for patch in mutation.patches:
        if patch.file.endswith(".py"):
            compile((tmp_path / patch.file).read_text(), patch.file, "exec")


def test_a_text_that_is_not_there_exactly_once_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("twice twice once")
    for old in ("twice", "never"):
        with pytest.raises(NotPlanted):
            plant(Mutation("x", "nothing", (Patch("a.py", old, "new"),)), tmp_path)
    plant(Mutation("x", "nothing", (Patch("a.py", "once", "new"),)), tmp_path)
    assert (tmp_path / "a.py").read_text() == "twice twice new"


def test_every_bug_has_its_scene_and_every_scene_its_bug() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) >= BUGS
    assert {mutation.scene for mutation in MUTATIONS} == SCENES.keys()
    assert ARMED.keys() <= SCENES.keys()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_bug_is_caught_and_the_source_as_it_is_is_clean(tmp_path: Path) -> None:
    bug = next(mutation for mutation in MUTATIONS if mutation.name == "TTL as expiry")
    async with open_stack(tmp_path / "stack", settings=mutation_gate.SETTINGS) as stack:
        assert await mutation_gate.control(stack, tmp_path / "control", bug.scene) == []
        caught = await mutation_gate.hunt(stack, tmp_path / "bug", bug, seeds=3)
    assert caught.seed is not None
    assert caught.rules
