"""Broken sources and places that cannot be written: one line, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgedec.errors import CheckpointError, EdgedecError, UnsupportedError, WriteError
from edgedec.export import _data
from edgedec.export.pipeline import ExportOptions, export_model

Break = Callable[[Path], None]


def change(folder: Path, name: str, value: np.ndarray) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: value}, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_shard(folder: Path) -> None:
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    places["model.norm.weight"] = "model-00002-of-00002.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))


def set_config(**fields: object) -> Break:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return apply


def overwrite(name: str, text: str) -> Break:
    return lambda folder: (folder / name).write_text(text) and None


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


NAN = np.full(64, np.nan, np.float32)
BROKEN: dict[str, tuple[Break, type[EdgedecError], str]] = {
    "truncated": (truncate, CheckpointError, "cut off"),
    "missing shard": (lose_a_shard, CheckpointError, "model-00002-of-00002.safetensors is missing"),
    "no weights": (remove("model.safetensors"), CheckpointError, "neither model.safetensors"),
    "wrong shape": (
        lambda f: change(f, "model.norm.weight", np.ones(63, np.float32)),
        CheckpointError,
        r"model.norm.weight has shape \[63\], expected \[64\]",
    ),
    "NaN": (lambda f: change(f, "model.norm.weight", NAN), CheckpointError, "NaN"),
    "unknown family": (set_config(model_type="parrot"), UnsupportedError, "'parrot'.*llama"),
    "unknown field": (set_config(parrot_gate=3), UnsupportedError, "parrot_gate"),
    "no config": (remove("config.json"), CheckpointError, "config.json cannot be read"),
    "config no JSON": (overwrite("config.json", "{"), CheckpointError, "config.json .* damaged"),
    "config a list": (overwrite("config.json", "[]"), CheckpointError, "config.json .* damaged"),
    "no tokenizer": (remove("tokenizer.json"), CheckpointError, "has no tokenizer: put"),
    "tokenizer no JSON": (overwrite("tokenizer.json", "{]"), CheckpointError, "tokenizer.json"),
    "tokenizer settings": (
        overwrite("tokenizer_config.json", "nope"), CheckpointError, "tokenizer_config.json"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_source_is_named_and_nothing_is_left(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    damage, kind, message = BROKEN[name]
    damage(checkpoint)
    with pytest.raises(kind, match=message) as error:
        export_model(str(checkpoint), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_tokenizer_larger_than_the_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    content["model"]["vocab"]["zebra"] = 300
    (checkpoint / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="the model only 300"):
        export_model(str(checkpoint), tmp_path / "out")


def test_a_read_only_place_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "shelf"
    place.mkdir()
    if os.geteuid() == 0:  # root may write anywhere

        def refuse(path: Path, *_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        place.chmod(0o500)
    with pytest.raises(WriteError, match="shelf cannot be written to"):
        export_model(str(checkpoint), place / "out")
    assert list(place.iterdir()) == []


def test_a_full_disk_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def full(file: int, data: memoryview, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os_pwrite(file, data, offset)

    os_pwrite = os.pwrite
    monkeypatch.setattr(_data.os, "pwrite", full)
    with pytest.raises(WriteError, match=r"[Nn]o space left"):
        export_model(str(checkpoint), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("when", ["write", "verify"])
def test_an_interrupt_leaves_nothing(checkpoint: Path, tmp_path: Path, when: str) -> None:
    def interrupt(stage: str, share: float) -> None:
        if stage == when and share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(str(checkpoint), tmp_path / "out", progress=interrupt)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_bundle_that_computes_something_else_is_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedec.export import verify

    forward = verify.forward
    monkeypatch.setattr(verify, "forward", lambda *a, **k: forward(*a, **k) + np.float32(1) / 8)
    with pytest.raises(UnsupportedError, match="off by"):
        export_model(str(checkpoint), tmp_path / "out", ExportOptions(kind="fp32"))
    assert list(tmp_path.iterdir()) == [checkpoint]
