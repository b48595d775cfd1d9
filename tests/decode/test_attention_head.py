"""The head with an attention layer: what it guesses, what it follows, and no other words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedec.contracts import TRUNK, Context, Outcome, Rows, Want
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.gumbel import gumbel
from edgedec.heads import DRAWN, LIKELY
from edgedec.parts import Part
from edgedec.runtimes import native
from edgedec.sampling import Sampling
from edgedec.strategies.attention_head import AttentionHead
from tests.native import variants

from .layered import layered, said, states
from .looped import architecture, fake
from .selfdrafted import Given, host_of, model, started, written

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

TEXT = [3, 17, 4, 60, 3, 17, 22, 9]
LAYERS = (1, 2, 5)
ALWAYS = AttentionHead(depth=4, branches=2, confidence=0.0)
MIXES = [("fuse", 3), ("enter", 2)]


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    return model(tmp_path_factory.mktemp("models"), request.param)


def part_of(made: variants.Model, folder: Path) -> Part:
    return layered(made, folder, "attention_head", {"layers": list(LAYERS)}, MIXES)


@pytest.fixture(scope="module")
def part(made: variants.Model, tmp_path_factory: Any) -> Part:
    return part_of(made, tmp_path_factory.mktemp("parts"))


def level(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True)), np.float32)


class Held:
    """A drafter and the session it drafts for, turn by turn."""

    def __init__(self, made: variants.Model, part: Part, strategy: Any = ALWAYS) -> None:
        self.session, self.host = started(made, part)
        self.drafter = strategy.open(self.host)
        self.text: list[int] = []

    def run(self, tokens: list[int], *, told: bool = True) -> None:
        """More text runs through the model, before anybody is asked."""
        start = len(self.text)
        result = self._step(tokens)
        if told:
            self.drafter.read(start, {layer: result.hidden(layer) for layer in LAYERS})
        self._keep(result, tokens)

    def _step(self, tokens: list[int]) -> Any:
        rows = Rows(np.array(tokens, np.int32), np.arange(-1, len(tokens) - 1))
        return self.session.step(rows, want=Want((), LAYERS))

    def _keep(self, result: Any, tokens: list[int]) -> None:
        self.session.keep([result.handles[-1]])
        self.text += tokens

    def turn(self, root: int, right: int, context: Context) -> Any:
        """A proposal behind a token, of whose chain so many guesses come true, and no other."""
        found = self.drafter.propose(context, 40)
        chain = np.flatnonzero(found.rank == 0)[:right].tolist()
        tokens = [root, *found.tokens[chain].tolist()]
        result = self._step(tokens)
        # Rows of the step are the root and all nodes: those that were not accepted are made up.
        hidden = {}
        for layer in LAYERS:
            rows = np.full((1 + len(found.tokens), result.hidden(layer).shape[1]), 9, np.float32)
            rows[[0, *(node + 1 for node in chain)]] = result.hidden(layer)
            hidden[layer] = rows
        emitted = (*tokens[1:], 7)
        self.drafter.observe(Outcome(found, context, tuple(chain), emitted, hidden=hidden))
        self._keep(result, tokens)
        return found


def expected(
    made: variants.Model, part: Part, text: list[int], holes: set[int], context: Context
) -> list[tuple[int, float]]:
    """The two best guesses of each row of a chain, by reading everything anew."""
    last, found = len(text) - 1, []
    places = [place for place in range(last) if place not in holes]
    fused = np.concatenate([level(each[places]) for each in states(made, text, LAYERS)], axis=1)
    given = part.linear("fuse", fused)
    following = [text[place + 1] for place in places]
    for depth in range(4):
        near = part.embed(np.array(following, np.int32))
        rows = part.linear("enter", np.concatenate([near, level(given)], axis=1))
        ids, keys, out = said(part, places, rows, DRAWN if context.temperature else LIKELY)
        keys = keys.astype(np.float64)
        if context.temperature:
            keys = keys / context.temperature + gumbel(12, context.index + depth, ids)
        shares = np.exp(keys - keys.max()) / np.exp(keys - keys.max()).sum()
        best = np.argsort(-shares, kind="stable")[:2]
        found += [(int(ids[i]), float(shares[i])) for i in best]
        places, following = [*places, last + depth], [*following, found[-2][0]]
        given = np.concatenate([given, out])
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_guesses_are_those_of_a_layer_that_reads_everything(
    made: variants.Model, part: Part, temperature: float
) -> None:
    held = Held(made, part)
    held.run(TEXT)
    root, holes = 33, set[int]()
    for right in (2, 0, 4, 1):
        context = Context([*held.text, root], 2, 12, temperature)
        wanted = expected(made, part, context.tokens, holes, context)
        found = held.turn(root, right, context)
        assert found.tokens.tolist() == [token for token, _ in wanted]
        assert np.allclose(found.score, [share for _, share in wanted], rtol=1e-4, atol=1e-6)
        assert found.parents.tolist() == [TRUNK, TRUNK, 0, 0, 2, 2, 4, 4]
        root = 7
        if right == 0:
            # A turn without it: the row before the next root is not known, then it is again.
            holes |= {len(held.text), len(held.text) + 1}
            held.run([root, 21], told=False)
            context = Context([*held.text, 5], 2, 12, temperature)
            assert not len(held.turn(5, 0, context).tokens)


def test_several_nodes_of_a_level_go_on(made: variants.Model, part: Part) -> None:
    held = Held(made, part, AttentionHead(depth=3, width=2, branches=2, confidence=0.0))
    held.run(TEXT)
    context = Context([*TEXT, 33], 2, 12)
    found = held.drafter.propose(context, 40)
    assert found.parents.tolist()[:6] == [TRUNK, TRUNK, 0, 0, 1, 1]
    text = [*TEXT, 33]
    wanted = expected(made, part, text, set(), context)
    assert found.tokens[:4].tolist() == [token for token, _ in wanted[:4]]


def test_budget_and_confidence_end_the_tree(made: variants.Model, part: Part) -> None:
    for budget in (0, 1, 3, 5):
        held = Held(made, part)
        held.run(TEXT)
        found = held.drafter.propose(Context([*TEXT, 33], 2, 12), budget)
        assert len(found.tokens) <= budget
        assert bool(len(found.tokens)) == bool(budget)
    held = Held(made, part, AttentionHead(confidence=1.0))
    held.run(TEXT)
    assert found.parents.tolist() != [TRUNK] * len(found.parents)
    assert set(held.drafter.propose(Context([*TEXT, 33], 2, 12), 40).parents) == {TRUNK}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_no_word_changes(made: variants.Model, part: Part, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, seed=4)
    plain, _ = written(made, None, TEXT, sampling)
    found, tally = written(made, AttentionHead(confidence=0.02), TEXT, sampling, part)
    assert found == plain
    assert tally.evaluated > len(plain) / 2


def test_a_new_text_is_read_anew(made: variants.Model, part: Part) -> None:
    held, fresh = Held(made, part), Held(made, part)
    held.run([*TEXT, 50, 51])
    held.turn(33, 1, Context([*held.text, 33], 2, 12))
    held.drafter.reset()
    held.session.truncate(0)
    held.text = []
    for each in (held, fresh):
        each.run(TEXT)
    context = Context([*TEXT, 33], 2, 12)
    one, other = (each.turn(33, 0, context) for each in (held, fresh))
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.score.tolist() == other.score.tolist()


def test_what_is_missing_is_named() -> None:
    engine = fake()
    host = host_of(engine, engine.session(), architecture())
    with pytest.raises(UnsupportedError, match="edgedec train attention_head"):
        AttentionHead().needs(host)
    host = host_of(engine, engine.session(), architecture(), Given({"layers": [1, 2, 9]}))
    with pytest.raises(UnsupportedError, match="layer 9"):
        AttentionHead().needs(host)
    for layers in (None, [], 3, [1, "2"]):
        host = host_of(engine, engine.session(), architecture(), Given({"layers": layers}))
        with pytest.raises(StateError, match="must be some numbers"):
            AttentionHead().needs(host)
    with pytest.raises(UsageError, match="branches is 9"):
        AttentionHead(branches=9)


@pytest.mark.parametrize("mixes", [[], [("fuse", 3)], [("fuse", 2), ("enter", 2)]])
def test_a_part_of_another_shape_is_refused(
    made: variants.Model, tmp_path: Path, mixes: list[tuple[str, int]]
) -> None:
    about = {"layers": list(LAYERS)}
    part = layered(made, tmp_path, "attention_head", about, mixes)
    _, host = started(made, part)
    with pytest.raises(StateError, match=r"fuse|enter"):
        ALWAYS.open(host)
