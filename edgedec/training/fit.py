"""The frame around every trainer: steps, held-out acceptance, an end in time, a run that goes on.

It trains what `trainee.py` describes until the schedule ends, acceptance no longer grows, or time
is up, and keeps all in the cache so that an interrupted run is continued, not repeated. It knows no
strategy by name, prints nothing, and does not know where parts are put.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgedec.bundle import cache_folder
from edgedec.errors import InputError, StateError, UsageError
from edgedec.training.pretrain import Rates, Report, Schedule, Trainer, read_checkpoint
from edgedec.training.texts import Shuffled, held_batches
from edgedec.training.trainee import Hear, Options, Stopped, Tally, Trainee, expected

if TYPE_CHECKING:
    from edgedec.training.texts import Texts

PROGRESS = 0.002
"""Accepted tokens: what a measurement must gain to count as progress."""
TIMED = 12
"""Steps after which it is known how many fit into the time."""
SAVE_SECONDS = 60.0
HALF = ""
"""The end of a run that has none yet."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """Warm up, then fall along a cosine to `final`."""

    def scale(self, step: int) -> float:
        """Factor on the peak rate at a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        done = min(1.0, step / max(1, self.end))
        return rise * (self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True)
class News:
    """Where a training is: `acceptance` by depth when it was last measured, `expected` its sum.

    `searched` is the share of what is found out before the first step. `note` is something that who
    began the training should know.
    """

    step: int
    steps: int
    loss: float | None
    acceptance: tuple[float, ...]
    expected: float
    seconds: float
    measured: bool = False
    searched: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Terms:
    """What a run must have in common with one that it continues."""

    strategy: str
    bundle: str
    texts: str
    options: Options
    seed: int

    @property
    def folder(self) -> Path:
        """Where this training is kept."""
        return cache_folder() / "training" / self.bundle[:16] / self.strategy

    def written(self) -> dict[str, str]:
        """As a checkpoint has them."""
        return {
            "bundle": self.bundle,
            "texts": self.texts,
            "options": repr(self.options),
            "seed": str(self.seed),
        }


@dataclass(frozen=True)
class Limits:
    """`minutes` of training in all, None for no limit; `fresh` forgets what was begun."""

    minutes: float | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Fitted:
    """A training's end: what was accepted at best, after so many steps and seconds, and why it
    ended. `history` are step and acceptance by depth, whenever it was measured."""

    acceptance: Tally
    steps: int
    seconds: float
    end: str
    history: tuple[tuple[int, tuple[float, ...]], ...]


def fit(
    trainee: Trainee,
    texts: Texts,
    terms: Terms,
    limits: Limits,
    news: Callable[[News], object] = lambda news: None,
    stop: Callable[[], bool] = lambda: False,
) -> Fitted | None:
    """Train, from where an earlier run stopped; afterwards the trainee has its best parameters.

    Returns None where `stop` said so before the end: then all is kept, and the same call goes on.

    Raises:
        InputError: the texts hold nothing to train or to measure on.
        StateError: an unfinished run with other texts, options or seed is kept, or a damaged one.
        UsageError: the loss is no number any more.
    """
    try:
        trainee.prepare(_hearing(news, stop))
        if not any(parameter.requires_grad for parameter in trainee.parameters()):
            return _only_measured(trainee, texts, terms.options, news, stop)
    except Stopped:
        return None
    run = _Run(trainee, texts, terms, limits)
    run.news, run.told = news, stop
    if not limits.fresh and run.checkpoint.exists():
        run.take_up()
    return run.through()


def measure(
    trainee: Trainee, texts: Texts, options: Options, stop: Callable[[], bool] = lambda: False
) -> Tally:
    """Acceptance on the held-out texts.

    Raises:
        InputError: there is nothing in them to measure on.
        Stopped: `stop` said so.
    """
    trainee.eval()
    found = Tally()
    with torch.no_grad():
        for index, batch in enumerate(held_batches(texts, options)):
            if index and stop():
                raise Stopped
            found = found.plus(trainee.acceptance(batch))
    trainee.train()
    if not any(found.asked):
        raise InputError(
            "nothing can be measured on the held-out texts: they are too short; give more prompts, "
            "or let the model write more (--tokens)"
        )
    return found


