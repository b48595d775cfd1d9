"""Every family: its spec survives JSON, names every tensor, and gives transformers' logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgedec import rooms
from edgedec.architecture import Architecture
from edgedec.export.checkpoint import Checkpoint, Weights
from edgedec.export.reference import forward
from edgedec.models import describe, families
from edgedec.weights import shapes

TOLERANCE = 1e-4


def tiny(family: str) -> dict[str, Any]:
    config: dict[str, Any] = rooms.load("edgedec.models", family).TINY
    return config


def test_a_file_is_a_family() -> None:
    files = [path.stem for path in (Path(__file__).parents[2] / "models").glob("[a-z]*.py")]
    assert families() == sorted(files)
    for family in families():
        assert tiny(family)["model_type"] == family


@pytest.mark.parametrize("family", families())
def test_the_spec_survives_json(family: str) -> None:
    architecture, _ = describe(tiny(family))
    again = msgspec.json.decode(msgspec.json.encode(architecture), type=Architecture)
    assert again == architecture
    assert architecture.family == family


@pytest.mark.parametrize("family", families())
def test_every_tensor_has_a_source_and_no_other(family: str) -> None:
    architecture, sources = describe(tiny(family))
    assert list(sources) == list(shapes(architecture))


@pytest.mark.parametrize("family", families())
def test_the_golden_checkpoint_is_that_of_the_tiny_config(family: str, read_golden: Any) -> None:
    config = read_golden(family).recipe.config
    assert config == tiny(family), "run tests/families/write_golden.py"


def test_logits_are_those_of_transformers(golden: Any, checkpoint_folder: Path) -> None:
    recipe = golden.recipe
    architecture, sources = describe(recipe.config, context=recipe.context)
    weights = Weights(Checkpoint.open(checkpoint_folder), architecture, sources)

    count = len(golden.text)
    text = forward(architecture, weights, golden.tokens)
    np.testing.assert_allclose(text[golden.kept], golden.prefill, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(text[count:], golden.steps, atol=TOLERANCE, rtol=0)

    parents = [*range(-1, count - 1)]
    parents += [count + parent if parent >= 0 else count - 1 for parent in golden.tree_parents]
    both = np.concatenate([golden.text, golden.tree])
    tree = forward(architecture, weights, both, parents=parents)[count:]
    np.testing.assert_allclose(tree, golden.branches, atol=TOLERANCE, rtol=0)
