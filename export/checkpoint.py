"""Weights out of a checkpoint folder, tensor by tensor, in float32.

Reads safetensors by itself with plain reads: memory-mapped pages would count as resident memory,
which has to stay bounded by one tensor. Knows file formats and nothing about families; those say
where a tensor lies (`models._source`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgedec.errors import CheckpointError, UnsupportedError
from edgedec.weights import Shapes, shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.architecture import Architecture
    from edgedec.models import Source

    Floats = NDArray[np.float32]

SINGLE, INDEX, TORCH = "model.safetensors", "model.safetensors.index.json", "pytorch_model"
HEADER_LIMIT = 100_000_000
PIECE = 1 << 22
"""Items converted at a time."""

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
STORED_AS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
BUFFERS = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias",
           "attention.masked_bias", "encoder.version", "decoder.version",
           "EncDecAttention.relative_attention_bias.weight")  # fmt: skip
"""Tensors that nothing reads: masks and tables that old checkpoints carry along."""
PREFIXES = ("model", "transformer", "gpt_neox")
"""Under which a model with a head keeps everything else; bare checkpoints leave it out."""
COMPUTED = ""
"""The place of a tensor that the checkpoint does not have."""


class WeightSource(Protocol):
    """Weights under our names (`edgedec.weights`)."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        ...

    def load(self, name: str, rows: slice | None = None) -> Floats:
        """A tensor, or a range of its rows, as a new float32 array."""
        ...


