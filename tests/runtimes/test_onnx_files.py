"""What the ONNX runtime reads from disk: saved sessions and bundles, whole and broken."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from edgedec import cores
from edgedec import manifest as manifests
from edgedec.bundle import Bundle, open_bundle, write_bundle
from edgedec.contracts import Rows, Session
from edgedec.devices import EngineOptions
from edgedec.errors import BundleError, DeviceError, StateError, UsageError, WriteError
from edgedec.manifest import File, Forms, Manifest
from edgedec.runtimes import onnx
from edgedec.runtimes.onnx import segments

if TYPE_CHECKING:
    from conftest import Maker, Model

PATH = [3, 7, 9, 1, 4, 4, 2]


def chain(tokens: list[int]) -> Rows:
    return Rows(np.array(tokens, np.int32), np.arange(-1, len(tokens) - 1, dtype=np.int32))


def prompted(model: Model) -> Session:
    """A session whose trunk does not lie in slots 0, 1, 2, ..."""
    session = model.engine.session()
    session.step(Rows(np.array([8, *PATH], np.int32), np.array([-1, -1, *range(1, 7)], np.int32)))
    session.keep([7])
    return session


# --- saved sessions ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["whole", "windows", "cut"])
def test_a_saved_session_goes_on(make: Maker, tmp_path: Path, variant: str) -> None:
    model = make(variant)
    prompted(model).save(tmp_path / "state")
    session = model.engine.session()
    session.step(chain([1, 2]))
    session.load(tmp_path / "state")
    assert list(session.tokens) == PATH
    found = session.step(chain([5])).logits(0)
    np.testing.assert_allclose(found, model.logits([*PATH, 5]), atol=3e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_an_empty_session_can_be_saved(make: Maker, tmp_path: Path) -> None:
    engine = make("whole").engine
    engine.session().save(tmp_path / "state")
    session = engine.session()
    session.load(tmp_path / "state")
    assert list(session.tokens) == []


Change = Callable[[dict[str, Any], dict[str, str]], None]


def _set(key: str, value: str) -> Change:
    return lambda tensors, metadata: metadata.__setitem__(key, value)


def _put(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda tensors, metadata: tensors.__setitem__(name, change(tensors[name]))


KV = "layers.0.3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("bundle", "0" * 64), "bundle 000.*here it is"),
        (_set("runtime", "native"), "runtime native, here it is onnx"),
        (_set("layout", "2"), "layout 2, here it is 1"),
        (_set("keys_and_values", "fp16"), "fp16, here it is fp32"),
        (lambda tensors, metadata: metadata.clear(), "missing"),
        (_put("tokens", lambda t: t[:-1]), "positions"),
        (_put("tokens", lambda t: np.zeros(1000, t.dtype)), "holds 1000 tokens, the context 160"),
        (_put("tokens", lambda t: t + 50), "tokens outside"),
        (_put("positions", lambda t: t - 1), "positions outside"),
        (_put("positions", lambda t: t + 1000), "positions outside"),
        (_put("tokens", lambda t: t.astype(np.float32)), "tokens"),
        (_put(KV, lambda t: t[:, :, :1]), KV),
        (_put(KV, lambda t: t.astype(np.float16)), KV),
        (lambda tensors, metadata: tensors.pop(KV), KV),
        (lambda tensors, metadata: tensors.update(more=np.zeros(1)), "more"),
        (lambda tensors, metadata: tensors.pop("tokens"), "tokens"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    make: Maker, tmp_path: Path, change: Change, message: str
) -> None:
    model, path = make("whole"), tmp_path / "state"
    prompted(model).save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path, metadata)
    session = prompted(model)
    with pytest.raises(StateError, match=message):
        session.load(path)
    found = session.step(chain([5])).logits(0)
    np.testing.assert_allclose(found, model.logits([*PATH, 5]), atol=3e-5)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, None])
def test_a_file_that_is_no_state_is_refused(
    make: Maker, tmp_path: Path, content: bytes | None
) -> None:
    model, path = make("whole"), tmp_path / "state"
    prompted(model).save(path)
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    with pytest.raises(StateError, match="cannot be read"):
        model.engine.session().load(path)
    with pytest.raises(StateError, match="cannot be read"):
        model.engine.session().load(tmp_path / "missing")


def test_the_state_of_another_bundle_is_refused(make: Maker, tmp_path: Path) -> None:
    prompted(make("whole")).save(tmp_path / "state")
    with pytest.raises(StateError, match="bundle"):
        make("cut").engine.session().load(tmp_path / "state")


def test_a_state_that_cannot_be_written_leaves_the_old_one(make: Maker, tmp_path: Path) -> None:
    session = prompted(make("whole"))
    with pytest.raises(WriteError, match="cannot be saved"):
        session.save(tmp_path / "nowhere" / "state")
    (tmp_path / "state").mkdir()
    with pytest.raises(WriteError, match="cannot be saved"):
        session.save(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


# --- bundles -------------------------------------------------------------------------------------


def changed(bundle: Bundle, target: Path, **fields: Any) -> Bundle:
    """A copy of a bundle with other fields in its manifest."""
    with write_bundle(target) as writer:
        for name in bundle.manifest.files:
            shutil.copy(bundle.file(name), writer.path / name)
        writer.finish(msgspec.structs.replace(bundle.manifest, **fields))
    return open_bundle(target)


def other_architecture(manifest: Manifest, **embed: int) -> Any:
    model = manifest.architecture
    return msgspec.structs.replace(model, embed=msgspec.structs.replace(model.embed, **embed))


def test_a_graph_of_another_model_is_refused(make: Maker, tmp_path: Path) -> None:
    bundle = make("whole").bundle
    for index, embed in enumerate(({"vocab": 51}, {"dim": 48})):
        model = other_architecture(bundle.manifest, **embed)
        wrong = changed(bundle, tmp_path / str(index), architecture=model)
        with pytest.raises(BundleError, match=r"decoder\.onnx is not a part of this model"):
            onnx.open(wrong, EngineOptions())


def test_a_model_larger_than_its_files_is_refused(make: Maker) -> None:
    manifest = make("whole").bundle.manifest
    segments.check_size(manifest)
    files = {name: File(size=file.size // 2, sha256="") for name, file in manifest.files.items()}
    with pytest.raises(BundleError, match="bytes of weights"):
        segments.check_size(msgspec.structs.replace(manifest, files=files))


@pytest.mark.parametrize("place", ["../../outside.dat", "/../outside.data1"])
def test_weights_outside_the_bundle_are_refused(make: Maker, tmp_path: Path, place: str) -> None:
    """ONNX Runtime checks it; this must fail with a version that does not."""
    bundle = make("whole").bundle
    shutil.copy(bundle.file("decoder.onnx.data"), tmp_path / "outside.dat")
    with write_bundle(tmp_path / "a" / "bundle") as writer:
        graph = bundle.file("decoder.onnx").read_bytes()
        assert len(place) == len("decoder.onnx.data")
        (writer.path / "decoder.onnx").write_bytes(
            graph.replace(b"decoder.onnx.data", place.encode())
        )
        writer.finish(bundle.manifest)
    with pytest.raises(BundleError, match=r"decoder\.onnx cannot be loaded"):
        onnx.open(open_bundle(tmp_path / "a" / "bundle"), EngineOptions())


def test_hidden_layers_that_no_graph_shows_are_refused(make: Maker, tmp_path: Path) -> None:
    bundle = make("whole").bundle
    form = bundle.manifest.forms.onnx
    assert form is not None
    for layer, message in ((1, r"hidden\.1"), (9, "layer 9 of 3")):
        forms = Forms(onnx=msgspec.structs.replace(form, hidden=(layer,)))
        wrong = changed(bundle, tmp_path / str(layer), forms=forms)
        with pytest.raises(BundleError, match=message):
            onnx.open(wrong, EngineOptions())


def test_a_graph_with_other_types_is_refused(make: Maker) -> None:
    engine = make("whole").engine
    [whole] = engine.parts.segments

    class Halves:
        get_outputs = whole.session.get_outputs

        def get_inputs(self) -> list[Any]:
            found = whole.session.get_inputs()
            return [SimpleNamespace(name=v.name, shape=v.shape, type="tensor(half)") for v in found]

    segments.load(whole.spec, whole.session, engine.architecture)
    with pytest.raises(BundleError, match="half"):
        segments.load(whole.spec, Halves(), engine.architecture)


def test_segments_that_do_not_join_are_refused(make: Maker, tmp_path: Path) -> None:
    bundle = make("cut").bundle
    form = bundle.manifest.forms.onnx
    assert form is not None
    for index, some in enumerate((form.segments[1:], form.segments[:-1], form.segments[::2])):
        forms = Forms(onnx=msgspec.structs.replace(form, segments=some))
        wrong = changed(bundle, tmp_path / str(index), forms=forms)
        with pytest.raises(BundleError, match="export again"):
            onnx.open(wrong, EngineOptions())


def test_no_form_and_no_graph_are_refused(make: Maker, tmp_path: Path) -> None:
    bundle = make("whole").bundle
    with pytest.raises(BundleError, match="no ONNX form"):
        onnx.open(changed(bundle, tmp_path / "none", forms=Forms()), EngineOptions())
    broken = tmp_path / "broken"
    with write_bundle(broken) as writer:
        (writer.path / "decoder.onnx").write_bytes(b"not a graph")
        writer.finish(bundle.manifest)
    with pytest.raises(BundleError, match="cannot be loaded by ONNX Runtime") as error:
        onnx.open(open_bundle(broken), EngineOptions())
    assert "\n" not in str(error.value)
    assert (broken / manifests.FILE).is_file()


def test_a_closed_engine_answers_no_more(make: Maker, tmp_path: Path) -> None:
    bundle = make("whole").bundle
    engine = onnx.open(bundle, EngineOptions())
    session = engine.session()
    session.step(chain([1]))
    segment = weakref.ref(engine.parts.segments[0].session)
    engine.close()
    gc.collect()
    assert segment() is None, "the weights are still held"
    for call in (lambda: session.step(chain([1])), engine.session):
        with pytest.raises(UsageError, match="closed"):
            call()


# --- devices -------------------------------------------------------------------------------------


def test_other_devices_are_named_and_never_replaced_by_the_cpu(make: Maker) -> None:
    listed = {device.name: device for device in onnx.devices()}
    assert listed["cpu"].problem is None
    for name in ("cuda", "npu", "teapot"):
        with pytest.raises(DeviceError, match=f"onnx runtime cannot use the device '{name}'"):
            onnx.open(make("whole").bundle, EngineOptions(device=name))
    with pytest.raises(UsageError, match="0 threads"):
        onnx.open(make("whole").bundle, EngineOptions(threads=0))
    assert "onnxruntime-gpu" in str(listed["cuda"].problem)


@pytest.mark.parametrize(
    ("siblings", "quota", "expected"),
    [
        (["0-1", "0-1"], "max 100000", 1),
        (["0", "1"], "max 100000", 2),
        (["0", "1"], "100000 100000", 1),
        (["0", "1"], "50000 100000", 1),
        ([], "", 2),
    ],
)
def test_cores(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    siblings: list[str],
    quota: str,
    expected: int,
) -> None:
    monkeypatch.setattr(cores, "allowed", lambda: {0, 1})
    for cpu, text in enumerate(siblings):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text)
    (tmp_path / "quota").write_text(quota)
    assert cores.physical(tmp_path, tmp_path / "quota") == expected
