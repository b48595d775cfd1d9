"""Whether a row is the same, bit for bit, whatever shares its step: found out by trying.

It depends on the kernels that ONNX Runtime has for a number of rows, so on its version, on the
processor, and on the formats and shapes of a model's matrices; nobody tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import Rows

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints

    from .session import OnnxSession

WIDTHS = (8, 1, 2, 3, 5)
"""Rows are made in tiles of up to 4, or 12 with heads that share a key. The first two widths differ
where any do, which spares a model that is not steady the others."""


def is_steady(session: OnnxSession) -> bool:
    """Try it with an empty session, which is left with some text in it."""
    most, model = max(WIDTHS), session.model
    tokens = np.random.default_rng(0).integers(0, model.vocab, min(most, model.limits.context))
    known: Floats | None = None
    for width in WIDTHS:
        session.truncate(0)
        for first in range(0, len(tokens), width):
            found = _step(session, tokens[first : first + width].astype(np.int32))
            if known is None:
                known = found
            elif not np.array_equal(found, known[first : first + len(found)]):
                return False
    return True


def _step(session: OnnxSession, tokens: Ints) -> Floats:
    """Run and keep a chain; its logits [n, V]."""
    result = session.step(Rows(tokens, np.arange(-1, len(tokens) - 1, dtype=np.int32)))
    session.keep([len(tokens) - 1])
    return np.stack([result.logits(row) for row in range(len(tokens))])
