"""Trains mask tokens for a pass that skips the middle layers, and finds which (S3D, 2405.20314).

What is skipped decides both what a pass costs and how often it is right, so ranges around the
middle are tried with masks that were trained briefly, all on the same texts; the best goes on. The
paper fine-tunes the model together with its masks. Here the model stays as it is, so that its words
do, and only the masks learn.

Shapes: b texts, T rows, P points, m masks, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedec import draft
from edgedec.errors import UnsupportedError, UsageError
from edgedec.export.to_part import PartSource
from edgedec.training import trainee, worth
from edgedec.training.heads import array
from edgedec.training.reach import following, held, right_along
from edgedec.training.texts import Shuffled, seeded
from edgedec.training.trainee import Batch, Hear, Tally, Work, points

if TYPE_CHECKING:
    from edgedec.training.frozen import Frozen, Trunk
    from edgedec.training.texts import Texts

TURN = 3
SEED = 11
"""Ranges are always compared on the same texts in the same order."""
ASIDE = 2
"""How far from the middle of the model, in half layers, the middle of what is skipped may be."""


@dataclass(frozen=True)
class Options(trainee.Options):
    """`masks` are trained; as many of them are used as pay. Each text has `points` places where
    they stand. The loss of each further mask counts `fade` times the one's before.

    The layers from `start` up to but without `end` are skipped. Without these (0) the best ranges
    of all widths are compared, and the `ranges` best of them again after `coarse` steps with a
    third of the points.
    """

    rate: float = 2e-2
    masks: int = 4
    points: int = 24
    fade: float = 0.8
    start: int = 0
    end: int = 0
    ranges: int = 3
    coarse: int = 48


@dataclass(frozen=True)
class Guesses:
    """Places in texts p [b, P] (`valid` bool) and what stands behind them."""

    p: Tensor
    valid: Tensor


class Trainee(trainee.Trainee):
    """The masks of one range of layers; without one, `prepare` finds it."""

    def __init__(self, frozen: Frozen, skip: range | None, options: Options, texts: Texts) -> None:
        super().__init__()
        self.search = list[dict[str, Any]]()
        self._frozen, self._options, self._texts = frozen, options, texts
        self._searches = skip is None
        self._leave_out(range(0) if skip is None else skip)
        table = frozen.embed(torch.arange(frozen.vocab))
        # As long as a token's: norms make a shorter one as loud.
        start = table.mean(0) + table.std(0) * _noise(options.masks, frozen.dim)
        # Without masks there is nothing to learn, and the frame only measures.
        self.mask_embeds = nn.Parameter(start, requires_grad=options.masks > 0)

    def _leave_out(self, skip: range) -> None:
        self.skip = skip
        self._layers = [i for i in range(self._frozen.layers) if i not in skip]

    def prepare(self, hear: Hear = lambda share: None) -> None:
        """Take the best range, and its masks as they were trained a little."""
        if self._searches:
            best, self.search = _searched(self._frozen, self._options, self._texts, hear)
            self._leave_out(best.skip)
            with torch.no_grad():
                self.mask_embeds.copy_(best.mask_embeds)

    def guesses(self, trunk: Trunk, p: Tensor) -> Tensor:
        """The logits [b, P, 1 + m, V] of the rows of tokens at p [b, P] and of masks behind them.

        Each of these groups sees the text before its token, and itself as a chain.
        """
        masks, (count, places) = len(self.mask_embeds), p.shape
        chain = torch.arange(masks + 1)
        positions = (p[:, :, None] + chain).flatten(1)
        roots = self._frozen.embed(trunk.tokens.gather(1, p))[:, :, None]
        below = self.mask_embeds.expand(count, places, masks, -1)
        rows = torch.cat((roots, below), 2).flatten(1, 2)
        seen = _sight(p, masks + 1, trunk.tokens.shape[1])
        entered = self._frozen.enter(rows, positions)
        last = self._frozen.rows(trunk, entered, positions, seen, self._layers)[-1]
        return self._frozen.head(last.reshape(count, places, masks + 1, -1))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """How far the masks' distributions are from the model's own there (KL, in nats)."""
        return {"loss": self.distance(self._frozen.trunk(batch), self._points(batch))}

    def _points(self, batch: Batch) -> Guesses:
        return Guesses(*points(batch, self._options.points, self._options.masks))

    def distance(self, trunk: Trunk, at: Guesses) -> Tensor:
        """The loss at some points of texts that were run."""
        teacher = F.log_softmax(self.wanted(trunk, at.p)[:, :, 1:], -1)
        found = F.log_softmax(self.guesses(trunk, at.p)[:, :, 1:], -1)
        each = F.kl_div(found, teacher, log_target=True, reduction="none").sum(-1)
        fade = self._options.fade ** torch.arange(each.shape[-1])
        weights = at.valid[:, :, None] * fade
        return (each * weights).sum() / weights.sum().clamp_min(1e-9)

    @torch.no_grad()
    def wanted(self, trunk: Trunk, p: Tensor) -> Tensor:
        """The model's own logits [b, P, 1 + m, V] at p [b, P] and the places behind."""
        rows = (p[:, :, None] + torch.arange(self._options.masks + 1)).flatten(1)
        states = trunk.states[-1].gather(1, rows[:, :, None].expand(-1, -1, self._frozen.dim))
        return self._frozen.head(states.reshape(*p.shape, -1, self._frozen.dim))

    def acceptance(self, batch: Batch) -> Tally:
        """How often each guess is what the model says next."""
        return self.measured(self._frozen.trunk(batch), self._points(batch))

    @torch.no_grad()
    def measured(self, trunk: Trunk, at: Guesses) -> Tally:
        """How often each guess is right at some points, where those before it are the text."""
        found, wanted = (
            logits.argmax(-1) for logits in (self.guesses(trunk, at.p), self.wanted(trunk, at.p))
        )
        return right_along(found, wanted, following(trunk, at.p, found.shape[-1]), at.valid)

    def part(self, bundle: str) -> PartSource:
        """The masks that pay, with the table of the search."""
        tally = Tally()
        for batch in held(self._texts, self._options):
            tally = tally.plus(self.acceptance(batch))
        best = valued(self._frozen, self.skip, tally.shares)
        about = best | {
            "acceptance": [round(share, 4) for share in tally.shares],
            "automatic": best["speedup"] > 1,
            "search": self.search,
        }
        masks = array(self.mask_embeds)[: best["masks"]]
        vectors = {"masks": masks} if len(masks) else {}
        return PartSource("layer_skip", bundle, about, vectors=vectors)


