"""The trainer of prompt tokens: what they see, what they learn, and what is kept of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.export.from_native import NativeWeights  # noqa: E402 - needs torch
from edgedec.export.reference import forward  # noqa: E402
from edgedec.training import ahead, prompt_decoding  # noqa: E402
from edgedec.training.frozen import Frozen  # noqa: E402
from edgedec.training.prompt_decoding import Options, PromptDecoding  # noqa: E402
from edgedec.training.texts import Texts, Written, batch_of, dice_of  # noqa: E402

from ..native import variants  # noqa: E402, TID252

IDS = np.array([7, 40, 21, 3, 90, 65])


@pytest.mark.parametrize("name", ["plain", "gpt2-like", "gemma", "mu-like"])
@pytest.mark.parametrize(("k", "n"), [(3, 1), (3, 2), (1, 3)])
def test_prompts_are_rows_that_hang_below_a_point(
    tmp_path: Path, name: str, k: int, n: int
) -> None:
    """As embeddings of words they are rows of a tree, which the reference runs."""
    model = variants.write(tmp_path, name)
    frozen, random = Frozen.of(model.bundle), np.random.default_rng(0)
    reads = model.architecture.encoder is not None
    source = random.integers(0, 96, 9).astype(np.int32) if reads else None
    text = Written(random.integers(0, 96, 20).astype(np.int32), 4, source)
    start = frozen.embed(torch.from_numpy(IDS[: k * n]))
    trained = PromptDecoding(frozen, Options(prompts=k, ensemble=n), start)
    trunk = frozen.trunk(batch_of([text], 32, dice_of(0, 0)))
    place = torch.tensor([[3, 9, 15]])
    found = trained.guessed(trunk, place)
    assert found.shape == (1, 3, k, frozen.vocab)
    weights = NativeWeights(model.bundle)
    for point, row in enumerate(place[0].tolist()):
        guesses = []
        for lane in range(n):
            ids = [*text.tokens[: row + 1], *IDS[: k * n][lane::n]]
            guesses.append(forward(model.architecture, weights, ids, source=source)[row + 1 :])
        expected = np.mean(guesses, axis=0)
        size = max(1.0, float(np.abs(expected).max()))
        mine = found[0, point].detach().numpy()
        np.testing.assert_allclose(mine / size, expected / size, atol=1e-4, rtol=0)
    whole = forward(model.architecture, weights, text.tokens, source=source)
    wanted = ahead.wanted(frozen, trunk, place, k)[0]
    for point, row in enumerate(place[0].tolist()):
        np.testing.assert_allclose(
            wanted[point], whole[row + 1 : row + 1 + k], atol=2e-3, rtol=1e-3
        )


def test_they_learn_what_comes(tmp_path: Path) -> None:
    frozen, random = Frozen.of(variants.write(tmp_path, "plain").bundle), np.random.default_rng(0)
    written = [Written(random.integers(0, 300, 30).astype(np.int32), 4) for _ in range(4)]
    options = Options(points=8, prompts=2)
    trained = prompt_decoding.build(frozen, options, Texts(written, [], "random"))
    optimiser = torch.optim.AdamW(trained.parameters(), lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(20):
        loss = trained.loss(batch_of(written, 32, dice_of(0, 0)))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert len(trained.acceptance(batch_of(written, 32, dice_of(0, 0))).shares) == 2


def test_the_part_is_depth_by_depth(tmp_path: Path) -> None:
    frozen = Frozen.of(variants.write(tmp_path, "plain").bundle)
    written = [Written(np.array([5, 5, 5, 9, 9, 2, 8, 8, 8, 8], np.int32), 1)]
    options = Options(prompts=2, ensemble=2)
    trained = prompt_decoding.build(frozen, options, Texts(written, [], ""))
    part = trained.part("abc")
    assert part.about == {"prompts": 2, "lanes": 2}
    assert (part.strategy, part.bundle, part.ids) == ("prompt_decoding", "abc", None)
    expected = frozen.embed(torch.tensor([8, 5, 9, 2])).numpy()
    np.testing.assert_array_equal(part.vectors["prompts"], expected)
