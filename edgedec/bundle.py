"""Bundles as folders: found, checked, opened, and written so that none is ever half there.

A bundle may come from anywhere, so nothing in it is trusted: every path must stay inside the
folder, every size is checked at each open, and every hash once per file version. It knows nothing
about what the files contain.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import msgspec
import platformdirs

from edgedec import manifest as manifests
from edgedec.errors import BundleError, WriteError
from edgedec.manifest import File, Manifest
from edgedec.mapped import forget
from edgedec.replacing import replacing

MAX_MANIFEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle. `hash` (hex) stands for all of its content but the data of strategies."""

    path: Path
    manifest: Manifest
    hash: str

    def file(self, name: str) -> Path:
        """The path of a file of the bundle.

        Raises:
            BundleError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path.name}: the manifest lists no file {name!r}")
        return self.path / name

    def strategy_file(self, strategy: str) -> Path | None:
        """The file that belongs to a strategy, if the manifest lists one."""
        name = f"strategies/{strategy}.safetensors"
        return self.path / name if name in self.manifest.files else None

    def verify(self) -> None:
        """Hash every file anew.

        Raises:
            BundleError: a hash differs.
        """
        for name, expected in self.manifest.files.items():
            _check_hash(self.path / name, expected, _digest(self.path / name))


def shipped() -> dict[str, Path]:
    """The bundles inside the package, by name."""
    room = Path(str(resources.files("edgedec.models.reference")))
    found = sorted(room.glob(f"*/bundle/{manifests.FILE}"))
    return {path.parent.parent.name: path.parent for path in found}


def find(name_or_path: str | Path) -> Path:
    """The folder of a shipped bundle, by its name, or of one given by path.

    Raises:
        BundleError: there is neither.
    """
    known = shipped()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path)
    try:
        if (path / manifests.FILE).is_file():
            return path
        if (path / "config.json").is_file() or path.suffix == ".bin":
            raise BundleError(
                f"{path} is a checkpoint, not a bundle: make one with `edgedec export {path}`"
            )
    except OSError as error:
        raise BundleError(f"{str(path)[:80]} cannot be read: {error.strerror}") from None
    raise BundleError(
        f"no bundle at {str(name_or_path)!r} (no {manifests.FILE}); "
        f"shipped with edgedec: {', '.join(known) or 'none'}"
    )


def open_bundle(name_or_path: str | Path) -> Bundle:
    """Open a bundle after checking its manifest, paths, sizes and (once per file) hashes.

    Raises:
        BundleError: something is missing, damaged, newer than this edgedec, or unsafe.
    """
    path = find(name_or_path)
    text = _read_manifest(path / manifests.FILE)
    manifest = manifests.decode(text)
    bundle = Bundle(path, manifest, _identity(manifest))
    for name, expected in bundle.manifest.files.items():
        _check_size(path, name, expected)
    _check_forms(bundle)
    _verify_once(bundle)
    return bundle


def _identity(manifest: Manifest) -> str:
    """The hash that stands for the model: what strategies keep in a bundle changes no word of it,
    so saved conversations and profiles stay good."""
    files = {n: file for n, file in manifest.files.items() if not n.startswith("strategies/")}
    model = msgspec.structs.replace(manifest, files=files, strategies=())
    return hashlib.sha256(manifests.encode(model)).hexdigest()


def _read_manifest(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise BundleError(f"{path} is larger than {MAX_MANIFEST >> 20} MiB: not a manifest")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def _check_size(root: Path, name: str, expected: File) -> None:
    pure = PurePosixPath(name)
    odd = any(sign in name for sign in "\\:")
    if pure.is_absolute() or ".." in pure.parts or odd or not pure.parts:
        raise BundleError(f"{root.name}: the manifest names {name!r}, a path outside the bundle")
    path = root / name
    try:
        if not path.resolve(strict=True).is_relative_to(root.resolve(strict=True)):
            raise BundleError(f"{root.name}: {name!r} is a link to a place outside the bundle")
        if not path.is_file():  # reading a pipe would wait for ever
            raise BundleError(f"{root.name}: {name} is not a file; export or copy it again")
        size = path.stat().st_size
    except OSError:
        raise BundleError(f"{root.name}: {name} is missing; export or copy it again") from None
    if size != expected.size:
        raise BundleError(
            f"{root.name}: {name} has {size} bytes, the manifest says {expected.size}; "
            "export or copy it again"
        )


def _check_forms(bundle: Bundle) -> None:
    forms = bundle.manifest.forms
    for segment in forms.onnx.segments if forms.onnx else ():
        bundle.file(segment.file)
    if forms.native is not None:
        bundle.file(forms.native.file)


def _check_hash(path: Path, expected: File, found: str) -> None:
    if found != expected.sha256:
        raise BundleError(
            f"{path.name} does not match its hash ({found[:12]} found, {expected.sha256[:12]} in "
            "the manifest): it was changed or damaged; export or copy it again"
        )


def _digest(path: Path, written: bool = False) -> str:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if path.suffix == ".safetensors":  # what `open_mapped` maps
                forget(file, written)
            return found
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


# --- hashes already checked, remembered in the user's cache --------------------------------------


def cache_folder() -> Path:
    """Where edgedec keeps what it can make anew; `EDGEDEC_CACHE` overrides the system's place."""
    return Path(os.environ.get("EDGEDEC_CACHE") or platformdirs.user_cache_path("edgedec"))


