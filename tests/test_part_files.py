"""Files of trained parts: what is written is read back, and every way in which one can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.numpy import load_file

from edgedec import parts
from edgedec.architecture import Embedding, Limits
from edgedec.bundle import Bundle
from edgedec.errors import CheckpointError, StateError, UnsupportedError, UsageError, WriteError
from edgedec.export import _tiles, quantise
from edgedec.export.to_part import PartSource, write
from edgedec.manifest import Format, Forms, Manifest, Provenance
from edgedec.parts import Contents
from edgedec.runtimes.native.packed import part_tensors
from edgedec.weights import shapes

from .runtimes.conftest import architecture

MODEL = architecture([None, None])
WIDTH, VOCAB = MODEL.embed.dim, MODEL.vocab
HASH = "5" * 64
Header = dict[str, Any]


def bundle(hashed: str = HASH) -> Bundle:
    manifest = Manifest(
        name="one",
        architecture=MODEL,
        quantisation={},
        forms=Forms(),
        files={},
        provenance=Provenance(source="a test", created="2026", exporter="a test"),
    )
    return Bundle(Path("one"), manifest, hashed)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32) / 4


def layered(ids: int) -> Any:
    """One layer of its own over so many ids, as fields of a source."""
    own = replace(
        MODEL,
        embed=Embedding(vocab=ids, dim=WIDTH),
        decoder=replace(MODEL.decoder, layers=MODEL.decoder.layers[:1]),
    )
    return {"architecture": own, "weights": {n: draw(*s) for n, s in shapes(own).items()}}


def source(**more: Any) -> PartSource:
    """A part with everything, but for a head of its own."""
    ids = np.arange(3, VOCAB, 2, dtype=np.int32)
    return PartSource(
        "kangaroo",
        HASH,
        **{
            "about": {"exit": 2, "automatic": True, "shares": [0.5, 0.25]},
            "ids": ids,
            "vectors": {"norm": draw(WIDTH), "prompts": draw(3, 2, 5), "mix.bias": draw(37)},
            "matrices": {"mix": draw(37, 2 * WIDTH)},
            **layered(len(ids)),
            **more,
        },
    )


def opened(path: Path, hashed: str = HASH) -> Any:
    return parts.opened(path, bundle(hashed), part_tensors)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "strategies" / "kangaroo.safetensors"


@pytest.mark.parametrize("form", [Format(kind="int8", block=32), Format(kind="int4", block=64)])
def test_what_is_written_is_read_back(path: Path, form: Format) -> None:
    given = source(format=form)
    write(path, given, MODEL)
    contents, file = opened(path)
    assert contents == given.contents() == parts.contents(path)
    assert contents.about == given.about and contents.architecture == given.architecture
    assert file.array("ids")[: contents.ids].tolist() == given.ids.tolist()  # type: ignore[union-attr]
    np.testing.assert_array_equal(file.array("prompts")[..., :5], given.vectors["prompts"])
    expected = quantise.dequantise(*quantise.quantise(_padded(given.matrices["mix"], form), form))
    tiles, blocks, _ = file.tensors["mix.weight"].shape
    scales = _tiles.unpack_scales(file.array("mix.scales"), tiles, blocks)
    found = quantise.dequantise(_tiles.unpack(file.array("mix.weight"), form), scales)
    np.testing.assert_array_equal(found[:37, : 2 * WIDTH], expected[:37, : 2 * WIDTH])
    assert {place.offset % 64 for place in file.tensors.values()} == {0}
    assert set(load_file(path)) == set(file.tensors)


def _padded(matrix: np.ndarray, form: Format) -> np.ndarray:
    return np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % (form.block or 1))))


def test_a_part_may_hold_next_to_nothing(path: Path) -> None:
    write(path, PartSource("kangaroo", HASH, {"exit": 3}), MODEL)
    contents, file = opened(path)
    assert contents.about == {"exit": 3} and not file.tensors
    assert path.stat().st_size < 1024


def test_what_was_there_stays_when_writing_fails(path: Path) -> None:
    write(path, source())
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="mix"):
        write(path, source(matrices={"mix": draw(37, 2 * WIDTH) * np.nan}))
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
    with pytest.raises(WriteError):
        write(path / "below.safetensors", source())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"matrices": {"mix": draw(8, 40)}}, "inputs are no 16s"),
        ({"matrices": {"head": draw(9, WIDTH)}, "architecture": None}, r"head is \[9, 32\]"),
        ({"matrices": {"Mix": draw(8, WIDTH)}}, "cannot be stored"),
        ({"matrices": {"decoder.positions": draw(8, WIDTH), "mix": draw(37, 64)},
          "vectors": {"mix.weight": draw(4)}}, "two tensors mix.weight"),
        ({"vectors": {"norm": draw(8)}}, r"norm is \[8\]"),
        ({"vectors": {"mix.bias": draw(8)}}, r"mix.bias is \[8\], not \[37\]"),
        (layered(9), "a head of layers over"),
        ({"ids": np.arange(99, dtype=np.int32), **layered(99)}, "99 ids of 50"),
        ({"format": Format(kind="fp16")}, "not int4 or int8 in blocks"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_not_written(path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write(path, source(**wrong), MODEL)
    assert not path.exists()


# --- reading what is wrong -----------------------------------------------------------------------


def refused(path: Path, hashed: str = HASH) -> str:
    with pytest.raises(StateError) as caught:
        opened(path, hashed)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_another_bundle(path: Path) -> None:
    write(path, source())
    message = refused(path, "6" * 64)
    assert "was made for another bundle than one" in message
    assert "edgedec train kangaroo -m one --data FILES" in message


def test_another_strategy(path: Path) -> None:
    write(path, source())
    other = path.rename(path.with_stem("medusa"))
    assert "a part of 'kangaroo', not of 'medusa'" in refused(other)


def test_a_head_that_does_not_fit_the_model(path: Path) -> None:
    write(path, source(ids=None, architecture=None, weights={}, matrices={"head": draw(9, WIDTH)},
                       vectors={}))  # fmt: skip
    assert "head is [9, 32], not [50, 32]" in refused(path)


def test_layers_of_another_context(path: Path) -> None:
    fields = layered(len(source().ids))  # type: ignore[arg-type]
    fields["architecture"] = replace(fields["architecture"], limits=Limits(context=8))
    write(path, source(**fields))
    assert "a context of 8, the model's is 160" in refused(path)


@pytest.mark.parametrize("ids", [[3, 3], [5, 4], [-1, 4], [4, VOCAB]])
def test_ids_that_do_not_rise(path: Path, ids: list[int]) -> None:
    few = {"matrices": {}, "vectors": {}, "architecture": None, "weights": {}}
    write(path, source(ids=np.array(ids, np.int32), **few))
    assert "ids do not rise" in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["norm", "mix.scales", "decoder.final_norm.weight"])
def test_numbers_that_are_none(path: Path, name: str, value: float) -> None:
    write(path, source())
    place = opened(path)[1].tensors[name]
    kind = "<f2" if place.dtype == "F16" else "<f4"
    raw = bytearray(path.read_bytes())
    raw[place.offset : place.offset + np.dtype(kind).itemsize] = np.array(value, kind).tobytes()
    path.write_bytes(raw)
    assert f"{name} holds numbers that are not finite" in refused(path)


@pytest.mark.parametrize("left", [0, 4, 100, -64, -1])
def test_files_that_are_cut_off(path: Path, left: int) -> None:
    write(path, source())
    path.write_bytes(path.read_bytes()[:left])
    assert refused(path)


def test_there_is_no_file(path: Path) -> None:
    assert "cannot be mapped" in refused(path)
    with pytest.raises(StateError, match="cannot be read"):
        parts.contents(path)


def change(path: Path, edit: Callable[[Header], None]) -> None:
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    edit(header)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])


def says(name: str, value: str | None) -> Callable[[Header], None]:
    def edit(header: Header) -> None:
        if value is None:
            del header["__metadata__"][name]
        else:
            header["__metadata__"][name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda header: header.pop("norm"), "'norm' is missing: train it again"),
        (lambda header: header.pop("__metadata__"), "is 'None', not a 'part 1'"),
        (lambda header: header["norm"].update(shape=[16]), r"norm is 'F32' [16], this part needs"),
        (lambda header: header["ids"].update(dtype="F32"), "ids is 'F32' [32], this part needs"),
        (says("edgedec", "part 2"), "is 'part 2', not a 'part 1'"),
        (says("about", None), "does not say its 'about'"),
        (says("about", "[" * 100_000), "cannot be read"),
        (says("about", "3"), "cannot be read"),
        (says("ids", "-1"), "cannot be read"),
        (says("ids", "1e99"), "cannot be read"),
        (says("ids", "51"), "51 ids of 50"),
        (says("matrices", '{"mix": [37, 0]}'), "cannot be read"),
        (says("matrices", '{"mix": [2147483647, 2147483632]}'), "mix.bias is [37]"),
        (says("matrices", '{"../../mix": [37, 64]}'), "cannot be read"),
        (says("vectors", '{"norm": [1, 2, 3, 4]}'), "cannot be read"),
        (says("format", '{"kind": "int8", "block": 16}'), "not int4 or int8 in blocks"),
        (says("architecture", '{"family": "x"}'), "cannot be read"),
        (says("strategy", '"a\\nb"'), "cannot be read"),
    ],
)
def test_a_hostile_header(path: Path, edit: Callable[[Header], None], message: str) -> None:
    write(path, source())
    change(path, edit)
    assert message in refused(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_of_the_header_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise" / "kangaroo.safetensors"
    write(path, source())
    raw = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        contents, file = opened(path)
    except StateError:
        return
    assert isinstance(contents, Contents)
    assert max(place.offset + place.size for place in file.tensors.values()) == len(raw)


def test_a_strategy_without_its_part() -> None:
    class Bare:
        def part(self, strategy: str) -> None:
            return None

    with pytest.raises(UnsupportedError, match="edgedec train medusa -m BUNDLE --data FILES"):
        parts.wanted(Bare(), "medusa")  # type: ignore[arg-type]
