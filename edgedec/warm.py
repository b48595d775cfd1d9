"""Hot starts: the model writes for itself, and what drafters learn from it is kept.

Drafters without training begin every process cold. A few thousand tokens of the model's own text,
written once, let them begin warm. It knows no strategy by name: those with something to `save`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgedec import draft, drafting
from edgedec.contracts import TRUNK, Context, Drafter, Outcome, Rows, Session, Want
from edgedec.errors import InputError, UsageError
from edgedec.host import Scratch
from edgedec.model import Setup
from edgedec.sampling import Sampler, Sampling

Progress = Callable[[int], object]


@runtime_checkable
class Learner(Protocol):
    """A drafter whose knowledge outlives a conversation."""

    def save(self, path: Path) -> None:
        """Write a hot start."""
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
    return any(each.name == "hot_start" for each in _fields(part.strategy))


def _fields(strategy: Any) -> Sequence[Any]:
    return tuple(strategy.__dataclass_fields__.values())


def learn(
    setup: Setup,
    folder: Path,
    prompts: Sequence[str] = (),
    writing: Writing | None = None,
    progress: Progress = lambda written: None,
) -> dict[str, Path]:
    """Let a model continue prompts (none: texts from nothing) and write a hot start per strategy.

    Returns the files by strategy. `progress` is told the tokens written so far.

    Raises:
        InputError: a prompt is empty or does not fit into the context.
        WriteError: a file cannot be written.
    """
    writing = writing or Writing()
    architecture = setup.bundle.manifest.architecture
    session = setup.engine.session()
    shape = (architecture, setup.engine.capabilities)
    host = Scratch(session, *shape, setup.open_engine)
    chosen = drafting.choose("+".join(strategies()))
    drafters = [each for each, _ in chosen.open(host, *shape)]
    start = architecture.tokens.bos if architecture.tokens.bos is not None else None
    first = [start if start is not None else next(iter(architecture.tokens.eos), 0)]
    texts = [setup.text.encode(prompt) for prompt in prompts] or [first]
    if not all(0 < len(text) < architecture.limits.context for text in texts):
        raise InputError("a prompt is empty or longer than the context: leave it out")
    topk = chosen.needs(*shape).topk
    left = writing.tokens
    for turn, text in enumerate(itertools.cycle(texts)):
        if left <= 0:
            break
        sampling = Sampling(0.0 if prompts and turn % 3 == 2 else writing.temperature,
                            seed=writing.seed + turn)  # fmt: skip
        stop = frozenset(architecture.tokens.eos)
        for _ in _write(session, drafters, text, (sampling, stop, topk, min(left, writing.length))):
            left -= 1
            progress(writing.tokens - left)
        if sampling.temperature == 0 and turn >= 3 * len(texts):
            left -= writing.length  # greedy texts repeat: the same ones must come to an end
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, drafter in zip(chosen.parts, drafters, strict=True):
        if isinstance(drafter, Learner):
            files[part.name] = folder / f"{part.name}.safetensors"
            drafter.save(files[part.name])
    return files


def _write(
    session: Session,
    drafters: Sequence[Drafter],
    prompt: Sequence[int],
    how: tuple[Sampling, frozenset[int], int, int],
) -> Iterator[int]:
    """Plain decoding of one text, told to every drafter token by token."""
    sampling, stop, topk, length = how
    tokens = list(prompt)
    session.truncate(0)
    for drafter in drafters:
        drafter.reset()
    sampler = Sampler.build(sampling)
    for index in range(length):
        held = len(session.tokens)
        pending = np.array(tokens[held:], np.int32)
        rows = Rows(pending, np.arange(TRUNK, len(pending) - 1, dtype=np.int32))
        try:
            result = session.step(rows, want=Want((len(pending) - 1,)))
        except InputError:
            return  # the context is full
        token = sampler.draw((), result.logits(len(pending) - 1), index)
        context = Context(tokens, len(prompt), sampling.seed, sampling.temperature)
        outcome = Outcome(draft.empty(), context, (), (token,), topk=result.topk(topk))
        for drafter in drafters:
            drafter.propose(context, 1)
            drafter.observe(outcome)
        session.keep([result.handles[-1]])
        if token in stop:
            return
        tokens.append(token)
        yield token


__all__ = ["Learner", "Writing", "learn", "strategies"]
