"""What a contestant did on a workload, as a row. It measures nothing but memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedec.benchmark import extras, memory, pairs
from edgedec.benchmark.rows import PLAIN, Row

if TYPE_CHECKING:
    from edgedec.benchmark.pairs import Pair, Work
    from edgedec.benchmark.play import Contestant
    from edgedec.benchmark.stand import Place, Stand
    from edgedec.benchmark.workloads import Workload
    from edgedec.generation import Generation

WEIGHED = 3
"""Prompts that a process answers whose memory is measured."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a row is about, besides who drafted."""

    place: Place
    stand: Stand
    workload: Workload
    seed: int
    weigh: bool


def baseline(subject: Subject, who: Contestant, works: Sequence[Work]) -> Row:
    """Plain decoding, from all its runs: as fast as itself."""
    one = None if subject.stand.simulated else pairs.Interval(1.0, 1.0, 1.0)
    return _row(subject, who, works, one, ())


def drafted(subject: Subject, who: Contestant, found: Sequence[Pair]) -> Row:
    """A way of drafting, from its pairs."""
    ratios = [pair.ratio for pair in found if pair.ratio is not None]
    if subject.stand.simulated:
        ratios = []
    speedup = pairs.median(ratios, subject.seed)
    return _row(subject, who, [pair.drafted for pair in found], speedup, found)


def _row(
    subject: Subject,
    who: Contestant,
    works: Sequence[Work],
    speedup: pairs.Interval | None,
    found: Sequence[Pair],
) -> Row:
    stand, setup = subject.stand, subject.stand.setup
    answers = [answer for work in works for answer in work.answers]
    passes = sum(answer.passes for answer in answers)
    drawn = sum(answer.passes * (answer.tokens_per_pass or 0.0) for answer in answers)
    evaluated = sum(answer.evaluated for answer in answers)
    rates = [] if stand.simulated else [work.rate for work in works]
    firsts = [] if stand.simulated else [answer.time_to_first_token_ms for answer in answers]
    ratios = [] if stand.simulated else [pair.ratio for pair in found]
    added = extras.of(who.model)
    return Row(
        model=setup.bundle.manifest.name,
        runtime=setup.device.runtime,
        device=setup.device.name,
        strategy=who.label,
        workload=subject.workload.name,
        new_tokens=sum(work.new_tokens for work in works),
        tokens_per_second=_middle(rates, 2),
        speedup=None if speedup is None else round(speedup.median, 4),
        speedup_low=None if speedup is None else round(speedup.low, 4),
        speedup_high=None if speedup is None else round(speedup.high, 4),
        pairs=len(works),
        tokens_per_pass=round(drawn / passes, 4) if passes else None,
        acceptance=_share(sum(answer.accepted for answer in answers), evaluated),
        time_to_first_token_ms=_middle(firsts, 3),
        peak_rss_mb=_peak(subject, who),
        distinct4=_rounded(pairs.distinct(answer.tokens for answer in answers)),
        identical=all(pair.identical for pair in found),
        near_ties=sum(answer.near_ties for answer in answers),
        lossy=who.way.lossy,
        simulated=stand.simulated,
        replayed=stand.replayed,
        forced=subject.workload.forced,
        ran=who.way.name if evaluated else PLAIN,
        ratios=tuple(round(ratio, 4) for ratio in ratios if ratio is not None),
        depths=_depths([answer.depths for answer in answers]),
        draft_share=None if stand.simulated else _drafting(who, answers),
        part_parameters=added.parameters,
        part_bytes=added.bytes,
    )


def _drafting(who: Contestant, answers: Sequence[Generation]) -> float | None:
    """The share of the answers' time that drafting took; None where nothing drafts."""
    seconds = sum(answer.seconds for answer in answers)
    if not who.way.parts or not seconds:
        return None
    return round(sum(answer.draft_seconds for answer in answers) / seconds, 4)


def _peak(subject: Subject, who: Contestant) -> float | None:
    """Where a real model runs in its own time: what a process takes that does nothing else."""
    stand, place, workload = subject.stand, subject.place, subject.workload
    if not subject.weigh or stand.simulated or stand.replayed or workload.forced:
        return None
    device = stand.setup.device
    return memory.peak_mb(
        memory.Order(
            model=str(stand.setup.bundle.path),
            device=device.name,
            runtime=device.runtime,
            threads=place.threads,
            kv_type=place.kv_type,
            strategy=who.way.requested,
            policy=who.way.policy,
            options=who.options,
            prompts=workload.prompts[:WEIGHED],
            temperature=workload.temperature,
            longest=workload.longest,
            seed=subject.seed,
        )
    )


def _depths(found: Sequence[tuple[tuple[int, int], ...]]) -> tuple[tuple[int, int], ...]:
    """The sums by depth."""
    deepest = max(map(len, found), default=0)
    columns = [[each[depth] for each in found if depth < len(each)] for depth in range(deepest)]
    return tuple((sum(tried for tried, _ in c), sum(right for _, right in c)) for c in columns)


def _middle(values: Sequence[float | None], digits: int) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), digits) if known else None


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
