"""Tables that checkpoints hold several times, leave out, or that are computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgedec.errors import CheckpointError
from edgedec.export.checkpoint import Checkpoint, Weights
from edgedec.models import bart, describe, marian, mt5, mu, pegasus, t5
from edgedec.models._bart_like import sinusoids

Floats = NDArray[np.float32]


def tensors(config: dict[str, Any]) -> dict[str, Floats]:
    _, sources = describe(config)
    random = np.random.default_rng(0)
    return {
        source.name: random.standard_normal(source.shape).astype(np.float32)
        for source in sources.values()
    }


def opened(folder: Path, config: dict[str, Any], stored: dict[str, Floats]) -> Weights:
    save_file({name: value.copy() for name, value in stored.items()}, folder / "model.safetensors")
    architecture, sources = describe(config)
    return Weights(Checkpoint.open(folder), architecture, sources)


T5_NAMES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
            "lm_head.weight")  # fmt: skip


@pytest.mark.parametrize("names", [T5_NAMES, T5_NAMES[:1], T5_NAMES[1:], T5_NAMES[3:]])
def test_a_tied_table_may_have_any_of_its_names(names: tuple[str, ...], tmp_path: Path) -> None:
    stored = tensors(t5.TINY)
    table = stored.pop("shared.weight")
    weights = opened(tmp_path, t5.TINY, stored | dict.fromkeys(names, table))
    np.testing.assert_array_equal(weights.load("embed.weight"), table)


@pytest.mark.parametrize("name", T5_NAMES[1:])
def test_copies_that_differ_are_refused_by_name(name: str, tmp_path: Path) -> None:
    stored = tensors(t5.TINY)
    wrong = stored["shared.weight"] + np.float32(1)
    with pytest.raises(CheckpointError, match=rf"shared\.weight and {name} should be the same"):
        opened(tmp_path, t5.TINY, {**stored, name: wrong})


def test_a_head_of_its_own_may_be_left_out(tmp_path: Path) -> None:
    """transformers 5 leaves out a head that equals the table, whatever the config says."""
    stored = tensors(mt5.TINY)
    own = stored["lm_head.weight"]
    np.testing.assert_array_equal(opened(tmp_path, mt5.TINY, stored).load("head.weight"), own)
    del stored["lm_head.weight"]
    found = opened(tmp_path, mt5.TINY, stored).load("head.weight")
    np.testing.assert_array_equal(found, stored["shared.weight"])
    del stored["shared.weight"]
    with pytest.raises(CheckpointError, match=r"no shared\.weight"):
        opened(tmp_path, mt5.TINY, stored)


@pytest.mark.parametrize("config", [marian.TINY, pegasus.TINY], ids=lambda c: c["model_type"])
def test_positions_are_computed_where_none_are_stored(
    config: dict[str, Any], tmp_path: Path
) -> None:
    stored = tensors(config)
    name = "model.decoder.embed_positions.weight"
    own = stored.pop(name)
    weights = opened(tmp_path, config, stored)
    np.testing.assert_array_equal(weights.load("decoder.positions"), sinusoids(*own.shape))
    rows = weights.load("decoder.positions", slice(3, 5))
    np.testing.assert_array_equal(rows, sinusoids(*own.shape)[3:5])
    kept = opened(tmp_path, config, {**stored, name: own})
    np.testing.assert_array_equal(kept.load("decoder.positions"), own)


@pytest.mark.parametrize("dim", [8, 7])
def test_sinusoids_are_their_formula(dim: int) -> None:
    found = sinusoids(50, dim)
    sines = (dim + 1) // 2
    for position in (0, 1, 49):
        for i in range(dim):
            column = 2 * i if i < sines else 2 * (i - sines) + 1
            angle = position / 10000 ** (2 * (column // 2) / dim)
            expected = math.sin(angle) if i < sines else math.cos(angle)
            assert found[position, i] == pytest.approx(expected, abs=1e-6)


def test_a_bias_of_zeros_need_not_be_stored(tmp_path: Path) -> None:
    stored = tensors(bart.TINY)
    own = stored.pop("final_logits_bias")
    assert own.shape == (1, 112)
    assert not opened(tmp_path, bart.TINY, stored).load("head.bias").any()
    whole = opened(tmp_path, bart.TINY, {**stored, "final_logits_bias": own})
    np.testing.assert_array_equal(whole.load("head.bias"), own[0])


def test_what_old_checkpoints_carry_along_is_passed_over(tmp_path: Path) -> None:
    along = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    opened(tmp_path, t5.TINY, {**tensors(t5.TINY), along: np.zeros((12, 4), np.float32)})


def test_query_heads_are_put_beside_those_that_share_keys(tmp_path: Path) -> None:
    """Theirs alternate between the key heads; the numbers within a head stay in order."""
    stored = tensors(mu.TINY)
    weights = opened(tmp_path, mu.TINY, stored)
    theirs = "transformer.h.1.cross_attn"
    q = stored[f"{theirs}.q_linear.weight"].reshape(4, 8, 48)
    found = weights.load("decoder.layers.1.cross_attention.q.weight").reshape(4, 8, 48)
    np.testing.assert_array_equal(found, q[[0, 2, 1, 3]])
    o = stored[f"{theirs}.out_linear.weight"].reshape(48, 4, 8)
    found = weights.load("decoder.layers.1.cross_attention.o.weight").reshape(48, 4, 8)
    np.testing.assert_array_equal(found, o[:, [0, 2, 1, 3]])
    bias = weights.load("decoder.layers.1.cross_attention.o.bias")
    np.testing.assert_array_equal(bias, stored[f"{theirs}.out_linear.bias"])
