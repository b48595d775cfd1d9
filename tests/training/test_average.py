"""Averaged weights are the mean of the folders', and what does not fit is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgedec.errors import CheckpointError, UsageError
from edgedec.models.reference.stories.average import average

NORM, DOWN = "model.norm.weight", "model.layers.0.mlp.down_proj.weight"


def folder(path: Path, **tensors: list[float]) -> Path:
    """A model of two small tensors; keyword arguments give other values."""
    path.mkdir()
    values = {"norm": [1.0, 2.0], "down": [0.5, -3.0, 65504.0]} | tensors
    weights = {NORM: values["norm"], DOWN: values["down"]}
    save_file({n: np.array(v, np.float16) for n, v in weights.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"hidden_size": 2, "num_hidden_layers": 1}))
    (path / "tokenizer.json").write_text("{}")
    return path


def test_the_mean_is_taken_in_float32(tmp_path: Path) -> None:
    # 65504 is the largest fp16: a sum in fp16 would be infinite
    folders = [
        folder(tmp_path / "a"),
        folder(tmp_path / "b", norm=[1.0, 4.0], down=[0.25, 3.0, 65504.0]),
        folder(tmp_path / "c", norm=[4.0, 0.0], down=[0.0, 0.0, 65504.0]),
    ]
    average(folders, tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    assert {part.dtype for part in found.values()} == {np.dtype(np.float16)}
    assert found[NORM].tolist() == [2.0, 2.0]
    assert found[DOWN].tolist() == [0.25, 0.0, 65504.0]


def test_the_rest_comes_from_the_first_folder_and_says_of_what(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a"), folder(tmp_path / "b", norm=[3.0, 4.0])
    average([first, second], tmp_path / "ab")
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "ab" / name).read_text() == (first / name).read_text()
    average([tmp_path / "ab", first], tmp_path / "aba")
    rows = json.loads((tmp_path / "aba/provenance.json").read_text())["average_of"]
    assert [row["folder"] for row in rows] == ["ab", "a"]
    inner = rows[0]["provenance"]["average_of"]
    assert [row["folder"] for row in inner] == ["a", "b"]
    assert inner[0]["sha256"] == rows[1]["sha256"] != inner[1]["sha256"]


@pytest.mark.parametrize("field", ["hidden_size", "rope_theta"])
def test_another_config_is_refused_by_its_field(tmp_path: Path, field: str) -> None:
    folders = [folder(tmp_path / "a"), folder(tmp_path / "b")]
    config = json.loads((folders[1] / "config.json").read_text()) | {field: 3}
    (folders[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"differ in {field} of config\.json"):
        average(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    folders = [folder(tmp_path / "a"), folder(tmp_path / "b")]
    (folders[1] / "tokenizer.json").write_text('{"other": 1}')
    with pytest.raises(CheckpointError, match=r"differ in tokenizer\.json"):
        average(folders, tmp_path / "out")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({NORM: np.ones(2, np.float16)}, rf"only one of .* has {DOWN}"),
        ({NORM: np.ones(2, np.float16), DOWN: np.ones((3, 1), np.float16)},
         rf"{DOWN} has shape \[3\] and \[3, 1\]"),
        ({NORM: np.ones(2, np.float32), DOWN: np.ones(3, np.float16)}, rf"{NORM} .* is F32"),
    ],
)  # fmt: skip
def test_other_tensors_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, np.ndarray], message: str
) -> None:
    folders = [folder(tmp_path / "a"), folder(tmp_path / "b")]
    save_file(tensors, folders[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        average(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str) -> None:
    folders = [folder(tmp_path / "a"), folder(tmp_path / "b")]
    (folders[1] / name).write_text("no")
    with pytest.raises(CheckpointError, match=f"b/{name} cannot be read"):
        average(folders, tmp_path / "out")
    (folders[1] / name).unlink()
    with pytest.raises(CheckpointError, match=f"b/{name} cannot be read"):
        average(folders, tmp_path / "out")


def test_bfloat16_is_refused_by_name(tmp_path: Path) -> None:
    folders = [folder(tmp_path / "a"), folder(tmp_path / "b")]
    header = json.dumps({NORM: {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(2)
    (folders[0] / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{NORM} .* is BF16"):
        average(folders, tmp_path / "out")


def test_one_folder_or_an_output_over_an_input_is_refused(tmp_path: Path) -> None:
    folders = [folder(tmp_path / "a"), folder(tmp_path / "b")]
    with pytest.raises(UsageError, match="two folders or more"):
        average(folders[:1], tmp_path / "out")
    with pytest.raises(UsageError, match="another folder"):
        average(folders, tmp_path / "b")
