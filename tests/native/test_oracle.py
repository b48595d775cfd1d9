"""The engine against numpy, layer by layer and as a whole.

Both round activations to 8 bit. A number half way between two integers goes either way, and what
follows from it grows from layer to layer, so two right programs do not stay within 1e-4 of each
other for long. What is compared closely is therefore each layer, from what the engine itself put
into it, and there every row in which no number stood half way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedec import frontend
from edgedec.architecture import Architecture, Attention
from edgedec.bundle import open_bundle, write_bundle
from edgedec.contracts import Rows, Want
from edgedec.export import checkpoint, quantise, to_native, verify
from edgedec.export._blocks import Placement
from edgedec.models import describe, families
from edgedec.models import reference as reference_models
from edgedec.runtimes._source import most_rows
from edgedec.runtimes.native._engine import Session
from edgedec.runtimes.native.engine import Native
from edgedec.runtimes.native.session import NativeSession

from ..families.conftest import TREE, Golden  # noqa: TID252
from . import variants
from .oracle import Oracle, Pair, as_packed
from .plain import source as source_of
from .variants import Model

if TYPE_CHECKING:
    from .conftest import Maker

Floats = NDArray[np.float32]

CLOSE = 1e-4
PREFILL, GREEDY = 70, 40


class Watched:
    """A session that notes what each row of a path was given by every layer."""

    def __init__(self, model: Model) -> None:
        self.spec = model.architecture
        self.engine = model.open(threads=2)
        self.session: NativeSession = self.engine.session()
        self.source: list[Pair | None] = [None] * self.spec.layers
        self._layers = tuple(range(self.spec.layers + 1))
        self.states: list[Floats] = []
        self.logits: list[Floats] = []

    def step(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        rows = Rows(np.array(tokens, np.int32), np.array(parents, np.int32))
        result = self.session.step(rows, want=Want(hidden=self._layers))
        self.states += list(np.stack([result.hidden(i) for i in self._layers], axis=1))
        self.logits += [result.logits(i) for i in range(len(tokens))]

    def keep(self, path: Sequence[int], living: int) -> None:
        """Of the latest `living` rows, those on a path."""
        self.session.keep([path[-1]])
        first = len(self.states) - living
        for column in (self.states, self.logits):
            column[first:] = [column[first + row] for row in path]

    def kept(self) -> list[Pair]:
        """Keys and values of all rows, layer by layer."""
        raw, specs = self.session._session.get(len(self.states)), self.spec.decoder.layers
        found = pairs(raw, [layer.self_attention for layer in specs], len(self.states))
        return [pair for pair in found if pair is not None]

    def heard(self) -> list[Pair | None]:
        """Those of the source."""
        raw, specs = self.session._session.get_source(), self.spec.decoder.layers
        return pairs(raw, [layer.cross_attention for layer in specs], self.session.source_rows)


def pairs(raw: bytes, specs: Sequence[Attention | None], rows: int) -> list[Pair | None]:
    """What a session gives as bytes, by layer: keys and values [G, n, d]."""
    halves, found = np.frombuffer(raw, np.float16).astype(np.float32), []
    for spec in specs:
        size = 0 if spec is None else spec.kv_heads * rows * spec.head_dim
        both = halves[: 2 * size].reshape(2, spec.kv_heads, rows, spec.head_dim) if spec else None
        found.append(None if both is None else (both[0], both[1]))
        halves = halves[2 * size :]
    assert not len(halves)
    return found


def near(found: Floats, expected: Floats, doubtful: NDArray[np.bool_]) -> None:
    """Equal but for rounding errors in most rows, and much alike in the others."""
    error = np.abs(found - expected).max(axis=1)
    assert error[~doubtful].max(initial=0) <= CLOSE * max(1.0, float(np.abs(expected).max()) / 10)
    assert doubtful.mean() < 0.5 and error.max() < 0.2 * np.abs(expected).max()


def stored_right(kept: Pair, expected: Pair, doubtful: NDArray[np.bool_]) -> None:
    for found, exact in zip(kept, expected, strict=True):
        room = np.abs(exact) * 2.0**-11 + 2.0**-25 + 1e-5
        assert (np.abs(found - exact) <= room)[:, ~doubtful].all()


def check_layers(
    oracle: Oracle, watched: Watched, tokens: Sequence[int], parents: Sequence[int] | None = None
) -> None:
    rows, states = Placement(len(tokens), parents), np.stack(watched.states, axis=1)
    none = np.zeros(len(tokens), np.bool_)
    near(states[0], oracle.embed(tokens, rows), none)
    for index, kept in enumerate(watched.kept()):
        expected = oracle.layer(states[index], index, rows, kept, watched.source[index])
        near(states[index + 1], expected, oracle.doubtful)
        assert oracle.stored is not None
        stored_right(kept, oracle.stored, oracle.doubtful)
    near(np.stack(watched.logits), oracle.head(states[-1]), oracle.doubtful)


def encoder_layer(
    engine: Native, source: NDArray[Any], count: int, layer: int
) -> tuple[Floats, Pair]:
    """What one of the engine's encoder layers was given and gave [2, s, D], and what it stored."""
    encoder, spec = engine.encoder, engine.architecture
    assert spec.encoder is not None
    order, specs = np.arange(count, dtype=np.int32), spec.encoder.layers
    sound = spec.frontend and frontend.rows(spec.frontend, encoder._weights, source)
    states = np.empty((2, count, spec.embed.dim), np.float32)
    session = Session(encoder._model, 0, count)
    session.step(
        0, count, spec.embed.dim, order, order, None, source if sound is None else None, sound,
        None, np.array([[0, layer + 1]], np.int32), order[:0],
        np.array([layer, layer + 1], np.int32), states,
    )  # fmt: skip
    # Layers use the same memory one after the other, and this was the last.
    kept = pairs(session.get(count), [layer.self_attention for layer in specs], count)[layer]
    assert kept is not None
    return states, kept


