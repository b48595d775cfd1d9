"""What trained heads have in common: they guess from the frozen model's last hidden state.

A head learns the model's own distributions (soft) and first choices (hard) at each depth, deeper
ones counting less (Medusa's 0.8 a level, 2401.10774), with the text's real tokens in between. It
knows no schedule and no files.

Shapes: b texts, T rows, n points, D width, V' draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from msgspec.structs import replace
from torch import Tensor, nn

from edgedec.architecture import Norm
from edgedec.training.draft_vocabulary import COVERED, MOST, DraftVocabulary, distance, frequent
from edgedec.training.layers import norm
from edgedec.training.teacher import Said, Teacher
from edgedec.training.trainee import Batch, Options, Tally, Trainee, tally

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.export.to_part import PartSource
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts

STRIDE = 0.25
"""The output matrix begins where the model's own is and moves more slowly than what is new."""


@dataclass(frozen=True)
class HeadOptions(Options):
    """`depth` tokens are guessed ahead; a depth counts `fading` times the one before. `hard` is the
    share of the teacher's first choice in what is learned. The head can say the `most` most
    frequent tokens, or as many as cover the share `covered` of the texts."""

    rate: float = 4e-3
    warmup: int = 20
    decay: float = 0.01
    depth: int = 4
    fading: float = 0.8
    hard: float = 0.5
    most: int = MOST
    covered: float = COVERED


class SharedHead(nn.Module):
    """The final norm and the rows of the output matrix that the draft vocabulary has; both begin
    as the model's own and are learned."""

    start: Tensor

    def __init__(self, frozen: Frozen, vocabulary: DraftVocabulary) -> None:
        super().__init__()
        self._head, spec = frozen.architecture.head, frozen.architecture.decoder.final_norm
        table = frozen.weights["embed.weight" if self._head.tied else "head.weight"]
        bias = frozen.weights.get("head.bias")
        self.register_buffer("start", vocabulary.rows(table), persistent=False)
        self.moved = nn.Parameter(torch.zeros_like(self.start))
        self.bias = None if bias is None else nn.Parameter(vocabulary.rows(bias))
        # A part's norm holds its whole weight; where the model has none, it is this one.
        self.spec = Norm(kind="rms", eps=1e-5) if spec is None else replace(spec, offset=0.0)
        self.norm = nn.ParameterDict({"weight": _norm_weight(frozen, spec)})
        if self.spec.bias:
            self.norm["bias"] = frozen.weights["decoder.final_norm.bias"].clone()

    @property
    def matrix(self) -> Tensor:
        """The output matrix [V', D]."""
        return self.start + STRIDE * self.moved

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, V'] of rows [n, D]."""
        named = {f"norm.{name}": value for name, value in self.norm.items()}
        normed = norm(x, self.spec, named, "norm")
        logits = F.linear(normed, self.matrix, self.bias) * self._head.scale
        cap = self._head.softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def stored(self) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """The vectors and matrices of a part."""
        vectors = {"norm": array(self.norm["weight"])}
        if "bias" in self.norm:
            vectors["norm.bias"] = array(self.norm["bias"])
        if self.bias is not None:
            vectors["head.bias"] = array(self.bias)
        return vectors, {"head": array(self.matrix)}


