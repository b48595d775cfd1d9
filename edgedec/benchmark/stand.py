"""Where contestants meet: one engine on one device, with the costs that the planner reads.

All models share the engine, and with it the weights, so that none finds warmer caches than another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgedec import api, devices, drafting, profiler
from edgedec.benchmark import shapes
from edgedec.benchmark.play import Contestant
from edgedec.benchmark.replay import ReplayEngine, Scale
from edgedec.benchmark.replay_part import Opening
from edgedec.benchmark.rows import PLAIN
from edgedec.bundle import Bundle, open_bundle
from edgedec.devices import EngineOptions
from edgedec.drafting import AUTO
from edgedec.errors import EdgedecError, UnsupportedError, UsageError
from edgedec.model import Model
from edgedec.policies import BEST

if TYPE_CHECKING:
    from edgedec.contracts import Engine
    from edgedec.costs import Costs
    from edgedec.devices import Device
    from edgedec.drafting import Drafting
    from edgedec.model import Setup

ALL = "all"
Tell = Callable[[str, float], None]
"""Told what is going on, and the share of it that is done."""
Note = Callable[[str], None]
"""Told what a reader of the numbers should know."""


@dataclass(frozen=True, slots=True)
class Place:
    """The bundle, and where and how it is opened; `replay` names the shape whose time counts."""

    model: str = "stories"
    device: str | None = None
    threads: int | None = None
    kv_type: str | None = None
    replay: str | None = None

    @property
    def options(self) -> EngineOptions:
        """As runtimes take it."""
        return EngineOptions(self.device or "", self.threads, self.kv_type)


@dataclass(frozen=True, slots=True)
class Ways:
    """Which strategies are measured, with which policies and options. `all` is every strategy."""

    strategies: tuple[str, ...] = (AUTO,)
    policies: tuple[str, ...] = (BEST,)
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Stand:
    """An open engine. `timed` is the one whose time counts: another than the setup's in replay."""

    setup: Setup
    timed: Engine
    simulated: bool
    replayed: str | None

    def temperature(self, value: float) -> None:
        """Say what the next generations are drawn with."""
        if isinstance(self.setup.engine, ReplayEngine):
            self.setup.engine.temperature = value


def where(bundle: Bundle, place: Place, wanted: Sequence[str]) -> list[str]:
    """The runtimes to measure: those wanted, or all that can run the bundle on the device.

    The preferred one alone where keys and values are to be of a type that others may not have, and
    in a replay, whose steps take so long that a second runtime would be minutes of waiting.

    Raises:
        DeviceError: the device is not there; the message says what to install.
        UnsupportedError: there is no such runtime, or it cannot run the bundle.
    """
    forms, device = bundle.manifest.forms, place.device
    if wanted:
        return [devices.choose(forms, device, name)[0].runtime for name in dict.fromkeys(wanted)]
    best, _ = devices.choose(forms, device, None)
    if place.kv_type is not None or place.replay is not None:
        return [best.runtime]
    found = []
    for name, module in devices.runtimes().items():
        readable = getattr(forms, module.FORM, None) is not None or name == best.runtime
        usable = [d for d in module.devices() if d.name == best.name and d.problem is None]
        if readable and usable:
            found.append(name)
    return found


@contextmanager
def opened(place: Place, runtime: str, drafts: bool, tell: Tell) -> Iterator[Stand]:
    """Open the bundle for as long as it is measured; `drafts` says that costs will be read.

    Raises:
        EdgedecError: what `edgedec.load` raises.
        UnsupportedError: a simulated device has no speed to replay.
        UsageError: no shape of that name.
    """
    if place.replay:
        _check_shape(open_bundle(place.model), place.replay)
    # In replay the real model stands still most of the time: threads that wait for it would only
    # disturb the one that is timed.
    options = replace(place.options, threads=1) if place.replay else place.options
    setup = api.assemble(place.model, options, runtime, drafting.choose(PLAIN))
    simulated = profiler.simulated(setup.device)
    found = Stand(setup, setup.engine, simulated, None)
    try:
        if place.replay:
            found = _replayed(found, place, tell)
        elif drafts:
            costs = _costs(setup.engine, setup.bundle, setup.device, options)
            found = replace(found, setup=replace(setup, costs=costs))
        yield found
    finally:
        found.setup.engine.close()


