"""What stands before an encoder that hears: features [n, F] -> its rows [m, D].

Convolutions over time in numpy, each as one matrix product over windows. The one implementation
for every runtime whose graph does not hold the front end; it knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Conv, Frontend
from edgedec.errors import InputError, UsageError
from edgedec.gelu import gelu

Floats = NDArray[np.float32]

_ROWS = 512
"""Windows of a convolution in memory at a time: each repeats its inputs kernel / stride times."""


def rows(frontend: Frontend, weights: Mapping[str, Floats], features: Floats) -> Floats:
    """The encoder's rows [m, D] of features [n, F].

    `weights` are named as in `edgedec.weights`, without "frontend.": `0.kernel`
    [channels, inputs, kernel], `0.bias`, `0.norm.weight`, `0.norm.bias`, `1.kernel` and so on.

    Raises:
        InputError: too few frames for one row.
        UsageError: features of another shape than the front end reads.
    """
    x = np.asarray(features, np.float32)
    if x.ndim != 2 or x.shape[1] != frontend.features:
        raise UsageError(
            f"the features have the shape {list(x.shape)}; this model reads "
            f"[frames, {frontend.features}]"
        )
    if frontend.length is not None and len(x) != frontend.length:
        raise UsageError(
            f"the features have {len(x)} frames; this model reads exactly {frontend.length}: "
            "pad or cut the sound"
        )
    if frontend.rows(len(x)) < 1:
        raise InputError(f"the sound has {len(x)} frames: too short for this model to read")
    for index, conv in enumerate(frontend.convs):
        x = convolve(x, conv, weights[f"{index}.kernel"], weights.get(f"{index}.bias"))
        x = gelu(x) if conv.activation == "gelu" else np.tanh(x)
        if conv.group_norm is not None:
            scale, shift = weights[f"{index}.norm.weight"], weights[f"{index}.norm.bias"]
            x = _group_norm(x, conv.group_norm) * scale + shift
    return np.ascontiguousarray(x, np.float32)


def convolve(x: Floats, conv: Conv, kernel: Floats, bias: Floats | None) -> Floats:
    """A convolution over time [n, inputs] -> [m, channels], zeros beyond both ends."""
    padded = np.pad(x, ((conv.padding, conv.padding), (0, 0)))
    # [m, inputs, kernel], a view; each window then meets every kernel in one product.
    windows = np.lib.stride_tricks.sliding_window_view(padded, conv.kernel, axis=0)[:: conv.stride]
    matrix = kernel.reshape(conv.channels, -1).T
    result = np.empty((len(windows), conv.channels), np.float32)
    for first in range(0, len(windows), _ROWS):
        part = windows[first : first + _ROWS]
        result[first : first + _ROWS] = part.reshape(len(part), -1) @ matrix
    if bias is not None:
        result += bias
    return result


def _group_norm(x: Floats, eps: float) -> Floats:
    """GroupNorm with one group (1803.08494): over all times and channels at once."""
    # In double precision: a sum over a minute of sound has tens of millions of terms.
    mean = x.mean(dtype=np.float64)
    centred = x - np.float32(mean)
    spread = np.square(centred).mean(dtype=np.float64)
    return centred / np.float32(np.sqrt(spread + eps))
