"""`native.safetensors`: which tensors it holds for a model, and opening it without trusting it.

An ordinary safetensors file, laid out so that the engine can use it where it lies: the data begin
at a multiple of 64 bytes of the file and so does every tensor, without holes. A matrix [N, K] with
blocks of B inputs is `X.weight`, U8 [tiles of 16 outputs, blocks, 2 B bits], and `X.scales`, F16
[tiles * blocks, even, 16]; the order inside a tile stands in `edgedec.h`. Vectors and the position
tables are F32, padded with zeros to a multiple of 16; so are the kernels of a front end, as
[channels, inputs * kernel]. `{stack}.distance_bias` is T5's bias, F32 [heads, distances], a column
for each distance (`distances`) in place of a row for each bucket; `rope.{i}` are the F64
frequencies of the i-th distinct rotary positions. It knows shapes and places, not what is computed
with them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
from msgspec.structs import replace

from edgedec.architecture import Architecture, Attention, BiasTable, Layer, Rope, Stack
from edgedec.errors import BundleError, UnsupportedError
from edgedec.manifest import Format
from edgedec.rope import rotated
from edgedec.runtimes._source import most_rows
from edgedec.weights import role, shapes

if TYPE_CHECKING:
    from edgedec.bundle import Bundle

LAYOUT = 1
LINE = 64
TILE = 16
DISTANCE_BIAS = "distance_bias"
BLOCKS = (32, 64, 128)
BITS = {"int8": 8, "int4": 4}
ITEM_BYTES = {"U8": 1, "F16": 2, "F32": 4, "F64": 8}
MAX_HEAD = 1024
MAX_HEADER = 64 << 20
MAX_SIZE = 2**31 - 1
"""The engine counts outputs, inputs and rows in 32 bits."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """How a tensor is stored."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Place(Tensor):
    """A tensor in the file; `offset` counts from the file's beginning."""

    offset: int


@dataclass(frozen=True, slots=True)
class Packed:
    """An opened file: its bytes, mapped and never written, and where the tensors lie."""

    data: mmap.mmap
    tensors: Mapping[str, Place]


# --- what a model's file holds -------------------------------------------------------------------


def check(architecture: Architecture) -> None:
    """Refuse what the engine does not run.

    Raises:
        UnsupportedError: names the part.
    """
    found = dict.fromkeys(what for what, there in _problems(architecture) if there)
    if found:
        raise UnsupportedError(
            f"the native form cannot carry {', '.join(found)} ({architecture.family})"
        )
    for prefix, stack in stacks(architecture).items():
        table, rows = stack.positions, _most(architecture, prefix)
        if table is not None and table.count < rows:
            what = "source" if prefix == "encoder" else "context"
            raise UnsupportedError(
                f"a {what} of {rows} rows needs more than the {table.count} positions there are: "
                f"give a shorter --{what}"
            )


def _problems(architecture: Architecture) -> Iterator[tuple[str, bool]]:
    width = architecture.embed.dim
    yield f"a width of {width}, no multiple of {TILE}", width % TILE != 0
    for stack in stacks(architecture).values():
        for layer in stack.layers:
            yield from _attention_problems(layer.self_attention)
            if layer.cross_attention is not None:
                yield from _attention_problems(layer.cross_attention)


def _attention_problems(attention: Attention) -> Iterator[tuple[str, bool]]:
    rope, norm, table = attention.rope, attention.qk_norm, attention.bias_table
    width = attention.head_dim
    yield f"heads of {width}", width > MAX_HEAD
    layered = norm is not None and norm.kind == "layer"
    yield f"a LayerNorm over heads of {width}", layered and width % TILE != 0
    beyond = rope is not None and not 0 < rope.fraction <= 1
    yield "rotary positions over more than a head", beyond
    near = 0 if table is None else table.buckets // (4 if table.bidirectional else 2)
    crowded = table is not None and table.max_distance <= max(near, 1)
    yield "a position bias table whose distances end before its buckets", crowded
    yield "a soft cap on biased scores", table is not None and attention.softcap is not None


def stacks(architecture: Architecture) -> dict[str, Stack]:
    """The stacks that there are, by the prefix of their tensors."""
    found = {} if architecture.encoder is None else {"encoder": architecture.encoder}
    return {**found, "decoder": architecture.decoder}