def build(frozen: Frozen, options: Options, texts: Texts) -> Trainee:
    """Masks for the layers that are skipped.

    Raises:
        UnsupportedError: the model has less than three layers.
        UsageError: options that name no layers of the model, or make no sense.
    """
    draft.check_options(
        options, masks=(0, 16), points=(1, 1024), fade=(0.0, 1.0), ranges=(1, 1024),
        coarse=(0, 100_000),
    )  # fmt: skip
    if frozen.layers < 3:
        raise UnsupportedError(
            f"layer_skip leaves out layers between the first and the last; this model has "
            f"{frozen.layers}"
        )
    if options.start or options.end:
        if not 1 <= options.start < options.end < frozen.layers:
            raise UsageError(
                f"start and end are {options.start} and {options.end}: the layers skipped must be "
                f"some of those between the first and the last of {frozen.layers}"
            )
        return Trainee(frozen, range(options.start, options.end), options, texts)
    return Trainee(frozen, None, options, texts)


# --- which layers ----------------------------------------------------------------------------


def ranges(layers: int) -> list[range]:
    """The ranges around the middle, narrow ones first: never the first layer nor the last."""
    found = [
        range(start, start + width)
        for width in range(1, layers - 1)
        for start in range(1, layers - width)
    ]
    return [each for each in found if abs(each.start + each.stop - layers) <= ASIDE]


def _searched(
    frozen: Frozen, options: Options, texts: Texts, hear: Hear
) -> tuple[Trainee, list[dict[str, Any]]]:
    """The best range, its masks trained a little, and the table it was chosen from.

    The table has a range of each width: what skipping alone is worth, and of the `ranges` that are
    worth most what masks add.
    """
    compared = list(held(texts, options))
    every = [Trainee(frozen, skip, options, texts) for skip in ranges(frozen.layers)]
    work = _work(every, len(compared), options, hear)
    pool = _widths(frozen, every, compared[:2], work)
    table = [
        _line(frozen, each, Tally(tally.right[:1], tally.asked[:1]))
        for each, tally in zip(pool, _measured(frozen, pool, compared, work), strict=True)
    ]
    order = sorted(range(len(pool)), key=lambda index: -table[index]["speedup"])
    chosen = order[: options.ranges]
    if options.masks:
        trained = [pool[index] for index in chosen]
        if len(trained) > 1:
            _train(frozen, trained, options, texts, work)
        for index, tally in zip(chosen, _measured(frozen, trained, compared, work), strict=True):
            table[index] = _line(frozen, pool[index], tally)
    return pool[max(chosen, key=lambda index: table[index]["speedup"])], table


