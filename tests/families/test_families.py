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
    assert config == tiny(family), "run python -m tests.families.write_golden"


def opened(golden: Any, folder: Path) -> tuple[Architecture, Weights]:
    architecture, sources = describe(golden.recipe.config, context=golden.recipe.context)
    return architecture, Weights(Checkpoint.open(folder), architecture, sources)


def test_logits_are_those_of_transformers(golden: Any, checkpoint_folder: Path) -> None:
    architecture, weights = opened(golden, checkpoint_folder)
    count = len(golden.text)
    text = forward(architecture, weights, golden.tokens, source=golden.source)
    np.testing.assert_allclose(text[golden.kept], golden.prefill, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(text[count:], golden.steps, atol=TOLERANCE, rtol=0)

    parents = [*range(-1, count - 1)]
    parents += [count + parent if parent >= 0 else count - 1 for parent in golden.tree_parents]
    both = np.concatenate([golden.text, golden.tree])
    tree = forward(architecture, weights, both, source=golden.source, parents=parents)[count:]
    np.testing.assert_allclose(tree, golden.branches, atol=TOLERANCE, rtol=0)


def test_sources_of_several_lengths_are_those_of_a_padded_batch(
    golden: Any, checkpoint_folder: Path
) -> None:
    """transformers ran them padded and masked; here each runs as it is."""
    architecture, weights = opened(golden, checkpoint_folder)
    assert (architecture.encoder is None) == (golden.source is None)
    for source, expected in zip(golden.sources, golden.padded, strict=True):
        text = golden.tokens[: len(expected)]
        found = forward(architecture, weights, text, source=source)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