def _most(architecture: Architecture, prefix: str) -> int:
    """The most rows that a stack sees at once."""
    return most_rows(architecture) if prefix == "encoder" else architecture.limits.context


def format_problem(architecture: Architecture, format_of: Callable[[str], Format]) -> str | None:
    """Why matrices in these formats cannot be packed, or None; names the first one."""
    for name in shapes(architecture):
        form = format_of(name)
        if role(name) and (form.kind not in BITS or form.block not in BLOCKS):
            return f"{name} is {form}; the native form holds int4 and int8 in blocks of 32 to 128"
    for prefix, stack in stacks(architecture).items():
        for index, layer in enumerate(stack.layers):
            for group in _read_together(f"{prefix}.layers.{index}", layer):
                if len({format_of(name).block for name in group}) > 1:
                    return f"{', '.join(group)} have different blocks; the native form needs one"
    return None


def _read_together(prefix: str, layer: Layer) -> Iterator[list[str]]:
    """Matrices that multiply the same packed rows."""
    yield [f"{prefix}.self_attention.{part}.weight" for part in "qkv"]
    if layer.cross_attention is not None:
        yield [f"{prefix}.cross_attention.{part}.weight" for part in "kv"]
    if layer.mlp.gated:
        yield [f"{prefix}.mlp.{part}.weight" for part in ("gate", "up")]


def _size_problem(architecture: Architecture) -> str | None:
    large = [name for name, shape in shapes(architecture).items() if max(shape) > MAX_SIZE]
    return f"{large[0]} is larger than the engine can count" if large else None


def turned(rope: Rope | None) -> Rope | None:
    """Rotary positions as the engine counts them: from 0, which is the same but for rounding.

    Rotary attention depends on differences of positions only.
    """
    return None if rope is None else replace(rope, positions="absolute")


def stack_ropes(stack: Stack) -> list[tuple[Rope, int]]:
    """The distinct rotary positions of a stack with their head widths, as they come."""
    attentions = [layer.self_attention for layer in stack.layers]
    kinds = dict.fromkeys((turned(a.rope), a.head_dim) for a in attentions)
    return [(rope, width) for rope, width in kinds if rope is not None]


def ropes(architecture: Architecture) -> dict[tuple[Rope, int], int]:
    """Those of the whole model, the decoder's first, with the numbers of their tensors."""
    parts = [architecture.decoder, *([architecture.encoder] if architecture.encoder else [])]
    kinds = dict.fromkeys(kind for stack in parts for kind in stack_ropes(stack))
    return {kind: index for index, kind in enumerate(kinds)}


def distances(architecture: Architecture, prefix: str, table: BiasTable) -> range:
    """The distances, key less query, for which a stack's biases are stored.

    All beyond either end have the bias of that end.
    """
    reach = min(table.max_distance, _most(architecture, prefix))
    return range(-reach, -reach + _up(reach * (1 + table.bidirectional) + 1, TILE))


