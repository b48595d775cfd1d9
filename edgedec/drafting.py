"""How a text is drafted: which strategies, with which options, policy and acceptance rule.

It finds strategies by name in their folder and knows none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgedec import rooms
from edgedec._tree import MAX_SOURCES
from edgedec.accept import ACCEPTANCES, Acceptance
from edgedec.contracts import Needs, Strategy
from edgedec.errors import UnsupportedError, UsageError
from edgedec.parts import contents, foreseen
from edgedec.policies import BEST, policy_named

if TYPE_CHECKING:
    from edgedec.contracts import Drafter, Host

ROOM = "edgedec.strategies"
AUTO = "auto"
PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Named:
    """One strategy and the name of its file."""

    name: str
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class Drafting:
    """What drafts, as it was asked for (`requested`) and as it was found (`parts`)."""

    requested: str
    parts: tuple[Named, ...]
    policy: str = BEST
    acceptance: Acceptance = "exact"

    @property
    def name(self) -> str:
        """The strategies' names, joined by +; `plain` if there is none."""
        return "+".join(part.name for part in self.parts) or PLAIN

    @property
    def lossy(self) -> bool:
        """Whether the text may differ from plain decoding's."""
        return self.acceptance == "typical" or any(part.strategy.lossy for part in self.parts)

    @property
    def rule(self) -> Acceptance:
        """The acceptance rule: that of the strategy that brings its own, else the chosen one."""
        for part in self.parts:
            own: Acceptance = getattr(part.strategy, "acceptance", "exact")
            if own != "exact":
                return own
        return self.acceptance

    def serves(self, host: Host) -> bool:
        """Whether this model, its bundle and its runtime have what it needs."""
        return all(_fits(part, host) for part in self.fitted(host).parts)

    def fitted(self, host: Host) -> Drafting:
        """For `auto`, without what this model lacks something for; else as it is.

        What was trained for the model is taken where its part says that it pays, the most
        promising first, as many as the planner takes; it may do better what another one does.
        """
        if self.requested != AUTO:
            return self
        # Most of what was trained is not meant for every day: what its file says decides that, so
        # that it is neither checked nor mapped.
        meant = [part for part in self.parts if not _trained(part) or _is_meant(part, host)]
        fitting = [part for part in meant if _fits(part, host)]
        free = [part for part in fitting if not _trained(part)]
        rest = {part.name: promise for part in fitting if (promise := _promise(part, host)) > 0}
        best = sorted(rest, key=lambda name: -rest[name])[: MAX_SOURCES - len(free)]
        better = {name for part in fitting if part.name in best for name in _replaced(part)}
        chosen = {part.name for part in free} - better | {*best}
        return replace(self, parts=tuple(part for part in fitting if part.name in chosen))

    def needs(self, host: Host) -> Needs:
        """What all of them together need of the loop.

        Raises:
            UnsupportedError: this model or runtime lacks something; the message names it.
        """
        found = [part.strategy.needs(host) for part in self.parts]
        return Needs(
            topk=max((each.topk for each in found), default=0),
            hidden=tuple(sorted({layer for each in found for layer in each.hidden})),
            cuts=tuple(sorted({cut for each in found for cut in each.cuts})),
        )

    def open(self, host: Host) -> list[tuple[Drafter, bool]]:
        """A drafter of each, with whether it learns from the likeliest tokens of each row."""
        return [
            (part.strategy.open(host), part.strategy.needs(host).topk > 0) for part in self.parts
        ]


def _fits(part: Named, host: Host) -> bool:
    try:
        part.strategy.needs(host)
    except UnsupportedError:
        return False
    return True


def _trained(part: Named) -> bool:
    return getattr(part.strategy, "trained", False)


def _replaced(part: Named) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(part.strategy, "replaces", ())
    return found


def _is_meant(part: Named, host: Host) -> bool:
    """Whether there is something trained for this model, and it pays."""
    path = host.data(part.name)
    return path is not None and bool(contents(path).about.get("automatic", True))


def _promise(part: Named, host: Host) -> float:
    """The tokens that what was trained for this model is expected to guess right in a turn."""
    if not _trained(part):
        return 0.0
    return float(np.cumprod(foreseen(host, part.name) or [1.0]).sum())


def names() -> list[str]:
    """Every strategy that can be asked for."""
    return [AUTO, *rooms.names(ROOM)]


def choose(
    requested: str = AUTO,
    options: Mapping[str, Any] | None = None,
    policy: str = BEST,
    acceptance: str = "exact",
) -> Drafting:
    """The strategies of a name such as `auto`, `token_recycling` or `prompt_lookup+trigram`.

    `options` are fields of the strategies, named `field` where there is one strategy and
    `strategy.field` in general.

    Raises:
        UnsupportedError: there is no such strategy, policy or rule.
        UsageError: an option that no strategy has, or a value that makes no sense.
    """
    policy_named(policy)
    if acceptance not in ("exact", "typical"):
        raise UnsupportedError(f"no acceptance {acceptance!r}; there is: exact, typical")
    given = dict(options or {})
    wanted = automatic() if requested == AUTO else [n for n in requested.split("+") if n != PLAIN]
    if len(set(wanted)) != len(wanted):
        raise UsageError(f"the strategy {requested!r} names one twice: name each once")
    parts = tuple(Named(name, _build(name, given, alone=len(wanted) == 1)) for name in wanted)
    _check_rules(requested, parts, acceptance)
    if given:
        known = [f"{part.name}.{each.name}" for part in parts for each in fields(part.strategy)]  # type: ignore[arg-type]
        raise UsageError(
            f"{requested} has no option {next(iter(given))!r}; "
            f"there is: {', '.join(known) or 'none'}"
        )
    return Drafting(requested, parts, policy, cast("Acceptance", acceptance))


def _check_rules(requested: str, parts: Sequence[Named], acceptance: str) -> None:
    """A strategy with a rule of its own stands alone, under that rule."""
    own = [part for part in parts if getattr(part.strategy, "acceptance", "exact") != "exact"]
    if own and (len(parts) > 1 or acceptance != "exact"):
        raise UsageError(
            f"{requested}: {own[0].name} has an acceptance rule of its own; use it alone and "
            "leave --acceptance out"
        )


def automatic() -> list[str]:
    """The strategies that `auto` combines: those that say so of themselves."""
    return [name for name in rooms.names(ROOM) if name != PLAIN and _kind(name).automatic]


def _kind(name: str) -> Any:
    """The class has the file's name in CamelCase."""
    return getattr(rooms.load(ROOM, name), name.title().replace("_", ""))


def _build(name: str, given: dict[str, Any], *, alone: bool) -> Strategy:
    """A strategy with its share of the options, which are taken out of `given`."""
    kind, chosen = _kind(name), {}
    for each in fields(kind):
        for key in (f"{name}.{each.name}", *([each.name] if alone else [])):
            if key in given:
                chosen[each.name] = given.pop(key)
    missing = [each.name for each in fields(kind) if each.default is MISSING]
    lacking = [field for field in missing if field not in chosen]
    if lacking:
        raise UsageError(
            f"the strategy {name} needs the option {lacking[0]!r}: give {name}.{lacking[0]}"
        )
    return cast("Strategy", kind(**chosen))


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options as the command line has them, NAME=VALUE; numbers and truth values become such.

    Raises:
        UsageError: one without "=".
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"an option is written NAME=VALUE, found {text!r}")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


__all__ = ["ACCEPTANCES", "AUTO", "Drafting", "Named", "automatic", "choose", "names"]
