"""Graphs that are changed at open, and the messages they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgedec.bundle import open_bundle, write_bundle
from edgedec.devices import EngineOptions
from edgedec.errors import BundleError
from edgedec.runtimes import onnx
from edgedec.runtimes.onnx import wire
from edgedec.runtimes.onnx.inplace import in_place

if TYPE_CHECKING:
    from conftest import Maker

HELD = {f"past.{layer}.{part}": 2 for layer in range(3) for part in ("key", "value")}


def test_a_message_that_nobody_changes_comes_back_as_it_was(make: Maker) -> None:
    bundle = make("whole").bundle
    for name in bundle.manifest.files:
        if name.endswith(".onnx"):
            data = bundle.file(name).read_bytes()
            fields = wire.read(data)
            assert wire.written(fields) == data
            assert {field.number for field in fields} == {1, 2, 7, 8}


def test_what_is_written_is_what_protobuf_reads() -> None:
    from onnx import StringStringEntryProto, TensorProto

    made = wire.written([wire.whole(2, 1), wire.whole(1, 300), wire.text(8, "a" * 200)])
    tensor = TensorProto.FromString(made)
    assert (tensor.data_type, tensor.dims, tensor.name) == (1, [300], "a" * 200)
    entry = wire.message(13, [wire.text(1, "key"), wire.text(2, "ä")])
    tensor.ParseFromString(wire.written([*wire.read(made), entry]))
    assert list(tensor.external_data) == [StringStringEntryProto(key="key", value="ä")]
    tensor.float_data.append(1.5)
    tensor.double_data.append(2.5)
    assert wire.written(wire.read(tensor.SerializeToString())) == tensor.SerializeToString()


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05ab", b"\x80" * 12, b"\x08\xff", b"\x0b\x01", b"\x0d\x01\x02"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"number|missing|kind"):
        wire.read(data)


def test_new_rows_are_written_where_they_are_told(make: Maker) -> None:
    from onnx import ModelProto

    data = make("whole").bundle.file("decoder.onnx").read_bytes()
    before, after = ModelProto.FromString(data), ModelProto.FromString(in_place(data, HELD))
    ops = [node.op_type for node in after.graph.node]
    assert ops.count("ScatterND") == 6 and len(ops) < len(before.graph.node)
    taken = {value.name for value in after.graph.input}
    given = {value.name for value in after.graph.output}
    assert taken == {value.name for value in before.graph.input} | {"places.2"}
    shown = {value.name for value in before.graph.output if not value.name.startswith("new.")}
    assert given == {*shown, *(name.replace("past", "present") for name in HELD)}
    made = taken | {each.name for each in after.graph.initializer} | {""}
    for node in after.graph.node:
        assert made.issuperset(node.input), "nodes are in order"
        made.update(node.output)
    assert after.opset_import == before.opset_import


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"FusedMatMul", b"FusedMatMux"), (b"past.1.value", b"past.9.value"), (b"Concat", b"Concap")],
)
def test_a_graph_of_another_form_is_refused(
    make: Maker, tmp_path: Path, old: bytes, new: bytes
) -> None:
    bundle = make("whole").bundle
    with write_bundle(tmp_path / "bundle") as writer:
        graph = bundle.file("decoder.onnx").read_bytes()
        (writer.path / "decoder.onnx").write_bytes(graph.replace(old, new))
        data = bundle.file("decoder.onnx.data").read_bytes()
        (writer.path / "decoder.onnx.data").write_bytes(data)
        writer.finish(bundle.manifest)
    with pytest.raises(BundleError, match=r"decoder\.onnx cannot be loaded.*no step of this model"):
        onnx.open(open_bundle(tmp_path / "bundle"), EngineOptions())
