"""The options of `generate`: their names and types, and the check that they make sense.

Knows nothing about models.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypedDict

from edgedec.errors import UsageError
from edgedec.generation import Cancel, Chunk
from edgedec.sampling import Sampling
from edgedec.stopping import StopStrings

if TYPE_CHECKING:
    from edgedec.constraint import Constraint

Stream = Callable[[Chunk], object]


class GenerateOptions(TypedDict, total=False):
    """What `generate` takes besides the prompt; every one may be left out.

    `max_new_tokens` (128) counts emitted tokens only. The sampling options are those of
    `edgedec.sampling.Sampling`; the default is greedy. `seed` None draws one and reports it.
    `stop` are strings the text ends before, `stop_tokens` ids that end it besides the model's own.
    `logprobs` k reports each token's log probability with the k likeliest; True is k = 0.
    `stream` is called with every `Chunk`, `cancel` stops, `constraint` says what may come next.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    mirostat_tau: float | None
    mirostat_eta: float
    seed: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    logprobs: int
    stream: Stream | None
    cancel: Cancel | None
    constraint: Constraint | None


@dataclass(frozen=True, slots=True)
class Options:
    """The options, checked. `logprobs` is None where none were asked for."""

    sampling: Sampling
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None
    stream: Stream | None = None
    cancel: Cancel | None = None
    constraint: Constraint | None = None


_SAMPLING = frozenset(field.name for field in fields(Sampling))


def read(given: Mapping[str, Any]) -> Options:
    """Check options and fill in what was left out.

    Raises:
        UsageError: an unknown option, or a value that makes no sense; the message names it.
    """
    unknown = sorted(given.keys() - GenerateOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(GenerateOptions.__annotations__)
        raise UsageError(f"no option {unknown[0]!r}; there is: {known}")
    chosen = {name: value for name, value in given.items() if name in _SAMPLING}
    rest = {name: value for name, value in given.items() if name not in _SAMPLING}
    return Options(
        sampling=Sampling(**chosen | {"seed": _seed(chosen)}),
        max_new_tokens=_whole(rest, "max_new_tokens", 128, 1),
        stop=_strings(rest.get("stop", ())),
        stop_tokens=_ids(rest.get("stop_tokens", ())),
        logprobs=_logprobs(rest.get("logprobs", False)),
        stream=_callable(rest, "stream"),
        cancel=_cancel(rest.get("cancel")),
        constraint=_constraint(rest.get("constraint")),
    )


def _seed(sampling: Mapping[str, Any]) -> Any:
    """The seed given, a random one where it matters, else 0."""
    seed = sampling.get("seed")
    if seed is not None:
        # numpy's integers would overflow in the noise and fail in JSON; a bool is refused later.
        return int(seed) if isinstance(seed, Integral) and not isinstance(seed, bool) else seed
    return secrets.randbits(32) if sampling.get("temperature") else 0


def _whole(given: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {least}")
    return int(value)


def _strings(stop: Any) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence):
        raise UsageError(f"stop is {stop!r}; it must be a text or a list of texts")
    StopStrings(stops)
    return tuple(stops)


def _ids(stop_tokens: Any) -> frozenset[int]:
    try:
        return frozenset(int(token) for token in stop_tokens)
    except (TypeError, ValueError):
        raise UsageError(f"stop_tokens is {stop_tokens!r}; it must be a list of ids") from None


def _logprobs(value: Any) -> int | None:
    if isinstance(value, bool) or value is None:
        return 0 if value else None
    return _whole({"logprobs": value}, "logprobs", 0, 0) or None


def _callable(given: Mapping[str, Any], name: str) -> Stream | None:
    value: Stream | None = given.get(name)
    if value is not None and not callable(value):
        raise UsageError(f"{name} is {value!r}; it must be a function that takes a chunk")
    return value


def _constraint(value: Any) -> Constraint | None:
    named = ("start", "advance", "mask")
    if value is not None and not all(callable(getattr(value, name, None)) for name in named):
        raise UsageError(f"constraint is {value!r}; it must have the methods {', '.join(named)}")
    found: Constraint | None = value
    return found


def _cancel(value: Any) -> Cancel | None:
    if value is not None and not isinstance(value, Cancel):
        raise UsageError(f"cancel is {value!r}; it must be an edgedec.generation.Cancel")
    return value
