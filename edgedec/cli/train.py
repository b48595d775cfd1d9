"""`edgedec train`: teach a model to draft for itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from edgedec.cli import _interrupt, _options, _output, _progress

if TYPE_CHECKING:
    from edgedec.bundle import Bundle

    # Who checks types need not have torch: what training gives is not looked at here.
    Texts: TypeAlias = Any
    Lesson: TypeAlias = Any
    Named: TypeAlias = Any
    Trained: TypeAlias = Any
    News: TypeAlias = Any

INTERRUPTED = 130


@click.command()
@click.argument("strategies", nargs=-1, metavar="[STRATEGY]...")
@_options.model_options
@click.option(
    "--data",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Prompts like those you will use, one a line, or JSON lines with "prompt" or "turns"; '
    "repeatable.",
)
@_options.into_bundle
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=300_000,
    show_default=True,
    metavar="N",
    help="How much the model writes to learn from.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="At most so long for each strategy. Default: until it no longer learns.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N")
@click.option(
    "--option",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of a training, such as prompt_decoding.prompts=4; repeatable.",
)
@click.option(
    "--kind",
    type=click.Choice(["int4", "int8"]),
    default="int4",
    show_default=True,
    help="How its matrices are stored.",
)
@click.option(
    "--automatic/--on-request",
    "automatic",
    default=None,
    help="Whether the strategy auto takes it. Default: yes, but where training finds that it does "
    "not pay.",
)
@click.option("--fresh", is_flag=True, help="Forget a training that was interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    strategies: tuple[str, ...], model: str, files: tuple[Path, ...], as_json: bool, **options: Any
) -> None:
    """Teach a model to draft for itself: its words stay the same, they come faster.

    The model writes texts for your prompts; from them each STRATEGY (default: all that can be
    trained) learns to foresee it, with a few MB of its own at most. The model itself is not
    changed. Shown is, for each token ahead, how many guesses are right on prompts held out.

    With --device cuda each STRATEGY learns on an NVIDIA GPU; the model writes on the CPU all the
    same, and is not run at all where its texts are kept from before.

    Ctrl-C loses nothing: the same command goes on where it stopped.

    \b
    Examples:
      edgedec train -m my-bundle --data my-prompts.txt
      edgedec train prompt_decoding medusa -m my-bundle --data my-prompts.txt --minutes 10
      edgedec train layer_skip -m stories --data my-prompts.txt -o trained
    """
    from edgedec.bundle import open_bundle, shipped
    from edgedec.errors import UsageError
    from edgedec.generation import Cancel

    _check_torch()
    if options["output"] is None and model in shipped():
        raise UsageError(f"{model} ships with edgedec, its bundle stays as it is: give -o FOLDER")
    cancel = Cancel()
    with _interrupt.stopping(cancel):
        bundle = open_bundle(model)
        found = _train(bundle, strategies, files, options, cancel)
    if found is None:
        click.echo("stopped; all is kept: the same command goes on from here", err=True)
        click.get_current_context().exit(INTERRUPTED)
    texts, rows = found
    place = str(options["output"] or bundle.path.name)
    if as_json:
        _output.print_json(
            {
                "schema": 1,
                "model": bundle.manifest.name,
                "tokens": texts.tokens,
                "texts": len(texts.trained),
                "held_out": len(texts.held),
                "place": place,
                "strategies": rows,
            }
        )
        return
    header = ("strategy", "right at each depth", "tokens ahead", "learned", "size", "minutes")
    _output.print_table(header, [_row(row) for row in rows])
    click.echo(f"written to {place}", err=True)


def _training(name: str) -> Any:
    """A module of the training, which needs torch."""
    from edgedec import rooms

    return rooms.load("edgedec.training", name)


def _check_torch() -> None:
    """Say once what is missing.

    Raises:
        MissingExtraError: there is no torch.
    """
    from edgedec.errors import MissingExtraError

    try:
        _training("trainers")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("training", "torch", "train") from None


def _train(
    bundle: Bundle,
    names: Sequence[str],
    files: Sequence[Path],
    options: dict[str, Any],
    cancel: Any,
) -> tuple[Texts, list[dict[str, Any]]] | None:
    """Texts, then one strategy after the other; each is put in its place when it is done."""
    from edgedec import drafting
    from edgedec.devices import EngineOptions

    texts, trainers, frozen_twin = map(_training, ("texts", "trainers", "frozen"))

    trainers.use_threads(options["threads"])
    chosen = trainers.choose(names, drafting.read_options(options["given"]))
    with trainers.on(options["device"] or "cpu"):
        frozen = frozen_twin.Frozen.of(bundle)
        engine = EngineOptions("", options["threads"], options["kv_type"])
        place = texts.Place(engine, options["runtime"])
        writing = texts.Writing(options["tokens"], seed=options["seed"])
        with _progress.bars({"": "the model writes"}) as tell:
            written = texts.gather(
                bundle, files, writing, lambda share: tell("", share), lambda: cancel.is_set, place
            )
        lesson = trainers.Lesson(frozen, bundle.hash, written, options["seed"])
        rows = _each(bundle, chosen, lesson, options, cancel, skip=not names)
    return None if rows is None else (written, rows)


def _each(
    bundle: Bundle,
    chosen: Sequence[Named],
    lesson: Lesson,
    options: dict[str, Any],
    cancel: Any,
    *,
    skip: bool,
) -> list[dict[str, Any]] | None:
    """One training after the other, each put in its place; None where the end was asked for."""
    rows = []
    for trainer in chosen:
        if cancel.is_set:
            return None
        done = _one(trainer, lesson, options, cancel, skip=skip)
        if done is None:
            if cancel.is_set:
                return None
            continue
        size = _put(bundle, done, options)
        rows.append(_told(trainer.name, done, size))
    return rows


def _one(
    trainer: Named, lesson: Lesson, options: dict[str, Any], cancel: Any, *, skip: bool
) -> Trained | None:
    """One training; where all are asked for, what this model cannot do is passed over."""
    from edgedec.errors import UnsupportedError

    trainers, fit = map(_training, ("trainers", "fit"))
    limits = fit.Limits(options["minutes"], options["fresh"])
    stages = {"search": f"{trainer.name}: what to train", "": trainer.name}
    with _progress.bars(stages) as tell:

        def news(news: News) -> None:
            if news.note:
                click.echo(f"{trainer.name}: {news.note}", err=True)
            if news.searched < 1:
                tell("search", news.searched)
                return
            tell("", news.step / max(1, news.steps))
            if news.measured:
                shares = " ".join(f"{share:.3f}" for share in news.acceptance)
                where = f"step {news.step} of {news.steps}, {news.seconds:.0f} s"
                loss = "" if news.loss is None else f", loss {news.loss:.3f}"
                ahead = f"right {shares}, {news.expected:.3f} tokens ahead"
                click.echo(f"{trainer.name}: {where}{loss}: {ahead}", err=True)

        try:
            return trainers.train(trainer, lesson, limits, news, lambda: cancel.is_set)
        except UnsupportedError as error:
            if not skip:
                raise
            click.echo(f"{trainer.name}: left out: {error}", err=True)
            return None


def _put(bundle: Bundle, done: Trained, options: dict[str, Any]) -> int:
    """Write a part into a folder or into the bundle; how many bytes it has."""
    import tempfile
    from dataclasses import replace

    from edgedec.bundle import add_strategies, open_bundle
    from edgedec.export import to_part
    from edgedec.manifest import Format

    name, output = done.part.strategy, options["output"]
    part = replace(done.part, format=Format(kind=options["kind"], block=32))
    if options["automatic"] is not None:
        part = replace(part, about={**part.about, "automatic": options["automatic"]})
    with tempfile.TemporaryDirectory() as spare:
        path = (output or Path(spare)) / f"{name}.safetensors"
        to_part.write(path, part, bundle.manifest.architecture)
        if output is None:
            # Opened anew: an earlier strategy of this run is in it by now.
            add_strategies(open_bundle(bundle.path), {name: path})
        return path.stat().st_size


def _told(name: str, done: Trained, size: int) -> dict[str, Any]:
    fitted = done.fitted
    return {
        "strategy": name,
        "acceptance": [round(share, 4) for share in fitted.acceptance.shares],
        "expected": round(fitted.acceptance.expected, 4),
        "parameters": done.parameters,
        "bytes": size,
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 1),
        "end": fitted.end,
        "history": [[step, [round(s, 4) for s in shares]] for step, shares in fitted.history],
    }


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["strategy"],
        " ".join(f"{share:.2f}" for share in row["acceptance"]),
        f"{row['expected']:.2f}",
        _output.count(row["parameters"]),
        _output.megabytes(row["bytes"]),
        f"{row['seconds'] / 60:.1f}",
    )
