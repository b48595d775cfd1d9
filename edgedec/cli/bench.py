"""`edgedec bench`: how much faster drafting is here, beside plain decoding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedec import cli
from edgedec.cli import _interrupt, _options, _output, _progress
from edgedec.errors import EdgedecError

if TYPE_CHECKING:
    from edgedec.benchmark.rows import Row
    from edgedec.benchmark.suite import Settings
    from edgedec.benchmark.workloads import Workload

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@_options.place_options
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    help="What runs it; repeatable. Default: all that can; of a replay, the device's best.",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    default=["auto"],
    metavar="NAME",
    show_default=True,
    help="What is compared with plain; repeatable. `all` is every strategy.",
)
@click.option(
    "--strategy-option",
    "strategy_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of a strategy, such as trigram.nodes=8; repeatable.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=["best"],
    metavar="NAME",
    show_default=True,
    help="How much of a draft is checked: best, or fixed:N and others to compare; repeatable.",
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    metavar="NAME",
    help="What is written: story, story-0.8, continue, edit, quote, list; with an encoder: fix, "
    "fix-0.8; or (forced) code, maths. Repeatable. Default: all but the forced ones.",
)
@click.option("--prompts", type=FILE, help="Your own: a prompt a line, or JSON lines.")
@click.option("--spec-bench", type=FILE, help="The question.jsonl of Spec-Bench.")
@click.option("--forced", is_flag=True, help="Check drafts against given code and maths as well.")
@click.option("--forced-text", type=FILE, help="The same with a text of yours.")
@click.option(
    "--replay",
    metavar="SHAPE",
    help="At the speed of a larger model: 135m or 1b, with an encoder t5-small or t5-base; random "
    "weights that are written once (70 MB; 600 MB of 1b).",
)
@click.option(
    "--pairs",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    metavar="N",
    help="Runs of each, plain and drafted in turn.",
)
@click.option(
    "--tokens",
    type=click.IntRange(2, 100_000),
    default=256,
    show_default=True,
    metavar="N",
    help="New tokens of a run, about.",
)
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of drawn texts.")
@click.option(
    "--no-memory", is_flag=True, help="Do not measure memory, which takes a process each."
)
@click.option("--html", type=FILE, help="Write a page with charts.")
@click.option("--csv", type=FILE, help="Write the rows as CSV.")
@click.option("--save", type=FILE, help="Write the JSON document.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool, **given: Any) -> None:
    """Measure strategies beside plain decoding, on texts that the shipped model never saw.

    Plain and drafted runs take turns, so that a machine that drifts slows both alike. Every pair
    of runs has prompts of its own and begins with drafters that remember no text but the bundle's
    hot start, if it has one. Takes about a minute on a machine that does nothing else, a replay two
    or more. Ctrl-C prints the rows that are done.

    \b
    Examples:
      edgedec bench
      edgedec bench --strategy all --workload edit --runtime native
      edgedec bench --replay 135m --html report.html
      edgedec bench -m fix --replay t5-base
      edgedec bench -m ./smollm2 --prompts mine.txt --json
    """
    from edgedec.benchmark import rows as records
    from edgedec.generation import Cancel

    files = {kind: given.pop(kind) for kind in ("html", "csv", "save")}
    for path in filter(None, files.values()):
        _output.check_target(path)
    settings = _settings(given)
    cancel = Cancel()
    found: list[Row] = []
    problem: EdgedecError | None = None
    try:
        with _interrupt.stopping(cancel):
            _measure(settings, cancel, found)
    except KeyboardInterrupt:
        cancel.set()
    except EdgedecError as error:
        # What was measured before is shown all the same.
        problem = error
    if problem is not None and not found:
        raise problem
    document = records.document(found, _about(settings), settings.seed)
    _write(files, found, document)
    if as_json:
        _output.print_json(document)
    else:
        _show(found, settings.seed)
    if problem is not None:
        raise problem
    if cancel.is_set:
        click.get_current_context().exit(cli.INTERRUPTED)
    if any(row.simulated for row in found):
        click.echo("edgedec: this device is simulated: there is no speed to tell", err=True)
        click.get_current_context().exit(cli.SIMULATED)


def _settings(given: dict[str, Any]) -> Settings:
    from edgedec import cores, drafting
    from edgedec.benchmark import stand, suite

    cores.check_threads(given["threads"])
    return suite.Settings(
        place=stand.Place(
            model=given["model"],
            device=given["device"],
            threads=given["threads"],
            kv_type=given["kv_type"],
            replay=given["replay"],
        ),
        ways=stand.Ways(
            strategies=given["strategies"],
            policies=given["policies"],
            options=drafting.read_options(given["strategy_options"]),
        ),
        workloads=tuple(_workloads(given)),
        runtimes=given["runtimes"],
        pairs=given["pairs"],
        tokens=given["tokens"],
        seed=given["seed"],
        weigh=not given["no_memory"],
    )


def _workloads(given: dict[str, Any]) -> list[Workload]:
    """Those that were named and those of files; the shipped ones if there are none of either."""
    from edgedec.benchmark import workloads
    from edgedec.bundle import open_bundle

    found = [workloads.shipped(name) for name in dict.fromkeys(given["workloads"])]
    if given["prompts"]:
        found.append(workloads.own_prompts(given["prompts"]))
    if given["spec_bench"]:
        found += workloads.spec_bench(given["spec_bench"])
    if given["forced_text"]:
        found.append(workloads.forced_text(given["forced_text"]))
    model = open_bundle(given["model"]).manifest.architecture
    names = () if found else workloads.default(model)
    forced = workloads.FORCED if given["forced"] else ()
    known = {workload.name for workload in found}
    return [*map(workloads.shipped, names), *found,
            *(workloads.shipped(name) for name in forced if name not in known)]  # fmt: skip


class _Titles(dict[str, str]):
    """Stages are told by what is to be shown."""

    def __missing__(self, stage: str) -> str:
        return stage


def _measure(settings: Settings, cancel: Any, found: list[Row]) -> None:
    """Add the rows to what was found, as they are done."""
    from edgedec.benchmark import suite

    notes: set[str] = set()

    def note(text: str) -> None:
        if text not in notes:
            notes.add(text)
            click.echo(f"edgedec: {text}", err=True)

    with _progress.bars(_Titles()) as tell:
        for row in suite.run(settings, suite.Ears(tell, note, cancel)):
            found.append(row)


def _about(settings: Settings) -> dict[str, Any]:
    """What was measured where."""
    import time

    import edgedec
    from edgedec import compiled
    from edgedec.profiler.device import fingerprint

    return {
        "edgedec": edgedec.__version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "machine": str(fingerprint()),
        "compiled": compiled.is_compiled(),
        "threads": settings.place.threads,
        "kv_type": settings.place.kv_type,
        "pairs": settings.pairs,
        "tokens": settings.tokens,
        "seed": settings.seed,
    }


def _write(files: dict[str, Path | None], found: list[Row], document: dict[str, Any]) -> None:
    import json

    from edgedec.benchmark import report, rows

    makers = {
        "html": lambda: report.page(document),
        "csv": lambda: rows.to_csv(found),
        "save": lambda: json.dumps(document, indent=1, ensure_ascii=False) + "\n",
    }
    for kind, path in files.items():
        if path is not None:
            _output.write_text(path, makers[kind]())
            click.echo(f"wrote {path}", err=True)


def _show(found: list[Row], seed: int) -> None:
    from edgedec import compiled
    from edgedec.benchmark import table

    for each in table.tables(found, seed):
        click.echo(each.title)
        _output.print_table(each.header, each.lines)
        click.echo()
    for sentence in table.legend(found) if found else ():
        click.echo(sentence)
    if not compiled.is_compiled():
        click.echo("The loop ran from its source, slower than as it is compiled by an install.")