def _hearing(news: Callable[[News], object], stop: Callable[[], bool]) -> Hear:
    """Tells of a search, and ends it."""

    def hear(share: float) -> None:
        if stop():
            raise Stopped
        news(News(0, 0, None, (), 0.0, 0.0, searched=share))

    return hear


def _only_measured(
    trainee: Trainee,
    texts: Texts,
    options: Options,
    news: Callable[[News], object],
    stop: Callable[[], bool],
) -> Fitted:
    started = time.monotonic()
    found = measure(trainee, texts, options, stop)
    seconds = time.monotonic() - started
    news(News(0, 0, None, tuple(found.shares), found.expected, seconds, measured=True))
    return Fitted(found, 0, seconds, "nothing to train", ((0, tuple(found.shares)),))


class _Run(Trainer):
    """The trainer with measurements, their best, and an end."""

    news: Callable[[News], object]
    told: Callable[[], bool]

    def __init__(self, trainee: Trainee, texts: Texts, terms: Terms, limits: Limits) -> None:
        options = terms.options
        super().__init__(
            model=trainee,
            loss=lambda batch, _: dict(trainee.loss(batch)),
            batches=Shuffled(texts.trained, options, terms.seed),
            schedule=Cosine(options.warmup, options.steps),
            rates=Rates(0.0, options.rate, options.decay, options.clip),
            folder=terms.folder,
            save_seconds=SAVE_SECONDS,
        )
        self._trainee, self._texts, self._terms, self._limits = trainee, texts, terms, limits
        self._best: dict[str, torch.Tensor] = {}
        self._tally, self._mark, self._stale = Tally(), -1.0, 0
        self._history: list[tuple[int, tuple[float, ...]]] = []
        self._spent, self._began = 0.0, time.monotonic()
        self._measuring = 0.0
        self._end = HALF
        self._shortened = False
        self._due = True

    # --- going on --------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Continue the kept run if it is the same; what was finished otherwise is begun anew."""
        name = self._terms.strategy
        try:
            state = read_checkpoint(self.checkpoint)
            kept, end = state["terms"], state["end"]
        except Exception as error:
            raise StateError(
                f"the kept training of {name} cannot be read ({type(error).__name__}): begin anew "
                "with --fresh"
            ) from None
        if missing := sorted(self.state().keys() - state.keys()):
            raise StateError(
                f"the kept training of {name} says nothing of {', '.join(missing)}, as one of "
                "another version of edgedec: begin anew with --fresh"
            )
        other = [what for what, value in self._terms.written().items() if kept.get(what) != value]
        if not other:
            self.restore(state)
        elif end == HALF:
            raise StateError(
                f"a training of {name} with other {' and '.join(other)} stopped at step "
                f"{state['step']}: go on with the same, or begin anew with --fresh"
            )
        else:
            self._tell(None, note=f"it was trained with other {' and '.join(other)}: begins anew")

    def state(self) -> dict[str, Any]:
        """With what was measured."""
        return super().state() | {
            "terms": self._terms.written(),
            "end": self._end,
            "best": self._best,
            "tally": [list(self._tally.right), list(self._tally.asked)],
            "mark": self._mark,
            "stale": self._stale,
            "history": [[step, list(shares)] for step, shares in self._history],
            "seconds": self.seconds,
            "measuring": self._measuring,
            "steps": self.schedule.end,
            "shortened": self._shortened,
            "due": self._due,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """With what was measured."""
        super().restore(state)
        self._best, self._mark, self._stale = state["best"], state["mark"], state["stale"]
        right, asked = state["tally"]
        self._tally = Tally(tuple(right), tuple(asked))
        self._history = [(step, tuple(shares)) for step, shares in state["history"]]
        self._spent, self._began = state["seconds"], time.monotonic()
        self._measuring = state["measuring"]
        self._end = state["end"]
        self.schedule = replace(self.schedule, end=state["steps"])
        self._shortened, self._due = state["shortened"], state["due"]

    @property
    def seconds(self) -> float:
        """Of training so far, in all runs together."""
        return self._spent + time.monotonic() - self._began

    # --- the run ---------------------------------------------------------------------------------

    def through(self) -> Fitted | None:
        """Run to an end, or until told to stop; then the best parameters are back in place."""
        if self._end == HALF:
            try:
                if self._due:
                    self._judge(None)
                self.run(self._after, lambda: self.told() or self._over())
            except Stopped:
                self.save()
            if self._due or not self._over():
                return None
            self._end = self._end or "all steps"
            self.save()
        seconds = self.seconds
        self._trainee.load_state_dict(self._best)
        self._trainee.eval()
        return Fitted(self._tally, self.step, seconds, self._end, tuple(self._history))

    def _over(self) -> bool:
        return bool(self._end) or self.step >= self.schedule.end

    def _after(self, report: Report) -> None:
        loss = report.losses["loss"]
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss of {self._terms.strategy} is no number at step {report.step}: give a "
                f"smaller rate than {self._terms.options.rate} "
                f"(--option {self._terms.strategy}.rate=...) and --fresh"
            )
        minutes = self._limits.minutes
        if minutes is not None and not self._shortened and self.step >= TIMED:
            self._shorten(60 * minutes)
        last, late = self.step >= self.schedule.end, self._late()
        self._due = last or late or self.step % self._terms.options.every == 0
        if self._due:
            self._judge(loss)
        else:
            self._tell(loss)

    def _late(self) -> bool:
        minutes = self._limits.minutes
        return minutes is not None and self.seconds > 60 * minutes

    def _judge(self, loss: float | None) -> None:
        """Measure, and see whether that is the end.

        Raises:
            Stopped: the end was asked for; it is still to be measured, when the run goes on.
        """
        self._measured(loss)
        self._due = False
        if self._late() and 0 < self.step < self.schedule.end:
            self._end = "time"
        elif self._stale >= self._terms.options.patience:
            self._end = "no more progress"

    def _shorten(self, seconds: float) -> None:
        """Let the schedule end when the time does."""
        step = (self.seconds - self._measuring) / self.step
        each = step + self._measuring / len(self._history) / self._terms.options.every
        fitting = self.step + int((seconds - self.seconds) / each)
        self.schedule = replace(self.schedule, end=max(self.step, min(self.schedule.end, fitting)))
        self._shortened = True

    def _measured(self, loss: float | None) -> None:
        began = time.monotonic()
        found = measure(self._trainee, self._texts, self._terms.options, self.told)
        self._measuring += time.monotonic() - began
        self._history.append((self.step, tuple(found.shares)))
        if not self._best or found.expected > self._tally.expected:
            self._tally = found
            self._best = {k: v.detach().clone() for k, v in self._trainee.state_dict().items()}
        self._stale += 1
        if found.expected > self._mark + PROGRESS:
            self._mark, self._stale = found.expected, 0
        self._tell(loss, measured=True)

    def _tell(self, loss: float | None, measured: bool = False, note: str = "") -> None:
        shares = self._history[-1][1] if self._history else ()
        known = shares, expected(shares), self.seconds, measured
        self.news(News(self.step, self.schedule.end, loss, *known, note=note))


def read_options(kind: type[Options], name: str, given: Mapping[str, Any]) -> Options:
    """A trainer's options out of those that were given as `name.field`.

    Raises:
        UsageError: no such field, or a value of another kind.
    """
    own = {
        key.removeprefix(f"{name}."): v for key, v in given.items() if key.startswith(f"{name}.")
    }
    defaults = {field.name: field.default for field in fields(kind)}
    for key, value in own.items():
        if key not in defaults:
            raise UsageError(f"{name} has no option {key!r}; there is: {', '.join(defaults)}")
        wanted = type(defaults[key])
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            own[key] = float(value)
        elif type(value) is not wanted:
            raise UsageError(f"{name}.{key} is {wanted.__name__}, found {value!r}")
    return kind(**own)
