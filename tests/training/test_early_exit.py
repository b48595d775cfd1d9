"""The search for an exit: what it measures, what it chooses, and that its part can be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedec.errors import UnsupportedError, UsageError  # noqa: E402
from edgedec.export import to_part  # noqa: E402
from edgedec.runtimes import native  # noqa: E402
from edgedec.strategies.early_exit import EarlyExit  # noqa: E402
from edgedec.training import early_exit, worth  # noqa: E402
from edgedec.training.early_exit import Options, build, guessed  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.reach import right_along  # noqa: E402
from edgedec.training.texts import Texts, Written  # noqa: E402
from tests.decode.selfdrafted import host_of, model  # noqa: E402
from tests.native import variants  # noqa: E402

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

OPTIONS = Options(depth=4, points=6, batch=3, length=40)


def test_shares_are_those_of_guesses_along_the_text() -> None:
    random = np.random.default_rng(3)
    found, wanted, text = random.integers(0, 2, (3, 5, 4, 3))
    valid = random.integers(0, 2, (5, 4)).astype(bool)
    right, asked = [0] * 3, [0] * 3
    for place in np.argwhere(valid).tolist():
        guesses, truth, said = (each[tuple(place)].tolist() for each in (found, wanted, text))
        for depth in range(3):
            if guesses[:depth] != truth[:depth] or guesses[:depth] != said[:depth]:
                break
            asked[depth] += 1
            right[depth] += guesses[depth] == truth[depth]
    tally = right_along(*(torch.from_numpy(each) for each in (found, wanted, text, valid)))
    assert (list(tally.right), list(tally.asked)) == (right, asked)


def test_an_exit_guesses_what_its_head_says(frozen: Frozen, texts: Texts) -> None:
    from edgedec.training.texts import held_batches

    batch = next(held_batches(texts, OPTIONS))
    trunk = frozen.trunk(batch)
    p = torch.tensor([[2, 5]] * len(batch.tokens))
    (second, last) = guessed(frozen, trunk, p, 3, [2, 5])
    for text, place, depth in ((0, 0, 0), (1, 1, 2), (2, 0, 1)):
        row = int(p[text, place]) + depth
        for found, layer in ((second, 2), (last, 5)):
            expected = frozen.head(trunk.states[layer][text, row]).argmax()
            assert found[text, place, depth] == expected


def test_the_best_of_the_table_is_kept(frozen: Frozen, texts: Texts) -> None:
    trainee, heard = build(frozen, OPTIONS, texts), list[float]()
    trainee.prepare(heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert list(trainee.parameters()) == []
    assert [line["exit"] for line in trainee.search] == [1, 2, 3, 4]
    best = max(trainee.search, key=lambda line: line["speedup"])
    assert trainee.part("hash").about["exit"] == best["exit"]
    assert trainee.part("hash").about["automatic"] == (best["speedup"] > 1)


def test_depth_is_what_pays_by_the_costs(frozen: Frozen) -> None:
    costs = worth.by_size(frozen.architecture)
    shares = [0.9, 0.8, 0.5, 0.01, 0.01]
    found = early_exit.valued(frozen, 2, shares)
    rates = []
    for depth in range(1, 6):
        tokens = 1 + sum(np.cumprod(shares[:depth]))
        early = depth * costs.part(128, 1, 2, heads=1) + costs.part(128, 1, 2)
        late = costs.part(128, depth + 1, 3, heads=depth + 1)
        rates.append(tokens / (early + late) * costs.step(128, 1)[1])
    assert found["speedup"] == pytest.approx(max(rates), rel=1e-3)
    near = [depth for depth, rate in enumerate(rates, start=1) if rate >= 0.97 * max(rates)]
    assert found["depth"] == near[-1] < 5


def test_its_part_opens_and_drafts(
    made: variants.Model, frozen: Frozen, texts: Texts, tmp_path: Path
) -> None:
    trainee = build(frozen, Options(depth=3, points=4, batch=4, length=40, exit=3), texts)
    trainee.prepare()
    source = trainee.part(made.bundle.hash)
    path = tmp_path / "early_exit.safetensors"
    to_part.write(path, source, made.architecture)
    assert path.stat().st_size < 4096
    engine = made.open()
    host = host_of(engine, engine.session(), made.architecture, source)
    assert EarlyExit().needs(host).cuts == (3,)


def test_what_makes_no_sense_is_refused(frozen: Frozen, texts: Texts, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 to 4"):
        build(frozen, Options(exit=5), texts)
    with pytest.raises(UsageError, match="depth is 0"):
        build(frozen, Options(depth=0), texts)
    flat = Frozen.of(model(tmp_path, "plain", layers=1).bundle)
    with pytest.raises(UnsupportedError, match="has one"):
        build(flat, Options(), texts)


def test_texts_without_anything_held_out(frozen: Frozen) -> None:
    from edgedec.errors import InputError

    short = Written(np.array([3, 4], np.int32), 2)
    with pytest.raises(InputError, match="held out"):
        build(frozen, OPTIONS, Texts([], [short], "")).prepare()
