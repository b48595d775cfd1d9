"""A trained part's double in another shape: the same matrices and layers, random, as large there.

Time does not depend on the numbers, so they are drawn as they are stored, which takes no time. It
knows what a part's file holds and how it is laid out, and no strategy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from edgedec import parts
from edgedec.architecture import Architecture, Embedding, Head, Limits
from edgedec.bundle import Bundle, cache_folder
from edgedec.errors import WriteError
from edgedec.mapped import DTYPES, Tensor, layout
from edgedec.parts import Contents
from edgedec.replacing import replacing
from edgedec.runtimes.native import packed

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_IDS = 8192
"""A large vocabulary is drafted from so many ids at least, however few a small one needs."""

SPREAD = 0.02


def scaled(contents: Contents, real: Architecture, bundle: Bundle) -> Contents:
    """What a part of `real` would hold for the bundle of a shape.

    Sizes that are multiples of the width stay so many times it; layers are as the shape's own.
    """
    shape = bundle.manifest.architecture
    ids = min(shape.vocab, max(contents.ids, LEAST_IDS)) if contents.ids else 0
    own = contents.architecture

    def size(old: int) -> int:
        times, rest = divmod(old, real.embed.dim)
        return old if rest else times * shape.embed.dim

    matrices = {name: (size(n), size(k)) for name, (n, k) in contents.matrices.items()}
    vectors = {name: tuple(map(size, old)) for name, old in contents.vectors.items()}
    if parts.HEAD in matrices:
        matrices[parts.HEAD] = (ids or shape.vocab, shape.embed.dim)
    vectors |= {
        bias: (n,) for name, (n, _) in matrices.items() if (bias := f"{name}.bias") in vectors
    }
    return replace(
        contents,
        bundle=bundle.hash,
        ids=ids,
        matrices=matrices,
        vectors=vectors,
        architecture=own and _layers(own, shape, ids),
    )


def _layers(own: Architecture, shape: Architecture, ids: int) -> Architecture:
    layer = replace(shape.decoder.layers[0], cross_attention=None)
    return replace(
        own,
        embed=Embedding(vocab=ids or shape.vocab, dim=shape.embed.dim),
        decoder=replace(shape.decoder, layers=(layer,) * own.layers),
        head=Head(tied=True),
        limits=Limits(context=shape.limits.context),
    )


def random_part(contents: Contents) -> Path:
    """The file of a part with such contents, from the user's cache or made now.

    Raises:
        WriteError: the cache cannot be written.
    """
    metadata = parts.encode(contents)
    digest = hashlib.blake2b("".join(metadata.values()).encode(), digest_size=8).hexdigest()
    path = cache_folder() / "bench" / "parts" / digest / f"{contents.strategy}.safetensors"
    if path.exists():
        return path
    tensors = packed.part_tensors(contents)
    header, places = layout(tensors, metadata)
    random = np.random.default_rng(0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            file.write(header)
            for name in places:
                file.write(_numbers(name, tensors[name], random).tobytes())
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}") from None
    return path


def _numbers(name: str, tensor: Tensor, random: np.random.Generator) -> NDArray[Any]:
    """What a tensor could hold."""
    kind, shape = np.dtype(DTYPES[tensor.dtype]), tensor.shape
    if tensor.dtype == "U8":
        return random.integers(0, 128, shape, np.uint8)
    if tensor.dtype == "F16":
        return np.full(shape, SPREAD / 64, kind)
    if tensor.dtype == "I32":
        return np.arange(shape[0], dtype=np.int32)
    if tensor.dtype == "F64":
        return np.geomspace(1, 1e-4, shape[0])
    centre = np.float32("norm" in name and not name.endswith(".bias"))
    return centre + np.float32(SPREAD) * random.standard_normal(shape, np.float32)
