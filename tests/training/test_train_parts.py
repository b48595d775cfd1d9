"""The recipe of the shipped parts names trainers and options that exist, and installs its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.bundle import open_bundle  # noqa: E402 - needs torch
from edgedec.models.reference import train_parts  # noqa: E402
from edgedec.training import trainers  # noqa: E402


@pytest.mark.parametrize("model", sorted(train_parts.RECIPES))
def test_every_strategy_has_a_command_that_its_trainer_takes(model: str) -> None:
    made = train_parts.commands(model, Path("out"))
    reads = open_bundle(model).manifest.architecture.encoder is not None
    names = set(trainers.names()) - (set() if reads else {"edit_tags"})
    assert sorted(command[2] for command in made) == sorted(names)
    assert all(option in trainers.names() for option in train_parts.RECIPES[model].own)
    for name, options in train_parts.RECIPES[model].options.items():
        (trainer,) = trainers.choose([name], {f"{name}.{key}": v for key, v in options.items()})
        assert all(getattr(trainer.options, key) == value for key, value in options.items())


def test_what_does_not_ship_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(train_parts.HERE / "fix" / "bundle", tmp_path / "fix" / "bundle")
    monkeypatch.setattr(train_parts, "HERE", tmp_path)
    recipe = train_parts.Recipe(train_parts.Corpus(1), options={}, left_out=("hydra",))
    monkeypatch.setitem(train_parts.RECIPES, "fix", recipe)
    for name in ("medusa", "hydra"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"a part")
    before = open_bundle(tmp_path / "fix" / "bundle")
    train_parts.install("fix", tmp_path)
    after = open_bundle(tmp_path / "fix" / "bundle")
    assert {*after.manifest.strategies} == {*before.manifest.strategies, "medusa"}
    assert after.hash == before.hash
    place = after.strategy_file("medusa")
    assert place is not None
    assert place.read_bytes() == b"a part"
