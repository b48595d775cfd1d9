"""How the next token is chosen: the user's settings, the chain of processors, the draw.

The draw is argmax(processed logits + Gumbel noise), which has exactly the distribution
softmax(processed logits). The noise depends on (seed, output index, token) alone, so the same seed
gives the same text however the logits were come by. Knows nothing about models or sessions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedec import _tree, forcing, processors
from edgedec.constraint import Allowed, Constraint
from edgedec.errors import InputError, UsageError
from edgedec.gumbel import gumbel
from edgedec.processors import Processor, Temperature

if TYPE_CHECKING:
    from edgedec.manifest import Decoding

Floats = NDArray[np.float32]
State = tuple[Any, ...]
"""The states of the processors, in their order. Immutable: keep one per node of a tree."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings of a generation; the default is greedy.

    `temperature` 0 is greedy: the most likely token, and top-k, top-p and min-p change nothing.
    `top_k` 0, `top_p` 1 and `min_p` 0 are off, as are penalties of 1, 0 and 0. With `mirostat_tau`
    (bits) mirostat v2 steers the surprise of the text. `seed` is 0 to 2^64 - 1.

    No sequence of `no_repeat_ngram_size` ids (0: off) occurs twice, the prompt of the decoder
    included. No stop token comes among the first `min_new_tokens`. `suppress_tokens` are ids that
    never come, `forced_bos_token_id` is the one that comes first.

    Raises:
        UsageError: a value out of its range, named.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    mirostat_tau: float | None = None
    mirostat_eta: float = 0.1
    seed: int = 0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None

    def __post_init__(self) -> None:
        check_number(self, "temperature", 0, 100)
        self._whole("top_k", (1 << 31) - 1)
        check_number(self, "top_p", 0, 1, above=True)
        check_number(self, "min_p", 0, 1)
        check_number(self, "repetition_penalty", 0, 100, above=True)
        check_number(self, "frequency_penalty", -100, 100)
        check_number(self, "presence_penalty", -100, 100)
        check_number(self, "mirostat_eta", 0, 1, above=True)
        self._whole("seed", (1 << 64) - 1)
        self._whole("no_repeat_ngram_size", (1 << 31) - 1)
        self._whole("min_new_tokens", (1 << 31) - 1)
        if self.forced_bos_token_id is not None:
            self._whole("forced_bos_token_id", (1 << 31) - 1)
        if self.mirostat_tau is not None:
            check_number(self, "mirostat_tau", 0, 100, above=True)
            if self.temperature == 0:
                raise UsageError("mirostat_tau needs a temperature above 0; give a temperature")

    def _whole(self, name: str, high: int) -> None:
        value = getattr(self, name)
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not 0 <= value <= high:
            raise UsageError(f"{name} is {value!r}; it must be a whole number from 0 to {high}")


