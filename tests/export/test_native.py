"""The packed file against the text of its format, number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgedec.architecture import (
    Architecture,
    Embedding,
    Head,
    Limits,
    Positions,
)
from edgedec.errors import CheckpointError, UnsupportedError, UsageError, WriteError
from edgedec.export import _tiles, quantise, to_native
from edgedec.export.checkpoint import Arrays
from edgedec.manifest import Format, NativeForm
from edgedec.rope import inverse_frequencies
from edgedec.weights import role, shapes

from .graphs import (
    BUCKETS,
    CROSSING,
    DIM,
    LAYER,
    LAYER_NORM,
    MLP,
    MODELS,
    ROPE,
    SEEING,
    attention,
    model,
    random_weights,
)

FILE = "native.safetensors"
INT4, INT8 = Format(kind="int4", block=32), Format(kind="int8", block=32)
forms = st.builds(
    Format, kind=st.sampled_from(["int4", "int8"]), block=st.sampled_from([32, 64, 128])
)


def stored(tensor: NDArray[np.uint8], form: Format, output: int, position: int) -> int:
    """One weight of a packed matrix, as the format says it in words."""
    block, inside = divmod(position, form.block or 1)
    group, i = divmod(inside, 4)
    tile, o = divmod(output, 16)
    piece = tensor[tile, block]
    if form.kind == "int8":
        byte = int(piece[group * 64 + o * 4 + i])
        return byte - 256 if byte > 127 else byte
    byte = int(piece[group // 2 * 64 + o * 4 + i])
    return (byte & 15 if group % 2 == 0 else byte >> 4) - 8


@settings(max_examples=40, deadline=None)
@given(form=forms, outputs=st.integers(1, 40), inputs=st.integers(1, 140), seed=st.integers(0, 99))
def test_every_weight_lies_where_the_format_says(
    form: Format, outputs: int, inputs: int, seed: int
) -> None:
    low, high = quantise.RANGES[form.kind]
    draw = np.random.default_rng(seed)
    integers = draw.integers(low, high, (outputs, inputs), np.int8, endpoint=True)
    packed = _tiles.pack(_tiles.filled(integers, form), form)
    tiles, blocks = -(-outputs // 16), -(-inputs // form.block)
    assert packed.dtype == np.uint8
    assert packed.shape == (tiles, blocks, 16 * form.block * form.bits // 8)
    found = [
        [stored(packed, form, output, position) for position in range(blocks * form.block)]
        for output in range(tiles * 16)
    ]
    expected = np.zeros((tiles * 16, blocks * form.block), np.int8)
    expected[:outputs, :inputs] = integers
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(_tiles.unpack(packed, form), expected)


@given(tiles=st.integers(1, 5), blocks=st.integers(1, 5))
def test_scales_stand_block_by_block(tiles: int, blocks: int) -> None:
    scales = np.arange(tiles * 16 * blocks, dtype=np.float16).reshape(-1, blocks)
    packed = _tiles.pack_scales(scales)
    for output, block in np.ndindex(scales.shape):
        assert packed[output // 16 * blocks + block, output % 16] == scales[output, block]
    more = np.vstack([packed, np.ones((1, 16), np.float16)])
    np.testing.assert_array_equal(_tiles.unpack_scales(more, tiles, blocks), scales)


# --- whole files ---------------------------------------------------------------------------------


def exported(
    folder: Path, architecture: Architecture, formats: dict[str, Format] | None = None
) -> dict[str, NDArray[Any]]:
    formats = formats or quantise.plan(architecture, "int4", 64, pad=True)
    source = Arrays(architecture, random_weights(architecture))
    assert to_native.write(folder, architecture, source, formats) == NativeForm(layout=1)
    found: dict[str, NDArray[Any]] = load_file(folder / FILE)
    return found


def check_matrix(
    found: dict[str, NDArray[Any]], name: str, matrix: NDArray[np.float32], form: Format
) -> None:
    """The integers and scales of the ONNX form, and zeros around them."""
    block = form.block or 1
    outputs, inputs = matrix.shape
    tiles, blocks = -(-outputs // 16), -(-inputs // block)
    integers, scales = quantise.quantise(np.pad(matrix, ((0, 0), (0, -inputs % block))), form)
    packed, rows = found[name], found[f"{name.removesuffix('.weight')}.scales"]
    assert packed.shape == (tiles, blocks, 16 * block * form.bits // 8)
    assert rows.dtype == np.float16 and rows.shape == (-(-tiles * blocks // 2) * 2, 16)
    expected = np.pad(integers, ((0, -outputs % 16), (0, 0)))
    np.testing.assert_array_equal(_tiles.unpack(packed, form), expected)
    assert not expected[:, inputs:].any()
    for tile, block_index, output in np.ndindex(tiles, blocks, 16):
        n = tile * 16 + output
        scale = scales[n, block_index] if n < outputs else 0
        assert rows[tile * blocks + block_index, output] == scale
    assert not rows[tiles * blocks :].any()


@pytest.mark.parametrize("name", ["llama", "untied", "qwen2", "gemma3", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_a_file_holds_the_numbers_of_the_onnx_form(tmp_path: Path, name: str, kind: Any) -> None:
    architecture = MODELS[name]
    weights = random_weights(architecture)
    formats = quantise.plan(architecture, kind, 64)
    found = exported(tmp_path, architecture, formats)
    for tensor, values in weights.items():
        if what := role(tensor):
            check_matrix(found, tensor, values, formats.get(tensor, formats[what]))
            continue
        end = values.shape[-1]
        added = np.float32(name == "gemma3" and "layers" in tensor)  # all of them norms
        assert found[tensor].dtype == np.float32
        assert found[tensor].shape == (*values.shape[:-1], -(-end // 16) * 16)
        np.testing.assert_array_equal(found[tensor][..., :end], values + added)
        assert not found[tensor][..., end:].any()
    matrices = [f"{n.removesuffix('.weight')}.scales" for n in weights if role(n)]
    ropes = [n for n in found if n.startswith("rope.")]
    assert set(found) == {*weights, *matrices, *ropes}


def test_every_distinct_rope_is_stored_once(tmp_path: Path) -> None:
    partial = replace(ROPE, fraction=0.375)
    layers = (
        attention(rope=None),
        attention(rope=partial),
        LAYER,
        attention(rope=partial),
        attention(head_dim=32),
    )
    found = exported(tmp_path, model(*layers))
    expected = [(partial, 16), (ROPE, 16), (ROPE, 32)]
    assert sorted(n for n in found if n.startswith("rope.")) == ["rope.0", "rope.1", "rope.2"]
    for index, (rope, width) in enumerate(expected):
        frequencies, _ = inverse_frequencies(rope, width)
        stored_ones = found[f"rope.{index}"]
        assert stored_ones.dtype == np.float64 and len(stored_ones) % 8 == 0
        np.testing.assert_array_equal(stored_ones[: len(frequencies)], frequencies)
        assert not stored_ones[len(frequencies) :].any()


@pytest.mark.parametrize("width", [40, 72])
@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_rows_that_no_block_divides_are_filled_up(tmp_path: Path, width: int, kind: Any) -> None:
    layer = replace(LAYER, mlp=replace(MLP, width=width, bias=True))
    architecture = model(layer, embed=Embedding(vocab=97, dim=48))
    formats = quantise.plan(architecture, kind, 128, pad=True)
    found = exported(tmp_path, architecture, formats)
    for part in ("gate", "down"):
        name = f"decoder.layers.0.mlp.{part}.weight"
        assert formats[part] == Format(kind=kind, block=32)
        check_matrix(found, name, random_weights(architecture)[name], formats[part])
    assert found["decoder.layers.0.mlp.up.bias"].shape == (-(-width // 16) * 16,)


def test_the_data_begin_and_lie_on_lines_without_holes(tmp_path: Path) -> None:
    exported(tmp_path, MODELS["gpt2"])
    raw = (tmp_path / FILE).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    assert header.pop("__metadata__") == {"layout": "1"}
    assert start % 64 == 0
    end = 0
    for entry in header.values():
        first, last = entry["data_offsets"]
        assert first == end and last % 64 == 0
        end = last
    assert start + end == len(raw)


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    assert "head.weight" not in exported(tmp_path, MODELS["llama"])
    assert "head.weight" in exported(tmp_path, model(head=Head(tied=False)))


class Spy:
    """Weights that write down how many numbers are asked for at a time."""

    def __init__(self, architecture: Architecture) -> None:
        self._arrays = Arrays(architecture, random_weights(architecture))
        self.asked: list[int] = []

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays.shape(name)

    def load(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        values = self._arrays.load(name, rows)
        self.asked.append(values.size)
        return values


@pytest.mark.parametrize("chunk", [1, 16 * DIM, 48 * DIM])
def test_streaming_writes_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    architecture = MODELS["untied"]
    exported(tmp_path, architecture)
    whole = (tmp_path / FILE).read_bytes()
    monkeypatch.setattr(to_native, "CHUNK", chunk)
    spy = Spy(architecture)
    formats = quantise.plan(architecture, "int4", 64, pad=True)
    to_native.write(tmp_path, architecture, spy, formats)
    assert (tmp_path / FILE).read_bytes() == whole
    assert max(spy.asked) <= max(chunk, 16 * 96)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    architecture = MODELS["gpt2"]
    to_native.write(
        tmp_path,
        architecture,
        Arrays(architecture, random_weights(architecture)),
        quantise.plan(architecture, "int8", 32),
        lambda *report: told.append(report),
    )
    done, total, named = zip(*told, strict=True)
    assert list(done) == sorted(done) and done[-1] == total[-1]
    assert total[-1] == 4 * sum(int(np.prod(s)) for s in shapes(architecture).values())
    assert set(named) == set(shapes(architecture))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formats", "complaint"),
    [
        ({"down": Format(kind="fp16")}, r"layers\.0\.mlp\.down\.weight is fp16"),
        ({"embed": Format(kind="fp32")}, r"embed\.weight is fp32"),
        ({"o": Format(kind="int8", block=16)}, r"self_attention\.o\.weight is int8/16"),
        ({"v": Format(kind="int4", block=64)}, r"0\.self_attention\.v\.weight have different"),
        ({"up": Format(kind="int4", block=64)}, r"mlp\.gate\.weight, .*up\.weight have different"),
        (
            {"decoder.layers.1.self_attention.k.weight": Format(kind="int4", block=64)},
            r"layers\.1\.self_attention\.k\.weight",
        ),
    ],
)
def test_formats_that_cannot_be_packed(
    tmp_path: Path, formats: dict[str, Format], complaint: str
) -> None:
    plan = {**quantise.plan(MODELS["llama"], "int4", 32), **formats}
    with pytest.raises(UsageError, match=complaint):
        exported(tmp_path, MODELS["llama"], plan)
    assert not to_native.carries(MODELS["llama"], plan)
    assert list(tmp_path.iterdir()) == []


def test_blocks_may_differ_in_bits_and_between_layers(tmp_path: Path) -> None:
    plan = quantise.plan(MODELS["llama"], "int4", 32)
    for part in ("q", "k", "v"):
        plan[f"decoder.layers.1.self_attention.{part}.weight"] = Format(kind="int8", block=64)
    plan["v"] = INT8
    exported(tmp_path, MODELS["llama"], plan)


@pytest.mark.parametrize(
    ("part", "architecture"),
    [
        ("end before its buckets", model(attention(bias_table=replace(BUCKETS, max_distance=9)))),
        ("soft cap on biased", model(attention(bias_table=BUCKETS, softcap=3.0))),
        ("a width of 40", model(embed=Embedding(vocab=9, dim=40))),
        ("heads of 1025", model(attention(head_dim=1025))),
        ("LayerNorm over heads of 8", model(attention(head_dim=8, qk_norm=LAYER_NORM))),
        ("more than a head", model(attention(rope=replace(ROPE, fraction=1.5)))),
        ("a shorter --context", replace(MODELS["gpt2"], limits=Limits(context=49))),
        (
            "a shorter --source",
            model(
                CROSSING,
                encoder=replace(SEEING, positions=Positions(kind="sinusoidal", count=20)),
                limits=Limits(context=9, source=21),
            ),
        ),
    ],
)
def test_what_the_engine_does_not_run(
    tmp_path: Path, part: str, architecture: Architecture
) -> None:
    with pytest.raises(UnsupportedError, match=part):
        to_native.check(architecture, {})
    assert not to_native.carries(architecture, quantise.plan(architecture, "int8", 32))


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    architecture = MODELS["llama"]
    weights = random_weights(architecture)
    source = Arrays(architecture, weights)
    weights["decoder.layers.1.mlp.up.weight"][3, 3] = np.nan
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up"):
        to_native.write(tmp_path, architecture, source, quantise.plan(architecture, "int4", 32))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written"):
        exported(tmp_path / "missing", MODELS["llama"])