class Arrays:
    """Weights that are in memory already.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or holds NaN or Inf.
    """

    def __init__(self, architecture: Architecture, arrays: Mapping[str, Floats]) -> None:
        for name, shape in shapes(architecture).items():
            if name not in arrays:
                raise CheckpointError(f"the weights have no {name}")
            _check_shape(name, arrays[name].shape, shape)
            _refuse_bad(name, int(np.count_nonzero(~np.isfinite(arrays[name]))))
        self._arrays = arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._arrays[name].shape

    def load(self, name: str, rows: slice | None = None) -> Floats:
        """A tensor, or a range of its rows, as a new float32 array."""
        return np.array(self._arrays[name][rows or slice(None)], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor's bytes are: `offset` counts from the beginning of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Checkpoint:
    """The tensors of a folder under the names they have there."""

    def __init__(self, tensors: Mapping[str, Stored]) -> None:
        self.tensors = tensors

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the headers of `model.safetensors` or of the shards that the index names.

        Raises:
            CheckpointError: no weights there, a shard is missing or a file is damaged.
            UnsupportedError: the weights are only there as pytorch_model.bin.
        """
        try:
            if (folder / INDEX).is_file():
                return cls(_read_index(folder))
            if (folder / SINGLE).is_file():
                return cls(_read_header(folder / SINGLE))
        except OSError as error:
            raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from None
        if any(folder.glob(f"{TORCH}*.bin*")):
            raise UnsupportedError(
                f"{folder} has its weights only as {TORCH}.bin, which can run code when it is "
                "opened: convert it to safetensors first"
            )
        raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}")

    def load(self, name: str, rows: slice | None = None) -> Floats:
        """Read a tensor, or a range of its rows.

        Raises:
            UnsupportedError: it is not fp32, fp16 or bf16.
            CheckpointError: the file ends early, or a value is NaN or Inf.
        """
        stored = self.tensors[name]
        if stored.dtype not in STORED_AS:
            raise UnsupportedError(
                f"{name} is stored as {stored.dtype}; supported: {', '.join(STORED_AS)}"
            )
        shape, first = stored.shape, 0
        if rows is not None:
            first, end, _ = rows.indices(shape[0])
            shape = (max(end - first, 0), *shape[1:])
        values = _read(name, stored, first * math.prod(shape[1:]), math.prod(shape))
        return values.reshape(shape)


class Weights:
    """A checkpoint seen under our names; every shape is checked before anything is read.

    Raises:
        CheckpointError: a tensor is missing, has another shape or differs from its twin.
        UnsupportedError: there are tensors that the family does not use.
    """

    def __init__(
        self, checkpoint: Checkpoint, architecture: Architecture, sources: Mapping[str, Source]
    ) -> None:
        self._checkpoint = checkpoint
        self._shapes: Shapes = shapes(architecture)
        self._sources = {name: sources[name] for name in self._shapes}
        self._places = {name: _find(checkpoint, name, self._sources[name]) for name in self}
        self._last: tuple[str, Floats] | None = None
        _check_all_known(checkpoint, set(self._places.values()), sources.values())

    def __iter__(self) -> Iterator[str]:
        """Our names in the order in which a step reads them."""
        return iter(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._shapes[name]

    def load(self, name: str, rows: slice | None = None) -> Floats:
        """A tensor, or a range of its rows, as a new float32 array.

        Raises:
            CheckpointError: the file is damaged, or a value is NaN or Inf.
            UnsupportedError: a storage type that we do not read.
        """
        source, place = self._sources[name], self._places[name]
        if source.make is not None and place == COMPUTED:
            return np.array(source.make()[rows or slice(None)], dtype=np.float32)
        if source.take is not None:
            taken = source.take(self._whole(place))
            return np.array(taken[rows or slice(None)], dtype=np.float32)
        start, end = source.rows or (0, source.shape[0])
        first, last, _ = (rows or slice(None)).indices(end - start)
        return self._checkpoint.load(place, slice(start + first, start + last))

    def _whole(self, place: str) -> Floats:
        """The last fused matrix is kept: its parts are asked for one after the other."""
        if len(self._checkpoint.tensors[place].shape) == 1:
            return self._checkpoint.load(place)
        if self._last is None or self._last[0] != place:
            self._last = None
            self._last = place, self._checkpoint.load(place)
        return self._last[1]


def _find(checkpoint: Checkpoint, ours: str, source: Source) -> str:
    """The name a tensor has in this checkpoint, with or without the model's prefix."""
    wanted = (source.name, *source.twins)
    there = _there(checkpoint, wanted)
    if not there and source.spare is not None:
        there = _there(checkpoint, (source.spare,))
    if not there and source.make is not None:
        return COMPUTED
    if not there:
        raise CheckpointError(
            f"the checkpoint has no {' or '.join(wanted)} (our {ours}): a file is missing, or its "
            "config.json is that of another model; copy it again"
        )
    for name in there:
        _check_shape(name, checkpoint.tensors[name].shape, source.shape)
    for name in there[1:]:
        if not _same(checkpoint, there[0], name):
            raise CheckpointError(
                f"{there[0]} and {name} should be the same and differ: if the head is not tied, "
                "set tie_word_embeddings to false in config.json"
            )
    return there[0]


def _there(checkpoint: Checkpoint, wanted: Iterable[str]) -> list[str]:
    """Those of the names that the checkpoint has, also without the model's prefix."""
    parts = [(name, name.partition(".")) for name in wanted]
    names = [n for name, (prefix, _, rest) in parts
             for n in ((name, rest) if prefix in PREFIXES else (name,))]  # fmt: skip
    return [name for name in dict.fromkeys(names) if name in checkpoint.tensors]


def _same(checkpoint: Checkpoint, one: str, other: str) -> bool:
    count = checkpoint.tensors[one].shape[0]
    step = max(1, PIECE * count // math.prod(checkpoint.tensors[one].shape))
    pieces = (slice(first, first + step) for first in range(0, count, step))
    return all(np.array_equal(checkpoint.load(one, p), checkpoint.load(other, p)) for p in pieces)


def _check_all_known(checkpoint: Checkpoint, read: set[str], sources: Iterable[Source]) -> None:
    twins = {twin for source in sources for twin in source.twins}
    extra = [n for n in checkpoint.tensors if n not in read | twins and not n.endswith(BUFFERS)]
    if extra:
        more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
        raise UnsupportedError(
            f"the checkpoint has tensors that its model type does not use: "
            f"{', '.join(sorted(extra)[:3])}{more}"
        )


def _check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise CheckpointError(
            f"{name} has shape {list(found)}, expected {list(expected)} by config.json: the two do "
            "not belong together; copy both again"
        )


def _refuse_bad(name: str, count: int) -> None:
    if count:
        raise CheckpointError(
            f"{name} has NaN or Inf among its numbers ({count}): the checkpoint is damaged; "
            "copy it again"
        )


def _read(name: str, stored: Stored, first: int, count: int) -> Floats:
    """Items [first, first + count) as float32; converted and checked piece by piece."""
    values = np.empty(count, dtype=np.float32)
    size, bad = ITEM_BYTES[stored.dtype], 0
    try:
        with stored.path.open("rb") as file:
            file.seek(stored.offset + first * size)
            for start in range(0, count, PIECE):
                end = min(start + PIECE, count)
                raw = np.fromfile(file, STORED_AS[stored.dtype], end - start)
                if len(raw) < end - start:
                    raise CheckpointError(
                        f"{stored.path} ends early: it was cut off or has changed"
                    )
                piece = (raw.astype("<u4") << 16).view("<f4") if stored.dtype == "BF16" else raw
                values[start:end] = piece
                bad += len(piece) - int(np.count_nonzero(np.isfinite(piece)))
    except OSError as error:
        raise CheckpointError(f"{stored.path} cannot be read: {error.strerror}") from None
    _refuse_bad(name, bad)
    return values


def _read_index(folder: Path) -> dict[str, Stored]:
    path = folder / INDEX
    places = _json(path.read_bytes(), path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise CheckpointError(f"{path} has no weight_map of tensor names to file names")
    files = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or file == ".." or "\\" in file or ":" in file:
            raise CheckpointError(f"{path} names {file!r}, which is not a file of this folder")
        if not (folder / file).is_file():
            raise CheckpointError(f"{file} is missing in {folder}, but {INDEX} names it")
        files[file] = _read_header(folder / file)
    for name, file in places.items():
        if name not in files[file]:
            raise CheckpointError(f"{file} has no tensor {name}, but {INDEX} says so")
    return {name: files[file][name] for name, file in places.items()}


def _read_header(path: Path) -> dict[str, Stored]:
    """Parse a safetensors header and check that every tensor lies inside the file, alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            raise CheckpointError(
                f"{path} has {size} bytes, its header needs {length + 8}: it is cut off or is "
                "no safetensors file"
            )
        header = _json(file.read(length), path)
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _parse(path, name, entry, start) for name, entry in header.items()}
    _check_places(path, tensors, start, size)
    return tensors


def _parse(path: Path, name: str, entry: object, start: int) -> Stored:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(first), int(end)]}:
            whole = all(type(n) is int and n >= 0 for n in shape)
            if whole and dtype not in ITEM_BYTES:
                raise UnsupportedError(f"{path}: {name} has the unknown type {dtype}")
            if whole and first >= 0 and end - first == math.prod(shape) * ITEM_BYTES[dtype]:
                return Stored(path, dtype, tuple(shape), start + first)
    raise CheckpointError(f"{path}: the header's entry for {name} contradicts itself")


def _check_places(path: Path, tensors: Mapping[str, Stored], start: int, size: int) -> None:
    end = start
    for name, stored in sorted(tensors.items(), key=lambda item: item[1].offset):
        count = math.prod(stored.shape) * ITEM_BYTES[stored.dtype]
        if stored.offset < end and count:
            raise CheckpointError(f"{path}: {name} overlaps another tensor")
        end = max(end, stored.offset + count)
        if end > size:
            raise CheckpointError(
                f"{path} has {size} bytes, but {name} ends at {end}: it is cut off; copy it again"
            )


def _json(text: bytes, path: Path) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not readable: no JSON object")
    return content
