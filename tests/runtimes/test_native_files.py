"""What the native runtime reads from disk: whole files, and every way in which one can be wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.numpy import load_file

from edgedec import manifest as manifests
from edgedec import mapped
from edgedec.architecture import Architecture
from edgedec.bundle import Bundle, open_bundle, write_bundle
from edgedec.errors import BundleError, EdgedecError, UnsupportedError
from edgedec.export import quantise, to_native
from edgedec.manifest import Format, Forms, Manifest, NativeForm, Provenance
from edgedec.runtimes.native.packed import open_packed

from .conftest import architecture, random_weights

FILE = "native.safetensors"
MODEL = architecture([None, 6])
Q = "decoder.layers.0.self_attention.q"
Header = dict[str, Any]


def write_native(target: Path, model: Architecture, formats: dict[str, Format]) -> Bundle:
    with write_bundle(target) as writer:
        form = to_native.write(writer.path, model, random_weights(model), formats)
        writer.finish(
            Manifest(
                name=target.name,
                architecture=model,
                quantisation=formats,
                forms=Forms(native=form),
                files={},
                provenance=Provenance(source="random", created="2026-11-20", exporter="test"),
            )
        )
    return open_bundle(target)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("native") / "bundle"
    return write_native(target, MODEL, quantise.plan(MODEL, "int4", 32))


def test_the_places_are_those_of_the_file(whole: Bundle) -> None:
    packed = open_packed(whole)
    found = load_file(whole.file(FILE))
    assert set(packed.tensors) == set(found)
    for name, place in packed.tensors.items():
        array = found[name]
        dtype = array.dtype.newbyteorder("<")
        mapped = np.frombuffer(packed.data, dtype, array.size, place.offset)
        assert place.offset % 64 == 0
        assert place.shape == array.shape
        np.testing.assert_array_equal(mapped.reshape(array.shape), array)


def test_the_mapping_cannot_be_written(whole: Bundle) -> None:
    with pytest.raises(TypeError):
        open_packed(whole).data[0] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_touches_nothing_but_the_header(whole: Bundle) -> None:
    packed = open_packed(whole)

    def resident() -> int:
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        pages = 0
        for line in lines:
            if line.endswith(str(whole.file(FILE))):
                pages += next(int(row.split()[1]) for row in lines if row.startswith("Rss:"))
        return pages

    assert resident() == 0
    assert packed.data[:1] != b""
    assert resident() > 0


# --- broken files --------------------------------------------------------------------------------


def parts(bundle: Bundle) -> tuple[Header, bytes]:
    raw = bundle.file(FILE).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def joined(header: object, data: bytes, start: int = 64) -> bytes:
    """A file whose data begin at a multiple of `start`."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % start)
    return len(text).to_bytes(8, "little") + text + data


def refused(bundle: Bundle, folder: Path, raw: bytes, **manifest: Any) -> str:
    """The message for a bundle with this file; hashes are left out, as if they were right."""
    (folder / FILE).write_bytes(raw)
    wrong = Bundle(folder, replace(bundle.manifest, **manifest), "")
    with pytest.raises(BundleError) as caught:
        open_packed(wrong)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


Change = Callable[[Header], object]


def _entry(name: str, **fields: Any) -> Change:
    return lambda header: header[name].update(fields)


def _shifted(name: str, by: int) -> Change:
    def change(header: Header) -> None:
        header[name]["data_offsets"] = [at + by for at in header[name]["data_offsets"]]

    return change


