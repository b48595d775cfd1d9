"""A whole benchmark: runtimes x workloads x strategies, row by row. It prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgedec.benchmark import forced, results
from edgedec.benchmark.play import Contestant, Course, Stopped, fitting
from edgedec.benchmark.results import Subject
from edgedec.benchmark.rows import PLAIN, Row
from edgedec.benchmark.stand import (
    ALL,
    Note,
    Place,
    Stand,
    Tell,
    Way,
    Ways,
    contestants,
    opened,
    ways,
    where,
)
from edgedec.bundle import open_bundle
from edgedec.errors import InputError

if TYPE_CHECKING:
    from edgedec.benchmark.pairs import Pair
    from edgedec.benchmark.workloads import Workload
    from edgedec.generation import Cancel


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured. `pairs` of about `tokens` new tokens each; `weigh` measures memory too."""

    place: Place
    ways: Ways
    workloads: tuple[Workload, ...]
    runtimes: tuple[str, ...] = ()
    pairs: int = 16
    tokens: int = 256
    seed: int = 0
    weigh: bool = True


@dataclass(frozen=True, slots=True)
class Ears:
    """Who is told what is going on, what to know of the numbers, and who may ask for the end."""

    tell: Tell = lambda what, share: None
    note: Note = lambda text: None
    cancel: Cancel | None = None


def run(settings: Settings, ears: Ears) -> Iterator[Row]:
    """The rows, as soon as they are known; the baseline before the others.

    It ends early, without an error, where the end is asked for: a workload that is not finished
    gives no rows.

    Raises:
        DeviceError: the device is not there; the message says what to install.
        UsageError: an option that makes no sense.
        UnsupportedError: a strategy or runtime that cannot run this model.
        InputError: no prompt fits into the model's context, or there are too few for one pair.
    """
    chosen = ways(settings.ways, ears.note)
    bundle = open_bundle(settings.place.model)
    runtimes = where(bundle, settings.place, settings.runtimes)
    empty = True

    def tell(what: str, share: float) -> None:
        """Writing a large shape takes a minute: the end may be asked for there as well."""
        if ears.cancel is not None and ears.cancel.is_set:
            raise Stopped
        ears.tell(what, share)

    try:
        for runtime in runtimes:
            drafts = any(way.drafting.parts for way in chosen)
            with opened(settings.place, runtime, drafts, tell) as stand:
                for row in _Event(settings, ears, stand, chosen).rows():
                    empty = False
                    yield row
    except Stopped:
        return
    if empty:
        raise InputError(
            "no prompt fits into the model's context, or there are too few for one pair: "
            "give other prompts, or fewer --tokens"
        )


class _Event:
    """All workloads with one runtime."""

    def __init__(self, settings: Settings, ears: Ears, stand: Stand, chosen: Sequence[Way]) -> None:
        self._settings, self._ears = settings, ears
        self._stand, self._chosen = stand, chosen

    def rows(self) -> Iterator[Row]:
        """The rows of each workload; none of those whose prompts do not fit."""
        stand = self._stand
        field = self._field(stand, ALL in self._settings.ways.strategies)
        model = stand.setup.bundle.manifest.architecture
        for workload in self._settings.workloads:
            if workload.source != (model.encoder is not None) and workload.shipped:
                kind = "with" if workload.source else "without"
                self._ears.note(f"{workload.name} is for models {kind} an encoder: left out")
                continue
            if workload.forced:
                yield from self._forced(workload)
                continue
            prompts = fitting(workload, stand.setup.text, model)
            left_out = len(workload.prompts) - len(prompts)
            if left_out:
                self._ears.note(
                    f"{workload.name}: {left_out} of {len(workload.prompts)} prompts do not fit "
                    f"into what the model reads and are left out"
                )
            if prompts and len(field) > 1:
                yield from self._measured(stand, replace(workload, prompts=prompts), field)

    def _field(self, stand: Stand, tolerant: bool) -> list[Contestant]:
        """Who takes part, the baseline first."""
        return contestants(stand, self._chosen, tolerant, self._ears.note)

    def _forced(self, workload: Workload) -> Iterator[Row]:
        """With a given text in place of the model."""
        stand = self._stand
        seconds = 0.0 if stand.simulated else forced.topk_seconds(stand.timed)
        tokens = self._settings.tokens
        scripted, setup = forced.prepare(workload, stand.setup, tokens, seconds)
        stand = replace(stand, setup=setup)
        field = self._field(stand, tolerant=True)
        if len(field) > 1:
            yield from self._measured(stand, scripted, field)

    def _measured(self, stand: Stand, workload: Workload, field: list[Contestant]) -> Iterator[Row]:
        settings = self._settings
        stand.temperature(workload.temperature)
        found = self._pairs(stand, workload, field)
        subject = Subject(settings.place, stand, workload, settings.seed, settings.weigh)
        if found and PLAIN not in found:
            works = [pair.plain for each in found.values() for pair in each]
            yield results.baseline(subject, field[0], works)
        for who in field[1:]:
            if who.label in found:
                yield results.drafted(subject, who, found[who.label])

    def _pairs(
        self, stand: Stand, workload: Workload, field: list[Contestant]
    ) -> dict[str, list[Pair]]:
        """The pairs of each way of drafting, in rounds."""
        settings, ears = self._settings, self._ears
        course = Course(workload, settings.tokens, settings.seed, ears.cancel)
        title = f"{stand.setup.device.runtime} {workload.name}"
        found: dict[str, list[Pair]] = {}
        course.warm_up(field)
        for number in range(settings.pairs):
            ears.tell(title, number / settings.pairs)
            pairs = course.round(field[0], field[1:], number)
            if pairs is None:
                ears.note(
                    f"{workload.name} has prompts for {number} pairs only: none is answered twice"
                )
                break
            for label, pair in pairs.items():
                found.setdefault(label, []).append(pair)
        ears.tell(title, 1.0)
        return found