def _check_shape(bundle: Bundle, name: str) -> None:
    """Only a decoder can stand for a decoder, and only an encoder-decoder for one.

    Raises:
        UsageError: it cannot, or there is no such shape.
        UnsupportedError: the model hears.
    """
    model = bundle.manifest.architecture
    if model.frontend is not None:
        raise UnsupportedError(f"{bundle.manifest.name} hears: no shape stands for such a model")
    if (shapes.architecture(name).encoder is None) != (model.encoder is None):
        fits = [
            other
            for other in shapes.SHAPES
            if (shapes.architecture(other).encoder is None) == (model.encoder is None)
        ]
        kind = "decoder alone" if model.encoder is None else "encoder-decoder"
        raise UsageError(
            f"{bundle.manifest.name} is a {kind} and {name} is none: replay {' or '.join(fits)}"
        )


def _costs(engine: Engine, bundle: Bundle, device: Device, options: EngineOptions) -> Costs:
    return profiler.costs_for(engine, bundle, device, replace(options, device=device.name))


def _replayed(stand: Stand, place: Place, tell: Tell) -> Stand:
    """The same words in the time of a shape; the planner sees the shape's costs."""
    setup, name = stand.setup, place.replay or ""
    if stand.simulated:
        raise UnsupportedError(f"the device {setup.device.name!r} is simulated: nothing to replay")
    form: Literal["onnx", "native"] = "native" if setup.device.runtime == "native" else "onnx"
    doing = f"writing random weights in the shape of {name}"
    bundle = shapes.random_bundle(name, form, lambda share: tell(doing, share))
    _, module = devices.choose(bundle.manifest.forms, setup.device.name, setup.device.runtime)
    options = replace(place.options, device=setup.device.name)
    shadow = module.open(bundle, options)
    real, large = setup.bundle.manifest.architecture, bundle.manifest.architecture
    engine = ReplayEngine(setup.engine, shadow, Scale(real, large))
    costs = _costs(shadow, bundle, setup.device, options)
    # A share of the real model's layers takes that share of the shadow's time.
    slow = replace(
        setup,
        engine=engine,
        costs=replace(costs, depth=real.layers),
        clock=engine.watch,
        files=replace(
            setup.files,
            open_engine=_refuse,
            open_part=Opening(
                setup.files.open_part,
                setup.bundle,
                engine,
                lambda: shapes.random_bundle(name, "native"),
                shadow,
                place.threads,
            ),
        ),
    )
    return Stand(slow, shadow, False, name)


def _refuse(bundle: str) -> Engine:
    raise UnsupportedError("a draft model cannot be replayed: there is no shape for it")


# --- who takes part ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """A way of drafting by the name that its rows bear, with the options it was given."""

    label: str
    drafting: Drafting
    options: dict[str, Any]


def ways(wanted: Ways, note: Note) -> list[Way]:
    """The ways of drafting. Of `all` strategies, those that lack an option are left out, which
    `note` is told.

    Raises:
        UnsupportedError: there is no such strategy or policy.
        UsageError: an option that no strategy has, or that one lacks.
    """
    everything = ALL in wanted.strategies
    named = [name for name in drafting.names() if name != PLAIN] if everything else []
    names = list(dict.fromkeys([*named, *(name for name in wanted.strategies if name != ALL)]))
    options = _by_strategy(names, wanted.options or {})
    found = []
    for name in names:
        for policy in dict.fromkeys(wanted.policies):
            label = name if policy == BEST else f"{name}/{policy}"
            try:
                chosen = drafting.choose(name, options[name], policy)
            except UsageError as error:
                if name in wanted.strategies:
                    raise
                note(f"{label} is left out: {error}")
                continue
            found.append(Way(label, chosen, options[name]))
    return found


def _by_strategy(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each strategy's share of the options: its own, and those that name no strategy."""
    parts = {name: drafting.automatic() if name == AUTO else name.split("+") for name in names}
    for option in given:
        head, dot, _ = option.partition(".")
        if dot and not any(head in each for each in parts.values()):
            raise UsageError(f"the option {option!r} belongs to no strategy that is measured")
    return {
        name: {k: v for k, v in given.items() if "." not in k or k.partition(".")[0] in parts[name]}
        for name in names
    }


def contestants(
    stand: Stand, chosen: Sequence[Way], tolerant: bool, note: Note
) -> list[Contestant]:
    """A model for each way of drafting, behind the baseline. Ways that this engine cannot serve are
    left out and noted where that is tolerated.

    Raises:
        UnsupportedError: a strategy needs what this model or runtime lacks.
    """
    found = [Contestant(PLAIN, Model(stand.setup), stand.setup.drafting, {})]
    for way in chosen:
        try:
            model = Model(replace(stand.setup, drafting=way.drafting))
        except EdgedecError as error:
            if not tolerant:
                raise
            note(f"{way.label} is left out on {stand.setup.device.runtime}: {error}")
            continue
        found.append(Contestant(way.label, model, way.drafting, way.options))
    return found
