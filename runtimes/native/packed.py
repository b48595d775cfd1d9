"""`native.safetensors`: which tensors it holds for a model, and opening it without trusting it.

A file as `edgedec.mapped` lays it out, so that the engine can use it where it lies. A matrix
[N, K] with blocks of B inputs is `X.weight`, U8 [tiles of 16 outputs, blocks, 2 B bits], and
`X.scales`, F16 [tiles * blocks, even, 16]; the order inside a tile stands in `edgedec.h`. Vectors
and the position tables are F32, padded with zeros to a multiple of 16; so are the kernels of a
front end, as [channels, inputs * kernel]. `{stack}.distance_bias` is T5's bias, F32 [heads,
distances], a column for each distance (`distances`) in place of a row for each bucket; `rope.{i}`
are the F64 frequencies of the i-th distinct rotary positions. It knows shapes and places, not what
is computed with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgedec import mapped
from edgedec.architecture import Architecture, Attention, BiasTable, Layer, Rope, Stack
from edgedec.errors import BundleError, UnsupportedError
from edgedec.manifest import Format
from edgedec.mapped import Mapped, Tensor, open_mapped
from edgedec.parts import IDS, Contents
from edgedec.rope import rotated
from edgedec.runtimes._source import most_rows
from edgedec.weights import role, shapes

if TYPE_CHECKING:
    from edgedec.bundle import Bundle

LAYOUT = 1
TILE = 16
DISTANCE_BIAS = "distance_bias"
BLOCKS = (32, 64, 128)
BITS = {"int8": 8, "int4": 4}
MAX_HEAD = 1024
MAX_SIZE = 2**31 - 1
"""The engine counts outputs, inputs and rows in 32 bits."""


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


def part_tensors(contents: Contents) -> dict[str, Tensor]:
    """Every tensor of a trained part's file (`edgedec.parts`), in its order.

    Raises:
        UnsupportedError: the engine does not run what they are; names the part.
    """

    form, own = contents.format, contents.architecture
    if form.kind not in BITS or form.block not in BLOCKS:
        raise UnsupportedError(f"its matrices are {form}, not int4 or int8 in blocks")
    found: dict[str, Tensor] = {}
    groups = [_matrix(f"{name}.weight", size, form) for name, size in contents.matrices.items()]
    for name, shape in contents.vectors.items():
        groups.append({name: Tensor("F32", (*shape[:-1], _up(shape[-1], TILE)))})
    if contents.ids:
        groups.append({IDS: Tensor("I32", (_up(contents.ids, TILE),))})
    if own is not None:
        _check_layers(own, lambda name: form)
        groups.append(tensors(own, lambda name: form))
    for group in groups:
        both = found.keys() & group.keys()
        if both:
            raise UnsupportedError(f"it has two tensors {min(both)}")
        found |= group
    return found


def _check_layers(architecture: Architecture, format_of: Callable[[str], Format]) -> None:
    check(architecture)
    problem = format_problem(architecture, format_of) or _size_problem(architecture)
    if problem is not None:
        raise UnsupportedError(problem)


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


def open_packed(bundle: Bundle) -> Mapped:
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
    expected = tensors(architecture, bundle.manifest.format_of)
    return open_mapped(bundle.file(form.file), lambda metadata: expected, mapped.MODEL)
