"""Reading checkpoints: three float types, shards, row ranges, and every kind of damage."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgedec.errors import CheckpointError, EdgedecError, UnsupportedError
from edgedec.export import checkpoint as module
from edgedec.export.checkpoint import Arrays, Checkpoint, Weights
from edgedec.models import describe, gpt2, gpt_neox, llama, phi3
from edgedec.weights import shapes

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path.parent


def entry(dtype: str, shape: list[int], first: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


def llama_tensors(**changes: Any) -> dict[str, Any]:
    """A checkpoint of llama.TINY under its own names; None removes a tensor."""
    _, sources = describe({**llama.TINY})
    tensors = {source.name: numbers(*source.shape) for source in sources.values()}
    tensors |= changes
    return {name: values for name, values in tensors.items() if values is not None}


def open_llama(folder: Path, config: dict[str, Any] | None = None, **changes: Any) -> Weights:
    save_file(llama_tensors(**changes), folder / FILE)
    architecture, sources = describe({**llama.TINY, **(config or {})})
    return Weights(Checkpoint.open(folder), architecture, sources)


# --- what is there ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_floats_come_back_as_float32(tmp_path: Path, kind: type) -> None:
    values = numbers(5, 3).astype(kind)
    save_file({"a": values, "b": values[:2].copy()}, tmp_path / FILE)
    loaded = Checkpoint.open(tmp_path).load("a")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, values.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    known = {0x3F80: 1.0, 0xC000: -2.0, 0x3E20: 0.15625, 0x0000: 0.0}
    data = np.array(list(known), dtype="<u2").tobytes()
    folder = write(tmp_path / FILE, {"a": entry("BF16", [4], 0, 8)}, data)
    assert Checkpoint.open(folder).load("a").tolist() == list(known.values())


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    values = {"a": numbers(2, 2), "b": numbers(3)}
    for name, array in values.items():
        save_file({name: array}, tmp_path / f"{name}.safetensors")
    places = {name: f"{name}.safetensors" for name in values}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    checkpoint = Checkpoint.open(tmp_path)
    for name, array in values.items():
        np.testing.assert_array_equal(checkpoint.load(name), array)


@settings(deadline=None)
@given(
    first=st.none() | st.integers(-12, 12),
    last=st.none() | st.integers(-12, 12),
    piece=st.integers(1, 40),
)
def test_rows_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, first: int, last: int, piece: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    values = numbers(9, 4)
    save_file({"a": values}, folder / FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        rows = Checkpoint.open(folder).load("a", slice(first, last))
    np.testing.assert_array_equal(rows, values[first:last])


def test_rows_cost_the_memory_of_rows(tmp_path: Path) -> None:
    rows = 4096
    data = bytes(rows * 1024 * 2)
    folder = write(tmp_path / FILE, {"a": entry("BF16", [rows, 1024], 0, len(data))}, data)
    checkpoint = Checkpoint.open(folder)
    tracemalloc.start()
    assert checkpoint.load("a", slice(100, 164)).shape == (64, 1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 64 * 1024 * 4


def test_a_scalar_and_an_empty_tensor(tmp_path: Path) -> None:
    save_file({"a": np.array(2.5, np.float32), "b": numbers(0, 4)}, tmp_path / FILE)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.load("a") == 2.5
    assert checkpoint.load("b").shape == (0, 4)


# --- our view of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", [llama, phi3, gpt2, gpt_neox])
def test_rows_of_a_fused_or_transposed_tensor(tmp_path: Path, family: Any) -> None:
    architecture, sources = describe(family.TINY)
    save_file({s.name: numbers(*s.shape) for s in sources.values()}, tmp_path / FILE)
    weights = Weights(Checkpoint.open(tmp_path), architecture, sources)
    assert list(weights) == list(shapes(architecture))
    for name, shape in shapes(architecture).items():
        whole = weights.load(name)
        assert weights.shape(name) == whole.shape == shape
        np.testing.assert_array_equal(weights.load(name, slice(1, 5)), whole[1:5])


def test_a_loaded_tensor_is_the_caller_s_own(tmp_path: Path) -> None:
    architecture, sources = describe(gpt2.TINY)
    save_file({s.name: numbers(*s.shape) for s in sources.values()}, tmp_path / FILE)
    weights = Weights(Checkpoint.open(tmp_path), architecture, sources)
    name = "decoder.layers.0.self_attention.k.weight"
    before = weights.load(name).copy()
    weights.load(name)[:] = 0
    np.testing.assert_array_equal(weights.load(name), before)


def test_a_fused_matrix_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, sources = describe(gpt2.TINY)
    save_file({s.name: numbers(*s.shape) for s in sources.values()}, tmp_path / FILE)
    weights = Weights(Checkpoint.open(tmp_path), architecture, sources)
    reads: list[str] = []
    load = Checkpoint.load

    def counting(self: Checkpoint, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        reads.append(name)
        return load(self, name, rows)

    monkeypatch.setattr(Checkpoint, "load", counting)
    for name in weights:
        weights.load(name)
    matrices = [name for name in reads if name.endswith("weight")]
    assert len(matrices) == len(set(matrices))


def test_names_without_the_prefix_are_found(tmp_path: Path) -> None:
    tensors = {name.removeprefix("model."): array for name, array in llama_tensors().items()}
    save_file(tensors, tmp_path / FILE)
    architecture, sources = describe(llama.TINY)
    weights = Weights(Checkpoint.open(tmp_path), architecture, sources)
    np.testing.assert_array_equal(weights.load("embed.weight"), tensors["embed_tokens.weight"])


def test_masks_and_tables_of_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    open_llama(tmp_path, **{name: numbers(4)})


def test_tied_tables_may_be_stored_twice_or_under_the_head_s_name(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    table = llama_tensors()["model.embed_tokens.weight"]
    both = open_llama(tmp_path, tied, **{"lm_head.weight": table})
    np.testing.assert_array_equal(both.load("embed.weight"), table)
    (tmp_path / "other").mkdir()
    head = open_llama(tmp_path / "other", tied, **{"model.embed_tokens.weight": None})
    np.testing.assert_array_equal(head.load("embed.weight"), llama_tensors()["lm_head.weight"])


def test_tied_tables_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        open_llama(
            tmp_path,
            {"tie_word_embeddings": True},
            **{"lm_head.weight": numbers(112, 48) + 1},
        )


def test_arrays_in_memory_are_a_source_too() -> None:
    architecture, _ = describe(llama.TINY)
    arrays = {name: numbers(*shape) for name, shape in shapes(architecture).items()}
    weights = Arrays(architecture, arrays)
    rows = weights.load("embed.weight", slice(2, 4))
    np.testing.assert_array_equal(rows, arrays["embed.weight"][2:4])
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        Arrays(architecture, {**arrays, "head.weight": numbers(2, 2)})
    with pytest.raises(CheckpointError, match=r"no head\.weight"):
        Arrays(architecture, {n: a for n, a in arrays.items() if n != "head.weight"})


# --- damage ------------------------------------------------------------------------------------


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        Checkpoint.open(tmp_path)
    with pytest.raises(CheckpointError, match="neither"):
        Checkpoint.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-2.bin"]
)
def test_torch_files_are_to_be_converted(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"anything")
    with pytest.raises(UnsupportedError, match="convert it to safetensors"):
        Checkpoint.open(tmp_path)


def test_a_missing_tensor_is_named_on_both_sides(tmp_path: Path) -> None:
    theirs = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(CheckpointError) as caught:
        open_llama(tmp_path, **{theirs: None})
    assert theirs in str(caught.value)
    assert "decoder.layers.1.mlp.up.weight" in str(caught.value)


def test_a_wrong_shape_says_found_and_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\[48, 47\], expected \[48, 48\]"):
        open_llama(tmp_path, **{"model.layers.0.self_attn.q_proj.weight": numbers(48, 47)})


def test_a_fused_tensor_must_have_its_whole_size(tmp_path: Path) -> None:
    architecture, sources = describe(phi3.TINY)
    tensors = {s.name: numbers(*s.shape) for s in sources.values()}
    tensors["model.layers.0.self_attn.qkv_proj.weight"] = numbers(129, 64)
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(CheckpointError, match="qkv_proj"):
        Weights(Checkpoint.open(tmp_path), architecture, sources)


def test_a_tensor_that_nobody_uses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"q_norm\.weight"):
        open_llama(tmp_path, **{"model.layers.0.self_attn.q_norm.weight": numbers(8)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    name = "model.norm.weight"
    values = numbers(48)
    values[[3, 7]] = bad
    weights = open_llama(tmp_path, **{name: values})
    with pytest.raises(CheckpointError, match=rf"{name} has NaN or Inf among its numbers \(2\)"):
        weights.load("decoder.final_norm.weight")


@pytest.mark.parametrize("kind", [np.float64, np.int32, np.int8])
def test_other_types_are_refused_by_name_when_they_are_read(tmp_path: Path, kind: type) -> None:
    weights = open_llama(tmp_path, **{"model.norm.weight": np.ones(48, dtype=kind)})
    with pytest.raises(UnsupportedError, match=r"model\.norm\.weight is stored as [FI]\d+"):
        weights.load("decoder.final_norm.weight")


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1, -200])
def test_a_truncated_file(tmp_path: Path, keep: int) -> None:
    open_llama(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match="cut off"):
        Checkpoint.open(tmp_path)


def test_a_file_cut_off_after_it_was_opened(tmp_path: Path) -> None:
    weights = open_llama(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="ends early"):
        for name in weights:
            weights.load(name)


@pytest.mark.parametrize(
    "header",
    [
        b"no json",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"a": ' + b"[" * 100_000,
        {"a": 5},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": entry("F32", [2], 0, 4)},
        {"a": entry("F32", [3], 0, 8)},
        {"a": entry("F32", [-2], 0, 8)},
        {"a": entry("F32", [-1, -2], 0, 8)},
        {"a": entry("F32", [2], -8, 0)},
        {"a": entry("F32", [2], 4, 12)},
        {"a": entry("F32", [True, 2], 0, 8)},
        {"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)},
        {"a": entry("F32", [2**40, 2**40], 0, 2**82)},
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense(tmp_path: Path, header: Any) -> None:
    folder = write(tmp_path / FILE, header, b"\0" * 8)
    with pytest.raises(CheckpointError, match=FILE):
        Checkpoint.open(folder)


def test_an_unknown_type_in_a_header(tmp_path: Path) -> None:
    folder = write(tmp_path / FILE, {"a": entry("F5", [2], 0, 8)}, b"\0" * 8)
    with pytest.raises(UnsupportedError, match="F5"):
        Checkpoint.open(folder)


def test_a_header_length_that_is_a_lie(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="header"):
        Checkpoint.open(tmp_path)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_header_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes of the header are changed; nothing but our own errors may come out."""
    folder = tmp_path_factory.mktemp("damaged")
    save_file({"a": numbers(3, 2), "b": numbers(4)}, folder / FILE)
    content = bytearray((folder / FILE).read_bytes())
    end = len(content) - 40
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, end - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[place] = byte
    (folder / FILE).write_bytes(content)
    with contextlib.suppress(EdgedecError):
        checkpoint = Checkpoint.open(folder)
        for name in checkpoint.tensors:
            checkpoint.load(name)


def test_a_missing_shard(tmp_path: Path) -> None:
    save_file({"a": numbers(2)}, tmp_path / "one.safetensors")
    places = {"a": "one.safetensors", "b": "two.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"two\.safetensors is missing"):
        Checkpoint.open(tmp_path)


def test_an_index_that_names_a_tensor_its_shard_lacks(tmp_path: Path) -> None:
    save_file({"a": numbers(2)}, tmp_path / "one.safetensors")
    places = {"a": "one.safetensors", "b": "one.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"one\.safetensors has no tensor b"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/passwd", "..", "x/a", "..\\a", "c:a"])
def test_an_index_that_leaves_its_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": numbers(2)}, tmp_path / "a.safetensors")
    (tmp_path / "in" / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(CheckpointError, match="not a file of this folder"):
        Checkpoint.open(tmp_path / "in")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_not_one(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="index"):
        Checkpoint.open(tmp_path)
