"""Saved sessions and bundles of encoder-decoder models in the ONNX runtime: what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from safetensors import safe_open
from safetensors.numpy import save_file

from edgedec.bundle import Bundle, open_bundle, write_bundle
from edgedec.devices import EngineOptions
from edgedec.errors import BundleError, DeviceError, StateError, UsageError
from edgedec.manifest import Forms
from edgedec.runtimes import onnx

from .conftest import Maker, close, reader, rows
from .sources import VOCAB, a_source

PATH = [3, 1, 4, 1, 5, 9, 2]


# --- saved states --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mu", "t5 cut", "normed", "whisper"])
def test_a_saved_session_goes_on_without_its_source(
    make_reader: Maker, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader(make_reader(name))
    session = read.session()
    session.step(rows(PATH))
    session.keep([6])
    session.save(tmp_path / "state")
    other = read.model.engine.session()
    monkeypatch.setattr(type(read.model.engine.encoder), "run", None)
    other.load(tmp_path / "state")
    assert (other.source_rows, other.source_key) == (session.source_rows, session.source_key)
    close(other.step(rows([5, 6])).logits(1), read.logits([*PATH, 5, 6])[-1])
    other.truncate(0)
    close(other.step(rows([8])).logits(0), read.logits([8])[-1])


def test_a_session_saved_before_its_source(make_reader: Maker, tmp_path: Path) -> None:
    read = reader(make_reader("mu"))
    read.model.engine.session().save(tmp_path / "state")
    session = read.session()
    session.load(tmp_path / "state")
    with pytest.raises(UsageError, match="encode"):
        session.step(rows([1]))
    session.encode(read.source)
    close(session.step(rows([1])).logits(0), read.logits([1])[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, about: about.update(source_rows="25"), "25 rows of a source"),
        (lambda tensors, about: about.update(source_rows="7"), r"cross\.0\.3"),
        (lambda tensors, about: about.update(source_rows="x"), "x rows of a source"),
        (lambda tensors, about: about.update(source_key="abc"), "'abc'"),
        (lambda tensors, about: about.update(source_rows="0"), "damaged"),
        (lambda tensors, about: about.pop("source_key"), "damaged"),
        (lambda tensors, about: tensors.pop("cross.0.3"), r"cross\.0\.3"),
        (
            lambda tensors, about: (
                about.update(source_rows="0", source_key=""),
                tensors.update({"cross.0.3": tensors["cross.0.3"][:, :, :, :0]}),
            ),
            "a text without its source",
        ),
    ],
)
def test_a_state_whose_source_does_not_fit_is_refused(
    make_reader: Maker, tmp_path: Path, change: Callable[[Any, Any], Any], message: str
) -> None:
    read, path = reader(make_reader("mu")), tmp_path / "state"
    session = read.session()
    session.step(rows(PATH))
    session.keep([6])
    session.save(path)
    with safe_open(path, framework="numpy") as file:
        about = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, about)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path, about)
    with pytest.raises(StateError, match=message):
        session.load(path)
    close(session.step(rows([5])).logits(0), read.logits([*PATH, 5])[-1])


# --- bundles -------------------------------------------------------------------------------------


def changed(bundle: Bundle, target: Path, files: dict[str, bytes], **fields: Any) -> Bundle:
    """A copy of a bundle with other fields in its manifest and other files."""
    with write_bundle(target) as writer:
        for name in bundle.manifest.files:
            shutil.copy(bundle.file(name), writer.path / name)
        for name, content in files.items():
            (writer.path / name).write_bytes(content)
        writer.finish(msgspec.structs.replace(bundle.manifest, **fields))
    return open_bundle(target)


def test_an_encoder_that_is_damaged_or_of_another_model(make_reader: Maker, tmp_path: Path) -> None:
    bundle = make_reader("mu").bundle
    graph = bundle.file("encoder.onnx").read_bytes()
    other = make_reader("t5").bundle.file("encoder.onnx").read_bytes()
    sound = make_reader("whisper").bundle.file("encoder.onnx").read_bytes()
    for index, (content, message) in enumerate(
        (
            (graph[:-40], "cannot be loaded by ONNX Runtime"),
            (b"", "cannot be loaded by ONNX Runtime"),
            (bundle.file("decoder.onnx").read_bytes(), "encoder.onnx is not a part of this model"),
            (other, "encoder.onnx"),
            (sound, "encoder.onnx"),
        )
    ):
        wrong = changed(bundle, tmp_path / str(index), {"encoder.onnx": content})
        with pytest.raises(BundleError, match=message):
            onnx.open(wrong, EngineOptions())


def test_encoder_and_decoder_that_disagree(make_reader: Maker, tmp_path: Path) -> None:
    bundle = make_reader("mu").bundle
    model, form = bundle.manifest.architecture, bundle.manifest.forms.onnx
    assert form is not None
    across = model.decoder.layers[0].cross_attention
    assert across is not None
    wide = replace(across, kv_heads=4)
    broad = tuple(replace(layer, cross_attention=wide) for layer in model.decoder.layers)
    for index, fields in enumerate(
        (
            {"forms": Forms(onnx=replace(form, encoder=None))},
            {"architecture": replace(model, decoder=replace(model.decoder, layers=broad))},
        )
    ):
        wrong = changed(bundle, tmp_path / str(index), {}, **fields)
        with pytest.raises(BundleError, match="export again"):
            onnx.open(wrong, EngineOptions())


def test_a_graph_that_gives_other_rows_than_its_manifest_says(
    make_reader: Maker, tmp_path: Path
) -> None:
    bundle = make_reader("moonshine").bundle
    model = bundle.manifest.architecture
    frontend = model.frontend
    assert frontend is not None
    convs = (replace(frontend.convs[0], stride=2), *frontend.convs[1:])
    other = replace(model, frontend=replace(frontend, convs=convs))
    wrong = changed(bundle, tmp_path / "wrong", {}, architecture=other)
    session = onnx.open(wrong, EngineOptions(threads=1)).session()
    with pytest.raises(DeviceError, match="failed in the encoder"):
        session.encode(a_source(other, 300))
    with pytest.raises(UsageError, match="call encode"):
        session.step(rows([1]))


def test_a_closed_engine_reads_no_more(make_reader: Maker) -> None:
    read = reader(make_reader("mu"))
    engine = onnx.open(read.model.bundle, EngineOptions(threads=1))
    session = engine.session()
    session.encode(read.source)
    engine.close()
    for call in (lambda: session.encode(read.source), lambda: session.step(rows([1]))):
        with pytest.raises(UsageError, match="closed"):
            call()


def test_a_table_that_both_sides_read_is_stored_once(make_reader: Maker) -> None:
    held = make_reader("bart").bundle.manifest.files["decoder.onnx.data"].size
    apart = make_reader("marian").bundle.manifest.files["decoder.onnx.data"].size
    own = (VOCAB + 13) * 32 * 4
    assert own <= apart - held + 8192 and held < apart