def check_encoder(oracle: Oracle, watched: Watched, source: NDArray[Any]) -> Floats:
    """Every layer, and what the decoder's layers read of it; returns what enters the first."""
    side, session = oracle.encoder, watched.session
    assert side is not None
    session.encode(source)
    count = session.source_rows
    rows = Placement.source(count)
    if side.architecture.frontend is None:
        entering = side.embed(source.tolist(), rows)
    else:
        named = side._load("frontend.")
        entering = side.enter(frontend.rows(side.architecture.frontend, named, source), rows)
    for index in range(len(side.stack.layers)):
        (given, found), kept = encoder_layer(watched.engine, source, count, index)
        if not index:
            near(given, entering, np.zeros(count, np.bool_))
        near(found, side.layer(given, index, rows, kept), side.doubtful)
        assert side.stored is not None
        stored_right(kept, side.stored, side.doubtful)
    expected, watched.source = oracle.read(found), watched.heard()
    for stored, exact in zip(watched.source, expected, strict=True):
        assert (stored is None) == (exact is None)
        if stored is not None and exact is not None:
            stored_right(stored, exact, oracle.doubtful)
    return entering


def check_model(model: Model) -> None:
    """A source, a prefill, a tree, then greedy single steps below one of its branches."""
    oracle, watched = Oracle(model.manifest, model.weights), Watched(model)
    vocab, entering = model.architecture.vocab, None
    if oracle.encoder is not None:
        rows = min(PREFILL, most_rows(model.architecture))
        entering = check_encoder(oracle, watched, source_of(watched.engine, rows))
    tokens: list[int] = np.random.default_rng(2).integers(0, vocab, PREFILL + 7).tolist()
    watched.step(tokens[:PREFILL], range(-1, PREFILL - 1))
    watched.session.keep([PREFILL - 1])
    watched.step(tokens[PREFILL:], TREE)
    below = [parent + PREFILL if parent >= 0 else PREFILL - 1 for parent in TREE]
    check_layers(oracle, watched, tokens, [*range(-1, PREFILL - 1), *below])

    path = [0, 2, 5]
    watched.keep(path, living=7)
    text = [*tokens[:PREFILL], *(tokens[PREFILL + row] for row in path)]
    first = len(text)
    for _ in range(GREEDY):
        text.append(int(watched.logits[-1].argmax()))
        watched.step(text[-1:], [-1])
        watched.session.keep([0])
    check_layers(oracle, watched, text)
    check_text(oracle, watched, text, first, entering)


