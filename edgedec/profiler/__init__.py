"""What is this device, how fast is a step on it, and what pays: measured once and remembered.

device.py      which machine this is
steps.py       steps as the loop makes them, timed
measure.py     the parts of T: rounds that take turns, medians, drift rejected
turns.py       what a turn takes outside of its step, drafter by drafter
bandwidth.py   how fast memory is read, and the floor that sets under a step
store.py       profiles as files in the user's cache
words.py       the plan in words
curve.py       T by rows as a drawing, on a terminal and as PNG or SVG

It knows no runtime and no strategy by name.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import edgedec
from edgedec import costs, rooms
from edgedec.errors import UnsupportedError

if TYPE_CHECKING:
    from edgedec.bundle import Bundle
    from edgedec.contracts import Engine
    from edgedec.costs import Costs
    from edgedec.devices import Device, EngineOptions, RuntimeModule
    from edgedec.profiler.measure import Progress
    from edgedec.profiler.store import Key, Profile

ENOUGH_ROUNDS = 3
"""A profile of fewer rounds is used, but not stored: the next time may be better."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: an open engine, and what was opened how on which device."""

    engine: Engine
    bundle: Bundle
    device: Device
    options: EngineOptions

    @property
    def simulated(self) -> bool:
        """Whether the device only pretends."""
        return simulated(self.device)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A profile, whether it was found in the cache, and what there is to say about that."""

    profile: Profile
    stored: bool
    notes: tuple[str, ...] = ()


def simulated(device: Device) -> bool:
    """Whether a device only pretends: it has no speed that could be measured."""
    runtime = cast("RuntimeModule", rooms.load("edgedec.runtimes", device.runtime))
    return runtime.FORM == "none"


def costs_for(engine: Engine, bundle: Bundle, device: Device, options: EngineOptions) -> Costs:
    """What steps cost: from the stored profile, else from a quick measurement, which is stored.

    A stored profile takes a few milliseconds, the measurement less than 2 s. Simulated devices get
    costs that were made up (`costs.flat`).
    """
    subject = Subject(engine, bundle, device, options)
    if subject.simulated:
        return costs.flat()
    from edgedec.profiler import store

    key = key_of(subject)
    found, _ = store.read(key)
    if found is None:
        found = _measured(subject, key, "quick")
        _keep(found)
    return found.costs


def profile(
    subject: Subject,
    *,
    quick: bool = False,
    fresh: bool = False,
    tell: Progress = lambda stage, share: None,
) -> Outcome:
    """The stored profile of an open engine, or a new one, which is stored; with bandwidth.

    `quick` takes about 2 s and is content with a stored profile that was made quickly; a full one
    takes up to half a minute and replaces a quick one. `fresh` measures even if a stored one fits.
    `tell` hears of the stages `past`, `steps`, `turns` and `memory`, and of the share of each that
    is done.

    Raises:
        UnsupportedError: the device is simulated.
    """
    if subject.simulated:
        raise UnsupportedError(f"the device {subject.device.name!r} is simulated only")
    from edgedec.profiler import store

    key = key_of(subject)
    found, problem = store.read(key)
    notes = [] if problem is None else [f"the stored profile was made anew: {problem}"]
    stored = found is not None and not fresh and (quick or found.effort == "full")
    made = found if found is not None and stored else None
    if made is None:
        made = _measured(subject, key, "quick" if quick else "full", tell)
        if not quick:
            made = _with_turns(subject, made, tell)
    if made.bandwidth is None:
        made = _with_bandwidth(made, tell)
    if made is not found:
        notes += _keep(made)
    return Outcome(made, stored, tuple(notes))


def key_of(subject: Subject) -> Key:
    """What a profile of this engine holds for.

    Engines may say more of themselves than the contract asks for: `threads` (in use), `isa` (the
    instruction set) and `version` (of the runtime; another one may be faster).
    """
    from edgedec.profiler.device import fingerprint
    from edgedec.profiler.store import Key

    engine = subject.engine
    return Key(
        fingerprint=fingerprint(getattr(engine, "isa", "")),
        runtime=subject.device.runtime,
        version=getattr(engine, "version", edgedec.__version__),
        device=subject.device.name,
        bundle=subject.bundle.hash,
        threads=getattr(engine, "threads", subject.options.threads or 0),
        kv_type=subject.options.kv_type or engine.capabilities.kv_types[0],
    )


def _keep(made: Profile) -> list[str]:
    """Store a profile; what there is to say where that is not done."""
    from edgedec.profiler import store

    if made.rounds < ENOUGH_ROUNDS:
        return ["there was time for single steps only: the profile is rough and was not stored"]
    if not store.write(made):
        return ["the profile was not stored: the cache folder cannot be written to"]
    return []


def _measured(
    subject: Subject,
    key: Key,
    effort: Literal["quick", "full"],
    tell: Progress = lambda stage, share: None,
) -> Profile:
    from edgedec.profiler import bandwidth, measure
    from edgedec.profiler.store import Profile

    manifest = subject.bundle.manifest
    wanted = measure.QUICK if effort == "quick" else measure.FULL
    found = measure.measure(subject.engine, manifest.architecture, wanted, tell=tell)
    table = found.costs
    return Profile(
        schema=1,
        key=key,
        effort=effort,
        made=time.strftime("%Y-%m-%d"),
        rows=table.rows,
        pasts=table.pasts,
        layers=table.layers,
        head=table.head,
        depth=table.depth,
        spread=found.spread,
        spread_past=found.past,
        rounds=found.rounds,
        rejected=found.rejected,
        seconds=found.seconds,
        weight_bytes=bandwidth.weight_bytes(manifest),
        source=found.source,
    )


def _with_turns(subject: Subject, made: Profile, tell: Progress) -> Profile:
    from msgspec.structs import replace

    from edgedec.profiler import turns

    tell("turns", 0.0)
    host, drafters = turns.measure(subject.engine, subject.bundle, made.costs)
    tell("turns", 1.0)
    costs_ms = {name: round(1e3 * seconds, 4) for name, seconds in drafters.items()}
    return replace(made, host=host, draft_ms=costs_ms)


def _with_bandwidth(made: Profile, tell: Progress) -> Profile:
    from msgspec.structs import replace

    from edgedec.profiler import bandwidth

    tell("memory", 0.0)
    key = made.key
    seconds = 0.1 if made.effort == "quick" else 1.0
    found = bandwidth.read_bandwidth(key.threads or key.fingerprint.cores, seconds)
    tell("memory", 1.0)
    return replace(made, bandwidth=found)
