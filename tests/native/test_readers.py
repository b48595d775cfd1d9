"""Models with an encoder: the bits of a row are those of its path and its source."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedec.errors import InputError, StateError, UsageError
from edgedec.export import reference
from edgedec.runtimes import _source
from edgedec.runtimes.native import _engine
from edgedec.runtimes.native.encoder import KEPT_ROWS
from edgedec.runtimes.native.engine import KV_TYPES, Native
from edgedec.runtimes.native.session import NativeSession

from ..families.conftest import Golden  # noqa: TID252
from ..runtimes import sources  # noqa: TID252
from ..runtimes.conftest import random_weights  # noqa: TID252
from . import variants
from .plain import Floats, prefill, rows, same, source
from .test_oracle import divergence, exported, written

if TYPE_CHECKING:
    from .conftest import Maker

READERS = list(variants.READERS)
PATH: list[int] = np.random.default_rng(8).integers(0, 90, 70).tolist()
TREE, PARENTS = [5, 6, 7, 8, 9, 10, 11], [-1, 0, 0, 1, 2, -1, 5]


def told(session: NativeSession, path: list[int]) -> list[Floats]:
    """The logits after every token, one step for each."""
    found = []
    for token in path:
        found.append(session.step(rows([token])).logits(0))
        session.keep([0])
    return found


def heard(engine: Native, count: int, seed: int = 0) -> NativeSession:
    session = engine.session()
    session.encode(source(engine, count, seed))
    assert session.source_rows == count
    return session


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 257, 600])
def test_sources_of_every_length(make: Maker, count: int, kv_type: str) -> None:
    """600 rows have spans for threads to share, and are read in parts."""
    for name in ("t5-like", "whisper-like", "t5gemma-like"):
        alone = told(heard(make(name).open(1, kv_type), count), PATH[:9])
        for threads in (2, 4):
            session = heard(make(name).open(threads, kv_type), count)
            whole = session.step(rows(PATH[:9]))
            for row, expected in enumerate(alone):
                same(whole.logits(row), expected)


@pytest.mark.parametrize("name", READERS)
def test_trees_of_any_width_after_a_source(make: Maker, name: str) -> None:
    engine = make(name).open(2)
    session = heard(engine, 300)
    prefill(session, PATH, [1, 33])
    for count in (1, 7, 16, 64):
        tokens = (TREE * 10)[:count]
        parents = [(i - 1) // 2 for i in range(count)]
        result = session.step(rows(tokens, parents))
        row, path = count - 1, []
        while row >= 0:
            path.insert(0, tokens[row])
            row = parents[row]
        found = result.logits(count - 1)
        session.keep([-1])
        same(found, told(session.fork(), path)[-1])


@pytest.mark.parametrize("isa", _engine.isas())
def test_an_encoder_has_the_same_bits_everywhere(
    make: Maker, monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    for name in READERS:
        read = source(make(name).open(), 130)
        expected = make(name).open(1).encoder.read(read)
        monkeypatch.setenv("EDGEDEC_ISA", isa)
        same(make(name).open(3).encoder.read(read), expected)
        monkeypatch.delenv("EDGEDEC_ISA")


def test_sessions_with_different_sources(make: Maker) -> None:
    engine = make("mu-like").open(2)
    counts = (5, 64, 300, 70)
    alone = [told(heard(engine, count, count), PATH) for count in counts]

    def one(count: int) -> list[Floats]:
        return told(heard(engine, count, count), PATH)

    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(one, counts), alone, strict=True):
            for logits, right in zip(found, expected, strict=True):
                same(logits, right)
    assert np.abs(alone[0][0] - alone[1][0]).max() > 0.1


# --- what stays and what goes ------------------------------------------------------------------


def test_a_source_stays_until_the_next(make: Maker) -> None:
    engine = make("bart-like").open(2)
    session = engine.session()
    assert (session.source_rows, session.source_key) == (0, "")
    first, second = source(engine, 50, 1), source(engine, 80, 2)
    session.encode(first)
    assert session.source_key == _source.key_of(_source.checked(first, engine.architecture))
    expected = told(session, PATH)
    session.truncate(0)
    same(told(session, PATH)[-1], expected[-1])
    session.encode(second)
    assert list(session.tokens) == [] and session.source_rows == 80
    assert np.abs(told(session, PATH)[-1] - expected[-1]).max() > 0.01
    session.encode(first)
    same(told(session, PATH)[-1], expected[-1])


def test_the_encoders_rows_can_be_looked_at(make: Maker, tmp_path: Path) -> None:
    engine = make("bart-like").open(2)
    session = engine.session()
    assert engine.capabilities.source_states and session.source_states is None
    for length in (50, 80):
        read = source(engine, length, length)
        session.encode(read)
        assert session.source_states is not None
        same(session.source_states, engine.encoder.read(read))
    states = session.source_states
    session.truncate(0)
    assert session.source_states is states and session.fork().source_states is states
    session.save(tmp_path / "state")
    session.load(tmp_path / "state")
    assert session.source_states is None
    assert not make("plain").open(1).capabilities.source_states


def test_the_source_that_is_held_is_not_read_again(
    make: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = make("t5-like").open(1)
    session = heard(engine, 70)
    before = told(session, PATH[:4])
    session.save(tmp_path / "state")
    loaded = engine.session()
    loaded.load(tmp_path / "state")

    def read(found: Any) -> Any:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(engine.encoder, "read", read)
    for each in (session, loaded, session.fork()):
        each.encode(source(engine, 70))
        assert not each.tokens
        for logits, expected in zip(told(each, PATH[:4]), before, strict=True):
            same(logits, expected)
    with pytest.raises(AssertionError, match="the encoder ran"):
        session.encode(source(engine, 71))


def test_a_fork_keeps_its_source(make: Maker) -> None:
    engine = make("t5-like").open(2)
    session = heard(engine, 90)
    prefill(session, PATH)
    other = session.fork()
    expected = session.step(rows(TREE, PARENTS)).logits(6)
    session.encode(source(engine, 300, 5))
    assert (other.source_rows, len(other.tokens)) == (90, 70)
    same(other.step(rows(TREE, PARENTS)).logits(6), expected)
    empty = engine.session().fork()
    assert empty.source_rows == 0


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("name", ["whisper-like", "t5gemma-like"])
def test_a_saved_session_needs_no_encoder(
    make: Maker, tmp_path: Path, name: str, kv_type: str
) -> None:
    session = heard(make(name).open(2, kv_type), 100)
    prefill(session, PATH)
    session.save(tmp_path / "state")
    expected = session.step(rows(TREE, PARENTS)).logits(6)
    engine = make(name).open(1, kv_type)
    engine._encoder = None
    other = engine.session()
    other.load(tmp_path / "state")
    assert (other.source_rows, other.source_key) == (100, session.source_key)
    same(other.step(rows(TREE, PARENTS)).logits(6), expected)
    other.truncate(0)
    assert other.source_rows == 100

    engine.session().save(tmp_path / "nothing")
    other.load(tmp_path / "nothing")
    assert (other.source_rows, other.source_key) == (0, "")
    with pytest.raises(UsageError, match="call encode before"):
        other.step(rows([1]))
    wrong = make(name).open(1, "int8" if kv_type == "fp16" else "fp16").session()
    with pytest.raises(StateError, match="keys_and_values"):
        wrong.load(tmp_path / "state")


def test_the_memory_of_a_long_source_is_given_back(make: Maker) -> None:
    encoder = make("mu-like").open().encoder
    for count in (KEPT_ROWS, 1200, 3, KEPT_ROWS + 1):
        encoder.states(np.zeros(count, np.int32), None)
        [kept] = encoder._idle
        order = np.arange(KEPT_ROWS + 1, dtype=np.int32)
        with pytest.raises(_engine.Refused, match="do not fit"):
            step(kept, order)


# --- what is refused ---------------------------------------------------------------------------


def test_what_is_no_source(make: Maker) -> None:
    text, sound = make("t5-like").open(), make("whisper-like").open()
    session = text.session()
    with pytest.raises(UsageError, match="call encode before the first step"):
        session.step(rows([1]))
    for wrong, error in (
        (np.zeros(0, np.int32), InputError),
        (np.zeros(1201, np.int32), InputError),
        (np.array([77], np.int32), UsageError),
        (np.zeros((3, 5), np.float32), UsageError),
    ):
        with pytest.raises(error):
            session.encode(wrong)
    assert session.source_rows == 0
    with pytest.raises(UsageError):
        sound.session().encode(np.zeros(4, np.int32))
    with pytest.raises(InputError):
        sound.session().encode(np.zeros((0, 5), np.float32))
    with pytest.raises(UsageError, match="no encoder"):
        make("plain").open().session().encode(np.zeros(4, np.int32))
    text.close()
    with pytest.raises(UsageError, match="closed"):
        session.encode(np.zeros(3, np.int32))


def test_a_refused_source_changes_nothing(make: Maker) -> None:
    session = heard(make("t5-like").open(), 30)
    prefill(session, PATH)
    expected = session.step(rows([4])).logits(0)
    with pytest.raises(UsageError):
        session.encode(np.array([10**6], np.int32))
    assert (session.source_rows, len(session.tokens)) == (30, 70)
    session.keep([-1])
    same(session.step(rows([4])).logits(0), expected)


def step(session: _engine.Session, order: Any, **changed: Any) -> None:
    """A step of an encoder of the width 64, past the bookkeeping."""
    parts: dict[str, Any] = {
        "trunk": 0, "living": len(order), "dim": 64, "handles": order, "positions": order,
        "visible": None, "tokens": order % 90, "vectors": None, "learned": None,
        "ranges": np.array([[0, 3]], np.int32), "head_rows": order[:0], "layers": order[:0],
        "hidden": np.empty(0, np.float32),
    }  # fmt: skip
    session.step(*{**parts, **changed}.values())


def test_what_an_encoder_refuses(make: Maker) -> None:
    model, order = make("mu-like").open().encoder._model, np.arange(4, dtype=np.int32)
    session = _engine.Session(model, 0, 20)
    for changed, message in (
        ({"trunk": 1}, "whole source"),
        ({"living": 5}, "whole source"),
        ({"visible": np.ones((4, 4), np.uint8)}, "whole source"),
        ({"head_rows": order[:1]}, "whole source"),
        ({"tokens": order + 300}, "token 300"),
        ({"positions": order + 1199}, "position 1200"),
    ):
        with pytest.raises(_engine.Refused, match=message):
            step(session, order, **changed)
    step(session, order)
    with pytest.raises(_engine.Refused, match="reads no source"):
        session.source(np.zeros((3, 64), np.float32))


def test_what_a_decoder_refuses(make: Maker) -> None:
    fp16, int8 = (make("mu-like").open(1, kind) for kind in KV_TYPES)
    session, other = fp16.session()._session, int8.session()._session
    order = np.arange(4, dtype=np.int32)
    with pytest.raises(_engine.Refused, match="reads a source, and has none"):
        step(session, order, ranges=np.array([[0, 2]], np.int32))
    states = np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32)
    session.source(states)
    saved = session.get_source()
    assert len(saved) == session.source_bytes(7) == 2 * 2 * 2 * 64 * 2 * 7
    for wrong, message in (
        (lambda: session.source(states.ravel()[:100]), "another width"),
        (lambda: session.set_source(8, saved), "another size"),
        (lambda: session.set_source(0, b""), "another size"),
        (lambda: session.share_source(other), "different kinds"),
        (lambda: session.share_source(saved), "with a Session"),
        (lambda: fp16.model.beside(b"short"), "too short"),
    ):
        with pytest.raises(_engine.Refused, match=message):
            wrong()
    step(session, order, ranges=np.array([[0, 2]], np.int32))
    session.source(states[:0])
    assert session.source_rows == 0


# --- against exact arithmetic ------------------------------------------------------------------


@pytest.mark.parametrize("name", sources.MODELS)
def test_models_of_every_kind_are_nearly_the_reference(tmp_path: Path, name: str) -> None:
    model = written(sources.MODELS[name], random_weights(sources.MODELS[name]), tmp_path)
    tokens, session = np.arange(20) % sources.VOCAB, model.open(2).session()
    for count in sources.lengths(model.architecture):
        read = sources.a_source(model.architecture, count)
        session.encode(read)
        result = session.step(rows(tokens.tolist()))
        found = np.stack([result.logits(row) for row in range(len(tokens))])
        exact = reference.forward(model.architecture, model.weights, tokens, source=read)
        assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.99
        assert divergence(exact, found).mean() < 0.1


@pytest.mark.parametrize("family", ["mu", "t5", "bart", "whisper", "moonshine", "t5gemma"])
def test_eight_bits_are_nearly_the_reference(tmp_path: Path, family: str) -> None:
    golden = Golden.read(family)
    model = exported(golden.recipe.write(tmp_path / "checkpoint"), tmp_path)
    assert golden.source is not None
    dtype = np.int32 if model.architecture.frontend is None else np.float32
    session = model.open(2).session()
    session.encode(golden.source.astype(dtype))
    result = session.step(rows(golden.text.tolist()))
    found = np.stack([result.logits(row) for row in range(len(golden.text))])
    exact = reference.forward(model.architecture, model.weights, golden.text, source=golden.source)
    assert divergence(exact, found).mean() < 0.03
    assert (exact.argmax(axis=1) == found.argmax(axis=1)).mean() > 0.85
