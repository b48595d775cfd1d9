"""Layers that learn to guess from early exits: they learn, and the engine runs what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedec.contracts import Rows, Want  # noqa: E402
from edgedec.errors import UsageError  # noqa: E402
from edgedec.export import to_part  # noqa: E402
from edgedec.runtimes import native  # noqa: E402
from edgedec.sampling import Sampling  # noqa: E402
from edgedec.strategies.kangaroo import Kangaroo  # noqa: E402
from edgedec.training import eesd, kangaroo  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.layers import Sight  # noqa: E402
from edgedec.training.own_model import chains, holed, weighed, written  # noqa: E402
from edgedec.training.texts import Texts, batch_of, dice_of  # noqa: E402
from edgedec.training.trainee import Batch, Trainee  # noqa: E402
from tests.decode.selfdrafted import model, texts_of  # noqa: E402
from tests.decode.selfdrafted import written as said  # noqa: E402
from tests.native import variants  # noqa: E402

pytestmark = pytest.mark.skipif(not native.built(), reason="the C engine was not built")

TRAINERS = {"kangaroo": kangaroo, "eesd": eesd}


@pytest.fixture(scope="module", params=["plain", "mu-like", "gpt2-like"])
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> variants.Model:
    torch.set_num_threads(1)
    return model(tmp_path_factory.mktemp("models"), request.param)


@pytest.fixture(scope="module")
def texts(made: variants.Model) -> Texts:
    return texts_of(made, 12)


def batch(texts: Texts) -> Batch:
    return batch_of(texts.trained, 64, dice_of(0, 0))


def taught(trainee: Trainee, batch: Batch, steps: int = 25) -> list[float]:
    """The losses of some steps on one batch."""
    rates = torch.optim.AdamW(trainee.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = trainee.loss(batch)["loss"]
        rates.zero_grad()
        loss.backward()
        rates.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", list(TRAINERS))
def test_the_engine_runs_what_was_learned(
    made: variants.Model, texts: Texts, tmp_path: Path, name: str
) -> None:
    module = TRAINERS[name]
    frozen = Frozen.of(made.bundle)
    before = {key: value.clone() for key, value in frozen.weights.items()}
    trainee = module.build(frozen, module.Options(exit=2, holes=0.0, most=20), texts)
    losses = taught(trainee, batch(texts))
    assert losses[-1] < losses[0] * 0.8
    assert all((before[key] == value).all() for key, value in frozen.weights.items())

    path = tmp_path / f"{name}.safetensors"
    to_part.write(path, trainee.part(made.bundle.hash), made.architecture)
    part = native.open_part(path, made.bundle, None, 1)
    assert part.about["exit"] == 2
    one = batch_of(texts.held[:1], 64, dice_of(0, 0))
    trunk = frozen.trunk(one)
    with torch.no_grad():
        wanted = trainee.own.logits(trainee.own.layers(trunk.states[2], Sight(trunk.positions)))
    rows = trunk.states[2][0].numpy()
    count = len(rows)
    session = part.session()
    result = session.step(
        Rows(np.zeros(count, np.int32), np.arange(-1, count - 1), None, rows), want=Want()
    )
    found = np.stack([result.logits(i) for i in range(count)])
    error = np.abs(found - wanted[0].numpy()).max() / wanted.std().item()
    assert error < 0.15
    assert (part.ids == trainee.own.vocabulary.array()).all()
    words, _ = said(made, Kangaroo(), [3, 17, 5], Sampling(), part) if name == "kangaroo" else (
        None, None)  # fmt: skip
    assert words is None or words == said(made, None, [3, 17, 5], Sampling())[0]


def test_acceptance_is_that_of_chains_along_the_models_own_text(
    made: variants.Model, texts: Texts
) -> None:
    frozen = Frozen.of(made.bundle)
    trainee = eesd.build(frozen, eesd.Options(exit=3), texts)
    whole = batch(texts)
    trunk = frozen.trunk(whole)
    with torch.no_grad():
        left = trainee.own.layers(trunk.states[3], Sight(trunk.positions))
        guessed = trainee.own.vocabulary.tokens(trainee.own.logits(left))
        best = frozen.head(trunk.states[-1]).argmax(-1)
    right, asked = [0] * 5, [0] * 5
    for text, length in enumerate(whole.lengths.tolist()):
        for start in range(int(whole.prompts[text]) - 1, length - 5):
            for d in range(5):
                row = start + d
                asked[d] += 1
                right[d] += bool(guessed[text, row] == best[text, row])
                alive = guessed[text, row] == best[text, row] == whole.tokens[text, row + 1]
                if not alive:
                    break
    tally = trainee.acceptance(whole)
    assert (list(tally.right), list(tally.asked)) == (right, asked)
    assert asked[0] > 20


def test_rows_behind_a_hole_do_not_see_into_it(texts: Texts) -> None:
    whole = batch(texts)
    seen = holed(whole, 1.0)
    assert seen is not None
    length = whole.tokens.shape[1]
    for sight in seen:
        missing = [j for j in range(length) if not sight[length - 1, j]]
        assert missing == list(range(missing[0], missing[-1] + 1)) if missing else True
        for row in range(length):
            unseen = set() if row in missing else set(missing)
            assert {j for j in range(row + 1) if not sight[row, j]} == {
                j for j in unseen if j <= row
            }
            assert not sight[row, row + 1 :].any()
    assert holed(whole, 0.0) is None


def test_what_is_learned_from_is_what_the_model_wrote(texts: Texts) -> None:
    whole = batch(texts)
    rows = written(whole)
    for text, (prompt, length) in enumerate(zip(whole.prompts, whole.lengths, strict=True)):
        assert rows[text].nonzero().flatten().tolist() == list(range(prompt - 1, length - 1))
        assert weighed(whole)[text, : length - 1].tolist() == [0.5] * (prompt - 1) + [1.0] * (
            length - prompt
        )
        assert not weighed(whole)[text, length - 1 :].any()
    none = torch.full_like(whole.tokens, -1)
    assert chains([none] * 3, whole.tokens, whole).right == (0, 0, 0)


def test_an_exit_that_is_none_is_refused(made: variants.Model, texts: Texts) -> None:
    with pytest.raises(UsageError, match="1 to 4"):
        eesd.build(Frozen.of(made.bundle), eesd.Options(exit=5), texts)
