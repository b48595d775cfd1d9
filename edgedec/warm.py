"""Hot starts: the model writes for itself, and what drafters learn from it is kept.

Drafters without training begin every process cold. A few thousand tokens of the model's own text,
written once, let them begin warm. It knows no strategy by name: those with something to `save`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgedec import draft, drafting
from edgedec.contracts import Context, Drafter, Outcome, Source
from edgedec.errors import InputError, UnsupportedError, UsageError
from edgedec.follower import Follower
from edgedec.host import Files, Scratch
from edgedec.model import Setup
from edgedec.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from edgedec.architecture import Architecture

_SETS = 1 << 15
Progress = Callable[[float], object]


@runtime_checkable
class Learner(Protocol):
    """A drafter whose knowledge outlives a conversation."""

    def save(self, path: Path, most: int | None = None) -> None:
        """Write a hot start; of the `most` contexts that say most."""
        ...


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


def strategies() -> list[str]:
    """Those of `auto` that a hot start helps."""
    return [name for name in drafting.automatic() if _learns(name)]


def _learns(name: str) -> bool:
    part = drafting.choose(name).parts[0]
    return any(each.name == "hot_start" for each in fields(part.strategy))  # type: ignore[arg-type]


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
    strategy. `most` says how many contexts to keep of a strategy (default: all), `progress` is told
    the share that is done.

    Raises:
        InputError: a text is empty or too long, or there is none for an encoder to read.
        UnsupportedError: the model hears.
        WriteError: a file cannot be written.
    """
    writing = writing or Writing()
    architecture = setup.bundle.manifest.architecture
    _check(architecture, texts)
    session = setup.engine.session()
    names = strategies()
    # Larger tables than in use: what is seldom must not push out what is frequent.
    chosen = drafting.choose("+".join(names), {f"{name}.sets": _SETS for name in names})
    # Without the bundle's files: what is learned here begins with nothing.
    host = Scratch(setup.engine, session, architecture, Files(setup.files.open_engine))
    drafters = [each for each, _ in chosen.open(host)]
    follower, topk = Follower(session, setup.engine.capabilities), chosen.needs(host).topk
    left = writing.tokens
    for text, sampling in _plan(architecture, texts, writing):
        stop = frozenset(architecture.tokens.eos)
        how = sampling, stop, topk, min(left, writing.length)
        begin = text
        if architecture.encoder is not None:
            follower.hear(Source(tuple(text)))
            begin = [architecture.tokens.decoder_start or 0]
        for _ in _write(follower, drafters, begin, how):
            left -= 1
            progress(1 - left / writing.tokens)
        if left <= 0:
            break
    if left == writing.tokens:
        raise InputError("the model wrote nothing: it ends every one of these texts at once")
    files = {part.name: folder / f"{part.name}.safetensors" for part in chosen.parts}
    for drafter, (name, path) in zip(drafters, files.items(), strict=True):
        assert isinstance(drafter, Learner)
        drafter.save(path, (most or {}).get(name))
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
    drafters: Sequence[Drafter],
    prompt: Sequence[int],
    how: tuple[Sampling, frozenset[int], int, int],
) -> Iterator[int]:
    """Plain decoding of one text, told to every drafter token by token."""
    sampling, stop, topk, length = how
    tokens = list(prompt)
    follower.reset()
    for drafter in drafters:
        drafter.reset()
    sampler = Sampler.build(sampling)
    for index in range(length):
        try:
            result, row = follower.follow(tokens)
        except InputError:
            return  # the context is full
        token = sampler.draw((), result.logits(row), index)
        context = Context(tokens, len(prompt), sampling.seed, sampling.temperature)
        outcome = Outcome(draft.empty(), context, (), (token,), topk=result.topk(topk))
        for drafter in drafters:
            drafter.propose(context, 1)
            drafter.observe(outcome)
        if token in stop:
            return
        tokens.append(token)
        yield token


__all__ = ["Learner", "Writing", "learn", "strategies"]
