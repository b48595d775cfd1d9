"""A pass that skips the middle drafts: its rows see what they should, and no word changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec.contracts import TRUNK, Context, Rows
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.gumbel import gumbel
from edgedec.heads import DRAWN, LIKELY
from edgedec.runtimes import native
from edgedec.sampling import Sampling
from edgedec.strategies.layer_skip import LayerSkip
from tests.native import variants

from .looped import architecture, fake
from .selfdrafted import Given, host_of, model, skipped, started, written

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

START, END, MASKS = 1, 4, 3


@pytest.fixture(scope="module", params=["plain", "mu-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    return model(tmp_path_factory.mktemp("models"), request.param)


def part(made: variants.Model, masks: int = MASKS) -> Given:
    dim = made.architecture.embed.dim
    vectors = np.random.default_rng(7).normal(size=(masks, dim)).astype(np.float32)
    return Given({"start": START, "end": END, "masks": masks}, vectors)


TEXT = [3, 17, 4, 60, 3, 17, 22, 9]


@pytest.mark.parametrize("held", [len(TEXT) - 1, len(TEXT) - 3, 0])
def test_the_pass_sees_the_text_and_itself(made: variants.Model, held: int) -> None:
    given = part(made)
    session, host = started(made, given)
    if held:
        result = session.step(Rows(np.array(TEXT[:held], np.int32), np.arange(-1, held - 1)))
        session.keep([result.handles[-1]])
    drafter = LayerSkip().open(host)
    drafter.propose(Context(TEXT, 2, 0, pending=len(TEXT) - held), 20)
    ((_, layers, logits),) = host.steps
    assert layers == (range(START), range(END, 5))
    expected = skipped(made, TEXT, held, given.masks, range(START, END))
    assert logits.shape == expected.shape
    # Activations are rounded to 8 bits in native; a row that saw too much or too little is far off.
    assert np.abs(logits - expected).mean() < 0.1 * expected.std()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_tree_is_the_likeliest_of_what_the_rows_guess(
    made: variants.Model, temperature: float
) -> None:
    _, host = started(made, part(made))
    context = Context(TEXT, 2, 31, temperature, pending=len(TEXT))
    found = LayerSkip(nodes=9).open(host).propose(context, 20)
    logits = host.steps[0][2].astype(np.float64)
    paths: dict[tuple[int, ...], float] = {(): 1.0}
    best: dict[tuple[int, ...], float] = {}
    for depth, line in enumerate(logits):
        ids = np.argsort(-line, kind="stable")[: DRAWN if temperature else LIKELY]
        keys = line[ids]
        if temperature:
            keys = keys / temperature + gumbel(31, context.index + depth, ids)
        shares = np.exp(keys - keys.max()) / np.exp(keys - keys.max()).sum()
        paths = {
            (*path, int(token)): chance * share
            for path, chance in paths.items()
            for token, share in zip(ids, shares, strict=True)
        }
        best |= paths
    expected = sorted(best, key=lambda path: -best[path])[:9]
    own: list[tuple[int, ...]] = []
    for token, parent in zip(found.tokens.tolist(), found.parents.tolist(), strict=True):
        own.append((*own[parent], token) if parent != TRUNK else (token,))
    assert set(own) == set(expected)
    for path, score in zip(own, found.score, strict=True):
        assert score == pytest.approx(best[path] / best.get(path[:-1], 1.0), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("options", [{}, {"masks": 0}, {"start": 2, "end": 3, "masks": 1}])
def test_no_word_changes(made: variants.Model, temperature: float, options: Any) -> None:
    sampling = Sampling(temperature=temperature, seed=4)
    plain, _ = written(made, None, TEXT, sampling)
    found, tally = written(made, LayerSkip(**options), TEXT, sampling, part(made))
    assert found == plain
    assert tally.evaluated > len(plain)


def test_the_context_is_filled_to_its_end(tmp_path: Path) -> None:
    small = model(tmp_path, "plain")
    spec = replace(small.architecture, limits=replace(small.architecture.limits, context=12))
    engine = small.open()
    session = engine.session()
    host = host_of(engine, session, spec, part(small))
    drafter = LayerSkip().open(host)
    for length, guesses in ((8, 4), (9, 4), (10, 3), (12, 1)):
        found = drafter.propose(Context((TEXT * 2)[:length], 1, 0, pending=8), 40)
        assert max(depths(found.parents.tolist())) == guesses
        session.keep([TRUNK])
        host.rows = 0


def depths(parents: list[int]) -> list[int]:
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent == TRUNK else found[parent] + 1)
    return found


def test_a_long_prompt_is_not_read_twice(made: variants.Model) -> None:
    _, host = started(made, part(made))
    assert not len(LayerSkip().open(host).propose(Context([3] * 40, 40, 0, pending=40), 20).tokens)
    assert host.steps == []


def test_static_widths_are_filled_up() -> None:
    engine = fake(row_widths=(1, 8))
    host = host_of(engine, engine.session(), architecture(), Given(
        {"start": 1, "end": 3, "masks": 2}, np.ones((2, 16), np.float32)))  # fmt: skip
    found = LayerSkip().open(host).propose(Context([3, 4, 5], 1, 0, pending=3), 20)
    assert len(found.tokens) == 12
    assert host.rows == 8


def refusal(options: Any, error: type[Exception], given: Given | None, **runtime: Any) -> str:
    engine = fake(**runtime)
    host = host_of(engine, engine.session(), architecture(), given)
    with pytest.raises(error) as caught:
        LayerSkip(**options).needs(host)
        LayerSkip(**options).open(host)
    return str(caught.value)


def test_what_is_missing_is_named() -> None:
    given = Given({"start": 1, "end": 3, "masks": 2}, np.ones((2, 16), np.float32))
    assert "edgedec train layer_skip" in refusal({}, UnsupportedError, None)
    assert "layer 3" in refusal({}, UnsupportedError, given, cuts=(1, 2))
    assert "1 to 4 of 4" in refusal({"end": 4}, UsageError, given)
    assert "trained with 2" in refusal({"masks": 5}, UsageError, given)
    assert "says that its end is None" in refusal({}, StateError, Given({"start": 1, "masks": 0}))
    assert "3 to 2 of 4" in refusal({}, StateError, Given({"start": 3, "end": 2, "masks": 0}))
    odd = Given({"start": 1, "end": 3, "masks": 2}, np.ones((2, 15), np.float32))
    assert "[2, 15]" in refusal({}, StateError, odd)
    few = Given({"start": 1, "end": 3, "masks": 2}, np.ones((1, 16), np.float32))
    assert "trained with 1" in refusal({}, StateError, few)
    with pytest.raises(UsageError, match="start is 0"):
        LayerSkip(start=0)
    with pytest.raises(UsageError, match=r"masks is 1\.5"):
        LayerSkip(masks=1.5)  # type: ignore[arg-type]


def test_skipping_alone_needs_no_part() -> None:
    engine = fake(agreement=1.0)
    host = host_of(engine, engine.session(), architecture())
    options = LayerSkip(start=1, end=3, masks=0)
    assert options.needs(host).cuts == (1, 3)
    found = options.open(host).propose(Context([3, 4], 1, 0, pending=2), 20)
    assert math.isclose(found.score.sum(), 1.0, rel_tol=1e-5)
