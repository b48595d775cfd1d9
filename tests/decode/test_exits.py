"""Layers that guess from early exits: what they guess, what they keep, and no other words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedec import draft
from edgedec.contracts import TRUNK, Context, Outcome, Rows, Want
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.gumbel import gumbel
from edgedec.heads import DRAWN, LIKELY
from edgedec.parts import Part
from edgedec.runtimes import native
from edgedec.sampling import Sampling
from edgedec.strategies.attention_head import AttentionHead
from edgedec.strategies.eesd import Eesd
from edgedec.strategies.kangaroo import Kangaroo
from tests.native import variants

from .layered import layered, said, states
from .looped import architecture, fake
from .selfdrafted import Given, host_of, model, started, written

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

TEXT = [3, 17, 4, 60, 3, 17, 22, 9]
EXIT = 2
ALWAYS = Kangaroo(depth=4, branches=3, confidence=0.0)


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    return model(tmp_path_factory.mktemp("models"), request.param)


@pytest.fixture(scope="module")
def part(made: variants.Model, tmp_path_factory: Any) -> Part:
    return layered(made, tmp_path_factory.mktemp("parts"), "kangaroo", {"exit": EXIT})


class Held:
    """A drafter and the session it drafts for, turn by turn."""

    def __init__(self, made: variants.Model, part: Part, strategy: Any = ALWAYS) -> None:
        self.session, self.host = started(made, part)
        self.host.inner.shown = (EXIT,)
        self.drafter = strategy.open(self.host)
        self.text: list[int] = []

    def run(self, tokens: list[int], *, told: bool) -> None:
        """More text runs through the model."""
        start = len(self.text)
        rows = Rows(np.array(tokens, np.int32), np.arange(-1, len(tokens) - 1))
        result = self.session.step(rows, want=Want((), (EXIT,)))
        if told:
            self.drafter.read(start, {EXIT: result.hidden(EXIT)})
        self.session.keep([result.handles[-1]])
        self.host.inner.rows = 0
        self.text += tokens

    def turn(self, root: int, emitted: list[int], temperature: float = 0.0) -> Any:
        """A proposal behind a token, and what the model says came out."""
        context = Context([*self.text, root], 2, 12, temperature)
        found = self.drafter.propose(context, 40)
        rows, handles = draft.resumed(root, found, found.began, self.host.rows)
        if len(rows.tokens):
            self.host.step(rows, (range(EXIT),), Want(()))
        last = self.host.architecture.layers
        result = self.session.resume(handles, (range(EXIT, last),))
        logits = [result.logits(i).copy() for i in range(len(handles))]
        nodes, at = [], TRUNK
        for token in emitted:
            below = draft.children(found).get((at, token))
            if below is None:
                break
            nodes.append(at := below)
        hidden = {EXIT: self.host.early(EXIT, handles)}
        outcome = Outcome(found, context, tuple(nodes), tuple(emitted), hidden=hidden)
        self.drafter.observe(outcome)
        self.session.keep([handles[nodes[-1] + 1 if nodes else 0]])
        self.host.inner.rows = 0
        self.text += [root, *emitted[:-1]]
        return found, logits


def expected(
    made: variants.Model, part: Part, text: list[int], holes: set[int], context: Context
) -> list[tuple[int, float]]:
    """The best three guesses of each row of a chain, by reading everything anew."""
    text, found = list(text), []
    for depth in range(4):
        places = [place for place in range(len(text)) if place not in holes]
        left = states(made, text, [EXIT])[0][places]
        ids, keys, _ = said(part, places, left, DRAWN if context.temperature else LIKELY)
        keys = keys.astype(np.float64)
        if context.temperature:
            keys = keys / context.temperature + gumbel(12, context.index + depth, ids)
        shares = np.exp(keys - keys.max()) / np.exp(keys - keys.max()).sum()
        best = np.argsort(-shares, kind="stable")[:3]
        found += [(int(ids[i]), float(shares[i])) for i in best]
        text.append(int(ids[best[0]]))
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_guesses_are_those_of_layers_that_read_everything(
    made: variants.Model, part: Part, temperature: float
) -> None:
    """Turn after turn: a prompt, guesses that come true, one that does not, and a hole."""
    held = Held(made, part)
    held.run(TEXT, told=True)
    root, holes = 33, set[int]()
    for right in (2, 0, 4, 1):
        context = Context([*held.text, root], 2, 12, temperature)
        wanted = expected(made, part, context.tokens, holes, context)
        chain = [token for token, _ in wanted[::3]]
        emitted = [*chain[:right], 7]
        found, _ = held.turn(root, emitted, temperature)
        assert found.tokens.tolist() == [token for token, _ in wanted]
        assert np.allclose(found.score, [share for _, share in wanted], rtol=1e-4, atol=1e-6)
        assert found.parents.tolist() == [TRUNK] * 3 + [0] * 3 + [3] * 3 + [6] * 3
        root = emitted[-1]
        if right == 0:
            holes |= {len(held.text), len(held.text) + 1}
            held.run([root, 21], told=False)
            root = 5


def test_a_long_prompt_is_read_in_pieces(made: variants.Model, part: Part) -> None:
    held = Held(made, part)
    text = np.random.default_rng(2).integers(1, 99, 300).tolist()
    held.run(text[:170], told=True)
    held.run(text[170:], told=True)
    context = Context([*text, 5], 2, 12)
    wanted = expected(made, part, context.tokens, set(), context)
    found, _ = held.turn(5, [8])
    assert found.tokens.tolist() == [token for token, _ in wanted]


def test_what_resumes_says_what_a_plain_step_says(made: variants.Model, part: Part) -> None:
    held = Held(made, part)
    held.run(TEXT, told=True)
    found, logits = held.turn(33, [7])
    plain = Held(made, part)
    plain.run(TEXT, told=False)
    result = plain.session.step(draft.rows([33], found, None))
    assert len(logits) == 13
    assert all((result.logits(i) == each).all() for i, each in enumerate(logits))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("name", ["kangaroo", "eesd"])
@pytest.mark.parametrize("layer", [1, 4])
def test_no_word_changes(
    made: variants.Model, tmp_path: Path, name: str, layer: int, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, seed=4)
    plain, _ = written(made, None, TEXT, sampling)
    options = Kangaroo(confidence=0.05) if name == "kangaroo" else Eesd()
    part = layered(made, tmp_path, name, {"exit": layer})
    found, tally = written(made, options, TEXT, sampling, part)
    assert found == plain
    assert tally.evaluated > len(plain) / 2


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_exits_and_a_head_draft_together(
    made: variants.Model, tmp_path: Path, temperature: float
) -> None:
    """Rows that left at one layer show what layers before it gave to those who ask."""
    sampling = Sampling(temperature=temperature, seed=4)
    plain, _ = written(made, None, TEXT, sampling)
    parts = {
        "kangaroo": layered(made, tmp_path, "kangaroo", {"exit": 1}),
        "eesd": layered(made, tmp_path, "eesd", {"exit": 3}),
        "attention_head": layered(
            made, tmp_path, "attention_head", {"layers": [1, 2, 5]}, [("fuse", 3), ("enter", 2)]
        ),
    }
    options = [Kangaroo(confidence=0.05), Eesd(), AttentionHead(confidence=0.05)]
    for strategies in (options, options[::-1]):
        found, tally = written(made, strategies, TEXT, sampling, parts)
        assert found == plain
        assert tally.evaluated > len(plain) / 2


def test_kangaroo_stops_where_it_is_not_sure(made: variants.Model, part: Part) -> None:
    for confidence in (0.0, 0.05, 0.1, 0.2, 1.0):
        held = Held(made, part, Kangaroo(depth=6, branches=1, confidence=confidence))
        held.run(TEXT, told=True)
        scores = held.turn(33, [7])[0].score
        assert all(scores[:-1] >= confidence)
        assert len(scores) == 6 or scores[-1] < confidence
    assert len(scores) == 1


def test_eesd_goes_on_as_often_as_it_is_right(made: variants.Model, part: Part) -> None:
    """Its drafts are the same each time; they grow while all comes true, and shrink after."""
    lengths: list[list[int]] = []
    for _ in range(2):
        held = Held(made, part, Eesd(depth=6, branches=1, calibration=0.0))
        held.host.inner._parts["eesd"] = part
        held.run(TEXT, told=True)
        lengths.append([])
        for turn in range(130):
            before = len(held.text)
            context = [*held.text, 5]
            chain = _guessed(held, context)
            right = chain if turn < 30 else []
            held.turn(5, [*right, 5])
            lengths[-1].append(len(chain))
            assert len(held.text) > before
    first, second = lengths
    assert first == second
    assert np.mean(first[15:30]) > np.mean(first[:5]) + 0.5
    assert np.mean(first[100:]) < 1.7


def _guessed(held: Held, tokens: list[int]) -> list[int]:
    """What the next proposal of this drafter will be; it is left as it was."""
    dice = held.drafter._dice.bit_generator.state
    found = held.drafter.propose(Context(tokens, 2, 12), 40)
    held.drafter._dice.bit_generator.state = dice
    held.session.keep([TRUNK])
    held.host.inner.rows = 0
    chain: list[int] = found.tokens.tolist()
    return chain


def test_a_new_text_is_read_anew(made: variants.Model, part: Part) -> None:
    held = Held(made, part)
    held.run([*TEXT, 50, 51], told=True)
    held.turn(33, [7])
    held.drafter.reset()
    held.session.truncate(0)
    held.text = []
    held.run(TEXT, told=True)
    context = Context([*TEXT, 33], 2, 12)
    wanted = expected(made, part, context.tokens, set(), context)
    assert held.turn(33, [7])[0].tokens.tolist() == [token for token, _ in wanted]


def test_rows_that_run_again_are_known(made: variants.Model, part: Part) -> None:
    """A prompt that continues the text runs its last token once more."""
    held = Held(made, part)
    held.run(TEXT, told=True)
    held.turn(33, [7])
    text = list(held.text)
    held.session.truncate(len(text) - 1)
    held.text = text[:-1]
    held.run([text[-1], 40, 41], told=True)
    context = Context([*held.text, 33], 2, 12)
    wanted = expected(made, part, context.tokens, set(), context)
    assert held.turn(33, [7])[0].tokens.tolist() == [token for token, _ in wanted]


def test_a_prompt_that_was_not_run_is_no_place_to_draft(made: variants.Model, part: Part) -> None:
    held = Held(made, part)
    found = held.drafter.propose(Context([3, 4], 2, 0, pending=2), 20)
    assert (len(found.tokens), held.host.rows) == (0, 0)


def refusal(
    about: dict[str, Any] | None, error: type[Exception] = UnsupportedError, **runtime: Any
) -> str:
    engine = fake(**runtime)
    given = None if about is None else Given(about)
    with pytest.raises(error) as caught:
        Kangaroo().needs(host_of(engine, engine.session(), architecture(), given))
    return str(caught.value)


def test_what_is_missing_is_named() -> None:
    assert "edgedec train kangaroo" in refusal(None)
    assert "after layer 2" in refusal({"exit": 2}, cuts=(1, 3))
    assert "from 1 to 3" in refusal({"exit": 4}, StateError)
    assert "exit is None" in refusal({}, StateError)
    with pytest.raises(UsageError, match="confidence is 2"):
        Kangaroo(confidence=2)
    with pytest.raises(UsageError, match="calibration is -1"):
        Eesd(calibration=-1)
