"""Step graphs in ONNX Runtime against the plain numpy reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec.architecture import Architecture, Embedding, Head, Limits
from edgedec.errors import CheckpointError, UnsupportedError, UsageError, WriteError
from edgedec.export import quantise, reference, to_onnx
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format
from edgedec.weights import shapes

from .graphs import (
    BUCKETS,
    CROSSING,
    DIM,
    MODELS,
    SEEING,
    VOCAB,
    Steps,
    attention,
    exported,
    model,
    random_weights,
)

TOKENS = [5, 17, 3, 80, 80, 96, 41, 0, 12]
TREE = ([7, 9, 11, 13, 15, 20, 21], [-1, 0, 0, 2, 1, 1, -1])


def whole_tree() -> tuple[list[int], list[int]]:
    """The tokens as a chain and the tree below its end, for one pass of the reference."""
    last = len(TOKENS) - 1
    parents = [*range(-1, last), *(last if p < 0 else p + last + 1 for p in TREE[1])]
    return TOKENS + TREE[0], parents


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_prefill_steps_and_tree(tmp_path: Path, name: str, kind: Any) -> None:
    architecture = MODELS[name]
    weights = random_weights(architecture)
    if kind == "fp16":
        weights = {n: w.astype(np.float16).astype(np.float32) for n, w in weights.items()}
    formats = quantise.plan(architecture, kind, 32)
    step = exported(tmp_path, architecture, weights, formats)
    ids, parents = whole_tree()
    expected = reference.forward(architecture, Arrays(architecture, weights), ids, parents=parents)
    parts = [step(TOKENS[:4])["logits"]]
    parts += [step([token])["logits"] for token in TOKENS[4:]]
    parts += [step(*TREE, keep=False)["logits"]]
    np.testing.assert_allclose(np.vstack(parts), expected, atol=1e-4, rtol=1e-4)


def test_an_empty_past(tmp_path: Path) -> None:
    architecture = MODELS["llama"]
    weights = random_weights(architecture)
    exported(tmp_path, architecture, weights)
    step = Steps(tmp_path, architecture, slots=0)
    expected = reference.forward(architecture, Arrays(architecture, weights), TOKENS)
    np.testing.assert_allclose(step(TOKENS, keep=False)["logits"], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "post"])
@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3)])
def test_cuts_and_hidden_layers(tmp_path: Path, name: str, cuts: tuple[int, ...]) -> None:
    base = MODELS[name]
    architecture = replace(base, decoder=replace(base.decoder, layers=base.decoder.layers * 4))
    weights = random_weights(architecture)
    layers = architecture.layers
    step = exported(tmp_path, architecture, weights, cuts=cuts, hidden=(0, 1, 2, layers))
    assert len(step.sessions) == (len(cuts) + 2 if cuts else 1)
    source = Arrays(architecture, weights)
    results = step(TOKENS)
    expected = reference.forward(architecture, source, TOKENS)
    np.testing.assert_allclose(results["logits"], expected, atol=2e-4, rtol=1e-4)
    states = list(reference.states(architecture, source, TOKENS, reference.Placement(len(TOKENS))))
    for layer in (0, 1, 2, layers):
        got = results[f"hidden.{layer}"]
        np.testing.assert_allclose(got, states[layer], atol=2e-4, rtol=1e-4)


def test_the_head_reads_only_the_rows_asked_for(tmp_path: Path) -> None:
    step = exported(tmp_path, MODELS["llama"], random_weights(MODELS["llama"]))
    everything = step(TOKENS, keep=False)["logits"]
    for rows in ([3, 1], []):
        logits = step(TOKENS, keep=False, head_rows=rows)["logits"]
        np.testing.assert_allclose(logits, everything[rows], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_learned_ids_stand_for_embedding_rows(tmp_path: Path, name: str) -> None:
    weights = random_weights(MODELS[name])
    step = exported(tmp_path, MODELS[name], weights)
    expected = step([5, 17, 3], keep=False)["logits"]
    step.learned = weights["embed.weight"][[17, 5]]
    learned = step([VOCAB + 1, VOCAB, 3], keep=False)["logits"]
    np.testing.assert_allclose(learned, expected, atol=1e-5)


@pytest.mark.parametrize("cuts", [(), (1,)])
def test_a_tied_table_is_stored_once(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    vocab = 4096
    embed = Embedding(vocab=vocab, dim=DIM)
    sizes = {}
    for tied in (True, False):
        architecture = model(embed=embed, head=Head(tied=tied))
        folder = tmp_path / str(tied)
        folder.mkdir()
        formats = quantise.plan(architecture, "int8", 64)
        exported(folder, architecture, random_weights(architecture), formats, cuts=cuts)
        sizes[tied] = sum(file.stat().st_size for file in folder.iterdir())
    table = vocab * (DIM + 4)
    assert sizes[False] - sizes[True] == pytest.approx(table, abs=16384)


FORMATS = [("int8", 32), ("int8", 64), ("int4", 32), ("int4", 64)]


@pytest.mark.parametrize(("kind", "block"), FORMATS)
@pytest.mark.parametrize("name", ["untied", "qwen2", "qwen3", "gpt2"])
def test_integers_against_their_own_values(
    tmp_path: Path, name: str, kind: Any, block: int
) -> None:
    """Against the dequantised weights; ONNX Runtime rounds the inputs of products to 8 bit."""
    architecture = MODELS[name]
    weights = random_weights(architecture)
    formats = quantise.plan(architecture, kind, block)
    logits = exported(tmp_path, architecture, weights, formats)(TOKENS)["logits"]
    rounded = dict(weights)
    for tensor in weights:
        form = formats.get(tensor, formats.get(tensor.split(".")[-2], Format(kind="fp32")))
        if form.block is not None and tensor.endswith(".weight") and weights[tensor].ndim == 2:
            parts = quantise.quantise(weights[tensor], form)
            rounded[tensor] = quantise.dequantise(*parts)
    expected = reference.forward(architecture, Arrays(architecture, rounded), TOKENS)
    spread = expected.std()
    assert np.abs(logits - expected).max() < 0.1 * spread
    assert np.abs(logits - expected).mean() < 0.02 * spread


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4"])
def test_rows_do_not_depend_on_their_neighbours(tmp_path: Path, kind: Any) -> None:
    architecture = MODELS["llama"]
    formats = quantise.plan(architecture, kind, 32)
    step = exported(tmp_path, architecture, random_weights(architecture), formats)
    together = step(TOKENS[:8], keep=False)["logits"]
    alone = np.vstack([step([token])["logits"] for token in TOKENS[:8]])
    scale = np.abs(together).max()
    assert np.abs(alone - together).max() < 1e-4 * scale
    assert (alone.argmax(axis=1) == together.argmax(axis=1)).all()


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    architecture = MODELS["untied"]
    source = Arrays(architecture, random_weights(architecture))
    formats = quantise.plan(architecture, "int8", 32)
    to_onnx.write(
        tmp_path, architecture, source, formats, progress=lambda *report: told.append(report)
    )
    done, total, _ = zip(*told, strict=True)
    assert list(done) == sorted(done) and done[-1] == total[-1]
    assert total[-1] == 4 * sum(int(np.prod(s)) for s in shapes(architecture).values())
    assert {name for *_, name in told} == set(shapes(architecture))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        *(({"cuts": cuts}, "cuts") for cuts in ((0,), (2,), (1, 1), (3,))),
        ({"hidden": (0, 3)}, "hidden layers"),
        ({"formats": {"down": Format(kind="int4", block=64)}}, "down"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, options: dict[str, Any], complaint: str) -> None:
    architecture = MODELS["llama"]
    with pytest.raises(UsageError, match=complaint):
        exported(tmp_path, architecture, random_weights(architecture), **options)


@pytest.mark.parametrize(
    ("part", "architecture"),
    [
        ("soft cap on biased", model(attention(bias_table=BUCKETS, softcap=3.0))),
        ("source of", model(CROSSING, encoder=SEEING, limits=Limits(context=9, source=10**9))),
        ("--context", model(limits=Limits(context=10**12))),
    ],
)
def test_what_a_step_graph_does_not_carry(part: str, architecture: Architecture) -> None:
    with pytest.raises(UnsupportedError, match=part):
        to_onnx.check(architecture)


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    architecture = MODELS["llama"]
    weights = random_weights(architecture)
    source = Arrays(architecture, weights)
    weights["decoder.layers.1.mlp.up.weight"][3, 3] = np.nan
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up"):
        to_onnx.write(tmp_path, architecture, source, quantise.plan(architecture, "int4", 32))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written"):
        exported(tmp_path / "missing", MODELS["llama"], random_weights(MODELS["llama"]))
