"""Prompt tokens: what their rows say is proposed, no word changes, and they run where they pay."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgedec.accept import Rule
from edgedec.contracts import Capabilities, Context, Draft, Rows
from edgedec.costs import Costs, flat
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.gumbel import gumbel
from edgedec.host import Files, Scratch
from edgedec.pace import WIDEST
from edgedec.runtimes import native
from edgedec.runtimes.fake import Fake, FakeSession, _mix
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.early_exit import EarlyExit
from edgedec.strategies.prompt_decoding import PromptDecoding, averaged
from edgedec.strategies.trigram import Trigram

from .looped import VOCAB, architecture, fake
from .selfdrafted import model
from .stubbed import Stub, Written, write

LEVELS = 3
CHEAP = flat(growth=1e-4)


def part(levels: int = LEVELS, lanes: int = 1, width: int = 16, **about: Any) -> Stub:
    vectors = np.random.default_rng(3).normal(size=(levels * lanes, width)).astype(np.float32)
    return Stub({"lanes": lanes, **about}, {"prompts": vectors})


def rule(temperature: float = 0.0, limit: int = 50) -> Rule:
    return Rule(Sampler.build(Sampling(temperature=temperature, seed=5)), frozenset({1}), limit)


def host_of(engine: Fake, given: Stub | None) -> Scratch:
    files = Files(lambda path: engine, open_part=lambda name: given)
    return Scratch(engine, engine.session(), architecture(), files)


class Wide(Fake):
    """It reads prompts as the native runtime does."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, prompt_rows=256)


class Deaf(Fake):
    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, learned_ids=False)


class Seer(FakeSession):
    """Rows of learned ids are as if the token that truly follows stood there, if `right`."""

    right = True

    def _remember(self, rows: Rows, call: Any) -> None:
        engine, tokens = self._engine, np.array(rows.tokens)
        every = (1 << engine.layers) - 1
        for index in np.flatnonzero(tokens >= engine.vocab).tolist() if self.right else ():
            # Row by row, since a rider reads what stands above it.
            part = slice(index, index + 1)
            super()._remember(Rows(tokens, np.asarray(rows.parents)), call)
            _, seen, token = self._rows[self._tree.slot(int(rows.parents[part][0]))]
            tokens[index] = engine.logits(seen, _mix(token, 0), every).argmax()
        super()._remember(Rows(tokens, np.asarray(rows.parents)), call)


# --- what is proposed ----------------------------------------------------------------------------


def likeliest(levels: list[dict[int, float]], nodes: int) -> dict[tuple[int, ...], float]:
    """The likeliest paths of a tree whose levels are independent, by trying all of them."""
    found = {
        path: float(np.prod([levels[i][token] for i, token in enumerate(path)]))
        for depth in range(1, len(levels) + 1)
        for path in itertools.product(*levels[:depth])
    }
    return dict(sorted(found.items(), key=lambda item: -item[1])[:nodes])


def paths(tree: Draft) -> dict[tuple[int, ...], float]:
    found: list[tuple[tuple[int, ...], float]] = []
    for token, parent, score in zip(tree.tokens, tree.parents, tree.score, strict=True):
        above = found[parent] if parent >= 0 else ((), 1.0)
        found.append(((*above[0], int(token)), above[1] * float(score)))
    return dict(found)


def expected(
    engine: Fake, context: Context, mine: list[list[int]], likely: int
) -> list[dict[int, float]]:
    """The levels below the last token: a session of its own runs the text before it, then the
    riders `mine` (by level, in lanes) that hang below the row before it."""
    session, lanes = engine.session(), len(mine[0])
    text = [*context.tokens[:-1]]
    chains = [[level[lane] for level in mine] for lane in range(lanes)]
    tokens, parents = list(text), [*range(-1, len(text) - 1)]
    for chain in chains:
        parents += [len(text) - 1, *range(len(tokens), len(tokens) + len(chain) - 1)]
        tokens += chain
    result = session.step(Rows(np.array(tokens, np.int32), np.array(parents, np.int32)))
    levels = []
    for depth in range(len(mine)):
        rows = [len(text) + lane * len(mine) + depth for lane in range(lanes)]
        logits = np.mean([result.logits(row) for row in rows], axis=0, dtype=np.float64)
        best = np.argsort(-logits, kind="stable")[:likely].astype(np.int32)
        scores = logits[best]
        if context.temperature:
            noise = gumbel(context.seed, context.index + depth, best)
            scores = scores / context.temperature + noise
        shares = np.exp(scores - scores.max())
        levels.append(dict(zip(best.tolist(), (shares / shares.sum()).tolist(), strict=True)))
    return levels


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("lanes", "likely"), [(1, 4), (2, VOCAB)])
def test_what_is_proposed_is_what_the_riders_say(
    lanes: int, likely: int, temperature: float
) -> None:
    nodes, engine = 9, fake()
    strategy = PromptDecoding(nodes=nodes, likely=likely)
    found = write(engine, architecture(), [strategy], [3, 4], rule(temperature),
                  costs=CHEAP, part=part(lanes=lanes, acceptance=[0.9] * LEVELS))  # fmt: skip
    (watch,) = found.drafters
    proposals = 0
    turns = {len(tokens): tree for tree, tokens, _ in watch.turns}
    for length, accepted, riders in watch.heard:
        below = riders[accepted[-1] + 1 if accepted else 0] if riders else []
        text = [3, 4, *found.tokens]
        following = length + len(accepted) + 1
        if not below or following not in turns:
            continue
        mine = [list(below[i : i + lanes]) for i in range(0, len(below), lanes)]
        context = Context(text[:following], 2, 5, temperature)
        wanted = likeliest(expected(engine, context, mine, likely), nodes)
        got = paths(turns[following])
        assert set(got) == set(wanted)
        for path, probability in got.items():
            assert probability == pytest.approx(wanted[path], rel=1e-3)
        proposals += 1
    assert proposals > 5


