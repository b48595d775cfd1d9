"""The map in training: its states run as they will run, it learns, and its part drafts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedec.accept import Rule  # noqa: E402
from edgedec.errors import UsageError  # noqa: E402
from edgedec.export import to_part  # noqa: E402
from edgedec.runtimes import native  # noqa: E402
from edgedec.sampling import Sampler, Sampling  # noqa: E402
from edgedec.strategies.hidden_transfer import HiddenTransfer  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.hidden_transfer import Options, build  # noqa: E402
from edgedec.training.texts import Shuffled, Texts, held_batches  # noqa: E402
from tests.decode.stubbed import Stub, write  # noqa: E402
from tests.decode.transferred import part, transferred  # noqa: E402
from tests.native import variants  # noqa: E402

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

LAYER = 3
OPTIONS = Options(states=3, layer=LAYER, points=6, batch=4, length=40)


def stub(source: to_part.PartSource, made: variants.Model) -> Stub:
    """The part as it was trained, in numpy."""
    return Stub(source.about, source.matrices | source.vectors, part(made, LAYER).table)


def test_states_run_as_they_will(made: variants.Model, frozen: Frozen, texts: Texts) -> None:
    trainee, given = build(frozen, OPTIONS, texts), part(made, LAYER)
    with torch.no_grad():
        trainee.map.copy_(torch.from_numpy(given.tensors["transfer"]))
        trainee.bias.copy_(torch.from_numpy(given.tensors["transfer.bias"]))
    batch = next(held_batches(texts, OPTIONS))
    place = torch.tensor([[2, 4, 9]] * len(batch.tokens))
    found = trainee.guessed(frozen.trunk(batch), place).detach().numpy()
    for text, point in ((0, 0), (0, 2), (1, 1)):
        read = batch.tokens[text].tolist()
        at = int(place[text, point])
        expected = transferred(made, given, read[: at + 1], read[at + 1])
        np.testing.assert_allclose(found[text, point], expected, atol=2e-3 * expected.std())


def test_it_begins_with_the_state_as_it_is(frozen: Frozen, texts: Texts) -> None:
    trainee = build(frozen, OPTIONS, texts)
    trunk = frozen.trunk(next(held_batches(texts, OPTIONS)))
    place = torch.tensor([[2, 5]] * len(trunk.tokens))
    states = trainee.pseudo(trunk, place)
    for point, row in enumerate((2, 5)):
        for each in range(3):
            torch.testing.assert_close(states[:, point, each], trunk.states[LAYER][:, row])


def test_only_the_map_learns_and_it_does(frozen: Frozen, texts: Texts) -> None:
    trainee = build(frozen, replace(OPTIONS, layer=0), texts)
    assert [name for name, _ in trainee.named_parameters()] == ["map", "bias"]
    assert trainee.part("x").about == {"layer": 4, "depth": 3}  # seven tenths of five
    learned, losses = Shuffled(texts.trained, OPTIONS, 1), []
    before = trainee.acceptance(next(held_batches(texts, OPTIONS)))
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=0.01)
    for step in range(40):
        loss = trainee.loss(learned.batch(step % 3))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    after = trainee.acceptance(next(held_batches(texts, OPTIONS)))
    assert after.asked[0] == before.asked[0] > 0


def test_texts_too_short_for_a_point_teach_nothing(frozen: Frozen, texts: Texts) -> None:
    trainee = build(frozen, OPTIONS, texts)
    batch = next(held_batches(texts, OPTIONS))
    short = replace(batch, tokens=batch.tokens[:, :2], lengths=batch.lengths.clamp_max(2))
    loss = trainee.loss(short)["loss"]
    assert loss.item() == 0
    loss.backward()
    assert trainee.acceptance(short).asked in ((0, 0, 0), ())


@pytest.mark.parametrize("layer", [-1, 5, 9])
def test_it_enters_inside_of_the_model(frozen: Frozen, texts: Texts, layer: int) -> None:
    with pytest.raises(UsageError, match=f"layer is {layer}"):
        build(frozen, replace(OPTIONS, layer=layer), texts)


def test_what_was_trained_drafts(made: variants.Model, frozen: Frozen, texts: Texts) -> None:
    """Learned by heart: the text is the model's, and its guesses are often right."""
    options = replace(OPTIONS, points=32, length=80)
    trainee = build(frozen, options, texts)
    learned = Shuffled((*texts.trained, *texts.held), options, 1)
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=0.01)
    for step in range(60):
        optimiser.zero_grad()
        trainee.loss(learned.batch(step))["loss"].backward()
        optimiser.step()
    text = next(each for each in texts.held if each.greedy)
    prompt = text.tokens[: text.prompt].tolist()
    rule = Rule(Sampler.build(Sampling()), frozenset(), 24)
    source = trainee.part(made.bundle.hash)
    spec = made.architecture
    plain = write(made.open(), spec, [], prompt, rule)
    found = write(made.open(), spec, [HiddenTransfer()], prompt, rule, part=stub(source, made),
                  policy="fixed")  # fmt: skip
    assert found.tokens == plain.tokens
    assert found.tally.drawn / found.tally.passes > 1.5


def test_its_part_fits_the_bundle(made: variants.Model, frozen: Frozen, texts: Texts,
                                  tmp_path: Path) -> None:  # fmt: skip
    source = build(frozen, OPTIONS, texts).part(made.bundle.hash)
    to_part.write(tmp_path / "hidden_transfer.safetensors", source, made.architecture)
    assert source.contents().matrices == {"transfer": (3 * frozen.dim, 2 * frozen.dim)}
