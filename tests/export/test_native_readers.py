"""The packed file of models with an encoder: what it holds beside matrices, number by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec.architecture import BiasTable, Conv, Frontend, Limits, Stack
from edgedec.errors import UsageError
from edgedec.export import quantise, to_native
from edgedec.manifest import Format

from .graphs import (
    BUCKETS,
    CROSSING,
    DIM,
    OFFSET,
    ROPE,
    SEEING,
    SIDEWAYS,
    attention,
    model,
    random_weights,
)
from .test_native import exported

EAR = Frontend(
    kind="mel",
    features=3,
    convs=(
        Conv(channels=40, kernel=5, group_norm=1e-5),
        Conv(channels=DIM, kernel=3, stride=2, bias=False),
    ),
)


def test_a_front_end_is_stored_as_it_is(tmp_path: Path) -> None:
    architecture = model(CROSSING, encoder=SEEING, frontend=EAR)
    found, weights = exported(tmp_path, architecture), random_weights(architecture)
    assert found["frontend.0.kernel"].shape == (40, 16)
    assert found["frontend.1.kernel"].shape == (DIM, 128)
    for name, values in weights.items():
        if name.startswith("frontend."):
            flat = values.reshape(len(values), -1) if values.ndim > 1 else values
            end = flat.shape[-1]
            np.testing.assert_array_equal(found[name][..., :end], flat)
            assert not found[name][..., end:].any()
    assert "frontend.1.bias" not in found


@pytest.mark.parametrize("limit", [20, 500])
def test_a_bias_is_stored_for_each_distance(tmp_path: Path, limit: int) -> None:
    """T5's formula again, in the words of its paper, beside what the file holds."""
    both = BiasTable(buckets=8, max_distance=37, bidirectional=True)
    encoder = Stack(layers=(attention(bias_table=both, rope=None, causal=False),))
    decoder = replace(CROSSING, self_attention=attention(bias_table=BUCKETS).self_attention)
    limits = Limits(context=limit, source=limit)
    architecture = model(decoder, encoder=encoder, limits=limits)
    found, weights = exported(tmp_path, architecture), random_weights(architecture)

    def bucket(table: BiasTable, distance: int) -> int:
        count = table.buckets // 2 if table.bidirectional else table.buckets
        first = count if table.bidirectional and distance > 0 else 0
        far = abs(distance) if table.bidirectional else max(-distance, 0)
        if far < count // 2:
            return first + far
        steps = np.log(far / (count // 2)) / np.log(table.max_distance / (count // 2))
        return first + min(count // 2 + int(steps * (count - count // 2)), count - 1)

    for side, table in (("encoder", both), ("decoder", BUCKETS)):
        biases, reach = found[f"{side}.distance_bias"], min(table.max_distance, limit)
        assert f"{side}.bias_table" not in found
        assert biases.shape[0] == 4 and biases.shape[1] % 16 == 0
        assert biases.shape[1] > reach * (2 if table.bidirectional else 1)
        for column in range(biases.shape[1]):
            rows = weights[f"{side}.bias_table"][bucket(table, column - reach)]
            np.testing.assert_array_equal(biases[:, column], rows)


def test_norms_of_all_parts_have_their_offsets(tmp_path: Path) -> None:
    cross = replace(CROSSING.cross_attention, qk_norm=OFFSET)  # type: ignore[type-var]
    decoder = replace(CROSSING, norm=OFFSET, norm_order="sandwich", cross_attention=cross)
    encoder = Stack(layers=(replace(SIDEWAYS, norm=OFFSET),), final_norm=OFFSET)
    architecture = model(decoder, encoder=encoder)
    found, weights = exported(tmp_path, architecture), random_weights(architecture)
    names = [name for name in weights if name.endswith("norm.weight")]
    assert len([name for name in names if "cross" in name]) == 4
    for name in names:
        added = np.float32(0 if name == "decoder.final_norm.weight" else 1)
        np.testing.assert_array_equal(found[name][: len(weights[name])], weights[name] + added)


def test_the_ropes_of_both_stacks_are_counted_from_0(tmp_path: Path) -> None:
    centred = replace(ROPE, positions="centred")
    encoder = Stack(layers=(attention(rope=centred, causal=False),))
    found = exported(tmp_path, model(CROSSING, encoder=encoder))
    assert [name for name in found if name.startswith("rope.")] == ["rope.0"]
    other = Stack(layers=(attention(rope=replace(centred, theta=9.0), causal=False),))
    assert "rope.1" in exported(tmp_path, model(CROSSING, encoder=other))


def test_keys_and_values_of_a_source_need_one_block(tmp_path: Path) -> None:
    architecture = model(CROSSING, encoder=SEEING)
    plan = quantise.plan(architecture, "int4", 32)
    cross = "decoder.layers.0.cross_attention"
    exported(tmp_path, architecture, {**plan, f"{cross}.q.weight": Format(kind="int8", block=64)})
    with pytest.raises(UsageError, match=r"cross_attention\.k.*v\.weight have different"):
        to_native.check(architecture, {**plan, f"{cross}.k.weight": Format(kind="int4", block=64)})
