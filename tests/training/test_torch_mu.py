"""The trainable encoder-decoder: its attention, its file, its start, and the decoding of `fix`."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.models.reference.fix.evaluate import detokenise, restore  # noqa: E402 - needs torch
from edgedec.models.reference.fix.mixture import Mixture  # noqa: E402
from edgedec.models.reference.fix.passages import make_stream  # noqa: E402
from edgedec.models.reference.fix.recipe import Bucket, Recipe  # noqa: E402
from edgedec.models.reference.stories.tokenizer import train_tokenizer  # noqa: E402
from edgedec.training.attention import attend_all  # noqa: E402
from edgedec.training.sizes import MuShape, Shape  # noqa: E402
from edgedec.training.torch_llama import TorchLlama  # noqa: E402
from edgedec.training.torch_mu import (  # noqa: E402
    Pairs,
    TorchMu,
    from_llama,
    load_official,
    save_official,
    to_official,
)

SIZES = {"hidden": 32, "ffn": 48, "heads": 4, "kv_heads": 2, "head_dim": 8, "vocab": 50}
SHAPE = MuShape(layers=3, decoder_layers=2, context=24, **SIZES)


@pytest.fixture
def model() -> TorchMu:
    torch.manual_seed(0)
    made = TorchMu(SHAPE)
    with torch.no_grad():
        for part in made.parameters():
            part.copy_((part + 0.2 * torch.randn_like(part)).half())
    return made


def test_masked_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 4, 20, 16, requires_grad=True)
    k, v = (torch.randn(3, 2, 17, 16, requires_grad=True) for _ in range(2))
    seen = torch.arange(17) < torch.tensor([17, 5, 9])[:, None]
    plain = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, seen[:, None, None], enable_gqa=True
    )
    ours = attend_all(q, k, v, seen)
    torch.testing.assert_close(ours, plain)
    slope = torch.randn_like(plain)
    theirs = torch.autograd.grad(plain, (q, k, v), slope)
    for left, right in zip(torch.autograd.grad(ours, (q, k, v), slope), theirs, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_padding_of_the_source_changes_nothing(model: TorchMu) -> None:
    sources, tokens = torch.randint(1, 50, (2, 9)), torch.randint(1, 50, (2, 7))
    lengths = torch.tensor([9, 9])
    padded = torch.cat((sources, torch.randint(1, 50, (2, 6))), 1)
    with torch.no_grad():
        torch.testing.assert_close(
            model(padded, lengths, tokens), model(sources, lengths, tokens), atol=1e-5, rtol=1e-4
        )


def test_the_decoder_sees_nothing_ahead(model: TorchMu) -> None:
    source, tokens = torch.randint(1, 50, (1, 9)), torch.randint(1, 50, (1, 7))
    changed = tokens.clone()
    changed[0, 4:] = 1
    with torch.no_grad():
        before, after = (model(source, torch.tensor([9]), ids) for ids in (tokens, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4])


def test_a_saved_model_comes_back(model: TorchMu, tmp_path: Path) -> None:
    save_official(model, tmp_path)
    again = load_official(tmp_path)
    assert again.shape == SHAPE
    for name, part in to_official(model).items():
        assert torch.equal(part, to_official(again)[name]), name
    assert sum(part.numel() for part in to_official(model).values()) == sum(
        part.numel() for part in model.parameters()
    )


def test_a_decoder_gives_its_layers() -> None:
    llama = TorchLlama(Shape(layers=5, context=24, **SIZES))
    model = from_llama(llama, SHAPE)
    assert torch.equal(model.embed, llama.embed)
    for block, layer in ((model.encoder[0], 0), (model.encoder[2], 2), (model.decoder[1], 4)):
        assert torch.equal(block.mlp.down, llama.layers[layer].down)
        assert torch.equal(block.attention.out, llama.layers[layer].out)
    crossed = model.decoder[0].cross
    assert torch.equal(crossed.q, llama.layers[3].qkv[: len(crossed.q)])


def test_restoring_is_greedy_decoding(model: TorchMu) -> None:
    torch.manual_seed(3)
    sources = [[*torch.randint(1, 50, (length,)).tolist(), 0] for length in (5, 9, 3)]
    found = restore(model, sources)
    for source, restored in zip(sources, found, strict=True):
        ids = [0]
        with torch.no_grad():
            for _ in range(len(restored)):
                logits = model(torch.tensor([source]), torch.tensor([len(source)]),
                               torch.tensor([ids]))  # fmt: skip
                ids.append(int(logits[0, -1].argmax()))
        assert restored == ids[1:]


def test_a_batch_is_decided_by_its_step() -> None:
    texts = [f"Number {index} went home. He was glad. The road was long." for index in range(60)]
    tokenizer = train_tokenizer(texts, 300)
    stream = make_stream(["\n\n".join(texts)], tokenizer)
    recipe = Recipe(batch_tokens=256, buckets=(Bucket(32, 0.5), Bucket(64, 0.5)))
    streams = dict.fromkeys(recipe.streams, stream)
    batch = Mixture(streams, tokenizer, recipe).batch(7)
    again = Mixture(streams, tokenizer, recipe).batch(7)
    assert all(torch.equal(left, right) for left, right in zip(batch, again, strict=True))
    _check_rows(batch)
    assert float(batch.weights.max()) == recipe.edit_weight


def _check_rows(batch: Pairs) -> None:
    for row in range(len(batch.tokens)):
        length = int((batch.weights[row] > 0).sum())
        assert int(batch.targets[row, length - 1]) == 0
        assert torch.equal(batch.tokens[row, 1:length], batch.targets[row, : length - 1])
        assert int(batch.sources[row, batch.lengths[row] - 1]) == 0
        assert not batch.sources[row, batch.lengths[row] :].any()


def test_wikitext_becomes_running_text() -> None:
    raw = (
        "He had a guest @-@ star role ( in \" Craig \" ) , and did n't like it . It 's 1 @,@ 200 ."
    )
    assert detokenise(raw) == (
        "He had a guest-star role (in \"Craig\"), and didn't like it. It's 1,200."
    )