def _swapped(header: Header) -> None:
    """Two tensors of one size in one place."""
    header[f"{Q}.weight"]["data_offsets"] = header[f"{Q[:-1]}o.weight"]["data_offsets"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop(f"{Q}.weight"), rf"'{Q}.weight' is missing"),
        (lambda h: h.pop(f"{Q}.scales"), rf"'{Q}.scales' is missing"),
        (lambda h: h.pop("rope.0"), "'rope.0' is missing"),
        (lambda h: h.update(more=h["rope.0"]), "'more' is none of this model's"),
        (lambda h: h.update({"\x1b[2J": h["rope.0"]}), r"'\\x1b\[2J' is none of"),
        (lambda h: h.update({"rope.1": h["rope.0"]}), "'rope.1' is none of this model's"),
        (_entry(f"{Q}.weight", dtype="I8"), rf"{Q}.weight is 'I8'.*needs U8 \[2, 1, 256\]"),
        (_entry(f"{Q}.weight", dtype="Q4"), rf"{Q}.weight is 'Q4'"),
        (_entry(f"{Q}.scales", dtype="BF16"), rf"{Q}.scales is 'BF16'"),
        (_entry("rope.0", dtype="F32"), "rope.0 is 'F32'"),
        (_entry(f"{Q}.weight", dtype="\x1b[2J"), r"is '\\x1b\[2J'"),
        (_entry(f"{Q}.weight", dtype="U" * 17), "header cannot be read"),
        (_entry(f"{Q}.weight", shape=[1, 2, 256]), rf"{Q}.weight is 'U8' \[1, 2, 256\]"),
        (_entry(f"{Q}.weight", shape=[512]), rf"{Q}.weight is 'U8' \[512\]"),
        (_entry(f"{Q}.weight", shape=[2, 1, 256, 1]), rf"{Q}.weight is"),
        (_entry(f"{Q}.weight", shape=[2, 1, -256]), "header cannot be read"),
        (_entry(f"{Q}.weight", shape=[2, 1, 2.5]), "header cannot be read"),
        (_entry(f"{Q}.weight", shape=[1] * 9), "header cannot be read"),
        (_entry(f"{Q}.weight", shape=[2**63, 1, 256]), "header cannot be read"),
        (_entry(f"{Q}.weight", data_offsets=[0]), "header cannot be read"),
        (_entry(f"{Q}.weight", data_offsets=[-64, 448]), "header cannot be read"),
        (_entry(f"{Q}.weight", data_offsets=[512, 0]), rf"{Q}.weight has -512 bytes"),
        (_entry(f"{Q}.weight", data_offsets=[0, 448]), rf"{Q}.weight has 448 bytes"),
        (_entry(f"{Q}.weight", colour="red"), "colour"),
        (lambda h: h[f"{Q}.weight"].pop("shape"), "shape"),
        (lambda h: h.update({f"{Q}.weight": 3}), "header cannot be read"),
        (_shifted(f"{Q}.weight", 4), rf"{Q}.weight begins at byte \d+ of the data"),
        (_shifted("rope.0", 64), "rope.0 leaves a hole"),
        (_shifted("rope.0", 2**40), "rope.0 leaves a hole"),
        (_shifted(f"{Q}.weight", 64), "overlaps another|leaves a hole"),
        (_swapped, "overlaps another|leaves a hole"),
        (lambda h: h.clear(), "is missing"),
    ],
)
def test_a_header_that_is_not_this_models(
    whole: Bundle, tmp_path: Path, change: Change, message: str
) -> None:
    header, data = parts(whole)
    change(header)
    found = refused(whole, tmp_path, joined(header, data))
    assert FILE in found
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cut off or is no safetensors file"),
        (b"\0" * 7, "cut off or is no safetensors file"),
        (b"\xff" * 200, "cut off or is no safetensors file"),
        ((1000).to_bytes(8, "little") + b"{}", "cut off or is no safetensors file"),
        (joined(b"{}", b"", start=1), "begin at byte 10"),
        (joined(b"nothing", b""), "header cannot be read"),
        (joined(b"[1, 2]", b""), "header cannot be read"),
        (joined(b'{"a": {"dtype"', b""), "header cannot be read"),
        (joined(b'{"\xff": 1}', b""), "header cannot be read"),
        (joined(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""), "header cannot be read"),
        (joined(b'{"a":' + b"[" * 100_000, b""), "header cannot be read"),
    ],
)
def test_a_file_that_is_none(whole: Bundle, tmp_path: Path, raw: bytes, message: str) -> None:
    assert message in refused(whole, tmp_path, raw)