def check_number(settings: object, name: str, low: float, high: float, above: bool = False) -> None:
    """Whether a setting is a number from `low` (or `above` it) to `high`.

    Raises:
        UsageError: it is not, named.
    """
    value = getattr(settings, name)
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (above and value == low):
        start = f"above {low}" if above else f"from {low}"
        raise UsageError(f"{name} is {value!r}; it must be {start} to {high}")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a text must keep to besides the user's settings.

    `vocab` is how many ids there are; a text ends before a token of `stop`, or after `limit`
    tokens; `decoding` is what the model's own manifest demands.
    """

    vocab: int
    stop: frozenset[int]
    limit: int
    decoding: Decoding | None = None


@dataclass(frozen=True, slots=True)
class Sampler:
    """The settings as a chain of processors, and the draw. Immutable and pure.

    `greedy`: no noise is drawn. `plain_greedy`: the draw is the argmax of the model's own logits,
    which need not be fetched. `plain_draw`: noise is added to nothing but logits over a
    temperature. With the latter two the state never changes and `advance` need not be called.
    """

    sampling: Sampling
    chain: tuple[Processor, ...]
    greedy: bool = field(init=False)
    plain_greedy: bool = field(init=False)
    plain_draw: bool = field(init=False)

    @classmethod
    def build(
        cls,
        sampling: Sampling,
        constraint: Constraint | None = None,
        terms: Terms | None = None,
        rules: Sequence[Processor] = (),
    ) -> Sampler:
        """The chain, in the order of transformers: penalties, no repeated n-grams, the least
        length, the constraint, what is forced and suppressed, further `rules`, temperature, top-k,
        top-p, min-p, mirostat.

        Raises:
            UsageError: an id that the vocabulary does not have.
        """
        chain = [*_penalties(sampling), *_shape(sampling, terms), *_allowed(constraint)]
        chain += [*_demands(sampling, terms), *rules, *_warpers(sampling)]
        return cls(sampling, tuple(chain))

    def __post_init__(self) -> None:
        greedy = self.sampling.temperature == 0
        found = {
            "greedy": greedy,
            "plain_greedy": greedy and not self.chain,
            "plain_draw": not greedy and all(type(each) is Temperature for each in self.chain),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def start(self, prompt: Sequence[int]) -> State:
        """The state before the first new token; `prompt` are the ids before it."""
        return tuple(processor.start(prompt) for processor in self.chain)

    def process(self, state: State, logits: Floats) -> Floats:
        """The model's logits [V] after all processors; the input is not written to."""
        for processor, own in zip(self.chain, state, strict=True):
            logits = processor.apply(own, logits)
        return logits

    def draw(self, state: State, logits: Floats, index: int) -> int:
        """The token chosen from the model's (unprocessed) logits [V].

        `index` counts the new tokens from 0. The lowest id wins ties.

        Raises:
            InputError: no token is left to choose from, or the logits are not numbers.
        """
        if self.plain_draw:
            sampling = self.sampling
            token = _tree.draw(logits, sampling.temperature, sampling.seed, index)
            if token >= 0:
                return token
        processed = self.process(state, logits)
        if self.greedy:
            token = int(processed.argmax())
            check(float(processed[token]))
            return token
        ids = np.flatnonzero(np.isfinite(processed))
        if not ids.size:
            check(float(processed.max()))
        noise = gumbel(self.sampling.seed, index, ids)
        noise += processed[ids]
        return int(ids[noise.argmax()])

    def advance(self, state: State, token: int, logits: Floats) -> State:
        """The state after `token`; `logits` are the model's, as given to `draw`."""
        reads = self.sampling.mirostat_tau is not None
        states = []
        for processor, own in zip(self.chain, state, strict=True):
            states.append(processor.advance(own, token, logits))
            # Mirostat stands last and is the only one that looks at the logits.
            if reads:
                logits = processor.apply(own, logits)
        return tuple(states)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of probabilities: of one token, and of the k most likely [k]."""

    token: float
    ids: NDArray[np.int64]
    values: NDArray[np.float64]


def logprobs(logits: Floats, token: int, k: int = 0) -> Logprobs:
    """The log-softmax of logits [V] at `token` and at the k largest (lower ids first in ties)."""
    total = processors.log_total(logits)
    k = min(k, logits.size)
    ids = np.empty(0, np.int64)
    if k:
        threshold = np.partition(logits, logits.size - k)[logits.size - k]
        near = np.flatnonzero(logits >= threshold)
        ids = near[np.argsort(-logits[near], kind="stable")[:k]]
    return Logprobs(float(logits[token]) - total, ids, logits[ids].astype(np.float64) - total)


def _penalties(sampling: Sampling) -> list[Processor]:
    chain: list[Processor] = []
    if sampling.repetition_penalty != 1:
        chain.append(processors.Repetition(sampling.repetition_penalty))
    if sampling.frequency_penalty or sampling.presence_penalty:
        chain.append(processors.Occurrence(sampling.frequency_penalty, sampling.presence_penalty))
    return chain


def _shape(sampling: Sampling, terms: Terms | None) -> list[Processor]:
    """No n-gram twice, and no end too soon."""
    chain: list[Processor] = []
    if sampling.no_repeat_ngram_size:
        chain.append(forcing.NoRepeatNgrams(sampling.no_repeat_ngram_size))
    if sampling.min_new_tokens and terms is not None and terms.stop:
        # Ids that the model cannot write need no mask.
        stop = tuple(sorted(token for token in terms.stop if 0 <= token < terms.vocab))
        chain.append(forcing.MinLength(sampling.min_new_tokens, stop))
    return chain


def _demands(sampling: Sampling, terms: Terms | None) -> list[Processor]:
    """What is forced and suppressed, by the user and by the model itself."""
    decoding = None if terms is None else terms.decoding
    forced = {} if decoding is None else dict(decoding.forced)
    if sampling.forced_bos_token_id is not None:
        forced[0] = sampling.forced_bos_token_id
    suppressed = sampling.suppress_tokens
    first = () if decoding is None else decoding.suppressed_first
    if decoding is not None:
        suppressed += decoding.suppressed
    last = None if decoding is None else decoding.forced_last
    if terms is not None:
        ends = () if last is None else (last,)
        _check_ids("forced tokens", (*forced.values(), *ends), terms.vocab)
        _check_ids("suppressed tokens", (*suppressed, *first), terms.vocab)
    chain: list[Processor] = [forcing.Forced(forced)] if forced else []
    if terms is not None and last is not None:
        chain.append(forcing.ForcedLast(last, terms.limit))
    if suppressed or first:
        # The first token is the first that the model itself chooses.
        free = next(place for place in range(len(forced) + 1) if place not in forced)
        chain.append(forcing.Suppressed(suppressed, first, free))
    return chain


def _check_ids(what: str, ids: tuple[int, ...], vocab: int) -> None:
    outside = [token for token in ids if not 0 <= token < vocab]
    if outside:
        raise UsageError(f"{what}: there is no id {outside[0]}; ids are 0 to {vocab - 1}")


def _allowed(constraint: Constraint | None) -> list[Processor]:
    return [] if constraint is None else [Allowed(constraint)]


def _warpers(sampling: Sampling) -> list[Processor]:
    """What changes the distribution but never the most likely token."""
    if sampling.temperature == 0:
        return []
    chain: list[Processor] = []
    if sampling.temperature != 1:
        chain.append(processors.Temperature(sampling.temperature))
    if sampling.top_k:
        chain.append(processors.TopK(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(processors.TopP(sampling.top_p))
    if sampling.min_p:
        chain.append(processors.MinP(sampling.min_p))
    if sampling.mirostat_tau is not None:
        chain.append(processors.Mirostat(sampling.mirostat_tau, sampling.mirostat_eta))
    return chain


def check(best: float) -> None:
    """Whether there is something to choose from, by the best score of all.

    Raises:
        InputError: every token is masked, or the model's logits are not numbers.
    """
    if best == -math.inf:
        raise InputError(
            "what is asked for allows no token here: there is nothing left to choose from; loosen "
            "the constraint, or no_repeat_ngram_size and suppress_tokens"
        )
    if not math.isfinite(best):
        raise InputError(
            f"the model's logits hold {best}, which is no number to choose by: "
            "check the bundle with `edgedec info --verify`"
        )
