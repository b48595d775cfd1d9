"""Masks in training: their rows see what they will see, they learn, and the search chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedec.errors import UnsupportedError, UsageError  # noqa: E402
from edgedec.export import to_part  # noqa: E402
from edgedec.runtimes import native  # noqa: E402
from edgedec.strategies.layer_skip import LayerSkip  # noqa: E402
from edgedec.training import worth  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.layer_skip import Options, Trainee, build, ranges, valued  # noqa: E402
from edgedec.training.texts import Shuffled, Texts, held_batches  # noqa: E402
from tests.decode.selfdrafted import Given, host_of, model, skipped  # noqa: E402
from tests.native import variants  # noqa: E402

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

OPTIONS = Options(masks=3, points=4, batch=4, length=40, coarse=6, rate=0.02)


def test_rows_see_what_they_will_see(made: variants.Model, frozen: Frozen, texts: Texts) -> None:
    skip = range(1, 4)
    trainee = Trainee(frozen, skip, OPTIONS, texts)
    batch = next(held_batches(texts, OPTIONS))
    trunk = frozen.trunk(batch)
    p = torch.tensor([[2, 4, 9]] * len(batch.tokens))
    found = trainee.guesses(trunk, p).detach().numpy()
    masks = trainee.mask_embeds.detach().numpy()
    for text, place in ((0, 0), (0, 2), (1, 1)):
        at = int(p[text, place])
        read = batch.tokens[text, : at + 1].tolist()
        expected = skipped(made, read, at, masks, skip)
        np.testing.assert_allclose(found[text, place], expected, atol=2e-3 * expected.std())


def test_only_the_masks_learn_and_they_do(frozen: Frozen, texts: Texts) -> None:
    trainee = Trainee(frozen, range(2, 3), OPTIONS, texts)
    assert [name for name, _ in trainee.named_parameters()] == ["mask_embeds"]
    learned, losses = Shuffled(texts.trained, OPTIONS, 1), []
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=0.05)
    for step in range(24):
        loss = trainee.loss(learned.batch(step % 3))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_a_model_that_skips_what_does_nothing_is_always_right(frozen: Frozen, texts: Texts) -> None:
    """The first guess of a pass through all layers is the model's own."""
    trainee = Trainee(frozen, range(2, 2), OPTIONS, texts)
    tally = trainee.acceptance(next(held_batches(texts, OPTIONS)))
    assert tally.shares[0] == 1.0
    assert len(tally.right) == 4


def test_ranges_lie_around_the_middle() -> None:
    assert ranges(3) == [range(1, 2)]
    found = ranges(10)
    assert len(set(found)) == len(found)
    assert {len(each) for each in found} == set(range(1, 9))
    assert all(each.start >= 1 and each.stop <= 9 for each in found)
    assert {(each.start, each.stop) for each in found if len(each) == 4} == {(2, 6), (3, 7), (4, 8)}


def test_the_search_keeps_what_is_worth_most(frozen: Frozen, texts: Texts) -> None:
    trainee, heard = build(frozen, OPTIONS, texts), list[float]()
    trainee.prepare(heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert {line["end"] - line["start"] for line in trainee.search} == {1, 2, 3}
    best = max(trainee.search, key=lambda line: line["speedup"])
    assert (trainee.skip.start, trainee.skip.stop) == (best["start"], best["end"])
    again = build(frozen, OPTIONS, texts)
    again.prepare()
    assert again.search == trainee.search
    assert torch.equal(again.mask_embeds, trainee.mask_embeds)


def test_masks_are_as_many_as_pay(frozen: Frozen) -> None:
    costs = worth.by_size(frozen.architecture)
    shares = [0.9, 0.6, 0.3, 0.001]
    found = valued(frozen, range(1, 4), shares)
    times, best = costs.step(128, 5), (0.0, 0)
    for count in range(1, 5):
        drafting = costs.part(128, count, 2, heads=count)
        for checked in range(count + 1):
            tokens = 1 + sum(np.cumprod(shares[:checked]))
            best = max(best, (tokens * times[1] / (drafting + times[checked + 1]), count - 1))
    assert found["speedup"] == pytest.approx(best[0], rel=1e-3)
    assert found["masks"] == best[1]


def test_its_part_opens_and_drafts(
    made: variants.Model, frozen: Frozen, texts: Texts, tmp_path: Path
) -> None:
    options = Options(masks=2, points=4, batch=4, length=40, start=1, end=3)
    source = build(frozen, options, texts).part(made.bundle.hash)
    path = tmp_path / "layer_skip.safetensors"
    to_part.write(path, source, made.architecture)
    assert path.stat().st_size < 8192
    masks = source.vectors.get("masks")
    engine = made.open()
    host = host_of(engine, engine.session(), made.architecture, Given(source.about, masks))
    assert LayerSkip().needs(host).cuts == (1, 3)
    LayerSkip().open(host)
    assert len(source.about["acceptance"]) == 3


def test_skipping_alone_has_nothing_to_learn(frozen: Frozen, texts: Texts) -> None:
    options = Options(masks=0, points=4, batch=4, length=40)
    trainee, heard = build(frozen, options, texts), list[float]()
    trainee.prepare(heard.append)
    assert heard[-1] == 1.0
    assert not any(each.requires_grad for each in trainee.parameters())
    source = trainee.part("hash")
    assert source.vectors == {}
    assert source.about["masks"] == 0
    assert len(trainee.acceptance(next(held_batches(texts, options))).right) == 1


def test_what_makes_no_sense_is_refused(frozen: Frozen, texts: Texts, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="between the first and the last of 5"):
        build(frozen, Options(start=1, end=5), texts)
    with pytest.raises(UsageError, match="masks is 17"):
        build(frozen, Options(masks=17), texts)
    flat = Frozen.of(model(tmp_path, "plain", layers=2).bundle)
    with pytest.raises(UnsupportedError, match="has 2"):
        build(flat, Options(), texts)
