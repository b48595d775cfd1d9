"""Heads on the last hidden state: what they guess, what they know of it, and no other words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedec import draft, heads
from edgedec.accept import Rule
from edgedec.contracts import Context, Draft, Needs, Outcome, Rows, Want
from edgedec.costs import flat
from edgedec.decode import Loop, Tally
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.export.to_part import PartSource, write
from edgedec.gumbel import gumbel
from edgedec.parts import Part
from edgedec.plan import Planner
from edgedec.runtimes import native
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.hydra import Hydra
from edgedec.strategies.medusa import Medusa
from edgedec.strategies.recurrent import Recurrent
from tests.native import variants

from .headed import DEPTH, IDS, D, Headed, V, silu, tensors, unit
from .looped import architecture, fake
from .selfdrafted import SOURCE, Given, host_of, model, started, written

needs_engine = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

LAST = 4
TEXT = [3, 9, 2, 7, 14]
STATES = np.random.default_rng(8).standard_normal((len(TEXT) - 1, D)).astype(np.float32) * 6
KINDS = {"medusa": Medusa, "hydra": Hydra, "recurrent": Recurrent}
Children = Callable[[tuple[int, ...]], list[tuple[int, float]]]
Guesses = dict[tuple[int, ...], tuple[float, int]]


def headed(name: str) -> Headed:
    dice = np.random.default_rng(4)
    given = {**tensors(name, D, len(IDS), 0.5), "norm": dice.random(D).astype(np.float32) + 0.5}
    table = dice.standard_normal((V, D)).astype(np.float32)
    return Headed({"depth": DEPTH, "blocks": 2}, given, table)


def opened(name: str, part: Any, **options: Any) -> heads.Heads:
    """A drafter that has read all of the text but its last token."""
    engine = fake(vocab=V)
    host = host_of(engine, engine.session(), architecture(V), part)
    strategy = KINDS[name](**options)
    assert strategy.needs(host) == Needs(hidden=(LAST,)) and not strategy.lossy
    drafter = strategy.open(host)
    drafter.read(0, {LAST: STATES})
    return drafter


def context(temperature: float) -> Context:
    return Context(TEXT, 3, seed=11, temperature=temperature)


def found(tree: Draft) -> Guesses:
    """Each node's path, with its score and rank."""
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    assert len(set(paths)) == len(paths)
    return {
        path: (float(score), int(rank))
        for path, score, rank in zip(paths, tree.score, tree.rank, strict=True)
    }


def same(one: Guesses, other: Guesses) -> bool:
    return one.keys() == other.keys() and all(
        one[path] == (pytest.approx(share, rel=1e-3), rank) for path, (share, rank) in other.items()
    )


# --- brute force -------------------------------------------------------------------------------


def shares(part: Headed, x: np.ndarray, temperature: float, depth: int) -> list[tuple[int, float]]:
    """What follows a state that enters the head, one by one."""
    logits = part.tensors["head"] @ (unit(x) * part.tensors["norm"])
    most = 16 if temperature else 8
    ranked = sorted(range(len(IDS)), key=lambda place: -logits[place])[:most]
    scores = {int(IDS[place]): float(logits[place]) for place in ranked}
    if temperature:
        noise = gumbel(11, len(TEXT) - 3 + depth, np.array(list(scores)))
        scores = {t: s / temperature + n for (t, s), n in zip(scores.items(), noise, strict=True)}
    whole = sum(np.exp(score) for score in scores.values())
    return sorted(((t, np.exp(s) / whole) for t, s in scores.items()), key=lambda each: -each[1])


def after(name: str, part: Headed, temperature: float) -> Children:
    """What follows a path below the root, made anew from the state and the tokens."""
    assert part.table is not None
    state, named = unit(STATES[-1].astype(np.float64)), part.tensors

    def children(path: tuple[int, ...]) -> list[tuple[int, float]]:
        tokens = [part.table[token].astype(np.float64) for token in (TEXT[-1], *path)]
        if name == "hydra":
            x = state + silu(named[f"level.{len(path)}"] @ np.concatenate([state, *tokens]))
        elif name == "medusa":
            head = named["heads"][len(path) * D :][:D]
            x = state + silu(head @ np.concatenate([state, tokens[0]]))
        else:
            carried = np.zeros(D)
            for token in tokens:
                carried = silu(named["state"] @ np.concatenate([token, carried]))
            x = named["mix"] @ np.concatenate([state, carried])
            for block in ("block.0", "block.1"):
                x = x + silu(named[block] @ x)
        return shares(part, x, temperature, len(path))

    return children


