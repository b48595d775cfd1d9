"""What an encoder may be given, checked before it runs, and the name by which it is known again.

It knows the architecture's limits, no graph and no session.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec.architecture import Architecture, Frontend
from edgedec.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Floats, Ints

NOT_ENCODED = "this model reads a source: call encode before the first step"
"""Why a step is refused (UsageError) that comes before the source."""


def longest(architecture: Architecture) -> int:
    """The longest source, in tokens or frames."""
    limits = architecture.limits
    return limits.context if limits.source is None else limits.source


def most_rows(architecture: Architecture) -> int:
    """The most rows an encoder can give; 0 for a model without one."""
    if architecture.encoder is None:
        return 0
    frames, frontend = longest(architecture), architecture.frontend
    return frames if frontend is None else frontend.rows(frames)


def checked(source: NDArray[Any], architecture: Architecture) -> Ints | Floats:
    """The source as the encoder reads it: int32 ids [s], or float32 features [n, F].

    Raises:
        InputError: it is empty, too short to give a row, longer than the model's limit, or holds
            numbers that are not finite.
        UsageError: the model has no encoder, or the source has another form than it reads.
    """
    if architecture.encoder is None:
        raise UsageError("this model has no encoder: give it a prompt only")
    array = np.asarray(source)
    if array.ndim and not len(array):
        raise InputError("the source is empty: give it at least one token or frame")
    frontend = architecture.frontend
    found = _ids(array, architecture) if frontend is None else _features(array, frontend)
    limit = longest(architecture)
    if len(found) > limit:
        what = "tokens" if frontend is None else "frames"
        raise InputError(
            f"the source has {len(found)} {what}, the model reads at most {limit}: shorten it"
        )
    if frontend is not None:
        _check_frames(len(found), frontend)
    return found


def key_of(source: NDArray[Any]) -> str:
    """A digest of a checked source: equal for equal type, shape and numbers."""
    digest = hashlib.blake2b(f"{source.dtype.str}{source.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(source).data)
    return digest.hexdigest()


def _ids(array: NDArray[Any], architecture: Architecture) -> Ints:
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UsageError(
            f"this model reads token ids [n], the source is {array.dtype} {array.shape}"
        )
    vocab = (architecture.source_embed or architecture.embed).vocab
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab:
        wrong = low if low < 0 else high
        raise UsageError(f"the source holds the id {wrong}, there are 0 to {vocab - 1}")
    return np.ascontiguousarray(array, np.int32)


def _features(array: NDArray[Any], frontend: Frontend) -> Floats:
    fits = array.ndim == 2 and array.shape[1] == frontend.features
    if not fits or not np.issubdtype(array.dtype, np.floating):
        raise UsageError(
            f"this model reads features [n, {frontend.features}] of sound, the source is "
            f"{array.dtype} {array.shape}"
        )
    if not np.isfinite(array).all():
        raise InputError("the source holds numbers that are not finite: the sound is damaged")
    return np.ascontiguousarray(array, np.float32)


def _check_frames(count: int, frontend: Frontend) -> None:
    if frontend.length is not None and count != frontend.length:
        raise UsageError(
            f"the source has {count} frames, this model reads {frontend.length}: bring it to that "
            "length"
        )
    if frontend.rows(count) < 1:
        raise InputError(f"the source is too short: {count} frames give the encoder nothing")