class HeadTrainee(Trainee):
    """A head of any kind in training: a subclass says what goes into the shared head."""

    strategy: ClassVar[str]

    def __init__(self, frozen: Frozen, options: HeadOptions, texts: Texts) -> None:
        super().__init__()
        self._frozen, self._options = frozen, options
        written = (text.tokens[text.prompt :] for text in texts.trained)
        ids = frequent(written, frozen.vocab, options.most, options.covered)
        self.vocabulary = DraftVocabulary(ids, frozen.vocab)
        self.shared = SharedHead(frozen, self.vocabulary)
        self._teacher = Teacher(frozen, self.vocabulary, options.hard)
        # Matrices are stored for embeddings as they are.
        self.scale = float(frozen.embed(torch.arange(frozen.vocab)).square().mean().rsqrt())

    def entering(self, ids: Tensor) -> Tensor:
        """The embeddings [..., D] of ids, in the mean of a mean square of one."""
        return self._frozen.embed(ids) * self.scale

    def ahead(self, state: Tensor, tokens: list[Tensor]) -> Iterable[Tensor]:
        """For each depth what goes into the shared head [n, D].

        `state` [n, D] is the row before the root; `tokens` are the embeddings [n, D] of the root
        and of what follows it, as many as there are depths: depth d may read the first d.
        """
        raise NotImplementedError

    def stored(self) -> dict[str, Tensor]:
        """The matrices of its own, by the names in the part; their columns that read embeddings
        times `scale`."""
        raise NotImplementedError

    def about(self) -> dict[str, object]:
        """What the drafter has to know."""
        return {"depth": self._options.depth}

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """The mean over depths of the distance to the model's own choices."""
        said, rows, tokens = self._points(batch)
        if not len(rows):
            return {"loss": self.shared.moved.sum() * 0.0}
        found: dict[str, Tensor] = {}
        total, weights, share = torch.zeros(()), torch.ones(len(rows)), 1.0
        for depth, guessed in enumerate(self._guessed(said.states[rows], tokens), start=1):
            wanted = torch.zeros_like(guessed)
            wanted.scatter_(1, said.places[rows + depth], said.shares[rows + depth])
            apart = distance(guessed, wanted, weights)
            found[f"depth_{depth}"] = apart.detach()
            total, share = total + share * apart, share * self._options.fading
        return {"loss": total / len(found), **found}

    @torch.no_grad()
    def acceptance(self, batch: Batch) -> Tally:
        """How often the head's first choice is the model's own, after the text's real tokens."""
        said, rows, tokens = self._points(batch)
        guesses = enumerate(self._guessed(said.states[rows], tokens), start=1)
        hits = [self.vocabulary.tokens(each) == said.best[rows + depth] for depth, each in guesses]
        return tally(torch.stack(hits, 1))

    def part(self, bundle: str) -> PartSource:
        """The heads, the norm and the output matrix."""
        from edgedec.export.to_part import PartSource

        vectors, matrices = self.shared.stored()
        own = {name: array(value) for name, value in self.stored().items()}
        return PartSource(
            strategy=self.strategy,
            bundle=bundle,
            about=self.about(),
            ids=self.vocabulary.array(),
            vectors=vectors,
            matrices={**own, **matrices},
            architecture=None,
            weights={},
        )

    def _points(self, batch: Batch) -> tuple[Said, Tensor, Tensor]:
        """What the model says of all rows of the texts; which of them are points [n]; and the
        tokens [n, depth] behind each, the root first.

        A point is a row before a root that the model wrote, with as many rows behind the root's as
        a guess at every depth needs.
        """
        depth, lengths = self._options.depth, batch.lengths
        rows = torch.arange(batch.tokens.shape[1])[None]
        real = rows < lengths[:, None]
        free = (rows + depth < lengths[:, None]) & (rows + 1 >= batch.prompts[:, None])
        points = free[real].nonzero()[:, 0]
        ahead = points[:, None] + torch.arange(1, depth + 1)
        return self._teacher.says(batch), points, batch.tokens[real][ahead]

    def _guessed(self, states: Tensor, tokens: Tensor) -> Iterable[Tensor]:
        """The logits [n, V'] of each depth."""
        for x in self.ahead(states, [self.entering(each) for each in tokens.T]):
            yield self.shared(x)


def scaled(matrix: Tensor, columns: slice, scale: float) -> Tensor:
    """The matrix with some of its columns multiplied."""
    found = matrix.detach().clone()
    found[:, columns] *= scale
    return found


def array(tensor: Tensor) -> Floats:
    """A tensor as it is stored: fp32, in numpy."""
    found: Floats = tensor.detach().float().cpu().contiguous().numpy()
    return found


def _norm_weight(frozen: Frozen, spec: Norm | None) -> Tensor:
    """What the head's norm begins with: the final norm's, or the size of the rows that a model
    without one gives, whose last layer ends with a norm of its own."""
    if spec is not None:
        return frozen.weights["decoder.final_norm.weight"] + spec.offset
    last = frozen.layer(frozen.layers - 1).get("mlp_norm.weight")
    size = 1.0 if last is None else float(last.square().mean().sqrt())
    return torch.full((frozen.dim,), size)
