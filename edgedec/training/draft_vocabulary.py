"""The tokens that a trained head can guess: the frequent ones, since a head's product is dear.

It knows token ids and distributions over them, no head and no model. FR-Spec (2502.14856) has the
measurements: most of what a text says lies in a small part of a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedec.errors import InputError

if TYPE_CHECKING:
    from edgedec.contracts import Ints

MOST = 2048
"""How many ids are taken where these cover enough of the texts."""
COVERED = 0.99
"""The share of the texts' tokens that must be among them."""


def frequent(
    texts: Iterable[Sequence[int] | Ints],
    vocab: int,
    most: int = MOST,
    covered: float = COVERED,
    always: Sequence[int] = (),
) -> Ints:
    """The most frequent ids of the texts, rising.

    There are `most` of them, or the whole vocabulary if that has fewer; more where those do not
    cover the share `covered` of the texts. `always` are among them (ids that end a text).

    Raises:
        InputError: the texts are empty, or hold an id outside of the vocabulary.
    """
    counts = np.zeros(vocab, np.int64)
    for text in texts:
        ids = np.asarray(text, np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab:
            raise InputError(f"a text has an id outside of the vocabulary of {vocab} tokens")
        counts += np.bincount(ids, minlength=vocab)
    if not counts.any():
        raise InputError("the texts to learn from have no tokens: give texts")
    order = np.argsort(-counts, kind="stable")
    reached = np.cumsum(counts[order]) / counts.sum()
    enough = int(np.searchsorted(reached, covered)) + 1
    chosen = order[: max(min(most, vocab), enough)]
    return np.union1d(chosen, np.asarray(always, np.int64)).astype(np.int32)


class DraftVocabulary(nn.Module):
    """V' ids of a model with V of them, `ids` [V'] rising.

    They are a buffer: a checkpoint of another draft vocabulary does not fit.
    """

    ids: Tensor
    places: Tensor

    def __init__(self, ids: Ints, vocab: int) -> None:
        super().__init__()
        known = torch.as_tensor(np.asarray(ids), dtype=torch.long)
        places = torch.full((vocab,), -1, dtype=torch.long)
        places[known] = torch.arange(len(known))
        self.register_buffer("ids", known)
        self.register_buffer("places", places, persistent=False)

    def __len__(self) -> int:
        return len(self.ids)

    def array(self) -> Ints:
        """The ids as a part stores them [V']."""
        found: Ints = self.ids.cpu().numpy().astype(np.int32)
        return found

    def rows(self, table: Tensor) -> Tensor:
        """The rows [V', ...] of a table over the whole vocabulary, as a new tensor."""
        return table.detach()[self.ids].clone()

    def targets(self, logits: Tensor, hard: float = 0.5) -> Tensor:
        """What a head is to say [..., V'], from the teacher's logits [..., V].

        A mix of the teacher's probabilities and, by the share `hard`, its first choice. It adds up
        to what this vocabulary holds of it: where the teacher is elsewhere, a position counts less.
        """
        with torch.no_grad():
            found = logits.float().softmax(-1)[..., self.ids].mul_(1 - hard)
            best = self.places[logits.argmax(-1)]
            inside = (best >= 0).to(found.dtype).mul_(hard)
            return found.scatter_add_(-1, best.clamp(min=0)[..., None], inside[..., None])

    def tokens(self, guessed: Tensor) -> Tensor:
        """The ids [...] that a head's logits [..., V'] put first."""
        return self.ids[guessed.argmax(-1)]


def distance(guessed: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The mean cross-entropy of a head's logits [n, V'] to targets [n, V'], by weights [n]."""
    each = F.cross_entropy(guessed.float(), targets, reduction="none")
    return (each * weights).sum() / weights.sum().clamp(min=1e-6)


def distance_to(guessed: Tensor, places: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """`distance` where targets are given as their largest `shares` [n, k] at `places` [n, k]."""
    whole = guessed.float().logsumexp(-1, keepdim=True)
    each = (shares * (whole - guessed.float().gather(1, places))).sum(-1)
    return (each * weights).sum() / weights.sum().clamp(min=1e-6)
