"""Pseudo states run as the oracle says, what they guess is proposed, and no word changes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from edgedec.accept import Rule
from edgedec.contracts import TRUNK, Context, Rows, Want
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.gumbel import gumbel
from edgedec.heads import DRAWN, LIKELY
from edgedec.runtimes import native
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.hidden_transfer import HiddenTransfer
from tests.native import variants

from .looped import VOCAB, architecture, fake
from .selfdrafted import host_of, model, started
from .stubbed import Stub, write
from .transferred import part, transferred

needs_engine = pytest.mark.skipif(not native.built(), reason="the C engine was not built")
TEXT = [3, 17, 4, 60, 3, 17, 22, 9]
LAYER, STATES = 3, 3


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    if not native.built():
        pytest.skip("the C engine was not built")
    return model(tmp_path_factory.mktemp("models"), request.param)


def told(made: variants.Model, options: HiddenTransfer, **given: Any) -> tuple[Any, Any]:
    """A host and a drafter that saw TEXT but for its last token, as after a prompt."""
    session, host = started(made, part(made, LAYER, **given))
    drafter = options.open(host)
    count = len(TEXT) - 1
    wanted = Want((), options.needs(host).hidden)
    rows = Rows(np.array(TEXT[:-1], np.int32), np.arange(TRUNK, count - 1, dtype=np.int32))
    result = session.step(rows, want=wanted)
    drafter.read(0, {layer: result.hidden(layer) for layer in wanted.hidden})
    session.keep([result.handles[-1]])
    return host, drafter


def test_pseudo_states_run_behind_the_text(made: variants.Model) -> None:
    host, drafter = told(made, HiddenTransfer())
    drafter.propose(Context(TEXT, 3, 0), 8)
    ((rows, layers, logits),) = host.steps
    assert layers == (range(LAYER, made.architecture.layers),)
    assert rows.parents.tolist() == [TRUNK, 0, 1]
    expected = transferred(made, part(made, LAYER), TEXT[:-1], TEXT[-1])
    # The engine rounds activations to 8 bits; what is seen wrongly is further off than that.
    assert apart(logits, expected) < 0.15
    assert apart(logits, transferred(made, part(made, LAYER), TEXT[:-2], TEXT[-1])) > 0.5
    assert apart(logits, np.roll(expected, 1, axis=0)) > 0.5


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_likeliest_tree_of_what_they_say_is_proposed(
    made: variants.Model, temperature: float
) -> None:
    host, drafter = told(made, HiddenTransfer(nodes=9))
    context = Context(TEXT, 3, 7, temperature)
    found = drafter.propose(context, 40)
    ((_, _, logits),) = host.steps
    levels = []
    for depth, row in enumerate(logits):
        best = np.argsort(-row, kind="stable")[: DRAWN if temperature else LIKELY]
        scores = row[best].astype(np.float64)
        if temperature:
            scores = scores / temperature + gumbel(7, context.index + depth, best)
        shares = np.exp(scores - scores.max())
        levels.append(dict(zip(best.tolist(), shares / shares.sum(), strict=True)))
    # No other path can be among the nine likeliest.
    levels = [dict(sorted(each.items(), key=lambda item: -item[1])[:9]) for each in levels]
    every = {
        path: np.prod([levels[i][token] for i, token in enumerate(path)])
        for depth in (1, 2, 3)
        for path in itertools.product(*levels[:depth])
    }
    expected = sorted(every, key=lambda path: -every[path])[:9]
    own: list[tuple[int, ...]] = []
    for token, parent in zip(found.tokens.tolist(), found.parents.tolist(), strict=True):
        own.append((*own[parent], token) if parent != TRUNK else (token,))
    assert set(own) == set(expected)
    for path, score in zip(own, found.score, strict=True):
        assert score == pytest.approx(every[path] / every.get(path[:-1], 1.0), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_no_word_changes(made: variants.Model, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, seed=4)
    rule, spec = Rule(Sampler.build(sampling), frozenset(), 50), made.architecture
    plain = write(made.open(), spec, [], TEXT, rule)
    for options in (HiddenTransfer(), HiddenTransfer(nodes=2, depth=1)):
        given = part(made, LAYER)
        found = write(made.open(), spec, [options], TEXT, rule, part=given, policy="fixed")
        assert found.tokens == plain.tokens
        assert all(rows.hidden is not None for rows in found.session.early)
        assert len(found.session.early) >= len(found.session.rows) - 3
        assert found.tally.evaluated > 20


def test_a_map_that_knows_the_future_gives_more_tokens(made: variants.Model) -> None:
    """The hand-made part cheats: it looks up the state that the real rows will have."""
    sampling = Sampling()
    rule, spec = Rule(Sampler.build(sampling), frozenset(), 60), made.architecture
    plain = write(made.open(), spec, [], TEXT, rule)
    text = [*TEXT, *plain.tokens]
    session, _ = started(made)
    rows = Rows(np.array(text, np.int32), np.arange(TRUNK, len(text) - 1, dtype=np.int32))
    real = session.step(rows, want=Want((), (LAYER,))).hidden(LAYER).copy()

    class Cheat(Stub):
        def embed(self, ids: np.ndarray) -> np.ndarray:
            return np.ones((1, real.shape[1]), np.float32)

        def linear(self, name: str, x: np.ndarray) -> np.ndarray:
            state = x[0, : real.shape[1]]
            sizes = np.sqrt(np.mean(real * real, axis=1, keepdims=True))
            row = int(np.abs(real / sizes - state).sum(axis=1).argmin())
            following = np.minimum(row + 1 + np.arange(STATES), len(real) - 1)
            return (real[following] / sizes[row] - state).reshape(1, -1)

    found = write(made.open(), spec, [HiddenTransfer()], TEXT, rule, part=Cheat({"layer": LAYER}))
    assert found.tokens == plain.tokens
    assert found.tally.drawn / found.tally.passes > 3


def test_the_end_of_the_context_is_not_passed(made: variants.Model) -> None:
    for room, guesses in ((3, 3), (2, 2), (1, 1)):
        host, drafter = told(made, HiddenTransfer())
        drafter._context = len(TEXT) - 1 + room
        drafter.propose(Context(TEXT, 3, 0), 8)
        assert len(host.steps[0][0].tokens) == guesses


def test_where_the_row_before_the_root_is_unknown_nothing_is_proposed(made: variants.Model) -> None:
    host, drafter = told(made, HiddenTransfer())
    assert not len(drafter.propose(Context([*TEXT, 5], 3, 0), 8).tokens)
    assert not len(drafter.propose(Context(TEXT, 3, 0, pending=2), 8).tokens)
    assert not len(drafter.propose(Context(TEXT, 3, 0), 0).tokens)
    assert host.steps == []
    drafter.reset()
    assert not len(drafter.propose(Context(TEXT, 3, 0), 8).tokens)


def test_static_widths_are_filled_up() -> None:
    engine = fake(row_widths=(1, 8))
    tensors = {"transfer": np.zeros((48, 32), np.float32)}
    given = Stub({"layer": 2}, tensors, np.ones((VOCAB, 16), np.float32))
    session = engine.session()
    host = host_of(engine, session, architecture(), given)
    drafter = HiddenTransfer().open(host)
    drafter.read(1, {2: np.ones((1, 16), np.float32)})
    result = session.step(Rows(np.array([3], np.int32), np.array([-1], np.int32)))
    session.keep(result.handles)
    found = drafter.propose(Context([3, 4, 5], 1, 0), 8)
    assert (len(found.tokens), host.rows) == (8, 8)


def test_what_is_missing_is_named() -> None:
    def refused(error: type[Exception], given: Stub | None, **runtime: Any) -> str:
        engine = fake(**runtime)
        host = host_of(engine, engine.session(), architecture(), given)
        with pytest.raises(error) as caught:
            HiddenTransfer().needs(host)
        return str(caught.value)

    assert "edgedec train hidden_transfer" in refused(UnsupportedError, None)
    assert "cannot begin a step there" in refused(UnsupportedError, Stub({"layer": 3}), cuts=(1,))
    for layer in (0, 4, None, 1.5, True):
        assert "train it again" in refused(StateError, Stub({"layer": layer}))
    table = np.ones((VOCAB, 16), np.float32)
    for tensors in ({}, {"transfer": np.ones((24, 32))}, {"transfer": np.ones((48, 20))}):
        engine, given = fake(), Stub({"layer": 2}, tensors, table)
        with pytest.raises(StateError, match="make it again"):
            HiddenTransfer().open(host_of(engine, engine.session(), architecture(), given))
    with pytest.raises(UsageError, match="nodes is 0"):
        HiddenTransfer(nodes=0)