def _verify_once(bundle: Bundle) -> None:
    store = cache_folder() / "verified.json"
    known = _remembered(store)
    fresh: dict[str, str] = {}
    for name, expected in bundle.manifest.files.items():
        path = bundle.path / name
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"
        if known.get(key) != expected.sha256:
            found = _digest(path)
            _check_hash(path, expected, found)
            fresh[key] = found
    if fresh:
        _remember(store, known | fresh)


def _remembered(store: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(store.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _remember(store: Path, entries: dict[str, str]) -> None:
    # A cache that cannot be written only costs time.
    with suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        with replacing(store) as partial:
            partial.write_bytes(msgspec.json.encode(dict(list(entries.items())[-4096:])))


# --- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BundleWriter:
    """A bundle in the making: put files under `path`, then call `finish`."""

    path: Path

    def finish(self, manifest: Manifest, listed: Collection[str] | None = None) -> Manifest:
        """Hash what was written, fill in `files` (None: all that is there), write the manifest."""
        files = {
            path.relative_to(self.path).as_posix(): File(
                size=path.stat().st_size, sha256=_digest(path, written=True)
            )
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
            and path.name != manifests.FILE
            and (listed is None or path.relative_to(self.path).as_posix() in listed)
        }
        done = msgspec.structs.replace(manifest, files=files)
        (self.path / manifests.FILE).write_bytes(manifests.encode(done))
        return done


@contextmanager
def write_bundle(target: Path, force: bool = False) -> Iterator[BundleWriter]:
    """Write a bundle in a temporary folder beside `target`, and move it there when complete.

    Whatever goes wrong, Ctrl-C included, the target stays as it was and nothing else is left.

    Raises:
        WriteError: the target exists (and `force` is not set, or it is no bundle), the place is
            read-only, or the disk is full.
    """
    # Not named by the process: in containers what a killed one left often has the same number.
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    missing: list[Path] = []
    try:
        _check_target(target, force)
        missing += [folder for folder in target.parents if not folder.exists()]
        partial.mkdir(parents=True)
        yield BundleWriter(partial)
        _check_target(target, force)  # an export takes its time: something may stand there by now
        _move(partial, target)
    except OSError as error:
        raise _write_error(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()  # only what is empty goes, so a finished bundle keeps its parents


def add_strategies(bundle: Bundle, files: Mapping[str, Path]) -> Bundle:
    """Put data of strategies (name -> a file of theirs) into a bundle, which changes its hash.

    The bundle is replaced as a whole by one whose other files are links to, or copies of, the
    same; whatever goes wrong, the old one stays.

    Raises:
        WriteError: the place is read-only, or the disk is full.
    """
    root = bundle.path.resolve()
    with write_bundle(root, force=True) as writer:
        data = {f"strategies/{name}.safetensors": path for name, path in files.items()}
        # All that lies there comes along, listed or not: people keep notes beside their models.
        there = [path for path in root.rglob("*") if path.is_file()]
        whole = {path.relative_to(root).as_posix(): path for path in there} | data
        del whole[manifests.FILE]
        for name, path in whole.items():
            _link(path, writer.path / name)
        known = sorted({*bundle.manifest.strategies, *files})
        manifest = msgspec.structs.replace(bundle.manifest, strategies=tuple(known))
        writer.finish(manifest, {*bundle.manifest.files, *data})
    return open_bundle(bundle.path)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _check_target(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not force:
        raise WriteError(f"{target} exists already: choose another place or add --force")
    if not (target / manifests.FILE).is_file() and (target.is_file() or any(target.iterdir())):
        raise WriteError(f"{target} is not a bundle, so it is not replaced: choose another place")


def _move(partial: Path, target: Path) -> None:
    old = partial.with_suffix(".old")
    try:
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _write_error(error: OSError, target: Path) -> WriteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(f"no space left for {target}: free some room and export again")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return WriteError(f"{target.parent} cannot be written to: choose another place with -o")
    return WriteError(f"{target} cannot be written: {error.strerror or error}")
