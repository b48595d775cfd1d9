"""`edgedec profile`: how long a step takes here, by the number of tokens it checks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedec import cli
from edgedec.cli import _options, _output, _progress

if TYPE_CHECKING:
    from edgedec.bundle import Bundle
    from edgedec.costs import Costs
    from edgedec.profiler import Outcome
    from edgedec.profiler.curve import Curve
    from edgedec.profiler.store import Profile

STAGES = {
    "past": "making a past",
    "steps": "timing steps",
    "turns": "drafting",
    "memory": "reading memory",
}
PAST = 128
ROWS = range(1, 65)


@click.command()
@_options.model_options
@click.option("--quick", is_flag=True, help="Be content with a rough measurement of 2 s.")
@click.option("--fresh", is_flag=True, help="Measure again even if a stored profile fits.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the curve into FILE, a .png or .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(quick: bool, fresh: bool, plot: Path | None, as_json: bool, **given: Any) -> None:
    """Measure how long a step takes by the number of tokens it checks, and say what pays.

    The profile is stored in the user's cache and used by every generation with the same model,
    device, runtime and threads; it is made anew when one of these has changed. Measure on a
    machine that does nothing else.

    \b
    Examples:
      edgedec profile
      edgedec profile -m smollm2 --threads 4 --plot curve.png
      edgedec profile --fresh --json
    """
    from edgedec.profiler import curve

    if plot is not None:
        curve.check_target(plot)
    bundle, outcome = _profiled(given, quick, fresh)
    for note in outcome.notes:
        click.echo(f"edgedec: {note}", err=True)
    if as_json:
        _output.print_json(_document(bundle, outcome))
    else:
        _show(bundle, outcome)
    if plot is not None:
        curve.picture(_curve(bundle, outcome.profile), plot)
        click.echo(f"wrote {plot}", err=True)


def _profiled(given: dict[str, Any], quick: bool, fresh: bool) -> tuple[Bundle, Outcome]:
    """The bundle and its profile; leaves with code 3 where the device is simulated."""
    from edgedec import cores, devices, profiler
    from edgedec.bundle import open_bundle
    from edgedec.devices import EngineOptions

    cores.check_threads(given["threads"])
    bundle = open_bundle(given["model"])
    place, module = devices.choose(bundle.manifest.forms, given["device"], given["runtime"])
    if profiler.simulated(place):
        click.echo(f"edgedec: {place.name} is simulated only: it has no speed to measure", err=True)
        click.get_current_context().exit(cli.SIMULATED)
    options = EngineOptions(place.name, given["threads"], given["kv_type"])
    engine = module.open(bundle, options)
    try:
        with _progress.bars(STAGES) as tell:
            subject = profiler.Subject(engine, bundle, place, options)
            return bundle, profiler.profile(subject, quick=quick, fresh=fresh, tell=tell)
    finally:
        engine.close()


def _curve(bundle: Bundle, profile: Profile) -> Curve:
    from edgedec.profiler.curve import Curve

    key = profile.key
    how = f"{key.runtime}, {_threads(key.threads)}"
    title = f"{bundle.manifest.name} on {key.fingerprint.processor}: {how}"
    return Curve(profile.costs, title, profile.roofline)


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}" if count else "threads of its own choice"


def _document(bundle: Bundle, outcome: Outcome) -> dict[str, Any]:
    from msgspec import to_builtins

    profile, costs = outcome.profile, outcome.profile.costs
    bandwidth, floor = profile.bandwidth, profile.roofline
    return {
        "schema": 1,
        "model": bundle.manifest.name,
        "device": profile.key.device,
        "runtime": profile.key.runtime,
        "version": profile.key.version,
        "threads": profile.key.threads,
        "kv_type": profile.key.kv_type,
        "fingerprint": to_builtins(profile.key.fingerprint),
        "t_ms": _by_rows(costs, PAST, ROWS),
        "spread_ms": {
            str(rows): [_ms(edge) for edge in edges] for rows, edges in profile.spread.items()
        },
        "curves": [
            {"past": past, "source": profile.source, "t_ms": _by_rows(costs, past, costs.rows)}
            for past in costs.pasts
        ],
        "bandwidth_gb_s": None if bandwidth is None else round(bandwidth / 1e9, 3),
        "weight_mb": round(profile.weight_bytes / 1e6, 3),
        "roofline_ms": None if floor is None else _ms(floor),
        "host_ms": _ms(profile.host),
        "draft_ms": dict(profile.draft_ms),
        "plan": _plan(costs),
        "effort": profile.effort,
        "rounds": profile.rounds,
        "rejected": profile.rejected,
        "seconds": round(profile.seconds, 3),
        "made": profile.made,
        "stored": outcome.stored,
    }


def _plan(costs: Costs) -> dict[str, Any]:
    from edgedec.profiler import words

    plan = words.plan(costs, PAST)
    return {
        "checks": plan.checks,
        "costs": round(plan.ratio, 3),
        "best": [
            {"right": best.right, "checks": best.checks, "gain": round(best.gain, 3)}
            for best in plan.best
        ],
        "break_even": {str(rows): round(share, 4) for rows, share in plan.break_even.items()},
        "words": plan.text,
    }


def _by_rows(costs: Costs, past: int, rows: Sequence[int]) -> dict[str, float]:
    times = costs.step(past, rows[-1])
    return {str(count): _ms(times[count]) for count in rows}


def _ms(seconds: float) -> float:
    return round(1e3 * float(seconds), 4)


# --- for people ----------------------------------------------------------------------------------


def _show(bundle: Bundle, outcome: Outcome) -> None:
    from edgedec.profiler import curve, words

    profile = outcome.profile
    for name, value in _lines(bundle, outcome):
        click.echo(f"{name:<9}{value}")
    click.echo()
    _output.print_table(*_table(profile))
    click.echo()
    narrow = not _output.can_show("⣿│")
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    for line in curve.terminal(_curve(bundle, profile), width, narrow=narrow):
        click.echo(line)
    click.echo()
    for sentence in words.plan(profile.costs, PAST).sentences:
        click.echo(sentence)


def _lines(bundle: Bundle, outcome: Outcome) -> Iterator[tuple[str, str]]:
    profile = outcome.profile
    key = profile.key
    yield "device", str(key.fingerprint)
    yield "model", (f"{bundle.manifest.name}, {key.runtime} {key.version}, "
                    f"{_threads(key.threads)}, keys and values {key.kv_type}")  # fmt: skip
    where = "stored" if outcome.stored else "measured now"
    rejected = f", {profile.rejected} more rejected" if profile.rejected else ""
    if 2 * profile.rejected > profile.rounds:
        rejected += ": the machine was busy, --fresh measures again"
    yield "profile", (f"{where}: {profile.effort}, {profile.made}, {profile.rounds} rounds in "
                      f"{profile.seconds:.1f} s{rejected}")  # fmt: skip
    if profile.draft_ms:
        each = ", ".join(f"{name} {ms:.3f}" for name, ms in profile.draft_ms.items())
        yield "a turn", f"{_ms(profile.host):.3f} ms beside its step; drafters: {each} ms"
    floor, one = profile.roofline, profile.costs.step(PAST, 1)[1]
    if profile.bandwidth is None or floor is None:
        return
    from edgedec.profiler import words

    text = (
        f"{profile.bandwidth / 1e9:.1f} GB/s: reading the weights "
        f"({_output.megabytes(profile.weight_bytes)}) once takes {words.milliseconds(floor)} ms"
    )
    if one > floor:
        yield "memory", f"{text}, a step {one / floor:.1f}x that"
    else:
        yield "memory", f"{text}; a step takes less, since they stay in the caches"


def _table(profile: Profile) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Times at 128 tokens of past by number of tokens, and how often the last must be right."""
    from edgedec.profiler import words

    costs = profile.costs
    times = costs.step(PAST, max(costs.rows))
    even = words.plan(costs, PAST).break_even
    rows = []
    for count in costs.rows:
        low, high = profile.spread.get(count, (0.0, 0.0))
        spread = f"{words.milliseconds(low)}-{words.milliseconds(high)}" if high else ""
        pays = words.percent(even[count]) if even.get(count, 1.0) < 1 else ""
        cells = (
            str(count),
            words.milliseconds(times[count]),
            spread,
            f"{times[count] / times[1]:.2f}",
            pays,
        )
        rows.append(
            tuple(cell.rjust(width) for cell, width in zip(cells, (6, 8, 13, 5, 9), strict=True))
        )
    header = ("tokens", "ms".rjust(8), "10-90 %".rjust(13), "times", "pays from")
    return header, rows
