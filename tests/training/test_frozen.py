"""The torch twin of a bundle: what the numpy reference computes, for every kind of model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.errors import UnsupportedError  # noqa: E402 - needs torch
from edgedec.export.from_native import NativeWeights  # noqa: E402
from edgedec.export.reference import Placement, encode, forward, states  # noqa: E402
from edgedec.training.frozen import Frozen, Trunk  # noqa: E402
from edgedec.training.layers import Own, Sight, block  # noqa: E402
from edgedec.training.trainee import Batch  # noqa: E402
from edgedec.weights import role, shapes  # noqa: E402

from ..native import variants  # noqa: E402, TID252

LENGTHS, SOURCES = (40, 26), (25, 13)
TREE = ((10, ()), (10, (0,)), (10, (0, 1)), (25, ()), (25, (3,)))
"""Inserted rows: the real row they follow, and the inserted ones between."""


def written(folder: Path, name: str) -> variants.Model:
    torch.set_num_threads(1)
    return variants.write(folder, name)


def batch_for(model: variants.Model) -> Batch:
    random, spec = np.random.default_rng(0), model.architecture
    tokens = torch.tensor(random.integers(0, spec.vocab, (2, max(LENGTHS))))
    lengths = torch.tensor(LENGTHS)
    ones, dice = torch.ones(2, dtype=torch.long), torch.Generator()
    if spec.encoder is None:
        return Batch(tokens, lengths, ones, dice)
    read = (spec.source_embed or spec.embed).vocab
    sources = torch.tensor(random.integers(0, read, (2, max(SOURCES))))
    return Batch(tokens, lengths, ones, dice, sources, torch.tensor(SOURCES))


def source_of(batch: Batch, text: int) -> np.ndarray | None:
    if batch.sources is None or batch.source_lengths is None:
        return None
    return batch.sources[text, : int(batch.source_lengths[text])].numpy()


def sight_of(length: int) -> torch.Tensor:
    seen = torch.zeros(1, len(TREE), length + len(TREE), dtype=torch.bool)
    for row, (real, before) in enumerate(TREE):
        seen[0, row, : real + 1] = True
        seen[0, row, [length + other for other in (*before, row)]] = True
    return seen


def assert_near(found: torch.Tensor, expected: np.ndarray) -> None:
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found.detach().numpy() / size, expected / size, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", variants.names())
def test_the_twin_is_the_reference(tmp_path: Path, name: str) -> None:
    model = written(tmp_path, name)
    if model.architecture.frontend is not None:
        with pytest.raises(UnsupportedError, match="this model hears"):
            Frozen.of(model.bundle)
        return
    frozen, weights, batch = Frozen.of(model.bundle), NativeWeights(model.bundle), batch_for(model)
    trunk = frozen.trunk(batch)
    check_real(model, trunk, frozen, batch)
    positions = torch.tensor([[real + 1 + len(before) for real, before in TREE]] * 2)
    extra = torch.tensor(np.random.default_rng(1).integers(0, frozen.vocab, (2, len(TREE))))
    x = frozen.enter(frozen.embed(extra), positions).requires_grad_()
    found = frozen.head(frozen.rows(trunk, x, positions, sight_of(max(LENGTHS)))[-1])
    found.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    chain = max(LENGTHS)
    parents = [*range(-1, chain - 1), 10, chain, chain + 1, 25, chain + 3]
    for text in range(2):
        ids = torch.cat((batch.tokens[text], extra[text])).numpy()
        given = source_of(batch, text)
        expected = forward(model.architecture, weights, ids, source=given, parents=parents)
        assert_near(found[text], expected[chain:])


def check_real(model: variants.Model, trunk: Trunk, frozen: Frozen, batch: Batch) -> None:
    spec, weights = model.architecture, NativeWeights(model.bundle)
    logits = frozen.head(trunk.states[-1])
    assert not logits.requires_grad
    for text, length in enumerate(LENGTHS):
        ids, given = batch.tokens[text, :length].numpy(), source_of(batch, text)
        assert_near(logits[text, :length], forward(spec, weights, ids, source=given))
        memory = None if given is None else encode(spec, weights, given)
        between = states(spec, weights, ids, Placement(length), memory)
        for mine, expected in zip(trunk.states, between, strict=True):
            assert_near(mine[text, :length], expected)


@pytest.mark.parametrize("name", ["gemma", "t5-like", "mu-like"])
def test_rows_run_any_layers(tmp_path: Path, name: str) -> None:
    model = written(tmp_path, name)
    frozen, batch = Frozen.of(model.bundle), batch_for(model)
    trunk = frozen.trunk(batch)
    # A row that is inserted where a real row stands, sees what it sees and enters where it does is
    # that row again: at whatever layer it enters.
    place, length = 17, max(LENGTHS)
    positions = torch.full((2, 1), place)
    seen = torch.zeros(1, 1, length + 1, dtype=torch.bool)
    seen[..., :place], seen[..., -1] = True, True
    last = frozen.layers - 1
    for layers in ([last], range(frozen.layers), None):
        first = frozen.layers - len(layers) if layers is not None else 0
        found = frozen.rows(trunk, trunk.states[first][:, [place]], positions, seen, layers)
        assert len(found) == frozen.layers - first + 1
        for step, mine in enumerate(found):
            assert_near(mine, trunk.states[first + step][:, [place]].numpy())
    skipped = frozen.rows(trunk, trunk.states[0][:, [place]], positions, seen, [0])
    assert len(skipped) == 2


def test_weights_are_those_that_were_packed(tmp_path: Path) -> None:
    for name in ("windows", "gemma", "bart-like", "t5gemma-like", "whisper-like"):
        model = written(tmp_path, name)
        found = NativeWeights(model.bundle)
        for tensor, shape in shapes(model.architecture).items():
            values = found.load(tensor)
            assert values.shape == found.shape(tensor) == shape
            np.testing.assert_array_equal(values, model.weights.load(tensor))
            if role(tensor):
                some = slice(2, 9)
                np.testing.assert_array_equal(found.load(tensor, some), values[some])


def test_a_table_of_biases_is_read_by_its_distances(tmp_path: Path) -> None:
    model = written(tmp_path, "t5-like")
    table = NativeWeights(model.bundle).load("decoder.bias_table")
    np.testing.assert_array_equal(table, model.weights.load("decoder.bias_table"))


@pytest.mark.parametrize("name", ["plain", "gemma", "mu-like", "t5-like"])
def test_a_learned_layer_begins_as_a_copy(tmp_path: Path, name: str) -> None:
    frozen = Frozen.of(written(tmp_path, name).bundle)
    own = frozen.copy(1, count=2)
    x = torch.randn(2, 9, frozen.dim)
    positions = torch.arange(9)[None].expand(2, -1)
    found = own(x, Sight(positions))
    for _ in range(2):
        x, _ = block(x, own.layers[0], frozen.layer(1), Sight(positions).chained())
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert not {id(p) for p in own.parameters()} & {id(w) for w in frozen.layer(1).values()}
    names = set(own.weights())
    assert {f"decoder.layers.{layer}.mlp.up.weight" for layer in (0, 1)} <= names
    assert not any("cross" in each or "bias_table" in each for each in names)


def test_a_new_layer_begins_as_nothing(tmp_path: Path) -> None:
    frozen = Frozen.of(written(tmp_path, "plain").bundle)
    own = Own(frozen.architecture.decoder.layers[:1], frozen.dim)
    x = torch.randn(1, 5, frozen.dim)
    torch.testing.assert_close(own(x, Sight(torch.arange(5)[None])), x)
