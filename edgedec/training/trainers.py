"""The trainers there are, and one training from a bundle's texts to a part.

A trainer is a module of this folder with `build` and `Options`; its name is that of the strategy.
Knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from edgedec import cores, rooms
from edgedec.errors import UnsupportedError, UsageError
from edgedec.training import fit
from edgedec.training.fit import Fitted, Limits, News, Terms

if TYPE_CHECKING:
    from edgedec.export.to_part import PartSource
    from edgedec.training.frozen import Frozen
    from edgedec.training.texts import Texts
    from edgedec.training.trainee import Options

ROOM = "edgedec.training"
LAST = 1000


@dataclass(frozen=True)
class Named:
    """A trainer with its options."""

    name: str
    module: ModuleType
    options: Options


@dataclass(frozen=True)
class Lesson:
    """What every training of a model needs: its twin, its bundle's hash, its texts, a seed."""

    frozen: Frozen
    bundle: str
    texts: Texts
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A finished training: what goes into the bundle, how it went, and how much was learned."""

    part: PartSource
    fitted: Fitted
    parameters: int


def use_threads(count: int | None) -> None:
    """Train with so many threads, None: as many as there are cores.

    Raises:
        UsageError: more than a machine like this can use.
    """
    cores.check_threads(count)
    if count is not None:
        torch.set_num_threads(count)


def on(device: str) -> AbstractContextManager[object]:
    """Train on "cpu" or "cuda": within, torch makes its tensors there if nothing else is said.

    It is for everything from the model's twin to the part. A training that was begun on one device
    goes on on another; what is drawn at random differs between them.

    Raises:
        UsageError: another device, or torch finds no GPU.
    """
    if device == "cpu":
        return nullcontext()  # torch's context would cost time at every operation
    if device != "cuda":
        raise UsageError(f"it can be trained on cpu or cuda, found the device {device!r}")
    if not torch.cuda.is_available():
        raise UsageError(
            f"torch {torch.__version__} finds no GPU with CUDA here: install a torch made for CUDA "
            "and the driver of the GPU, or train with --device cpu"
        )
    return torch.device(device)


def names() -> list[str]:
    """Every strategy that can be trained, in the order in which all are."""
    modules = {name: rooms.load(ROOM, name) for name in rooms.names(ROOM)}
    found = [n for n, m in modules.items() if hasattr(m, "build") and _has_own_options(m)]
    return sorted(found, key=lambda name: (getattr(modules[name], "TURN", LAST), name))


def _has_own_options(module: ModuleType) -> bool:
    """Not those of all, which what trainers share imports."""
    options = getattr(module, "Options", None)
    return options is not None and options.__module__ == module.__name__


def choose(wanted: Sequence[str], given: Mapping[str, Any] | None = None) -> list[Named]:
    """The trainers of these names, all where there are none, with options `name.field`.

    Raises:
        UnsupportedError: there is no such trainer.
        UsageError: an option that none of them has, or a value of another kind.
    """
    known = names()
    for name in wanted:
        if name not in known:
            raise UnsupportedError(
                f"{name!r} is no strategy that can be trained; there is: {', '.join(known)}"
            )
    chosen = list(dict.fromkeys(wanted)) or known
    options = dict(given or {})
    for key in options:
        if key.partition(".")[0] not in chosen or "." not in key:
            raise UsageError(
                f"an option of a training is written STRATEGY.FIELD=VALUE, found {key!r}; trained "
                f"is: {', '.join(chosen)}"
            )
    modules = [(name, rooms.load(ROOM, name)) for name in chosen]
    return [Named(n, m, fit.read_options(m.Options, n, options)) for n, m in modules]


def train(
    trainer: Named,
    lesson: Lesson,
    limits: Limits,
    news: Callable[[News], object] = lambda news: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained | None:
    """Train one strategy, or go on with it; None where `stop` said so before its end.

    The part says what was accepted of each depth (`about["acceptance"]`).

    Raises:
        UnsupportedError: the strategy cannot be trained for this model.
        Others as in `fit.fit`.
    """
    torch.manual_seed(lesson.seed)
    trainee = trainer.module.build(lesson.frozen, trainer.options, lesson.texts)
    terms = Terms(trainer.name, lesson.bundle, lesson.texts.key, trainer.options, lesson.seed)
    fitted = fit.fit(trainee, lesson.texts, terms, limits, news, stop)
    if fitted is None:
        return None
    with torch.no_grad():
        part = trainee.part(lesson.bundle)
    shares = [round(share, 4) for share in fitted.acceptance.shares]
    part = replace(part, about={**part.about, "acceptance": shares})
    learned = sum(each.numel() for each in trainee.parameters() if each.requires_grad)
    return Trained(part, fitted, learned)
