"""The trainable Llama against transformers, its attention against torch's own."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.training.attention import attend  # noqa: E402 - needs torch
from edgedec.training.sizes import Shape  # noqa: E402
from edgedec.training.torch_llama import (  # noqa: E402
    TorchLlama,
    layer_keep,
    load_hugging_face,
    save_hugging_face,
    to_hugging_face,
)

SHAPE = Shape(layers=3, hidden=32, ffn=48, heads=4, kv_heads=2, head_dim=8, vocab=50, context=160)


@pytest.fixture
def model() -> TorchLlama:
    torch.manual_seed(0)
    made = TorchLlama(SHAPE)
    with torch.no_grad():
        for part in made.parameters():
            part.copy_((part + 0.2 * torch.randn_like(part)).half())
    return made


def test_logits_are_those_of_transformers(model: TorchLlama, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_hugging_face(model, tmp_path)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, SHAPE.vocab, (2, 150))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_a_saved_model_comes_back(model: TorchLlama, tmp_path: Path) -> None:
    save_hugging_face(model, tmp_path)
    again = load_hugging_face(tmp_path)
    assert again.shape == SHAPE
    for name, part in to_hugging_face(model).items():
        assert torch.equal(part, to_hugging_face(again)[name]), name


@pytest.mark.parametrize("length", [7, 128, 150])
def test_our_backward_is_that_of_torch(length: int) -> None:
    torch.manual_seed(length)
    q, k, v = (torch.randn(2, heads, length, 16, requires_grad=True) for heads in (4, 2, 2))
    slope = torch.randn(2, 4, length, 16)
    plain = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True
    )
    ours = attend(q, k, v)
    torch.testing.assert_close(ours, plain)
    wanted = torch.autograd.grad(plain, (q, k, v), slope)
    for left, right in zip(torch.autograd.grad(ours, (q, k, v), slope), wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_a_skipped_layer_changes_nothing(model: TorchLlama) -> None:
    tokens = torch.randint(0, SHAPE.vocab, (4, 20))
    keep = torch.ones(SHAPE.layers, 4)
    keep[1:] = 0.0
    full, early = model.losses(tokens, tokens, None, keep, 1)
    alone = torch.nn.functional.cross_entropy(model(tokens, 1).flatten(0, 1), tokens.flatten())
    torch.testing.assert_close(full, alone)
    first = torch.nn.functional.cross_entropy(model(tokens[:1], 1)[0], tokens[0])
    torch.testing.assert_close(early, first)


def test_layers_are_dropped_more_with_depth_and_by_seed() -> None:
    rates = 1.0 - layer_keep(5, 4000, 0.5, torch.Generator().manual_seed(1)).mean(1)
    assert rates[0] == 0.0
    assert rates.tolist() == sorted(rates.tolist())
    assert rates[-1] == pytest.approx(0.5, abs=0.05)
    again = layer_keep(5, 4000, 0.5, torch.Generator().manual_seed(1)).mean(1)
    assert torch.equal(1.0 - again, rates)
