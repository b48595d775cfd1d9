"""T5's buckets of distances (1910.10683, section 2.1): which row of a bias table a pair reads.

Knows the spec's `BiasTable` and nothing about models, tensors or runtimes. Everything that adds a
relative bias reads its buckets from here, so that all forms of a model agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedec.architecture import BiasTable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Ints = NDArray[np.int32]


def buckets(table: BiasTable, distances: ArrayLike) -> Ints:
    """The bucket of every distance, of the same shape; a distance is the key's position - the
    query's, so the past is negative.

    Small distances have a bucket each, those up to `max_distance` share buckets that grow as the
    logarithm, and all beyond share the last. A bidirectional table gives half of its buckets to
    each direction; else what lies ahead counts as distance 0.
    """
    ahead = np.asarray(distances, dtype=np.int64)
    count, first = table.buckets, np.zeros_like(ahead)
    if table.bidirectional:
        count //= 2
        first = np.where(ahead > 0, count, 0)
        far = np.abs(ahead)
    else:
        far = np.maximum(-ahead, 0)
    exact = count // 2
    # In float32, as everywhere: where a logarithm falls on a whole number, rounding decides.
    ratio = np.maximum(far, max(exact, 1)).astype(np.float32) / np.float32(max(exact, 1))
    grown = np.log(ratio) / np.float32(np.log(table.max_distance / max(exact, 1)))
    coarse = exact + (grown * np.float32(count - exact)).astype(np.int64)
    near = far < exact
    return (first + np.where(near, far, np.minimum(coarse, count - 1))).astype(np.int32)
