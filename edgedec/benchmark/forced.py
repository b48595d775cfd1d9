"""Drafts checked against a given text: how often they are right where no model of ours can write.

A pretend engine says at each place of the text what comes next there; a step takes as long as the
table of costs says, which was measured on a real model. Host time is real. Only drafters that need
nothing but tokens, or the likeliest of them, can be measured so: behind the first choice the engine
has nothing to say.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgedec.benchmark.prompts import Prompt
from edgedec.benchmark.stopwatch import Stopwatch
from edgedec.contracts import TRUNK, Rows, Want
from edgedec.errors import InputError, UnsupportedError
from edgedec.host import Files
from edgedec.runtimes.fake import Fake, FakeSession

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.benchmark.workloads import Workload
    from edgedec.contracts import Engine, Floats, Ints, Layers
    from edgedec.costs import Costs
    from edgedec.model import Setup
    from edgedec.runtimes._result import Result

PROMPT = 192
"""Tokens of the text before the place where the forced ones begin."""
_NOISES = 61


@dataclass
class Scripted(Fake):
    """A pretend model with several scripts; off them it says something or other, quickly."""

    scripts: Sequence[Sequence[int]] = ()

    @cached_property
    def on_script(self) -> dict[int, int]:
        """The state of each row that is on a script, and the token that follows it."""
        found: dict[int, int] = {}
        for script in self.scripts:
            found |= replace(self, script=script, scripts=()).alone
        return found

    @property
    def alone(self) -> dict[int, int]:
        """The states of the one script."""
        return super().on_script

    @cached_property
    def _noise(self) -> Floats:
        random = np.random.default_rng(0)
        return random.standard_normal((_NOISES, self.vocab)).astype(np.float32)

    def logits(self, state: int, habit: int, layers: int) -> Floats:
        """Logits [V] of a row by its path: the script's token first."""
        values: Floats = self._noise[state % _NOISES].copy()
        follows = self.on_script.get(state)
        if follows is not None:
            values[follows] = values.max() + 8
        return values


class ForcedEngine:
    """An engine that says what stands in given texts, in the time that a table tells.

    `topk_seconds` is what the likeliest tokens of one row take; `watch` has the time.
    """

    def __init__(
        self, inner: Fake, costs: Costs, topk_seconds: float = 0.0, watch: Stopwatch | None = None
    ) -> None:
        self.inner, self.costs, self.topk_seconds = inner, costs, topk_seconds
        self.watch = watch or Stopwatch()
        # Layer ranges and hidden states would be made up: who needs them is refused.
        self.capabilities = replace(
            inner.capabilities, cuts=(), hidden_layers=(), resume=False, learned_ids=False
        )

    def steady(self) -> bool:
        """As the inner engine's rows are."""
        return self.inner.steady()

    def session(self) -> ForcedSession:
        """A new, empty session."""
        return ForcedSession(self)

    def learn(self, vectors: Floats) -> int:
        """Nothing can be learned here."""
        raise UnsupportedError("a given text has no learned ids")

    def close(self) -> None:
        """End all sessions."""
        self.inner.close()


class ForcedSession(FakeSession):
    """A session whose steps take no time of their own."""

    def __init__(self, engine: ForcedEngine) -> None:
        super().__init__(engine.inner)
        self._forced = engine

    def step(  # type: ignore[override]  # its results are the same, wrapped
        self, rows: Rows, layers: Layers | None = None, want: Want | None = None
    ) -> ForcedResult:
        """Run new rows; the watch goes on by what the table says."""
        forced, count = self._forced, len(rows.tokens)
        with forced.watch:
            result = super().step(rows, layers, want)
            heads = count if want is None or want.logits is None else len(want.logits)
            costs = forced.costs
            seconds = costs.part(len(self.tokens), count, costs.depth, heads)
        forced.watch.add(seconds)
        return ForcedResult(result, forced, heads)


class ForcedResult:
    """A result that is asked in no time, but for the likeliest tokens."""

    def __init__(self, inner: Result, engine: ForcedEngine, heads: int) -> None:
        self._inner, self._engine, self._heads = inner, engine, heads

    @property
    def handles(self) -> Sequence[int]:
        """The handles of the rows of this step."""
        return self._inner.handles

    @property
    def astray(self) -> Set[int]:
        """Rows that are better not kept."""
        return self._inner.astray

    def argmax(self) -> Ints:
        """The most likely token of each row: part of the table's times."""
        with self._engine.watch:
            return self._inner.argmax()

    def topk(self, k: int) -> tuple[Ints, Floats]:
        """The k largest logits of each row."""
        with self._engine.watch:
            found = self._inner.topk(k)
        self._engine.watch.add(self._engine.topk_seconds * self._heads)
        return found

    def logits(self, i: int) -> Floats:
        """The logits of row i [V]."""
        with self._engine.watch:
            return self._inner.logits(i)

    def hidden(self, layer: int) -> Floats:
        """There are none."""
        return self._inner.hidden(layer)


def prepare(
    workload: Workload, setup: Setup, tokens: int, topk_seconds: float
) -> tuple[Workload, Setup]:
    """A forced workload with prompts, and a setup that answers them with the text.

    The text is cut into answers of up to `tokens` tokens; what stands before each is its prompt.

    Raises:
        InputError: the text is too short for one answer.
    """
    model, text = setup.bundle.manifest.architecture, setup.text
    room = model.limits.context
    new = max(1, min(tokens, room // 2))
    before = min(PROMPT, room - new)
    ids = text.encode(workload.text, special=False)
    prompts, scripts = [], []
    for start in range(before, len(ids) - new + 1, new):
        prompt = text.decode(ids[start - before : start])
        prompts.append(Prompt((prompt,)))
        scripts.append([*text.encode(prompt), *ids[start : start + new]])
    if not scripts:
        raise InputError(
            f"the text {workload.name!r} has {len(ids)} tokens; {before + new} are needed for one "
            "answer: give a longer one, or fewer --tokens"
        )
    engine = ForcedEngine(scripted(model, scripts), setup.costs, topk_seconds)
    clocked = replace(setup, engine=engine, clock=engine.watch, files=Files(_refuse))
    return replace(workload, prompts=tuple(prompts), longest=new), clocked


def scripted(model: Architecture, scripts: Sequence[Sequence[int]]) -> Scripted:
    """A pretend model with these scripts, and with a model's vocabulary and context."""
    context, eos = model.limits.context, model.tokens.eos
    return Scripted(
        vocab=model.vocab, dim=1, layers=1, context=context, cuts=(), eos=eos, scripts=scripts
    )


def topk_seconds(engine: Engine, rows: int = 16, k: int = 8, times: int = 9) -> float:
    """Seconds that the `k` likeliest tokens of a row take, measured on a real engine."""
    session, found = engine.session(), []
    tokens = np.arange(rows, dtype=np.int32)
    for _ in range(times):
        result = session.step(Rows(tokens, np.arange(-1, rows - 1, dtype=np.int32)))
        started = time.perf_counter()
        result.topk(k)
        found.append(time.perf_counter() - started)
        session.keep([TRUNK])
    return statistics.median(found) / rows


def _refuse(bundle: str) -> Engine:
    raise UnsupportedError("a draft model cannot be measured on a given text")
