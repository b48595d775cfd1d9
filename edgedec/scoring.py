"""How likely a model finds a text, token by token. Knows nothing about the text itself."""

from __future__ import annotations

from collections.abc import Sequence

from edgedec import draft, sampling
from edgedec.contracts import Capabilities, Session

CHUNK = 64
"""Rows with logits per step: each takes one float per token of the vocabulary."""


def logprobs(session: Session, capabilities: Capabilities, tokens: Sequence[int]) -> list[float]:
    """The log probability (nats) of each token but the first, given all before it.

    The session must be empty; it holds all tokens but the last when done.
    """
    widths, chunk = capabilities.row_widths, draft.width(capabilities, CHUNK)
    found: list[float] = []
    for start in range(0, len(tokens) - 1, chunk):
        part = tokens[start : min(start + chunk, len(tokens) - 1)]
        result = session.step(draft.rows(part, draft.empty(), widths))
        found += [
            sampling.logprobs(result.logits(row), tokens[start + row + 1]).token
            for row in range(len(part))
        ]
        session.keep([result.handles[len(part) - 1]])
    return found
