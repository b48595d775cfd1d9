"""The oracle itself, where no family reaches: against plain formulas and against symmetry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from edgedec.architecture import Architecture, Attention, Norm, Rope
from edgedec.errors import InputError, UsageError
from edgedec.export._blocks import activate, attention, rotate
from edgedec.export.checkpoint import Arrays, Checkpoint, Weights
from edgedec.export.reference import Placement, encode, forward, states
from edgedec.models import describe, gpt2, llama, mistral, mu
from edgedec.weights import shapes


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_model(config: dict[str, Any]) -> tuple[Architecture, Arrays]:
    architecture, _ = describe(config)
    return architecture, arrays_for(architecture)


def arrays_for(architecture: Architecture) -> Arrays:
    named = {
        name: numbers(*shape, seed=i) / math.sqrt(shape[-1])
        for i, (name, shape) in enumerate(shapes(architecture).items())
    }
    return Arrays(architecture, named)


def changed(architecture: Architecture, **layer: Any) -> Architecture:
    layers = tuple(replace(one, **layer) for one in architecture.decoder.layers)
    return replace(architecture, decoder=replace(architecture.decoder, layers=layers))


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations_are_their_formulas(kind: str) -> None:
    x = np.array([-200, -30, -3, -0.5, 0, 1e-4, 0.7, 4, 90], dtype=np.float32)
    formula = {
        "silu": lambda v: v / (1 + math.exp(-v)),
        "gelu": lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))),
        "gelu_tanh": lambda v: (
            v * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        ),
        "relu": lambda v: max(v, 0.0),
    }[kind]
    expected = [formula(float(value)) for value in x]
    found = activate(x, kind)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotation_is_multiplication_of_complex_numbers(
    layout: Literal["half", "interleaved"],
) -> None:
    rope = Rope(theta=100.0, fraction=0.75, layout=layout)
    x, rows = numbers(2, 5, 8), Placement(5)
    pairs = ([0, 1, 2], [3, 4, 5]) if layout == "half" else ([0, 2, 4], [1, 3, 5])
    angles = np.outer(np.arange(5), 100.0 ** -(np.arange(3) / 3))
    expected = (x[..., pairs[0]] + 1j * x[..., pairs[1]]) * np.exp(1j * angles)
    turned = rotate(x, rope, rows)
    np.testing.assert_allclose(turned[..., pairs[0]], expected.real, atol=1e-6)
    np.testing.assert_allclose(turned[..., pairs[1]], expected.imag, atol=1e-6)
    np.testing.assert_array_equal(turned[..., 6:], x[..., 6:])


def test_attention_is_its_formula_row_by_row() -> None:
    spec = Attention(heads=4, kv_heads=2, head_dim=3, scale=0.7, softcap=1.5, window=3)
    w = {f"self_attention.{n}.weight": numbers(r, 12, seed=i)
         for i, (n, r) in enumerate([("q", 12), ("k", 6), ("v", 6), ("o", 12)])}  # fmt: skip
    x = numbers(5, 12, seed=9)
    q, k, v = (x @ w[f"self_attention.{n}.weight"].T for n in "qkv")
    mixed = np.zeros((5, 12))
    for row in range(5):
        for head in range(4):
            mine, theirs = slice(3 * head, 3 * head + 3), slice(head // 2 * 3, head // 2 * 3 + 3)
            seen = range(max(0, row - 2), row + 1)
            scores = [1.5 * math.tanh(0.7 * q[row, mine] @ k[j, theirs] / 1.5) for j in seen]
            total = sum(math.exp(score) for score in scores)
            for score, j in zip(scores, seen, strict=True):
                mixed[row, mine] += math.exp(score) / total * v[j, theirs]
    expected = mixed @ w["self_attention.o.weight"].T
    np.testing.assert_allclose(attention(x, spec, w, Placement(5)), expected, atol=1e-4)


def test_norms_after_the_block_leave_normed_rows() -> None:
    architecture, _ = random_model(llama.TINY)
    post = changed(architecture, norm_order="post", norm=Norm(kind="layer", eps=1e-6))
    weights = arrays_for(post)
    ones = {name: weights.load(name) for name in shapes(post)}
    ones |= {name: np.ones_like(a) for name, a in ones.items() if a.ndim == 1}
    for x in list(states(post, Arrays(post, ones), [3, 1, 4], Placement(3)))[1:]:
        np.testing.assert_allclose(x.mean(-1), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(-1), 1, atol=1e-3)


def test_states_are_one_more_than_layers() -> None:
    architecture, weights = random_model(llama.TINY)
    found = list(states(architecture, weights, [5, 6], Placement(2)))
    assert [x.shape for x in found] == [(2, 48)] * 4
    np.testing.assert_array_equal(found[0], weights.load("embed.weight")[[5, 6]])


@pytest.mark.parametrize("config", [mistral.TINY, gpt2.TINY], ids=lambda c: c["model_type"])
def test_a_branch_sees_what_it_would_see_alone(config: dict[str, Any]) -> None:
    """Over a random tree, windows included: each row equals the end of its own path."""
    architecture, weights = random_model(config)
    random = np.random.default_rng(5)
    tokens = random.integers(0, architecture.vocab, 60)
    parents = [-1, *(int(random.integers(max(-1, i - 3), i)) for i in range(1, 60))]
    logits = forward(architecture, weights, tokens, parents=parents)
    for row in (0, 17, 41, 59):
        path, node = [], row
        while node >= 0:
            path.insert(0, node)
            node = parents[node]
        alone = forward(architecture, weights, tokens[path])[-1]
        np.testing.assert_allclose(logits[row], alone, atol=1e-5, rtol=0)


def test_positions_may_be_given() -> None:
    architecture, weights = random_model(gpt2.TINY)
    default = forward(architecture, weights, [4, 5, 6])
    same = forward(architecture, weights, [4, 5, 6], positions=[0, 1, 2])
    moved = forward(architecture, weights, [4, 5, 6], positions=[7, 8, 9])
    np.testing.assert_array_equal(default, same)
    assert np.abs(default - moved).max() > 1e-3


@dataclass
class Watched:
    """Counts the bytes of a layer's weights that are asked for at a time."""

    inner: Weights
    largest: int = 0

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def load(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        found = self.inner.load(name, rows)
        self.largest = max(self.largest, len(found) if name == "embed.weight" else 0)
        return found


def test_the_head_is_read_in_pieces(
    tmp_path: Path, read_golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_golden("qwen2").recipe
    architecture, sources = describe(recipe.config)
    weights = Weights(Checkpoint.open(recipe.write(tmp_path)), architecture, sources)
    whole = forward(architecture, weights, [1, 2, 3])
    monkeypatch.setattr("edgedec.export.reference.HEAD_ROWS", 7)
    watched = Watched(weights)
    np.testing.assert_allclose(forward(architecture, watched, [1, 2, 3]), whole, atol=1e-5)
    assert watched.largest == 7


@pytest.mark.parametrize("tokens", [[], [-1], [112]])
def test_tokens_must_be_ids(tokens: list[int]) -> None:
    architecture, weights = random_model(llama.TINY)
    with pytest.raises(InputError, match="ids from 0 to 111"):
        forward(architecture, weights, tokens)


@pytest.mark.parametrize("parents", [[0, 0], [-1, 1], [-2, 0]])
def test_parents_come_first(parents: list[int]) -> None:
    with pytest.raises(InputError, match="earlier row"):
        Placement(2, parents)


def test_a_source_is_for_models_that_read_one() -> None:
    architecture, weights = random_model(llama.TINY)
    with pytest.raises(UsageError, match="no encoder"):
        forward(architecture, weights, [1], source=[1])
    architecture, weights = random_model(mu.TINY)
    with pytest.raises(UsageError, match="reads a source"):
        forward(architecture, weights, [1])
    for wrong in ([], [112], [-1]):
        with pytest.raises(InputError, match="ids from 0 to 111"):
            forward(architecture, weights, [1], source=wrong)


def test_centred_positions_are_positions_from_0_but_for_rounding() -> None:
    architecture, weights = random_model(mu.TINY)
    assert architecture.encoder is not None
    layers = tuple(
        replace(one, self_attention=replace(one.self_attention, rope=Rope(theta=10000.0)))
        for one in architecture.encoder.layers
    )
    plain = replace(architecture, encoder=replace(architecture.encoder, layers=layers))
    for length in (1, 2, 7):
        source = np.arange(length) + 3
        np.testing.assert_allclose(
            encode(architecture, weights, source), encode(plain, weights, source), atol=1e-4
        )