def test_lanes_are_averaged_by_logits() -> None:
    ids = np.array([[4, 7], [7, 9], [1, 2], [1, 2]], np.int32)
    logits = np.array([[3.0, 1.0], [5.0, 2.0], [1.0, 0.5], [2.0, 1.5]], np.float32)
    tokens, means = averaged(ids, logits, 2)
    # 4 is not among the second lane's likeliest: there it counts as its last.
    assert tokens.tolist() == [[7, 4], [1, 2]]
    assert means.tolist() == [[3.0, 2.5], [1.5, 1.0]]


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("lanes", "encoder"), [(1, False), (3, False), (2, True)])
def test_no_word_changes(lanes: int, encoder: bool, temperature: float) -> None:
    """To the end of the context, where riders would stand beyond it."""
    spec = architecture(encoder=encoder)
    strategies = [PromptDecoding(), Trigram()]
    for sharpness in (2.0, 8.0):
        for prompt in ([3], [4, 5, 6, 4, 5, 6, 4]):
            engine = fake(sharpness=sharpness, encoder=encoder, eos=())
            wanted = rule(temperature, 100)
            plain = write(fake(sharpness=sharpness, encoder=encoder), spec, [], prompt, wanted)
            found = write(
                engine,
                spec,
                strategies,
                prompt,
                wanted,
                costs=flat(growth=1e-4),
                part=part(lanes=lanes),
            )
            assert found.tokens == plain.tokens
            assert any((rows.tokens >= VOCAB).any() for rows in found.session.rows)


@pytest.mark.skipif(not native.built(), reason="the C engine was not built")
@pytest.mark.parametrize("name", ["plain", "mu-like"])
def test_no_word_changes_in_the_native_runtime(name: str, tmp_path: Any) -> None:
    made = model(tmp_path, name, layers=3)
    spec = made.architecture
    for temperature in (0.0, 0.8):
        for lanes in (1, 2):
            given = part(2, lanes, spec.embed.dim)
            wanted = rule(temperature, 40)
            plain = write(made.open(), spec, [], [3, 17, 4], wanted)
            found = write(made.open(), spec, [PromptDecoding()], [3, 17, 4], wanted,
                          costs=CHEAP, part=given)  # fmt: skip
            assert found.tokens == plain.tokens
            assert any((rows.tokens >= spec.vocab).any() for rows in found.session.rows)


@pytest.mark.skipif(not native.built(), reason="the C engine was not built")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_riders_hang_below_rows_that_began_early(temperature: float, tmp_path: Any) -> None:
    made = model(tmp_path, "plain", layers=3)
    spec, wanted = made.architecture, rule(temperature, 60)
    given = part(2, 2, spec.embed.dim, acceptance=[0.9, 0.9])
    plain = write(made.open(), spec, [], [3, 17, 4], wanted)
    strategies = [EarlyExit(exit=2), PromptDecoding()]
    engine = made.open()
    found = write(engine, spec, strategies, [3, 17, 4], wanted, costs=CHEAP, part=given)
    assert found.tokens == plain.tokens
    # Riders in steps through the first layers alone, which others resume.
    early = [riding(rows, spec.vocab) for rows in found.session.early]
    assert sum(early) > 3


# --- what pays -----------------------------------------------------------------------------------