def grown(children: Children, width: int, branches: int, confidence: float, most: int) -> Guesses:
    """Level by level, the likeliest nodes first."""
    nodes: dict[tuple[int, ...], tuple[float, float, int]] = {(): (1.0, 1.0, 0)}
    level: list[tuple[int, ...]] = [()]
    for _ in range(DEPTH):
        new: list[tuple[int, ...]] = []
        for path in level:
            for rank, (token, share) in enumerate(children(path)[:branches]):
                nodes[*path, token] = nodes[path][0] * share, share, rank
                new.append((*path, token))
        new.sort(key=lambda path: -nodes[path][0])
        room = (most - (len(nodes) - 1)) // branches
        level = [path for path in new[:width] if nodes[path][0] >= confidence][: max(room, 0)]
    return {path: (share, rank) for path, (_, share, rank) in nodes.items() if path}


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("name", ["hydra", "recurrent"])
@pytest.mark.parametrize(("width", "branches", "confidence"), [(3, 3, 0.1), (2, 4, 0.0), (1, 1, 0)])
def test_trees_grow_from_what_each_path_alone_would_give(
    name: str, width: int, branches: int, confidence: float, temperature: float
) -> None:
    part = headed(name)
    drafter = opened(name, part, width=width, branches=branches, confidence=float(confidence))
    tree = drafter.propose(context(temperature), 40)
    draft.check(tree, V)
    children = after(name, part, temperature)
    assert same(found(tree), grown(children, width, branches, confidence, 40))
    assert tree.parents.max() >= 0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("nodes", [1, 5, 20])
def test_medusa_takes_the_likeliest_of_all_paths(nodes: int, temperature: float) -> None:
    part = headed("medusa")
    tree = opened("medusa", part, nodes=nodes).propose(context(temperature), 63)
    children = after("medusa", part, temperature)
    levels = [list(enumerate(children((0,) * depth))) for depth in range(DEPTH)]
    every: list[tuple[float, tuple[int, ...], float, int]] = []
    for depth in range(1, DEPTH + 1):
        for path in itertools.product(*levels[:depth]):
            rank, (_, share) = path[-1]
            whole = float(np.prod([each[1] for _, each in path]))
            every.append((whole, tuple(token for _, (token, _) in path), share, rank))
    best = sorted(every, key=lambda each: -each[0])[:nodes]
    assert same(found(tree), {path: (share, rank) for _, path, share, rank in best})


@pytest.mark.parametrize("name", KINDS)
def test_a_small_budget_and_fewer_levels_are_kept(name: str) -> None:
    drafter = opened(name, headed(name), depth=1)
    tree = drafter.propose(context(0.0), 40)
    assert len(tree.tokens) and set(tree.parents.tolist()) == {-1}
    for budget in (1, 2, 5):
        assert len(opened(name, headed(name)).propose(context(0.0), budget).tokens) <= budget
    assert not len(drafter.propose(context(0.0), 0).tokens)


@pytest.mark.parametrize("name", KINDS)
def test_what_was_not_told_is_not_guessed_from(name: str) -> None:
    drafter = opened(name, headed(name))
    longer = Context([*TEXT, 5], 3, 11)
    assert not len(drafter.propose(longer, 9).tokens)
    assert len(drafter.propose(context(0.0), 9).tokens)
    drafter.reset()
    assert not len(drafter.propose(context(0.0), 9).tokens)


# --- what they know ----------------------------------------------------------------------------


class Knowing(heads.Heads):
    """Guesses what is known to come, behind a wrong guess; holds its state to the true ones."""

    def __init__(self, part: Any, layer: int, text: list[int], states: np.ndarray) -> None:
        super().__init__(part, layer)
        self.text, self.states, self.guessed = text, states, 0

    def _guess(self, context: Context, state: np.ndarray, budget: int) -> Draft:
        at = len(context.tokens)
        assert context.tokens == self.text[:at]
        np.testing.assert_array_equal(state, heads.level(self.states[at - 2 : at - 1]))
        self.guessed += 1
        ahead = self.text[at : at + 2]
        wrong = (self.text[at] + 1) % V if ahead else 1
        tokens = np.array([wrong, *ahead], np.int32)
        parents = np.array([-1, -1, 1][: len(tokens)], np.int32)
        return Draft(tokens, parents, np.full(len(tokens), 0.5, np.float32), parents * 0)

    def rehearse(self, state: np.ndarray) -> None:
        """It has no part."""


class Sometimes:
    """Asked and told in some turns only, as where a drafter does not always pay."""

    def __init__(self, inner: Knowing, turns: Iterator[bool]) -> None:
        self.inner, self.turns, self.asked = inner, turns, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def propose(self, context: Context, budget: int) -> Draft:
        self.asked = next(self.turns)
        return self.inner.propose(context, budget) if self.asked else draft.empty()

    def observe(self, outcome: Outcome) -> None:
        if self.asked:
            self.inner.observe(outcome)