def tensors(architecture: Architecture, format_of: Callable[[str], Format]) -> dict[str, Tensor]:
    """Every tensor of the file, in its order: that in which a step reads them."""
    found: dict[str, Tensor] = {}
    for name, shape in shapes(architecture).items():
        prefix, _, leaf = name.rpartition(".")
        if role(name):
            found |= _matrix(name, shape, format_of(name))
        elif leaf == "bias_table":
            found[f"{prefix}.{DISTANCE_BIAS}"] = _biases(architecture, prefix)
        elif leaf == "kernel":
            found[name] = Tensor("F32", (shape[0], _up(math.prod(shape[1:]), TILE)))
        else:
            found[name] = Tensor("F32", (*shape[:-1], _up(shape[-1], TILE)))
    for (rope, width), index in ropes(architecture).items():
        found[f"rope.{index}"] = Tensor("F64", (_up(rotated(rope, width) // 2, 8),))
    return found


def _biases(architecture: Architecture, prefix: str) -> Tensor:
    attention = stacks(architecture)[prefix].layers[0].self_attention
    assert attention.bias_table is not None  # else there were no such tensor
    count = len(distances(architecture, prefix, attention.bias_table))
    return Tensor("F32", (attention.heads, count))


def scales_of(weight: str) -> str:
    """The name of the scales of a matrix."""
    return f"{weight.removesuffix('.weight')}.scales"


def _matrix(name: str, shape: tuple[int, ...], form: Format) -> dict[str, Tensor]:
    block = form.block or BLOCKS[0]
    tiles, blocks = -(-shape[0] // TILE), -(-shape[1] // block)
    return {
        name: Tensor("U8", (tiles, blocks, TILE * block * form.bits // 8)),
        scales_of(name): Tensor("F16", (_up(tiles * blocks, 2), TILE)),
    }


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


# --- opening -------------------------------------------------------------------------------------

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    shape: Annotated[tuple[Natural, ...], msgspec.Meta(max_length=8)]
    data_offsets: tuple[Natural, Natural]


def open_packed(bundle: Bundle) -> Packed:
    """Map the file of a bundle after checking its header; nothing else of it is read.

    Raises:
        BundleError: no native form, one of another layout, or a file that is not exactly this
            model's; names the tensor.
        UnsupportedError: the engine does not run this architecture.
    """
    form, architecture = bundle.manifest.forms.native, bundle.manifest.architecture
    if form is None:
        raise BundleError(f"{bundle.path.name} has no native form: export it again")
    if form.layout != LAYOUT:
        raise BundleError(
            f"{bundle.path.name}: {form.file} has the layout {form.layout}, this edgedec reads "
            f"{LAYOUT}: update edgedec or export it again"
        )
    check(architecture)
    problem = format_problem(architecture, bundle.manifest.format_of)
    problem = problem or _size_problem(architecture)
    if problem:
        raise BundleError(f"{bundle.path.name}: {problem}: export it again")
    path = bundle.file(form.file)
    expected = tensors(architecture, bundle.manifest.format_of)
    try:
        with path.open("rb") as file:
            places = _places(file, path, expected)
            return Packed(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), places)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be mapped: {error}") from None


def _places(file: BinaryIO, path: Path, expected: Mapping[str, Tensor]) -> dict[str, Place]:
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise BundleError(
            f"{path} has {size} bytes and says that its header has {length}: it is cut off or is "
            "no safetensors file"
        )
    start = 8 + length
    if start % LINE:
        raise BundleError(f"{path}: its data begin at byte {start}, no multiple of {LINE}")
    header = _header(file.read(length), path)
    _check_names(path, header, expected)
    places: dict[str, Place] = {}
    for name, entry in header.items():
        wanted = expected[name]
        _check_entry(path, name, entry, wanted)
        places[name] = Place(wanted.dtype, wanted.shape, start + entry.data_offsets[0])
    _check_places(path, places, start, size)
    return places


def _header(text: bytes, path: Path) -> dict[str, _Entry]:
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        return {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: its header cannot be read: {error}") from None


def _check_names(path: Path, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    for names, what in (
        (expected.keys() - found.keys(), "is missing"),
        (found.keys() - expected.keys(), "is none of this model's tensors"),
    ):
        if names:
            raise BundleError(f"{path}: {min(names)[:80]!r} {what}: export the model again")


def _check_entry(path: Path, name: str, entry: _Entry, wanted: Tensor) -> None:
    first, end = entry.data_offsets
    if (entry.dtype, entry.shape) != (wanted.dtype, wanted.shape):
        found = f"{entry.dtype!r} {list(entry.shape)}"
        raise BundleError(f"{path}: {name} is {found}, this model needs {wanted}")
    if end - first != wanted.size:
        raise BundleError(f"{path}: {name} has {end - first} bytes, {wanted} has {wanted.size}")
    if first % LINE:
        raise BundleError(f"{path}: {name} begins at byte {first} of the data, not at a {LINE}th")


def _check_places(path: Path, places: Mapping[str, Place], start: int, size: int) -> None:
    end = start
    for name, place in sorted(places.items(), key=lambda item: item[1].offset):
        if place.offset != end:
            how = "overlaps another tensor" if place.offset < end else "leaves a hole before it"
            raise BundleError(f"{path}: {name} {how}: export the model again")
        end += place.size
        if end > size:
            raise BundleError(f"{path} has {size} bytes, but {name} ends at {end}: it is cut off")
    if end != size:
        raise BundleError(f"{path} has {size} bytes, its tensors end at {end}: copy it again")
