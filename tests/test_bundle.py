"""A bundle is checked before it is used, and written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from edgedec import bundle as bundles
from edgedec import manifest as manifests
from edgedec.errors import BundleError, EdgedecError, WriteError
from edgedec.manifest import Manifest
from edgedec.mapped import LARGE, forget
from tests.test_manifest import example


@pytest.fixture
def manifest() -> Manifest:
    return manifests.decode(json.dumps(example()).encode())


@pytest.fixture
def folder(tmp_path: Path, manifest: Manifest) -> Path:
    target = tmp_path / "tiny"
    with bundles.write_bundle(target) as writer:
        (writer.path / "weights.bin").write_bytes(b"12345678")
        (writer.path / "strategies").mkdir()
        (writer.path / "strategies" / "x.safetensors").write_bytes(b"abc")
        writer.finish(manifest)
    return target


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / manifests.FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        bundles.open_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_written_opens(folder: Path) -> None:
    bundle = bundles.open_bundle(folder)
    assert set(bundle.manifest.files) == {"weights.bin", "strategies/x.safetensors"}
    assert bundle.file("weights.bin").read_bytes() == b"12345678"
    bundle.verify()
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    with pytest.raises(BundleError, match="lists no file"):
        bundle.file("other.bin")


def test_a_changed_byte_is_found_at_the_first_open_and_by_verify(folder: Path) -> None:
    bundle = bundles.open_bundle(folder)
    (folder / "weights.bin").write_bytes(b"1234567X")
    assert "does not match its hash" in refused(folder)
    with pytest.raises(BundleError, match="does not match its hash"):
        bundle.verify()


def test_a_file_is_hashed_once_per_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.open_bundle(folder)
    monkeypatch.setattr(bundles, "_digest", lambda path: pytest.fail(f"hashed {path} again"))
    bundles.open_bundle(folder)


def test_a_large_file_is_let_go_of_and_reads_as_before(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[int] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, *_: forgotten.append(os.fstat(file).st_size),
        raising=False,
    )  # fmt: skip
    large = os.urandom(LARGE + 5)
    with bundles.write_bundle(tmp_path / "large") as writer:
        (writer.path / "weights.safetensors").write_bytes(large)
        (writer.path / "small.safetensors").write_bytes(b"12345678")
        (writer.path / "decoder.onnx.data").write_bytes(large + b"more")
        writer.finish(manifest)
    assert forgotten == [len(large)]  # neither the small one nor what is not mapped
    monkeypatch.undo()
    with (tmp_path / "large" / "weights.safetensors").open("rb") as file:
        forget(file, written=True)
        assert file.read() == large


def test_an_unwritable_cache_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDEC_CACHE", str(folder / "weights.bin" / "no"))
    assert bundles.open_bundle(folder).manifest.name == "tiny"


def test_missing_and_short_files(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"123")
    assert "has 3 bytes, the manifest says 8" in refused(folder)
    (folder / "weights.bin").unlink()
    assert "weights.bin is missing" in refused(folder)


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/hostname", "a/../../b", "C:\\\\x", ""])
def test_a_path_that_leaves_the_bundle(folder: Path, name: str) -> None:
    (folder.parent / "weights.bin").write_bytes(b"12345678")
    rewrite(folder, '"weights.bin"', f'"{name}"')
    assert "outside the bundle" in refused(folder)


def test_a_link_that_leaves_the_bundle(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(b"12345678")
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(outside)
    assert "a link to a place outside" in refused(folder)


def test_a_pipe_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(folder, '"size": 8', '"size": 0')
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")
    monkeypatch.setattr(bundles, "_digest", lambda path: pytest.fail(f"would read {path}"))
    assert "weights.bin is not a file" in refused(folder)


def test_a_manifest_from_the_future(folder: Path) -> None:
    rewrite(folder, '"schema": 1', '"schema": 7')
    assert "update edgedec" in refused(folder)


def test_a_segment_that_is_not_listed(folder: Path) -> None:
    segment = '{"onnx": {"segments": [{"file": "decoder.onnx", "first": 0, "last": 1}]}}'
    rewrite(folder, '"forms": {}', f'"forms": {segment}')
    assert "decoder.onnx" in refused(folder)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    assert "no bundle at" in refused(tmp_path / "nothing")
    assert "cannot be read" in refused(tmp_path / ("x" * 5000))
    (tmp_path / "config.json").write_text("{}")
    assert "edgedec export" in refused(tmp_path)


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteError, "no space left"),
        (OSError(errno.EROFS, "Read-only file system"), WriteError, "cannot be written to"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (EdgedecError("a bad weight"), EdgedecError, "a bad weight"),
    ],
)
def test_a_failed_export_leaves_nothing(
    tmp_path: Path, error: BaseException, expected: type[BaseException], words: str
) -> None:
    with pytest.raises(expected, match=words), bundles.write_bundle(tmp_path / "a/new") as writer:
        (writer.path / "half").write_bytes(b"x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_kept_unless_forced(folder: Path, manifest: Manifest) -> None:
    before = (folder / manifests.FILE).read_bytes()
    with pytest.raises(WriteError, match="exists already"), bundles.write_bundle(folder):
        pytest.fail("must not begin")
    with pytest.raises(EdgedecError), bundles.write_bundle(folder, force=True) as writer:
        writer.finish(manifest)
        raise EdgedecError("stopped")
    assert (folder / manifests.FILE).read_bytes() == before
    with bundles.write_bundle(folder, force=True) as writer:
        writer.finish(manifest)
    assert sorted(path.name for path in folder.iterdir()) == [manifests.FILE]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_the_old_bundle_comes_back_if_the_move_is_interrupted(
    folder: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with (
        pytest.raises((KeyboardInterrupt, WriteError)),
        bundles.write_bundle(folder, force=True) as writer,
    ):
        writer.finish(manifest)
    assert (folder / "weights.bin").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_what_a_killed_export_left_is_no_obstacle(tmp_path: Path, manifest: Manifest) -> None:
    """In a container every process may have the same number."""
    (tmp_path / f".new.{os.getpid()}.partial").mkdir()
    with bundles.write_bundle(tmp_path / "new") as writer:
        writer.finish(manifest)
    assert (tmp_path / "new" / manifests.FILE).is_file()


def test_what_came_into_being_meanwhile_is_not_replaced(tmp_path: Path, manifest: Manifest) -> None:
    target = tmp_path / "new"
    late = bundles.write_bundle(target)
    with pytest.raises(WriteError, match="exists already"), late as writer:
        writer.finish(manifest)
        with bundles.write_bundle(target) as other:
            (other.path / "theirs").write_bytes(b"x")
            other.finish(manifest)
    assert (target / "theirs").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match="name too long"),
        bundles.write_bundle(tmp_path / ("x" * 300)),
    ):
        pytest.fail("must not begin")


def test_force_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    forced = bundles.write_bundle(tmp_path, force=True)
    with pytest.raises(WriteError, match="not a bundle"), forced:
        pytest.fail("must not begin")
    assert (tmp_path / "precious.txt").exists()
