"""Safetensors files that are used where they lie: written, and opened without being trusted.

An ordinary safetensors file whose data begin at a multiple of 64 bytes of the file, and so does
every tensor, without holes. Names, types, shapes and places are checked against what the file
should hold before anything reads it. It knows shapes and places, not what is computed with them.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgedec.errors import BundleError, EdgedecError, StateError

LINE = 64
DTYPES = {
    "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I32": "<i4",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
MAX_HEADER = 64 << 20
LARGE = 2 << 20
"""Bytes of a large page."""
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Tensor:
    """How a tensor is stored."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Place(Tensor):
    """A tensor in the file; `offset` counts from the file's beginning."""

    offset: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """An opened file: its bytes, mapped and never written, and where the tensors lie."""

    data: mmap.mmap
    tensors: Mapping[str, Place]

    def array(self, name: str) -> NDArray[Any]:
        """A tensor as a view of the file."""
        place = self.tensors[name]
        count = math.prod(place.shape)
        found = np.frombuffer(self.data, DTYPES[place.dtype], count, place.offset)
        return found.reshape(place.shape)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a wrong file is: the error, what its tensors should belong to, and what to do."""

    error: type[EdgedecError]
    owner: str
    remedy: str


MODEL = Trust(BundleError, "this model", "export the model again")
PART = Trust(StateError, "this part", "train it again")
HOT_START = Trust(StateError, "a hot start", "make it anew with `edgedec warm`")


def layout(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Place]]:
    """The header, padded so that the data begin at a line, and where every tensor lies."""
    entries: dict[str, object] = {METADATA: dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        offsets = [end, end + tensor.size]
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        end += tensor.size
    text = msgspec.json.encode(entries)
    text += b" " * (-(8 + len(text)) % LINE)
    places, start = {}, 8 + len(text)
    for name, tensor in tensors.items():
        places[name] = Place(tensor.dtype, tensor.shape, start)
        start += tensor.size
    return len(text).to_bytes(8, "little") + text, places


Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    shape: Annotated[tuple[Natural, ...], msgspec.Meta(max_length=8)]
    data_offsets: tuple[Natural, Natural]


def open_mapped(
    path: Path, expected: Callable[[Mapping[str, str]], Mapping[str, Tensor]], trust: Trust
) -> Mapped:
    """Map a file after checking its header; nothing else of it is read.

    `expected` says what it should hold, by its metadata, and may refuse it.

    Raises:
        EdgedecError: `trust.error`, if the file does not hold exactly that; names the tensor.
    """
    try:
        with path.open("rb") as file:
            places = _places(file, path, expected, trust)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _ask_for_large_pages(data)
            return Mapped(data, places)
    except (OSError, ValueError) as error:
        raise trust.error(f"{path} cannot be mapped: {error}") from None


def read_metadata(path: Path, trust: Trust) -> dict[str, str]:
    """What a file says of itself; nothing else of it is looked at.

    Raises:
        EdgedecError: `trust.error`, if it says nothing.
    """
    try:
        with path.open("rb") as file:
            return _header(_header_text(file, file.seek(0, 2), path, trust), path, trust)[1]
    except OSError as error:
        raise trust.error(f"{path} cannot be read: {error}") from None


def _ask_for_large_pages(data: mmap.mmap) -> None:
    """Weights in large pages are found sooner: steps take 1-3 % less (bench/LOG.md).

    Linux reads files into them on some file systems (ext4 since 6.16, xfs, btrfs), but only what
    it does not hold in small ones yet: see `forget`. Where there are none, nothing is lost.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            data.madvise(mmap.MADV_HUGEPAGE)


def forget(file: BinaryIO, written: bool = False) -> None:
    """Let the system drop what it holds of a file that was read as a whole or, if `written`, made.

    Who maps it next then gets it in large pages, if there are any.
    """
    if not hasattr(os, "posix_fadvise") or os.fstat(file.fileno()).st_size < LARGE:
        return
    with suppress(OSError):
        if written:
            os.fsync(file.fileno())  # else there is nothing that could be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _places(
    file: BinaryIO,
    path: Path,
    expected: Callable[[Mapping[str, str]], Mapping[str, Tensor]],
    trust: Trust,
) -> dict[str, Place]:
    size = file.seek(0, 2)
    text = _header_text(file, size, path, trust)
    start = 8 + len(text)
    if start % LINE:
        raise trust.error(f"{path}: its data begin at byte {start}, no multiple of {LINE}")
    header, metadata = _header(text, path, trust)
    wanted = expected(metadata)
    _check_names(path, header, wanted, trust)
    places: dict[str, Place] = {}
    for name, entry in header.items():
        _check_entry(path, name, entry, wanted[name], trust)
        offset = start + entry.data_offsets[0]
        places[name] = Place(wanted[name].dtype, wanted[name].shape, offset)
    _check_places(path, places, (start, size), trust)
    return places


def _header_text(file: BinaryIO, size: int, path: Path, trust: Trust) -> bytes:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise trust.error(
            f"{path} has {size} bytes and says that its header has {length}: it is cut off or is "
            "no safetensors file"
        )
    return file.read(length)


def _header(text: bytes, path: Path, trust: Trust) -> tuple[dict[str, _Entry], dict[str, str]]:
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        about = msgspec.json.decode(raw.pop(METADATA, b"{}"), type=dict[str, str])
        return {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}, about
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise trust.error(f"{path}: its header cannot be read: {error}") from None


def _check_names(
    path: Path, found: Mapping[str, object], expected: Mapping[str, object], trust: Trust
) -> None:
    for names, what in (
        (expected.keys() - found.keys(), "is missing"),
        (found.keys() - expected.keys(), f"is none of {trust.owner}'s tensors"),
    ):
        if names:
            raise trust.error(f"{path}: {min(names)[:80]!r} {what}: {trust.remedy}")


def _check_entry(path: Path, name: str, entry: _Entry, wanted: Tensor, trust: Trust) -> None:
    first, end = entry.data_offsets
    if (entry.dtype, entry.shape) != (wanted.dtype, wanted.shape):
        found = f"{entry.dtype!r} {list(entry.shape)}"
        raise trust.error(f"{path}: {name} is {found}, {trust.owner} needs {wanted}")
    if end - first != wanted.size:
        raise trust.error(f"{path}: {name} has {end - first} bytes, {wanted} has {wanted.size}")
    if first % LINE:
        raise trust.error(f"{path}: {name} begins at byte {first} of the data, not at a {LINE}th")


def _check_places(
    path: Path, places: Mapping[str, Place], edges: tuple[int, int], trust: Trust
) -> None:
    end, size = edges
    for name, place in sorted(places.items(), key=lambda item: item[1].offset):
        if place.offset != end:
            how = "overlaps another tensor" if place.offset < end else "leaves a hole before it"
            raise trust.error(f"{path}: {name} {how}: {trust.remedy}")
        end += place.size
        if end > size:
            raise trust.error(f"{path} has {size} bytes, but {name} ends at {end}: it is cut off")
    if end != size:
        raise trust.error(f"{path} has {size} bytes, its tensors end at {end}: copy it again")
