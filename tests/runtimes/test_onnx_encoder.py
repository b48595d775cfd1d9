"""Encoder-decoder models in the ONNX runtime against the reference."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace as replaced
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedec.contracts import TRUNK, Want
from edgedec.errors import InputError, UsageError
from edgedec.export import quantise, reference
from edgedec.export.checkpoint import Arrays
from edgedec.weights import shapes

from .conftest import READ, Maker, close, reader, rows
from .sources import MODELS, VOCAB, lengths

PATH = [3, 1, 4, 1, 5, 9, 2]
TREE = [7, 9, 11, 13, 15, 20, 21], [-1, 0, 0, 2, 1, 1, -1]


@pytest.mark.parametrize("name", [*MODELS, *READ])
def test_prefill_steps_and_trees(make_reader: Maker, name: str) -> None:
    read = reader(make_reader(name))
    session, path = read.session(), PATH[:4]
    result = session.step(rows(path))
    close(np.stack([result.logits(i) for i in range(4)]), read.logits(path))
    session.keep([3])
    for token in PATH[4:]:
        path.append(token)
        close(session.step(rows([token])).logits(0), read.logits(path)[-1])
        session.keep([0])
    for leaf in (3, 5):
        tokens, parents = TREE
        last = len(path) - 1
        whole = [*range(-1, last), *(last if p < 0 else p + last + 1 for p in parents)]
        result = session.step(rows(tokens, parents))
        expected = read.logits(path + tokens, whole)[last + 1 :]
        close(np.stack([result.logits(i) for i in range(7)]), expected)
        session.keep([leaf])
        path += [7, 11, 13] if leaf == 3 else [7, 9, 20]
        assert list(session.tokens) == path
    close(session.step(rows([8])).logits(0), read.logits([*path, 8])[-1])


@pytest.mark.parametrize("name", MODELS)
def test_one_source_after_another(make_reader: Maker, name: str) -> None:
    model = make_reader(name)
    session, keys, seen = model.engine.session(), set[str](), []
    assert (session.source_rows, session.source_key) == (0, "")
    sizes = lengths(model.engine.architecture)
    for seed, count in enumerate((*sizes, sizes[0], sizes[0])):
        read = reader(model, count, seed)
        session.encode(read.source)
        memory = reference.encode(model.engine.architecture, model.weights, read.source)
        assert session.source_rows == len(memory) and not session.tokens
        keys.add(session.source_key)
        # A step of the same rows as before: its buffers are bound already.
        seen.append(session.step(rows(PATH)).logits(6).copy())
        close(seen[-1], read.logits(PATH)[-1])
        session.keep([6])
    assert len(keys) == len(seen) and not np.allclose(seen[-1], seen[-2], atol=1e-3)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), name=st.sampled_from(["mu cut", "grouped t5", "sandwich", "marian"]))
def test_random_sessions(make_reader: Maker, data: st.DataObject, name: str) -> None:
    read = reader(make_reader(name), data.draw(st.integers(1, 24)))
    session, trunk, living = read.session(), list[int](), list[list[int]]()
    for _ in range(data.draw(st.integers(1, 6))):
        count = data.draw(st.integers(1, 4))
        tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=count, max_size=count))
        parents = [data.draw(st.integers(-1, len(living) + i - 1)) for i in range(count)]
        result = session.step(rows(tokens, parents))
        for token, parent in zip(tokens, parents, strict=True):
            living.append([*(living[parent] if parent >= 0 else []), token])
        for row, branch in enumerate(living[-count:]):
            close(result.logits(row), read.logits([*trunk, *branch])[-1])
        match data.draw(st.sampled_from(["go on", "one", "two", "fork", "other source"])):
            case "one":
                leaf = data.draw(st.integers(-1, len(living) - 1))
                session.keep([leaf])
                trunk, living = trunk + (living[leaf] if leaf >= 0 else []), []
            case "two":
                session.keep([0, TRUNK])
                living = living[:1]
            case "fork":
                session, living = session.fork(), []
            case "other source":
                read = reader(read.model, data.draw(st.integers(1, 24)), seed=1)
                session.encode(read.source)
                trunk, living = [], []
        assert list(session.tokens) == trunk


def test_an_old_source_is_let_go(make_reader: Maker) -> None:
    read = reader(make_reader("mu"))
    session = read.session()
    for token in (1, 2):
        session.step(rows([token] * token, [-1] * token))
    old = weakref.ref(next(iter(session._encoded.arrays.values())))
    session.encode(reader(read.model, 7).source)
    gc.collect()
    assert old() is None


def test_several_texts_of_one_source(make_reader: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reader(make_reader("mu"))
    session = read.session()
    # From here on the encoder must not run: the source that is held costs nothing again.
    monkeypatch.setattr(type(read.model.engine.encoder), "run", None)
    session.step(rows([1]))
    session.keep([0])
    session.encode(read.source)
    assert not session.tokens
    for path in (PATH, [8, 8], PATH):
        session.truncate(0)
        close(session.step(rows(path)).logits(len(path) - 1), read.logits(path)[-1])
        session.keep([len(path) - 1])
    with pytest.raises(InputError, match="empty"):
        session.encode(np.zeros(0, np.int32))
    assert list(session.tokens) == PATH, "a refused source must change nothing"
    close(session.step(rows([5])).logits(0), read.logits([*PATH, 5])[-1])


@pytest.mark.parametrize("name", ["mu cut", "t5 cut", "normed cut"])
def test_early_exit_then_the_rest(make_reader: Maker, name: str) -> None:
    read = reader(make_reader(name))
    session, total = read.session(), read.model.engine.architecture.layers
    session.step(rows(PATH), want=Want(logits=()))
    session.keep([6])
    session.step(rows([5, 6], [-1, 0]), (range(1),), Want(logits=()))
    with pytest.raises(UsageError, match="has not run"):
        session.keep([1])
    result = session.resume([0, 1], (range(1, total),))
    close(result.logits(1), read.logits([*PATH, 5, 6])[-1])
    assert session.keep([1]) == (TRUNK,)


@pytest.mark.parametrize("name", ["mu", "t5", "whisper"])
@pytest.mark.parametrize("kind", ["fp16", "int8", "int4"])
def test_smaller_weights_against_their_own_values(make_reader: Maker, name: str, kind: str) -> None:
    """ONNX Runtime rounds the inputs of integer products to 8 bit, too: much for so few inputs."""
    model = make_reader(f"{name} {kind}")
    spec, manifest = model.engine.architecture, model.bundle.manifest
    rounded = {tensor: model.weights.load(tensor) for tensor in shapes(spec)}
    for tensor, values in rounded.items():
        form = manifest.format_of(tensor)
        if form.block is not None:
            rounded[tensor] = quantise.dequantise(*quantise.quantise(values, form))
        else:
            rounded[tensor] = values.astype(quantise.FLOATS[form.kind]).astype(np.float32)
    read = reader(replaced(model, weights=Arrays(spec, rounded)))
    session = read.session()
    session.step(rows(PATH), want=Want(logits=()))
    session.keep([6])
    found = session.step(rows([5, 6, 7], [-1, 0, -1])).logits(1)
    expected = read.logits([*PATH, 5, 6])[-1]
    if kind == "fp16":
        close(found, expected)
    assert np.abs(found - expected).max() < 0.3 * expected.std()
    assert np.abs(found - expected).mean() < 0.1 * expected.std()


def test_hidden_states(make_reader: Maker) -> None:
    read = reader(make_reader("mu cut"))
    spec, weights = read.model.engine.architecture, read.model.weights
    result = read.session().step(rows(PATH), want=Want(hidden=(0, 1, 2)))
    memory = reference.encode(spec, weights, read.source)
    states = reference.states(spec, weights, PATH, reference.Placement(len(PATH)), memory)
    for layer, state in zip(range(3), states, strict=False):
        close(result.hidden(layer), state)


def test_a_fork_goes_its_own_way(make_reader: Maker) -> None:
    read = reader(make_reader("t5"))
    session = read.session()
    session.step(rows(PATH))
    session.keep([6])
    other = session.fork()
    assert other.source_key == session.source_key != ""
    another = reader(read.model, 7, seed=9)
    session.encode(another.source)
    close(other.step(rows([5])).logits(0), read.logits([*PATH, 5])[-1])
    close(session.step(rows([5])).logits(0), another.logits([5])[-1])


def test_a_step_needs_a_source_first(make_reader: Maker) -> None:
    model = make_reader("mu")
    session = model.engine.session()
    with pytest.raises(UsageError, match="call encode before the first step"):
        session.step(rows([1]))
    assert model.engine.capabilities.encoder
    assert session.fork().source_rows == 0


@pytest.mark.parametrize(
    ("name", "source", "error", "message"),
    [
        ("mu", np.zeros(0, np.int32), InputError, "the source is empty"),
        ("mu", np.zeros(25, np.int32), InputError, "25 tokens.*at most 24"),
        ("mu", np.array([VOCAB], np.int32), UsageError, "the id 50"),
        ("mu", np.zeros((3, 8), np.float32), UsageError, "token ids"),
        ("whisper", np.zeros(40, np.int32), UsageError, "features"),
        ("whisper", np.zeros((39, 8), np.float32), UsageError, "39 frames"),
        ("moonshine", np.zeros((1001, 1), np.float32), InputError, "1001 frames"),
        ("moonshine", np.zeros((46, 1), np.float32), InputError, "too short"),
    ],
)
def test_sources_that_cannot_be_read(
    make_reader: Maker, name: str, source: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_reader(name).engine.session().encode(source)