@needs_engine
@pytest.mark.parametrize("turns", [[True], [True, True, False], [True, False, False, True, True]])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("base", ["plain", "mu-like"])
def test_the_state_is_that_of_the_row_before_the_root(
    base: str, temperature: float, turns: list[bool], tmp_path: Path
) -> None:
    made = model(tmp_path, base, 2)
    prompt = np.random.default_rng(3).integers(1, 90, 30).tolist()
    sampling = Sampling(temperature=temperature, seed=2)
    ahead, _ = written(made, None, prompt, sampling)
    text, last = [*prompt, *ahead], made.architecture.layers
    session, _ = started(made)
    rows = Rows(np.array(text, np.int32), np.arange(-1, len(text) - 1))
    states = session.step(rows, want=Want((), (last,))).hidden(last).copy()
    session, host = started(made)
    knowing = Knowing(None, last, text, states)
    drafter = Sometimes(knowing, itertools.cycle(turns))
    planner = Planner([(drafter, False)], flat(growth=0.01), made.architecture.vocab, "fixed")
    looped = Loop(session, host.inner, planner, Needs(hidden=(last,)))
    looped._chunk = 8  # prompts in several steps
    if made.architecture.encoder is not None:
        looped.encode(np.array(SOURCE.tokens, np.int32), SOURCE)
    tally = Tally()
    rule = Rule(Sampler.build(sampling), frozenset(), len(ahead))
    assert [e.token for step in looped.run(prompt, rule, tally) for e in step] == ahead
    # Of three turns one is left out and one more follows it in which nothing is known.
    assert knowing.guessed >= (6 if turns == [True] else 3)
    assert tally.accepted >= knowing.guessed
    assert tally.passes < len(ahead)


# --- a real model ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    return model(tmp_path_factory.mktemp("models"), request.param, 2)


@pytest.fixture
def part(made: variants.Model, tmp_path: Path) -> Callable[[str], Part]:
    """Heads of random numbers on the model's own output matrix."""
    spec = made.architecture

    def one(name: str) -> Part:
        ids = np.arange(0, spec.vocab, 2, dtype=np.int32)
        matrices = tensors(name, spec.embed.dim, len(ids), 0.05)
        matrices["head"] = made.weights.load("embed.weight")[ids]
        source = PartSource(
            name, made.bundle.hash, {"depth": DEPTH, "blocks": 2}, ids, matrices=matrices
        )
        path = tmp_path / f"{name}.safetensors"
        write(path, source, spec)
        return native.open_part(path, made.bundle, None, 1)

    return one


@needs_engine
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("name", KINDS)
def test_the_text_is_that_of_plain_decoding(
    made: variants.Model, part: Callable[[str], Part], name: str, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, seed=7)
    evaluated = 0
    for prompt in ([5], [3, 17, 4, 60, 3, 17]):
        plain, _ = written(made, None, prompt, sampling)
        drafted, tally = written(made, KINDS[name](), prompt, sampling, part(name))
        assert drafted == plain
        evaluated += tally.evaluated
    assert evaluated > 20


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_what_is_missing_is_named(name: str) -> None:
    engine = fake()
    host = host_of(engine, engine.session(), architecture())
    with pytest.raises(UnsupportedError, match=f"no trained part for {name}"):
        KINDS[name]().needs(host)
    blind = fake(layers=2)  # it gives the hidden states of two layers only
    host = host_of(blind, blind.session(), architecture(), Given({"depth": 3}))
    with pytest.raises(UnsupportedError, match="output of layer 4"):
        KINDS[name]().needs(host)


@pytest.mark.parametrize(
    ("name", "option"),
    [("medusa", {"nodes": 0}), ("medusa", {"depth": 33}), ("hydra", {"width": 0}),
     ("recurrent", {"branches": 9}), ("hydra", {"confidence": 1.5})],
)  # fmt: skip
def test_options_out_of_bounds_are_refused(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        KINDS[name](**option)


WRONG: dict[str, Any] = {
    "no depth": {"about": {}},
    "a depth that is none": {"about": {"depth": "deep", "blocks": 1}},
    "a depth that never ends": {"about": {"depth": 10**12, "blocks": 10**12}},
    "no matrices": {"matrices": {}},
    "more heads than there are": {"about": {"depth": DEPTH + 1, "blocks": 3}},
    "another width": {"width": 32},
}


@needs_engine
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("what", WRONG)
def test_a_part_of_another_kind_is_refused_before_it_drafts(
    name: str, what: str, tmp_path: Path
) -> None:
    made, given = model(tmp_path, "plain", 2), dict(WRONG[what])
    matrices = tensors(name, given.pop("width", made.architecture.embed.dim), 9, 0.1)
    del matrices["head"]
    about = {"depth": DEPTH, "blocks": 2}
    source = PartSource(name, made.bundle.hash, **{"about": about, "matrices": matrices, **given})
    path = tmp_path / f"{name}.safetensors"
    write(path, source)
    broken = native.open_part(path, made.bundle, None, 1)
    engine = made.open()
    host = host_of(engine, engine.session(), made.architecture, broken)
    with pytest.raises(StateError, match="again"):
        KINDS[name]().open(host)


def test_large_states_do_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        x = np.array([[-200.0, -90.0, 0.0, 90.0]], np.float32)
        assert heads.silu(x).tolist() == [[pytest.approx(0, abs=1e-6)] * 3 + [90.0]]
        assert heads.level(np.zeros((1, 4), np.float32)).tolist() == [[0.0] * 4]