def seen(costs: Costs, right: bool, limit: int = 400, prompt: int = 2, **about: Any) -> Written:
    """A long text where prompt tokens know everything, or nothing."""
    engine = Wide(vocab=VOCAB, context=2048, sharpness=1.0)
    session = Seer(engine)
    session.right = right
    spec = architecture(context=2048)
    tokens = [3 + i % 20 for i in range(prompt)]
    wanted = Rule(Sampler.build(Sampling()), frozenset(), limit)
    return write(engine, spec, [PromptDecoding()], tokens, wanted,
                 costs=costs, part=part(**about), session=session)  # fmt: skip


def riding(rows: Rows, vocab: int = VOCAB) -> int:
    return int((rows.tokens >= vocab).sum())


def test_prompts_that_know_the_future_give_as_many_tokens() -> None:
    found = seen(flat(growth=1e-3), right=True)
    plain = seen(flat(growth=1e-3), right=False, limit=400)
    assert found.tokens == plain.tokens
    assert found.tally.drawn / found.tally.passes > 0.8 * (1 + LEVELS)
    assert all(len(below) <= LEVELS for _, _, lists in found.drafters[0].heard for below in lists)


@pytest.mark.parametrize("prompt", [2, WIDEST + 30, 600])
def test_the_turn_after_a_prompt_has_candidates(prompt: int) -> None:
    found = seen(flat(growth=1e-3), right=True, limit=30, prompt=prompt)
    (watch,) = found.drafters
    first, second = watch.turns[:2]
    assert (len(first[0].tokens), len(first[1])) == (0, prompt)
    assert first[2] == (prompt - 1) % 256 + 1
    assert len(second[0].tokens) > LEVELS
    assert second[1][prompt] == found.tokens[0]


def test_where_rows_are_dear_none_is_spent_on_prompts() -> None:
    found = seen(flat(growth=1.0), right=True, limit=100)
    assert sum(map(riding, found.session.rows)) == 0


def test_dear_rows_are_spent_on_few_prompts_and_cheap_ones_on_many() -> None:
    counts = []
    for growth in (1e-3, 0.35):
        found = seen(flat(growth=growth), right=True, acceptance=[0.8, 0.7, 0.6])
        turns = [riding(rows) for rows in found.session.rows[100:]]
        counts.append(np.mean(turns))
    assert counts[0] > 3 * LEVELS
    assert counts[1] < 1.5 * LEVELS


def test_prompts_that_know_nothing_are_given_up() -> None:
    found = seen(flat(growth=0.05), right=False, limit=1500)
    turns = [riding(rows) for rows in found.session.rows]
    assert sum(turns[:20]) > 0
    assert np.mean(np.array(turns[300:]) > 0) < 0.05
    took = found.session.clock()
    plain = sum(found.session.times[1] for _ in found.tokens)
    assert took < 1.03 * plain


def test_prompts_that_came_to_know_something_come_back() -> None:
    class Later(Seer):
        def step(self, *args: Any, **given: Any) -> Any:
            self.right = len(self.tokens) > 300
            return super().step(*args, **given)

    engine = fake(context=4096, sharpness=1.0, eos=())
    wanted = Rule(Sampler.build(Sampling()), frozenset(), 3000)
    found = write(engine, architecture(context=4096), [PromptDecoding()], [3], wanted,
                  costs=flat(growth=0.1), part=part(), session=Later(engine))  # fmt: skip
    turns = [riding(rows) > 0 for rows in found.session.rows]
    assert np.mean(turns[150:300]) < 0.2
    assert np.mean([riding(rows) > 0 for rows in found.session.rows[-50:]]) > 0.9


# --- what is refused -----------------------------------------------------------------------------


def test_what_is_missing_is_named() -> None:
    strategy = PromptDecoding()
    with pytest.raises(UnsupportedError, match="no trained part for prompt_decoding"):
        strategy.needs(host_of(fake(), None))

    with pytest.raises(UnsupportedError, match="takes no learned ids"):
        strategy.needs(host_of(Deaf(vocab=VOCAB), part()))
    for given in (part(lanes=2, levels=2), Stub({}, {"prompts": np.zeros(16, np.float32)})):
        given.about["lanes"] = 3
        with pytest.raises(StateError, match="train it again"):
            strategy.open(host_of(fake(), given))
    for options in ({"nodes": 0}, {"likely": 65}, {"depth": -1}):
        with pytest.raises(UsageError, match="must be"):
            PromptDecoding(**options)


def test_fewer_levels_than_were_trained() -> None:
    drafter = PromptDecoding(depth=2).open(host_of(fake(), part(lanes=2)))
    found = drafter.propose(Context([3, 4], 2, 5), 8)
    assert found.riders is not None
    assert [*found.riders[0]] == [VOCAB, VOCAB + 1, VOCAB + 2, VOCAB + 3]
    assert (found.lanes, len(found.gains), len(drafter.gains)) == (2, 4, 2)