def _work(every: Sequence[Trainee], batches: int, options: Options, hear: Hear) -> Work:
    """A unit is a range on a batch; learning from it takes about three times as long, with a third
    of the points."""
    widths = len({len(each.skip) for each in every})
    few = min(options.ranges, widths) if options.masks else 0
    coarse = options.coarse if few > 1 else 0
    return Work(len(every) * min(2, batches) + widths * batches + few * (coarse + batches), hear)


def _line(frozen: Frozen, each: Trainee, tally: Tally) -> dict[str, Any]:
    """A line of the table."""
    right = [round(share, 4) for share in tally.shares]
    return valued(frozen, each.skip, tally.shares) | {"right": right}


def _widths(
    frozen: Frozen, every: Sequence[Trainee], compared: Sequence[Batch], work: Work
) -> list[Trainee]:
    """Of each width the range that guesses the next token best, which no mask changes."""
    best: dict[int, tuple[float, Trainee]] = {}
    for each, tally in zip(every, _measured(frozen, every, compared, work), strict=True):
        share, width = tally.shares[0], len(each.skip)
        if width not in best or share > best[width][0]:
            best[width] = share, each
    return [each for _, each in best.values()]


def _measured(
    frozen: Frozen, pool: Sequence[Trainee], compared: Sequence[Batch], work: Work
) -> list[Tally]:
    """Of each range, on the same texts."""
    tallies = [Tally()] * len(pool)
    for batch in compared:
        trunk, at = frozen.trunk(batch), pool[0]._points(batch)
        for index, each in enumerate(pool):
            tallies[index] = tallies[index].plus(each.measured(trunk, at))
            work.add()
    return tallies


def _train(
    frozen: Frozen, pool: Sequence[Trainee], options: Options, texts: Texts, work: Work
) -> None:
    """Train the masks of all ranges on the same texts, which run once."""
    masks = [each.mask_embeds for each in pool]
    optimiser = torch.optim.AdamW(masks, lr=options.rate, weight_decay=0.0)
    learned, few = Shuffled(texts.trained, options, SEED), -(-options.points // 3)
    for step in range(options.coarse):
        batch = learned.batch(step)
        trunk, at = frozen.trunk(batch), Guesses(*points(batch, few, options.masks))
        optimiser.zero_grad()
        for each in pool:
            each.distance(trunk, at).backward()  # type: ignore[no-untyped-call]
            work.add()
        optimiser.step()


def valued(frozen: Frozen, skip: range, shares: Sequence[float]) -> dict[str, Any]:
    """How many masks pay behind a token, what that is expected to be worth.

    `shares` are those of the guesses: the first is the token's own.
    """
    costs = worth.by_size(frozen.architecture)
    times = costs.step(worth.PAST, len(shares) + 1)
    plain = float(times[1])
    best: dict[str, Any] = {"speedup": 0.0}
    for count in range(1, len(shares) + 1):
        drafting = costs.part(worth.PAST, count, frozen.layers - len(skip), heads=count)
        checking = times[1 : count + 2]
        found, _ = worth.speedup(shares[:count], drafting, checking.tolist(), plain)
        if found > best["speedup"]:
            best = {"start": skip.start, "end": skip.stop, "masks": count - 1,
                    "speedup": round(found, 4)}  # fmt: skip
    return best


# --- rows ------------------------------------------------------------------------------------


def _sight(p: Tensor, rows: int, length: int) -> Tensor:
    """What the rows of groups at p [b, P] see, bool [b, P rows, length + P rows]: the text before
    their point, and their own group up to themselves."""
    places = p.shape[1]
    past = (torch.arange(length) < p[:, :, None]).repeat_interleave(rows, 1)
    own = torch.kron(torch.eye(places), torch.ones(rows, rows).tril()).bool()
    return torch.cat((past, own.expand(len(p), -1, -1)), 2)


def _noise(count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, generator=seeded(count))