def test_a_header_of_many_megabytes_is_not_read(
    whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, data = parts(whole)
    raw = joined(header, data)
    monkeypatch.setattr(mapped, "MAX_HEADER", len(raw) - len(data) - 9)
    assert "says that its header has" in refused(whole, tmp_path, raw)


def test_a_file_of_another_length(whole: Bundle, tmp_path: Path) -> None:
    raw = whole.file(FILE).read_bytes()
    assert "rope.0 ends at" in refused(whole, tmp_path, raw[:-1])
    assert "it is cut off" in refused(whole, tmp_path, raw[: len(raw) // 2])
    assert "its tensors end at" in refused(whole, tmp_path, raw + bytes(64))


def test_data_that_begin_off_a_line(whole: Bundle, tmp_path: Path) -> None:
    raw = whole.file(FILE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    moved = (
        (length + 16).to_bytes(8, "little") + raw[8 : 8 + length] + b" " * 16 + raw[8 + length :]
    )
    assert "no multiple of 64" in refused(whole, tmp_path, moved)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_changed_byte_of_the_header_changes_nothing_or_is_refused(
    whole: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    expected = dict(open_packed(whole).tensors)
    raw = bytearray(whole.file(FILE).read_bytes())
    end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp() / "noise"
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(raw)
    try:
        found = open_packed(Bundle(folder, whole.manifest, ""))
    except BundleError:
        return
    # Names of equal tensors may have changed places; no place may be new.
    assert sorted(p.offset for p in found.tensors.values()) == sorted(
        p.offset for p in expected.values()
    )
    assert {n: (p.dtype, p.shape) for n, p in found.tensors.items()} == {
        n: (p.dtype, p.shape) for n, p in expected.items()
    }


# --- manifests that do not fit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantisation", "message"),
    [
        ({"q": Format(kind="int8", block=32)}, rf"{Q}.weight is 'U8' \[2, 1, 256\].*512"),
        ({"down": Format(kind="int4", block=64)}, r"mlp\.down\.weight is"),
        ({"embed": Format(kind="fp16")}, r"embed\.weight is fp16; the native form"),
        ({"o": Format(kind="int4", block=16)}, "int4/16; the native form"),
        ({"o": Format(kind="int4")}, "is int4; the native form"),
        ({"v": Format(kind="int8", block=64)}, "have different blocks"),
        ({"gate": Format(kind="int4", block=128)}, "have different blocks"),
    ],
)
def test_other_formats(
    whole: Bundle, tmp_path: Path, quantisation: dict[str, Format], message: str
) -> None:
    wanted = {**whole.manifest.quantisation, **quantisation}
    raw = whole.file(FILE).read_bytes()
    found = refused(whole, tmp_path, raw, quantisation=wanted)
    assert re.search(message, found), found


def _embed(**fields: int) -> Architecture:
    return replace(MODEL, embed=replace(MODEL.embed, **fields))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_embed(vocab=500), "embed.weight is 'U8' [4, 1, 512], this model needs U8 [32, 1, 512]"),
        (_embed(dim=64), "embed.weight is"),
        (_embed(vocab=2**31 - 1, dim=2**31 - 16), "embed.weight is"),
        (architecture([None]), "'decoder.layers.1."),
        (architecture([None] * 3), "is missing"),
        (architecture([None]), "is none of this model's"),
    ],
)
def test_another_architecture(
    whole: Bundle, tmp_path: Path, model: Architecture, message: str
) -> None:
    raw = whole.file(FILE).read_bytes()
    assert message in refused(whole, tmp_path, raw, architecture=model)


def test_more_than_the_engine_counts(whole: Bundle, tmp_path: Path) -> None:
    [layer, *_] = MODEL.decoder.layers
    large = replace(layer.self_attention, heads=2**22, kv_heads=2**22, head_dim=1024)
    layers = (replace(layer, self_attention=large),)
    model = replace(MODEL, decoder=replace(MODEL.decoder, layers=layers))
    message = refused(whole, tmp_path, whole.file(FILE).read_bytes(), architecture=model)
    assert f"{Q}.weight is larger than the engine can count" in message


def test_what_the_engine_does_not_run(whole: Bundle) -> None:
    model = replace(MODEL, embed=replace(MODEL.embed, dim=40))
    with pytest.raises(UnsupportedError, match="a width of 40"):
        open_packed(Bundle(whole.path, replace(whole.manifest, architecture=model), ""))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (None, "no native form"),
        (NativeForm(layout=2), "has the layout 2, this edgedec reads 1"),
        (NativeForm(layout=1, file="other"), "lists no file 'other'"),
    ],
)
def test_other_forms(whole: Bundle, tmp_path: Path, form: NativeForm | None, message: str) -> None:
    raw = whole.file(FILE).read_bytes()
    assert message in refused(whole, tmp_path, raw, forms=Forms(native=form))


def test_a_file_that_the_manifest_does_not_list(whole: Bundle, tmp_path: Path) -> None:
    text = manifests.encode(replace(whole.manifest, files={}))
    assert manifests.decode(text).forms.native == NativeForm(layout=1)
    (tmp_path / manifests.FILE).write_bytes(text)
    with pytest.raises(EdgedecError, match=FILE):
        open_bundle(tmp_path)
