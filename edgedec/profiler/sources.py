"""What an encoder is given while steps are measured: something of a usual size.

A decoder's step takes longer with a longer source, but little: one length stands for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Floats, Ints

USUAL_TOKENS = 128
USUAL_SAMPLES = 10 * 16_000
"""Of a source of words, and of one of sound: ten seconds."""


def usual(model: Architecture) -> Ints | Floats:
    """Ids far apart, as those of a text are, or quiet noise.

    Raises:
        ValueError: the model has no encoder.
    """
    if model.encoder is None:
        raise ValueError("this model has no encoder")
    sound = model.frontend
    if sound is None:
        vocab = (model.source_embed or model.embed).vocab
        count = min(USUAL_TOKENS, model.limits.source or USUAL_TOKENS)
        return ((np.arange(count, dtype=np.int64) * 7919 + 31) % vocab).astype(np.int32)
    count = sound.length or min(USUAL_SAMPLES, model.limits.source or USUAL_SAMPLES)
    noise = np.random.default_rng(0).normal(size=(count, sound.features))
    return (0.1 * noise).astype(np.float32)
