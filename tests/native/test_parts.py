"""What can be asked of a step: some rows, some layers, the best tokens, rows of other kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedec.contracts import Layers, Rows, Want
from edgedec.errors import UsageError
from edgedec.runtimes.native.engine import Native

from . import variants
from .plain import Plain, prefill, rows, same

if TYPE_CHECKING:
    from .conftest import Maker

PATH = np.random.default_rng(0).integers(0, 96, 70).tolist()
TREE, PARENTS = [5, 6, 7, 8, 9, 10, 11], [-1, 0, 0, 1, 2, -1, 5]
SOME = ["plain4", "gemma", "post", "neox-like", "gpt2", "smollm3"]


@pytest.mark.parametrize("threads", [2, 3])
def test_the_best_of_many_numbers_is_searched_in_parts(make: Maker, threads: int) -> None:
    engine = make(variants.TIES).open(threads=threads)
    text = np.random.default_rng(1).integers(0, engine.architecture.vocab, 230).tolist()
    result = engine.session().step(rows(text))
    logits = [result.logits(row) for row in range(len(text))]
    assert sum(len(line) for line in logits) > 1 << 16
    assert result.argmax().tolist() == [int(line.argmax()) for line in logits]


@pytest.mark.parametrize("name", SOME)
def test_chosen_rows_have_the_logits_of_all_rows(make: Maker, name: str) -> None:
    session = make(name).open(threads=2).session()
    whole = session.step(rows(PATH))
    every = [whole.logits(row) for row in range(len(PATH))]
    best = whole.argmax()
    session.keep([-1])
    chosen = (69, 0, 31)
    part = session.step(rows(PATH), want=Want(logits=chosen))
    for row in chosen:
        same(part.logits(row), every[row])
    assert part.argmax()[list(chosen)].tolist() == best[list(chosen)].tolist()
    assert set(np.delete(part.argmax(), list(chosen))) == {-1}
    with pytest.raises(IndexError):
        part.logits(1)
    session.keep([-1])
    nothing = session.step(rows(PATH), want=Want(logits=()))
    assert set(nothing.argmax()) == {-1} and nothing.topk(3)[0].shape == (0, 3)


@pytest.mark.parametrize("name", SOME)
def test_hidden_states_are_those_of_single_steps(make: Maker, name: str) -> None:
    engine = make(name).open(threads=2)
    layers = tuple(range(engine.architecture.layers + 1))
    whole = engine.session().step(rows(PATH), want=Want(hidden=layers))
    session = engine.session()
    for row, token in enumerate(PATH):
        one = session.step(rows([token]), want=Want(hidden=layers))
        for layer in layers:
            same(whole.hidden(layer)[row], one.hidden(layer)[0])
        same(whole.logits(row), one.logits(0))
        session.keep([0])
    alone = session.step(rows([3]), want=Want(logits=(), hidden=layers[-1:]))
    shown = session.step(rows([3], [-1]), want=Want(hidden=layers))
    same(alone.hidden(layers[-1]), shown.hidden(layers[-1]))


@pytest.mark.parametrize("name", ["groups", "plain", "windows", variants.TIES])
def test_the_best_tokens_are_those_of_a_sort(make: Maker, name: str) -> None:
    engine = make(name).open(threads=2)
    result = engine.session().step(rows(PATH))
    logits = np.stack([result.logits(row) for row in range(len(PATH))])
    order = np.argsort(-logits, axis=1, kind="stable")
    assert result.argmax().tolist() == order[:, 0].tolist()
    for k in (1, 2, 7, 64, engine.architecture.vocab):
        ids, values = result.topk(k)
        assert ids.tolist() == order[:, :k].tolist()
        same(values, np.take_along_axis(logits, order[:, :k], axis=1))
    if name == variants.TIES:
        assert ((logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 2).all()
    for wrong in (0, engine.architecture.vocab + 1):
        with pytest.raises(UsageError, match="top-"):
            result.topk(wrong)


@pytest.mark.parametrize("name", SOME)
def test_learned_ids_are_vectors(make: Maker, name: str) -> None:
    model = make(name)
    engine, vocab = model.open(threads=2), model.architecture.vocab
    engine.learn(model.weights.load("embed.weight")[[3, 9]])
    plain = Plain(model.open())
    session = engine.session()
    prefill(session, PATH)
    result = session.step(rows([vocab + 1, 2, vocab], [-1, 0, 1]))
    for row, path in enumerate(([9], [9, 2], [9, 2, 3])):
        same(result.logits(row), plain.logits([*PATH, *path]))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("kv_type", ["fp16", "int8"])
def test_layers_in_two_parts_are_layers_in_one(make: Maker, name: str, kv_type: str) -> None:
    engine = make(name).open(2, kv_type)
    total, session = engine.architecture.layers, engine.session()
    every = tuple(range(total + 1))
    prefill(session, PATH)
    whole = session.step(rows(TREE, PARENTS), want=Want(hidden=every))
    logits = [whole.logits(row) for row in range(len(TREE))]
    states = [whole.hidden(layer).copy() for layer in every]
    for cut in range(1, total):
        session.keep([-1])
        wanted = Want(logits=(), hidden=every[: cut + 1])
        first = session.step(rows(TREE, PARENTS), (range(cut),), wanted)
        for layer in every[: cut + 1]:
            same(first.hidden(layer), states[layer])
        some = session.resume([5, 0, 6], (range(cut, total),), Want(hidden=every[cut + 1 :]))
        for line, row in enumerate((5, 0, 6)):
            same(some.logits(line), logits[row])
            same(some.hidden(total)[line], states[total][row])
        rest = session.resume([4, 2, 3, 1], (range(cut, total),))
        for line, row in enumerate((4, 2, 3, 1)):
            same(rest.logits(line), logits[row])
    session.keep([3])
    same(session.step(rows([1])).logits(0), Plain(engine).logits([*PATH, 5, 6, 8, 1]))


@pytest.mark.parametrize("name", ["plain", "windows", "smollm3"])
def test_rows_may_leave_early_and_enter_late(make: Maker, name: str) -> None:
    engine = make(name).open(threads=2)
    session = engine.session()
    prefill(session, PATH)
    full = session.step(rows([7, 8], [-1, -1]), want=Want(hidden=(1, 2)))
    expected, states = full.logits(1), full.hidden(2)[1:].copy()
    early = session.step(rows([8], [-1]), (range(2),))
    same(early.logits(0), head_of(engine, states))
    entering = Rows(np.array([8], np.int32), np.array([-1], np.int32), hidden=states)
    late = session.step(entering, (range(2, engine.architecture.layers),))
    same(late.logits(0), expected)


def head_of(engine: Native, states: np.ndarray) -> np.ndarray:
    """The head alone, on states that ran only the first layers: by a step that ends there."""
    session = engine.session()
    prefill(session, PATH)
    one = Rows(np.array([8], np.int32), np.array([-1], np.int32))
    result = session.step(one, (range(1), range(1, 2)), Want(hidden=(2,)))
    same(result.hidden(2), states)
    return result.logits(0)


@pytest.mark.parametrize("kv_type", ["fp16", "int8"])
def test_scratch_rows_skip_layers(make: Maker, kv_type: str) -> None:
    engine = make("plain").open(4, kv_type)
    layers: Layers = (range(1), range(2, 3))
    session, expected = engine.session(), []
    prefill(session, PATH)
    for branch in ([5], [5, 6], [5, 6, 8], [10]):
        for token in branch:
            result = session.step(rows([token], [session_end(session, branch, token)]), layers)
        expected.append(result.logits(0))
        session.keep([-1])
    tree = session.step(rows(TREE, PARENTS), layers)
    for row, logits in zip((0, 1, 3, 5), expected, strict=True):
        same(tree.logits(row), logits)
    assert np.abs(expected[0] - Plain(engine).logits([*PATH, 5])).max() > 0.1
    with pytest.raises(UsageError, match="not run all"):
        session.keep([3])
    session.keep([-1])
    same(session.step(rows([4])).logits(0), Plain(engine).logits([*PATH, 4]))


def session_end(session: object, branch: list[int], token: int) -> int:
    """The handle of the row before a token of a chain."""
    return branch.index(token) - 1


def test_vectors_in_place_of_tokens(make: Maker) -> None:
    model = make("gemma")
    engine = model.open(threads=2)
    table = model.weights.load("embed.weight")
    session = engine.session()
    entering = Rows(np.array(PATH, np.int32), np.arange(-1, 69, dtype=np.int32), hidden=table[PATH])
    found = session.step(entering)
    same(found.logits(69), Plain(engine).logits(PATH))
