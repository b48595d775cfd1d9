"""The ONNX runtime against the reference: whatever was kept, a row is its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedec.architecture import Norm
from edgedec.contracts import TRUNK, Engine, Rows, Session, Want
from edgedec.errors import InputError, UsageError
from edgedec.export import reference
from edgedec.export._blocks import block
from edgedec.weights import shapes

if TYPE_CHECKING:
    from conftest import Maker, Model

VOCAB, CONTEXT = 50, 160
VARIANTS = ["whole", "windows", "cut", "cut windows"]
CLOSE = 3e-5

Array = np.ndarray


def rows(tokens: Sequence[int], parents: Sequence[int] | None = None) -> Rows:
    chosen = range(-1, len(tokens) - 1) if parents is None else parents
    return Rows(np.array(tokens, np.int32), np.array(chosen, np.int32))


def text(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


def prompted(model: Model, path: Sequence[int]) -> Session:
    session = model.engine.session()
    session.step(rows(path), want=Want(logits=()))
    session.keep([len(path) - 1])
    return session


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_then_steps(make: Maker, variant: str) -> None:
    model, path = make(variant), text(30)
    session = model.engine.session()
    result = session.step(rows(path))
    everything = reference.forward(model.engine.architecture, model.weights, path)
    close(np.stack([result.logits(i) for i in range(30)]), everything)
    assert result.argmax().tolist() == everything.argmax(axis=1).tolist()
    session.keep([29])
    for token in text(8, seed=1):
        path.append(token)
        result = session.step(rows([token]))
        close(result.logits(0), model.logits(path))
        assert session.keep(result.handles) == (TRUNK,)
    assert list(session.tokens) == path


@pytest.mark.parametrize("variant", VARIANTS)
def test_trees_and_any_branch_kept(make: Maker, variant: str) -> None:
    model, path = make(variant), text(9)
    session = prompted(model, path)
    for turn, leaf in enumerate([3, 6, 0, 4]):
        tokens, parents = text(7, seed=turn), [-1, 0, 0, 1, 2, -1, 5]
        result = session.step(rows(tokens, parents))
        branches: list[list[int]] = []
        for token, parent in zip(tokens, parents, strict=True):
            branches.append([*(branches[parent] if parent >= 0 else []), token])
        for row, branch in enumerate(branches):
            close(result.logits(row), model.logits([*path, *branch]))
        session.keep([leaf])
        path += branches[leaf]
    assert list(session.tokens) == path


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), variant=st.sampled_from(VARIANTS))
def test_random_sessions(make: Maker, data: st.DataObject, variant: str) -> None:
    model = make(variant)
    session, trunk, living = model.engine.session(), list[int](), list[list[int]]()
    for _ in range(data.draw(st.integers(1, 6))):
        count = data.draw(st.integers(1, 5))
        tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=count, max_size=count))
        parents = [data.draw(st.integers(-1, len(living) + i - 1)) for i in range(count)]
        result = session.step(rows(tokens, parents))
        for token, parent in zip(tokens, parents, strict=True):
            living.append([*(living[parent] if parent >= 0 else []), token])
        for row, branch in enumerate(living[-count:]):
            close(result.logits(row), model.logits([*trunk, *branch]))
        match data.draw(st.sampled_from(["go on", "one", "two", "cut", "fork"])):
            case "one":
                leaf = data.draw(st.integers(-1, len(living) - 1))
                session.keep([leaf])
                trunk, living = trunk + (living[leaf] if leaf >= 0 else []), []
            case "two":
                session.keep([0, TRUNK])
                living = living[:1]
            case "cut":
                trunk, living = trunk[: data.draw(st.integers(0, len(trunk)))], []
                session.truncate(len(trunk))
            case "fork":
                session, living = session.fork(), []
        assert list(session.tokens) == trunk


@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_quantised_weights_give_a_row_its_path_too(make: Maker, variant: str) -> None:
    model, path = make(variant), text(20)
    session = prompted(model, path)
    result = session.step(rows([1, 2, 3, 4, 5], [-1, 0, 0, 2, -1]), want=Want(logits=(3, 4)))
    for row, branch in ((3, [1, 3, 4]), (4, [5])):
        whole = [*path, *branch]
        alone = model.engine.session().step(rows(whole)).logits(len(whole) - 1)
        np.testing.assert_allclose(result.logits(row), alone, atol=0.05)
        assert np.corrcoef(alone, model.logits(whole))[0, 1] > 0.9


@pytest.mark.parametrize("variant", VARIANTS)
def test_buffers_grow_and_the_context_can_be_filled(make: Maker, variant: str) -> None:
    model, path = make(variant), text(CONTEXT - 1)
    session = prompted(model, path[:100])
    session.step(rows(path[100:120]))
    session.step(rows(path[120:], [19, *range(20, len(path) - 101)]))
    session.keep([len(path) - 101])
    result = session.step(rows([1, 2, 3], [-1, -1, -1]))
    close(result.logits(2), model.logits([*path, 3]))
    session.keep([2])
    with pytest.raises(InputError, match=f"{CONTEXT + 1} tokens.*holds {CONTEXT}"):
        session.step(rows([1]))
    session.truncate(CONTEXT - 1)
    close(session.step(rows([4])).logits(0), model.logits([*path, 4]))


def test_many_rows_at_once(make: Maker) -> None:
    model, path = make("long"), text(1024)
    session = model.engine.session()
    session.step(rows(path[:512]), want=Want(logits=()))
    result = session.step(rows(path[512:], range(511, 1023)), want=Want(logits=(511,)))
    close(result.logits(511), model.logits(path))
    assert model.engine.capabilities.max_rows == 512
    with pytest.raises(InputError, match="at most 512"):
        session.step(rows([3] * 513, [-1] * 513))


def test_more_rows_live_than_fit_into_the_context(make: Maker) -> None:
    model = make("windows")
    session = model.engine.session()
    for _ in range(6):
        result = session.step(rows([3] * 150, [-1] * 150), want=Want(logits=(149,)))
    close(result.logits(149), model.logits([3]))
    assert session.keep([899, 0]) == (1, 0)


@pytest.mark.parametrize("variant", ["cut", "cut windows"])
def test_early_exit_then_the_rest(make: Maker, variant: str) -> None:
    model, path = make(variant), text(12)
    total = model.engine.architecture.layers
    session, tokens = prompted(model, path), text(4, seed=5)
    first = session.step(rows(tokens[:2], [-1, 0]), (range(1),), Want(hidden=(1,), logits=(1,)))
    close(first.hidden(1)[1], model.states([*path, *tokens[:2]])[1])
    session.step(rows(tokens[2:], [0, 2]), (range(1),), Want(logits=()))
    result = session.resume(range(4), (range(1, total),), Want(hidden=(total,)))
    for row, branch in enumerate([[0], [0, 1], [0, 2], [0, 2, 3]]):
        whole = [*path, *(tokens[i] for i in branch)]
        close(result.logits(row), model.logits(whole))
        close(result.hidden(total)[row], model.states(whole)[total])
    session.keep([3])
    close(session.step(rows([9])).logits(0), model.logits([*path, tokens[0], *tokens[2:], 9]))


def test_early_exit_applies_the_head(make: Maker) -> None:
    model, path = make("cut"), text(12)
    result = prompted(model, path).step(rows([7]), (range(2),), Want(hidden=(0, 2)))
    states = model.states([*path, 7])
    close(result.hidden(0)[0], states[0])
    close(result.logits(0), head(model, states[2]))


def test_skipped_layers_against_their_own_past(make: Maker) -> None:
    model, path, drafts = make("cut"), text(12), [7, 3, 8]
    session = prompted(model, path)
    layers = (range(1), range(2, 5))
    one = session.step(rows(drafts[:1]), layers).logits(0).copy()
    session.step(rows([1], [-1]), layers)
    two = session.step(rows(drafts[1:], [0, 2]), layers)
    expected = skipping(model, path, drafts, [0, 2, 3, 4])
    close(one, expected[0])
    close(two.logits(0), expected[1])
    close(two.logits(1), expected[2])
    with pytest.raises(UsageError, match="not run all"):
        session.keep([3])
    session.keep([TRUNK])
    close(session.step(rows([5])).logits(0), model.logits([*path, 5]))


def test_resuming_in_parts(make: Maker) -> None:
    model, path = make("cut"), text(12)
    session = prompted(model, path)
    session.step(rows([7, 3]), (range(1),), Want(logits=()))
    session.resume([0, 1], (range(1, 2),), Want(logits=()))
    session.resume([1, 0], (range(2, 4),), Want(logits=()))
    result = session.resume([1, 0], (range(4, 5),))
    close(result.logits(0), model.logits([*path, 7, 3]))
    close(result.logits(1), model.logits([*path, 7]))


def test_hidden_rows_enter_between_layers(make: Maker) -> None:
    model, path = make("cut"), text(12)
    session = prompted(model, path)
    state = model.states([*path, 7])[2]
    entering = Rows(np.array([7], np.int32), np.array([-1], np.int32), hidden=state[None])
    late = session.step(entering, (range(2, 5),))
    close(late.logits(0), model.logits([*path, 7]))
    embedding = model.weights.load("embed.weight")[7][None]
    first = Rows(np.array([7], np.int32), np.array([-1], np.int32), hidden=embedding)
    close(session.step(first).logits(0), model.logits([*path, 7]))


def test_a_row_sees_what_it_is_shown(make: Maker) -> None:
    model, path = make("whole"), text(5)
    session = prompted(model, path)
    session.step(rows([7]))
    seeing = Rows(
        np.array([8, 9], np.int32),
        np.array([-1, -1], np.int32),
        np.array([6, 6], np.int32),
        visible=[[0], []],
    )
    result = session.step(seeing)
    close(result.logits(0), model.logits([*path, 7, 8]))
    assert np.abs(result.logits(1) - model.logits([*path, 7, 9])).max() > 0.01


@pytest.mark.parametrize("variant", ["whole", "cut"])
def test_learned_ids(make: Maker, variant: str) -> None:
    model, path = make(variant), text(5)
    engine = model.engine
    session = prompted(model, path)
    with pytest.raises(UsageError, match=f"{VOCAB}"):
        session.step(rows([VOCAB + 1]))
    table = model.weights.load("embed.weight")
    assert engine.learn(table[[3, 4]]) == VOCAB
    close(session.step(rows([2, VOCAB + 1])).logits(1), model.logits([*path, 2, 4]))
    assert engine.learn(table[[9]]) == VOCAB + 2
    assert engine.learn(table[[3, 4]]) == VOCAB
    session.keep([TRUNK])
    close(session.step(rows([2, VOCAB + 2])).logits(1), model.logits([*path, 2, 9]))
    for wrong in (table[0], table[:, :3], table[:0]):
        with pytest.raises(UsageError, match="learned"):
            engine.learn(wrong)


def test_a_fork_goes_its_own_way(make: Maker) -> None:
    model, path = make("whole"), text(7)
    session = prompted(model, path)
    other = session.fork()
    for branch, token in ((session, 3), (other, 4)):
        branch.step(rows([token]))
        branch.keep([0])
    close(session.step(rows([5])).logits(0), model.logits([*path, 3, 5]))
    close(other.step(rows([5])).logits(0), model.logits([*path, 4, 5]))


def test_the_result_holds_what_was_wanted(make: Maker) -> None:
    result = make("whole").engine.session().step(rows([1, 2, 3]), want=Want((2, 0), (0, 2, 3)))
    assert result.argmax()[1] == -1 and result.topk(4)[0].shape == (2, 4)
    assert result.topk(1)[0][:, 0].tolist() == result.argmax()[[2, 0]].tolist()
    assert result.hidden(0).shape == (3, 32)
    with pytest.raises(IndexError):
        result.logits(1)


def test_a_step_that_fails_leaves_no_trace(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedec.runtimes.onnx import bindings

    model, path = make("whole"), text(5)
    session = prompted(model, path)

    def fail(self: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(bindings.Bound, "run", fail)
        with pytest.raises(MemoryError):
            session.step(rows([1, 2]))
    result = session.step(rows([7]))
    assert list(result.handles) == [0]
    close(result.logits(0), model.logits([*path, 7]))


@pytest.mark.parametrize(
    ("step", "layers"),
    [
        (rows([1]), (range(1),)),
        (rows([1], [3]), None),
        (Rows(np.array([1]), np.array([-1]), hidden=np.zeros((1, 3), np.float32)), None),
    ],
)
def test_refused(make: Maker, step: Rows, layers: tuple[range, ...] | None) -> None:
    engine: Engine = make("whole").engine
    with pytest.raises(UsageError):
        engine.session().step(step, layers)
    with pytest.raises(UsageError, match="no encoder"):
        engine.session().encode(np.array([1], np.int32))


# --- references of this file ---------------------------------------------------------------------


def head(model: Model, states: Array) -> Array:
    """Final norm and tied head of [..., D]."""
    norm = model.engine.architecture.decoder.final_norm
    assert norm == Norm(kind="rms", eps=1e-5)
    scaled = states / np.sqrt((states**2).mean(-1, keepdims=True) + norm.eps)
    normed = scaled * model.weights.load("decoder.final_norm.weight")
    return np.asarray(normed @ model.weights.load("embed.weight").T)


def skipping(model: Model, path: list[int], drafts: list[int], layers: list[int]) -> Array:
    """Logits [n, V] of drafts that run some layers only, after a path that ran them all."""
    spec, count = model.engine.architecture, len(path)
    every = reference.Placement(count + len(drafts))
    whole = list(reference.states(spec, model.weights, path, reference.Placement(count)))
    x = next(reference.states(spec, model.weights, [*path, *drafts], every))[count:]
    for index in layers:
        prefix = f"decoder.layers.{index}."
        names = [name for name in shapes(spec) if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): model.weights.load(name) for name in names}
        both = np.concatenate([whole[index], x])
        x = block(both, spec.decoder.layers[index], weights, every, None)[count:]
    return head(model, x)
