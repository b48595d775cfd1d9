"""Hot starts: the model writes for itself, and what it found likely is kept for the drafters.

Drafters without training begin every process cold. A few thousand tokens of the model's own text,
written once, let them begin warm. It knows no strategy by name: those that name `contexts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np

from edgedec import _tree, drafting, hot_start
from edgedec.contracts import Source
from edgedec.errors import InputError, UnsupportedError, UsageError
from edgedec.follower import Follower
from edgedec.model import Setup
from edgedec.sampling import Sampler, Sampling
from edgedec.written import Written

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Floats, Ints

Progress = Callable[[float], object]


@runtime_checkable
class Warmed(Protocol):
    """A strategy that a hot start helps: it holds what followed so many tokens, in `sets` of 4
    contexts."""

    contexts: ClassVar[range]
    hot_start: str | None
    sets: int


@dataclass(frozen=True, slots=True)
class Writing:
    """How much the model writes: `tokens` in all, texts of at most `length`, most of them at a
    `temperature`, every third greedy."""

    tokens: int = 20_000
    length: int = 256
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.length < 1:
            raise UsageError("a hot start is learned from at least one token")


def strategies() -> dict[str, Warmed]:
    """Those of `auto` that a hot start helps."""
    parts = [(name, drafting.choose(name).parts[0].strategy) for name in drafting.automatic()]
    return {name: strategy for name, strategy in parts if isinstance(strategy, Warmed)}


def learn(
    setup: Setup,
    folder: Path,
    texts: Sequence[Sequence[int]] = (),
    writing: Writing | None = None,
    most: Mapping[str, int] | None = None,
    progress: Progress = lambda share: None,
) -> dict[str, Path]:
    """Let a model continue texts (ids; none: from nothing) and write a hot start per strategy.

    A model with an encoder reads them, and writes what it makes of them. Returns the files by
    strategy. `most` says how many contexts to keep of a strategy (default: as many as there is room
    for), `progress` is told the share that is done.

    Raises:
        InputError: a text is empty or too long, or there is none for an encoder to read.
        UnsupportedError: the model hears.
        WriteError: a file cannot be written.
    """
    writing = writing or Writing()
    architecture = setup.bundle.manifest.architecture
    _check(architecture, texts)
    warmed = strategies()
    follower = Follower(setup.engine.session(), setup.engine.capabilities)
    lengths = [length for each in warmed.values() for length in each.contexts]
    written = Written(range(min(lengths), max(lengths) + 1))
    left, width = writing.tokens, min(_tree.WIDTH, architecture.vocab)
    for text, sampling in _plan(architecture, texts, writing):
        begin = text
        if architecture.encoder is not None:
            follower.hear(Source(tuple(text)))
            begin = [architecture.tokens.decoder_start or 0]
        how = sampling, frozenset(architecture.tokens.eos), min(left, writing.length), width
        left -= _write(follower, written, begin, how)
        progress(1 - left / writing.tokens)
        if left <= 0:
            break
    if left == writing.tokens:
        raise InputError("the model wrote nothing: it ends every one of these texts at once")
    files = {}
    for name, strategy in warmed.items():
        files[name] = folder / f"{name}.safetensors"
        # A quarter of the room is left to what comes while text is written.
        room = (most or {}).get(name, 3 * strategy.sets)
        found = written.contexts(strategy.contexts, room)
        hot_start.write(files[name], found, architecture.vocab)
    return files


def _check(architecture: Architecture, texts: Sequence[Sequence[int]]) -> None:
    """Refuse what cannot be continued or read."""
    if architecture.frontend is not None:
        raise UnsupportedError("this model hears: only models of texts can be warmed up")
    if architecture.encoder is not None and not texts:
        raise InputError("this model reads a source: give a file of texts for it to read")
    room = architecture.limits.context - 1
    if architecture.encoder is not None:
        room = architecture.limits.source or room
    if not all(0 < len(text) <= room for text in texts):
        raise InputError("a prompt is empty or longer than the context: leave it out")


def _plan(
    architecture: Architecture, texts: Sequence[Sequence[int]], writing: Writing
) -> Iterator[tuple[Sequence[int], Sampling]]:
    """What is continued, and how; it ends when every text was tried often and none goes on."""
    tokens = architecture.tokens
    nothing = [tokens.bos if tokens.bos is not None else next(iter(tokens.eos), 0)]
    for turn in range(writing.tokens + 3 * len(texts)):
        # From nothing, greedy decoding has one text only.
        greedy = turn % 3 == 2 and turn < 3 * len(texts)
        sampling = Sampling(0.0 if greedy else writing.temperature, seed=writing.seed + turn)
        yield (texts[turn % len(texts)] if texts else nothing), sampling


def _write(
    follower: Follower,
    written: Written,
    prompt: Sequence[int],
    how: tuple[Sampling, frozenset[int], int, int],
) -> int:
    """Plain decoding of one text, and what was likely in it; returns how many tokens it has."""
    sampling, stop, length, width = how
    tokens = list(prompt)
    follower.reset()
    sampler = Sampler.build(sampling)
    likely: list[tuple[Ints, Floats]] = []
    for index in range(length):
        try:
            result, row = follower.follow(tokens)
        except InputError:
            break  # the context is full
        ids, values = result.topk(width)
        likely.append((ids[-1], values[-1]))
        tokens.append(sampler.draw((), result.logits(row), index))
        if tokens[-1] in stop:
            break
    if likely:
        ids, values = map(np.array, zip(*likely, strict=True))
        written.add(tokens, ids, values)
    return len(likely) - (tokens[-1] in stop)


__all__ = ["Warmed", "Writing", "learn", "strategies"]
