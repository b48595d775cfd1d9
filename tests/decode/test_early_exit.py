"""Guesses of the first layers: what they are, what they leave behind, and no other words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedec.contracts import TRUNK, Context, Draft, Rows, Want
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.gumbel import gumbel
from edgedec.heads import DRAWN, LIKELY
from edgedec.runtimes import native
from edgedec.sampling import Sampling
from edgedec.strategies.early_exit import EarlyExit
from edgedec.strategies.layer_skip import LayerSkip
from edgedec.strategies.token_recycling import TokenRecycling
from tests.native import variants

from .looped import architecture, fake
from .selfdrafted import SOURCE, Given, host_of, model, started, written

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

TEXT = [3, 17, 4, 60, 3, 17, 22, 9]
EXIT = 2


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    return model(tmp_path_factory.mktemp("models"), request.param)


def early(made: variants.Model, text: list[int]) -> np.ndarray:
    """The logits of the first layers for the last token of a text that they read at once."""
    session = made.open().session()
    if made.architecture.encoder is not None:
        session.encode(np.array(SOURCE.tokens, np.int32))
    rows = Rows(np.array(text, np.int32), np.arange(-1, len(text) - 1))
    result = session.step(rows, (range(EXIT),), Want(logits=(len(text) - 1,)))
    return result.logits(len(text) - 1).astype(np.float64)


def proposed(made: variants.Model, options: EarlyExit, context: Context) -> tuple[Draft, int]:
    """A draft of one that has read all but the last token, and how many rows it took."""
    session, host = started(made)
    held = len(context.tokens) - 1
    read = np.array(context.tokens[:held], np.int32)
    result = session.step(Rows(read, np.arange(-1, held - 1)))
    session.keep([result.handles[-1]])
    return options.open(host).propose(context, 40), host.rows


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_each_row_guesses_what_the_first_layers_say(
    made: variants.Model, temperature: float
) -> None:
    context = Context(TEXT, 2, 12, temperature)
    options = EarlyExit(exit=EXIT, depth=4, branches=3, confidence=0.0)
    found, rows = proposed(made, options, context)
    assert rows == 4
    assert found.began is not None
    assert found.began.layer == EXIT
    text, above, expected = list(TEXT), TRUNK, []
    for depth in range(4):
        logits = early(made, text)
        ids = np.argsort(-logits, kind="stable")[: DRAWN if temperature else LIKELY]
        keys = logits[ids]
        if temperature:
            keys = keys / temperature + gumbel(12, context.index + depth, ids)
        shares = np.exp(keys - keys.max()) / np.exp(keys - keys.max()).sum()
        best = np.argsort(-shares, kind="stable")[:3]
        expected += [(int(ids[i]), above, float(shares[i])) for i in best]
        above = 3 * depth
        text.append(expected[above][0])
    told = zip(found.tokens.tolist(), found.parents.tolist(), found.score.tolist(), strict=True)
    for node, (token, parent, score) in enumerate(told):
        assert (token, parent) == expected[node][:2]
        assert score == pytest.approx(expected[node][2], rel=1e-4)
    assert found.rank.tolist() == [0, 1, 2] * 4
    # The chain's rows live on; the leaves beside it and its last node never ran.
    assert list(found.began.handles) == [0, *[1, -1, -1], *[2, -1, -1], *[3, -1, -1], *[-1] * 3]


def test_it_stops_where_nothing_is_likely_enough(made: variants.Model) -> None:
    sure = EarlyExit(exit=EXIT, depth=6, confidence=0.999)
    found, rows = proposed(made, sure, Context(TEXT, 2, 0))
    assert (rows, len(found.tokens)) == (1, 3)
    assert found.parents.tolist() == [TRUNK] * 3


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("layer", [1, 4])
def test_no_word_changes(made: variants.Model, temperature: float, layer: int) -> None:
    sampling = Sampling(temperature=temperature, seed=4)
    plain, _ = written(made, None, TEXT, sampling)
    options = EarlyExit(exit=layer, depth=3, confidence=0.0)
    found, tally = written(made, options, TEXT, sampling)
    assert found == plain
    assert tally.evaluated > len(plain)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_with_others_in_one_tree(made: variants.Model, temperature: float) -> None:
    """Scratch rows of one lie between the early rows of the other, and tables add nodes."""
    part = Given({"start": 1, "end": 4, "masks": 0})
    sampling = Sampling(temperature=temperature, seed=9)
    plain, _ = written(made, None, TEXT, sampling)
    for order in (1, -1):
        chosen = [LayerSkip(), EarlyExit(exit=EXIT, confidence=0.0), TokenRecycling()][::order]
        found, tally = written(made, chosen, TEXT, sampling, part)
        assert found == plain
        assert tally.evaluated > len(plain)


def test_a_late_exit_is_often_right(made: variants.Model) -> None:
    """The last layer of these models changes little: most guesses of the others come true."""
    options = EarlyExit(exit=4, depth=3, confidence=0.0)
    _, tally = written(made, options, TEXT, Sampling())
    assert tally.accepted > tally.passes / 2


def test_the_part_says_where_and_how_far(made: variants.Model) -> None:
    _, host = started(made, Given({"exit": EXIT, "depth": 2}))
    assert EarlyExit().needs(host).cuts == (EXIT,)
    drafter = EarlyExit(confidence=0.0, branches=1).open(host)
    assert len(drafter.propose(Context([3], 1, 0), 20).tokens) == 2
    assert EarlyExit(exit=3).needs(host).cuts == (3,)


def test_a_prompt_that_was_not_run_is_no_place_to_draft(made: variants.Model) -> None:
    _, host = started(made)
    drafter = EarlyExit(exit=EXIT).open(host)
    assert not len(drafter.propose(Context([3, 4], 2, 0, pending=2), 20).tokens)
    assert host.rows == 0


def refusal(options: EarlyExit, error: type[Exception], **runtime: Any) -> str:
    engine = fake(**runtime)
    with pytest.raises(error) as caught:
        options.needs(host_of(engine, engine.session(), architecture()))
    return str(caught.value)


def test_what_is_missing_is_named() -> None:
    assert "edgedec train early_exit" in refusal(EarlyExit(), UnsupportedError)
    assert "after layer 2" in refusal(EarlyExit(exit=2), UnsupportedError, cuts=(1, 3))
    assert "has 4" in refusal(EarlyExit(exit=4), UsageError)
    engine = fake()
    for about in ({"depth": 2}, {"exit": "2"}, {"exit": 4}, {"exit": True}):
        host = host_of(engine, engine.session(), architecture(), Given(about))
        with pytest.raises(StateError, match="its exit is"):
            EarlyExit().needs(host)
    host = host_of(engine, engine.session(), architecture(), Given({"exit": 2}))
    with pytest.raises(StateError, match="its depth is None"):
        EarlyExit().open(host)
    with pytest.raises(UsageError, match="exit is 0"):
        EarlyExit(exit=0)
    with pytest.raises(UsageError, match="confidence is 2"):
        EarlyExit(confidence=2)
