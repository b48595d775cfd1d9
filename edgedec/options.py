"""The options of `generate`: their names and types, and the check that they make sense.

Knows nothing about models.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from edgedec.beams import Beams
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

    With `num_beams` of 2 or more the text is searched for; the options behind it are those of
    `edgedec.beams.Beams`.
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
    no_repeat_ngram_size: int
    min_new_tokens: int
    suppress_tokens: Sequence[int]
    forced_bos_token_id: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    logprobs: int
    stream: Stream | None
    cancel: Cancel | None
    constraint: Constraint | None
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    patience: float
    num_beam_groups: int
    diversity_penalty: float


class SeveralOptions(GenerateOptions):
    """With `num_return_sequences` (1 too) a list of so many texts comes back for a prompt.

    They are the best that a search has found or, with a temperature, those that are drawn with the
    seeds `seed`, `seed` + 1, ... (modulo 2^64).
    """

    num_return_sequences: int


@dataclass(frozen=True, slots=True)
class Options:
    """The options, checked.

    `logprobs` is None where none were asked for, `beams` where nothing is searched for; `several`
    says whether a list of texts is to come back, be it of one.
    """

    sampling: Sampling
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None
    stream: Stream | None = None
    cancel: Cancel | None = None
    constraint: Constraint | None = None
    num_return_sequences: int = 1
    several: bool = False
    beams: Beams | None = None


_SAMPLING = frozenset(field.name for field in fields(Sampling))
_BEAMS = {field.name: field.default for field in fields(Beams)} | {"num_beams": 1}
_NOT_WITH_BEAMS = {
    "stream": "no text is sure before the search ends",
    "logprobs": "a text that was searched for has a score instead",
    "stop": "the search knows ids only; give stop_tokens",
}


def read(given: Mapping[str, Any]) -> Options:
    """Check options and fill in what was left out.

    Raises:
        UsageError: an unknown option, or a value that makes no sense; the message names it.
    """
    unknown = sorted(given.keys() - SeveralOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(SeveralOptions.__annotations__)
        raise UsageError(f"no option {unknown[0]!r}; there is: {known}")
    chosen = {name: value for name, value in given.items() if name in _SAMPLING}
    rest = {name: value for name, value in given.items() if name not in _SAMPLING}
    if "suppress_tokens" in chosen:
        chosen["suppress_tokens"] = tuple(sorted(_ids(chosen, "suppress_tokens")))
    found = Options(
        sampling=Sampling(**chosen | {"seed": _seed(chosen)}),
        max_new_tokens=_whole(rest, "max_new_tokens", 128, 1),
        stop=_strings(rest.get("stop", ())),
        stop_tokens=_ids(rest, "stop_tokens"),
        logprobs=_logprobs(rest.get("logprobs", False)),
        stream=_callable(rest, "stream"),
        cancel=_cancel(rest.get("cancel")),
        constraint=_constraint(rest.get("constraint")),
        num_return_sequences=_whole(rest, "num_return_sequences", 1, 1),
        several="num_return_sequences" in rest,
        beams=_beams(rest),
    )
    if found.sampling.min_new_tokens > found.max_new_tokens:
        raise UsageError(
            f"min_new_tokens is {found.sampling.min_new_tokens}, more than max_new_tokens, which "
            f"is {found.max_new_tokens}"
        )
    if found.beams is None:
        _check_several(found)
    else:
        _check_search(found, found.beams)
    return found


def _beams(given: Mapping[str, Any]) -> Beams | None:
    settings = {name: value for name, value in given.items() if name in _BEAMS}
    if _whole(settings, "num_beams", 1, 1) > 1:
        return Beams(**settings)
    for name, value in settings.items():
        if name != "num_return_sequences" and value != _BEAMS[name]:
            raise UsageError(f"{name} is {value!r}, but nothing is searched for: give num_beams")
    return None


def _check_search(chosen: Options, beams: Beams) -> None:
    if chosen.sampling.temperature:
        raise UsageError(
            f"{beams.num_beams} beams and a temperature of {chosen.sampling.temperature}: a search "
            "draws nothing; leave out one of them"
        )
    for name, why in _NOT_WITH_BEAMS.items():
        if getattr(chosen, name) not in (None, ()):
            raise UsageError(f"{name} does not go with beams: {why}")


def _check_several(chosen: Options) -> None:
    count = chosen.num_return_sequences
    if count > 1 and not chosen.sampling.temperature:
        raise UsageError(
            f"{count} return sequences would all be the same: give num_beams of {count} or more, "
            "or a temperature"
        )
    if count > 1 and chosen.stream is not None:
        raise UsageError("stream takes one text: leave it out, or num_return_sequences")


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


def _ids(given: Mapping[str, Any], name: str) -> frozenset[int]:
    try:
        return frozenset(int(token) for token in given.get(name, ()))
    except (TypeError, ValueError):
        raise UsageError(f"{name} is {given[name]!r}; it must be a list of ids") from None


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