def check_text(
    oracle: Oracle, watched: Watched, text: Sequence[int], first: int, entering: Floats | None
) -> None:
    """Greedy choices from what stood before the head, and the whole without any guidance.

    With an encoder twice as many layers may round differently.
    """
    states, found = np.stack(watched.states, axis=1), np.stack(watched.logits)
    assert oracle.head(states[-1])[first - 1 : -1].argmax(axis=1).tolist() == list(text[first:])
    alone, stacks = oracle.logits(text, source=entering), 1 if entering is None else 2
    assert divergence(alone, found).mean() < 0.01 * stacks
    assert (alone.argmax(axis=1) == found.argmax(axis=1)).mean() >= 1 - 0.05 * stacks


def divergence(expected: Floats, found: Floats) -> Floats:
    """KL divergence of each row in nats."""
    p, q = (x - x.max(1, keepdims=True) for x in (expected.astype(float), found.astype(float)))
    p, q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (p, q))
    result: Floats = (np.exp(p) * (p - q)).sum(axis=1)
    return result


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_every_layer_of_every_variant(make: Maker, name: str) -> None:
    check_model(make(name))


@pytest.mark.parametrize("family", families())
def test_every_layer_of_every_family(tmp_path: Path, family: str) -> None:
    check_model(exported(Golden.read(family).recipe.write(tmp_path / "checkpoint"), tmp_path))


def exported(folder: Path, target: Path, kind: Any = "int8") -> Model:
    """The native form of a checkpoint."""
    spec, sources = describe(json.loads((folder / "config.json").read_text()))
    weights = checkpoint.Weights(checkpoint.Checkpoint.open(folder), spec, sources)
    return written(spec, weights, target, kind)


def written(
    spec: Architecture, weights: checkpoint.WeightSource, target: Path, kind: Any = "int8"
) -> Model:
    """The native form of an architecture with some weights."""
    formats = quantise.plan(spec, kind, 32, pad=True)
    with write_bundle(target / kind) as writer:
        to_native.write(writer.path, spec, weights, formats)
        variants.finish(writer, kind, spec, formats)
    opened = open_bundle(target / kind)
    return Model(opened, as_packed(opened.manifest, weights))


@pytest.mark.parametrize("name", ["plain", "windows", "gemma", "neox-like"])
def test_eight_bit_keys_and_values_are_nearly_as_good(make: Maker, name: str) -> None:
    model, vocab = make(name), make(name).architecture.vocab
    tokens = np.random.default_rng(5).integers(0, vocab, 150).astype(np.int32)
    rows = Rows(tokens, np.arange(-1, 149, dtype=np.int32))
    found = []
    for kv_type in ("fp16", "int8"):
        result = model.open(kv_type=kv_type).session().step(rows)
        found.append(np.stack([result.logits(i) for i in range(150)]))
    assert 0 < divergence(*found).mean() < 0.05
    assert (found[0].argmax(axis=1) == found[1].argmax(axis=1)).mean() > 0.9


# --- a model that was trained --------------------------------------------------------------------

PIECE = 256
STORIES = Path(reference_models.__file__).parent / "stories" / "checkpoint"


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_eight_bit_activations_hardly_change_a_trained_model(tmp_path: Path, kind: str) -> None:
    """Over held-out text, against exact activations, keys and values on the same weights."""
    model = exported(STORIES, tmp_path, kind)
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    text = resources.files("edgedec.export").joinpath(verify.HELD_OUT).read_text("utf-8")
    ids = np.array(tokenizer.encode(text).ids, np.int32)
    pieces = [ids[first : first + PIECE] for first in range(0, len(ids), PIECE)]
    exact = Oracle(model.manifest, model.weights, activations=False, halves=False)
    expected = np.concatenate([exact.logits(piece.tolist()) for piece in pieces])
    for kv_type, most in (("fp16", 2e-3), ("int8", 4e-3)):
        engine, found = model.open(threads=2, kv_type=kv_type), []
        for piece in pieces:
            order = np.arange(-1, len(piece) - 1, dtype=np.int32)
            result = engine.session().step(Rows(piece, order))
            found += [result.logits(row) for row in range(len(piece))]
        apart = divergence(expected, np.stack(found)).mean()
        alike = (expected.argmax(axis=1) == np.stack(found).argmax(axis=1)).mean()
        print(f"{kind} {kv_type}: KL {apart:.2e} nats, top-1 {alike:.4f}, {len(found)} tokens")
        assert apart <= most
        assert alike >= (0.98 if kv_type == "fp16" else 0.96)
