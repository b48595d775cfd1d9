"""A head with an attention layer in training: drafting is trained as it will be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedec.contracts import Rows, Want  # noqa: E402
from edgedec.export import to_part  # noqa: E402
from edgedec.runtimes import native  # noqa: E402
from edgedec.sampling import Sampling  # noqa: E402
from edgedec.strategies.attention_head import AttentionHead  # noqa: E402
from edgedec.training.attention_head import Options, build  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.layers import Sight  # noqa: E402
from edgedec.training.teacher import level  # noqa: E402
from edgedec.training.texts import Texts, batch_of, dice_of  # noqa: E402
from tests.decode.selfdrafted import model, texts_of  # noqa: E402
from tests.decode.selfdrafted import written as said  # noqa: E402
from tests.native import variants  # noqa: E402
from tests.training.test_exits import batch, taught  # noqa: E402

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

OPTIONS = Options(holes=0.0, most=20)


@pytest.fixture(scope="module", params=["plain", "mu-like", "gpt2-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    torch.set_num_threads(1)
    return model(tmp_path_factory.mktemp("models"), request.param)


@pytest.fixture(scope="module")
def texts(made: variants.Model) -> Texts:
    return texts_of(made, 12)


def entered(trainee: Any, frozen: Frozen, one: Any) -> tuple[Any, Any]:
    """What enters the layer for every row of the first text, and the tokens' own share."""
    trunk = frozen.trunk(one)
    near = frozen.embed(one.tokens[:1, 1:]) * trainee._scale
    states = [level(trunk.states[index][:1, :-1]) for index in trainee._layers]
    fused = torch.cat(states, -1) @ trainee.fuse.T
    return torch.cat([near, level(fused)], -1) @ trainee.enter.T, near


@torch.no_grad()
def test_unrolled_steps_are_chains_of_drafted_rows(made: variants.Model, texts: Texts) -> None:
    """Each step of a row against the plain chain that drafting makes: true rows, then own ones."""
    frozen = Frozen.of(made.bundle)
    trainee = build(frozen, OPTIONS, texts)
    torch.manual_seed(3)
    for each in trainee.parameters():
        each.add_(torch.randn(each.shape) * 0.05)
    one = batch_of(texts.held[:1], 64, dice_of(0, 0))
    steps = trainee._steps(one, trainee._read(frozen.trunk(one)), 4, None)
    true, near = entered(trainee, frozen, one)
    for start in (0, 5, 13):
        rows = true[:, : start + 1]
        for depth in range(4):
            positions = torch.arange(rows.shape[1])[None]
            out = trainee.own.layers(rows, Sight(positions))
            row = start + depth
            assert torch.allclose(steps[depth][:, row], out[:, -1], atol=1e-4)
            following = torch.cat([near[:, row + 1], level(out[:, -1])], -1) @ trainee.enter.T
            rows = torch.cat([rows, following[:, None]], 1)


def test_the_engine_runs_what_was_learned(
    made: variants.Model, texts: Texts, tmp_path: Path
) -> None:
    frozen = Frozen.of(made.bundle)
    trainee = build(frozen, OPTIONS, texts)
    losses = taught(trainee, batch(texts))
    assert losses[-1] < losses[0] * 0.8
    path = tmp_path / "attention_head.safetensors"
    to_part.write(path, trainee.part(made.bundle.hash), made.architecture)
    part = native.open_part(path, made.bundle, None, 1)
    one = batch_of(texts.held[:1], 64, dice_of(0, 0))
    with torch.no_grad():
        rows, _ = entered(trainee, frozen, one)
        wanted = trainee.own.logits(
            trainee._steps(one, trainee._read(frozen.trunk(one)), 1, None)[0]
        )[0].numpy()
        states = frozen.trunk(one).states
    fused = np.concatenate([level(states[each][0, :-1]).numpy() for each in part.about["layers"]],
                           axis=1)  # fmt: skip
    given = torch.from_numpy(part.linear("fuse", fused))
    near = torch.from_numpy(part.embed(one.tokens[0, 1:].numpy().astype(np.int32)))
    mixed = part.linear("enter", torch.cat([near, level(given)], -1).numpy())
    assert np.abs(mixed - rows[0].numpy()).max() < 0.05 * rows.std().item() * 3
    count = len(mixed)
    result = part.session().step(
        Rows(np.zeros(count, np.int32), np.arange(-1, count - 1), None, mixed), want=Want()
    )
    found = np.stack([result.logits(i) for i in range(count)])
    # Rounding to 8 bit, twice before the layer and once in it.
    assert np.abs(found - wanted).mean() < 0.04 * wanted.std()
    prompt = [3, 17, 5]
    words, tally = said(made, AttentionHead(), prompt, Sampling(), part)
    assert words == said(made, None, prompt, Sampling())[0]
    assert tally.evaluated


def test_a_head_learns_to_foresee(made: variants.Model, texts: Texts) -> None:
    trainee = build(Frozen.of(made.bundle), OPTIONS, texts)
    whole = batch(texts)
    before = trainee.acceptance(whole)
    taught(trainee, whole, 60)
    after = trainee.acceptance(whole)
    assert after.expected > before.expected + 0.3
    assert after.asked[0] == before.asked[0] > 20
    assert len(after.right) == 5


def test_every_depth_is_told(made: variants.Model, texts: Texts) -> None:
    trainee = build(Frozen.of(made.bundle), Options(depth=2, fading=0.5, most=20), texts)
    found = {name: float(value.detach()) for name, value in trainee.loss(batch(texts)).items()}
    mean = (found["depth_1"] + 0.5 * found["depth_2"]) / 1.5
    assert found["loss"] == pytest.approx(mean, rel=1e-5)
